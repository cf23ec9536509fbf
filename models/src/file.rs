//! Reading files, with the path in every error.

use std::path::Path;

use crate::error::{ModelError, Result};

/// The whole of a small file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}
