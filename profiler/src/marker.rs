//! A line to an external meter that is high while the marker's load runs.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{ProfilerError, Result};

/// Raises or lowers a line.
pub type MarkerLine = Box<dyn Fn(bool) -> Result<()> + Send + Sync>;

/// A line behind a file that takes `1` and `0`: the `value` of a GPIO, the `brightness` of an LED.
///
/// # Errors
/// When the file cannot be written, now or later.
pub fn file(path: &Path) -> Result<MarkerLine> {
    // Drivers take each write for itself; opening anew costs some microseconds, and works for regular files, too.
    let owned = path.to_owned();
    let set = move |level: bool| {
        let text: &[u8] = if level { b"1\n" } else { b"0\n" };
        let written = File::options().write(true).open(&owned).and_then(|mut file| file.write_all(text));
        written.map_err(ProfilerError::io(&owned))
    };
    set(false)?;
    Ok(Box::new(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_written_one_and_zero_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        assert!(file(&path).err().unwrap().to_string().contains("value"));
        fs::write(&path, "7\n").unwrap();
        let line = file(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "0\n");
        line(true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
}
