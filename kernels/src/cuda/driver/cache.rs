//! Compiled kernels on disk, so that only the first run on a machine compiles.
//!
//! A file's name is a hash of everything its content depends on; its first 32 bytes are a hash of the rest. Files are
//! written beside their place and renamed into it, so that any number of processes can share a directory. A directory
//! that cannot be written or read, or a file that is damaged, costs a compilation and nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

const CHECKSUM_BYTES: usize = 32;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct CubinCache {
    directory: Option<PathBuf>,
}

impl CubinCache {
    /// Where the user keeps caches: `JOULEWISE_CACHE`, else the system's convention. Without a home, nowhere.
    pub fn for_user() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = variable("JOULEWISE_CACHE").or_else(|| {
            let base = variable("XDG_CACHE_HOME")
                .or_else(|| variable("LOCALAPPDATA"))
                .or_else(|| Some(variable("HOME")?.join(".cache")))?;
            Some(base.join("joulewise"))
        });
        Self { directory: directory.map(|directory| directory.join("kernels")) }
    }

    /// In a directory of the caller's choice.
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: Some(directory.to_owned()) }
    }

    /// Name of the entry for a compilation's inputs.
    pub fn key(inputs: &[&str]) -> String {
        let mut hash = Sha256::new();
        for input in inputs {
            // Lengths keep inputs apart.
            hash.update((input.len() as u64).to_le_bytes());
            hash.update(input.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The entry, if it is there and whole.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(key)?).ok()?;
        let (checksum, content) = bytes.split_at_checked(CHECKSUM_BYTES)?;
        if checksum != Sha256::digest(content).as_slice() {
            return None;
        }
        bytes.drain(..CHECKSUM_BYTES);
        Some(bytes)
    }

    /// Keeps an entry, if the directory allows it.
    pub fn put(&self, key: &str, content: &[u8]) {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let Some(path) = self.path(key) else { return };
        let Some(directory) = path.parent() else { return };
        if std::fs::create_dir_all(directory).is_err() {
            return;
        }
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = directory.join(format!("{key}.{}.{unique}.tmp", std::process::id()));
        let mut bytes = Sha256::digest(content).to_vec();
        bytes.extend_from_slice(content);
        let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{key}.cubin")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary_directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("joulewise-cache-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn an_entry_comes_back_and_a_damaged_one_does_not() {
        let directory = temporary_directory("damaged");
        let cache = CubinCache::in_directory(&directory);
        let key = CubinCache::key(&["source", "sm_90a"]);
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"code");
        assert_eq!(cache.get(&key).as_deref(), Some(b"code".as_slice()));
        let path = directory.join(format!("{key}.cubin"));
        for broken in [&b""[..], b"short", &[7; 40]] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        cache.put(&key, b"code");
        assert_eq!(cache.get(&key).as_deref(), Some(b"code".as_slice()));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "temporary files are gone");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn keys_keep_inputs_apart() {
        assert_ne!(CubinCache::key(&["ab", "c"]), CubinCache::key(&["a", "bc"]));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_no_error() {
        let file = temporary_directory("file");
        std::fs::write(&file, "in the way").unwrap();
        let cache = CubinCache::in_directory(&file.join("below"));
        cache.put("key", b"code");
        assert_eq!(cache.get("key"), None);
        std::fs::remove_file(file).unwrap();
    }
}
