//! The container of a JLS file: a header, then chunks with checksums, one behind the other.
//!
//! After the format's description, `include/jls/format.h` of <https://github.com/jetperch/jls>, file version 1. All
//! numbers are little endian.
//!
//! | part | bytes |
//! |---|---|
//! | file header | 16 identification, u64 length (0 when it was not closed), u32 version, u32 CRC-32C of the 28 before |
//! | chunk header | u64 next and u64 previous of its list, u8 tag, u8 reserved, u16 meta, u32 payload length, u32 length of the chunk before, u32 CRC-32C of the 28 before |
//! | payload | its bytes, zeros up to 8 k - 4, u32 CRC-32C of the payload; nothing at all when the length is 0 |

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::error::{ProfilerError, Result};

static CASTAGNOLI: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

const IDENTIFICATION: [u8; 16] = *b"jlsfmt\r\n \n \x1a  \xb2\x1c";
/// What files of the first generation begin with.
const FIRST_GENERATION: [u8; 16] = *b"\xd3tagfmt \r\n \n  \x1a\x1c";
const HEADER_BYTES: usize = 32;

/// Whether a file that begins so claims to be one of either generation.
pub(super) fn is_jls(head: &[u8]) -> bool {
    head == IDENTIFICATION || head == FIRST_GENERATION
}

/// Where a chunk's payload lies, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) tag: u8,
    pub(super) meta: u16,
    /// Of the payload.
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Goes through the chunks of a file.
pub(super) struct ChunkReader<R> {
    file: R,
    path: PathBuf,
    at: u64,
    size: u64,
}

impl<R: Read + Seek> ChunkReader<R> {
    /// Checks the file's header.
    pub(super) fn new(path: &Path, mut file: R) -> Result<Self> {
        let size = file.seek(SeekFrom::End(0)).map_err(ProfilerError::io(path))?;
        let mut reader = ChunkReader { file, path: path.to_owned(), at: 0, size };
        let mut header = [0; HEADER_BYTES];
        if size < HEADER_BYTES as u64 {
            return Err(reader.damaged(size, "a file header of 32 bytes", "the end of the file"));
        }
        reader.read_at(0, &mut header)?;
        if header[..16] == FIRST_GENERATION {
            return Err(reader.damaged(0, "a JLS file of the second generation", "one of the first"));
        }
        if header[..16] != IDENTIFICATION {
            return Err(reader.damaged(0, "the identification of a JLS file", "something else"));
        }
        let (major, sum) = (header[27], CASTAGNOLI.checksum(&header[..28]));
        if sum != u32_at(&header, 28) {
            return Err(reader.damaged(28, "the checksum of the file's header", "another"));
        }
        if major != 1 {
            return Err(reader.damaged(27, "version 1 of the file format", &format!("version {major}")));
        }
        reader.at = HEADER_BYTES as u64;
        Ok(reader)
    }

    /// The next chunk. A recording that was cut off ends with its last whole chunk.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>> {
        if self.size - self.at < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        self.read_at(self.at, &mut header)?;
        if header == [0; HEADER_BYTES] {
            return Ok(None);
        }
        if CASTAGNOLI.checksum(&header[..28]) != u32_at(&header, 28) {
            return Err(self.damaged(self.at + 28, "the checksum of a chunk's header", "another"));
        }
        let offset = self.at + HEADER_BYTES as u64;
        let length = u32_at(&header, 20);
        let stored = if length == 0 { 0 } else { (u64::from(length) + 4).next_multiple_of(8) };
        if self.size - offset < stored {
            return Ok(None);
        }
        self.at = offset + stored;
        Ok(Some(Chunk {
            tag: header[16],
            meta: u16::from_le_bytes([header[18], header[19]]),
            offset,
            length,
        }))
    }

    /// The payload of a chunk.
    pub(super) fn payload(&mut self, chunk: &Chunk) -> Result<Vec<u8>> {
        if chunk.length == 0 {
            return Ok(Vec::new());
        }
        // `next` has seen that the file is long enough.
        let mut payload = vec![0; (u64::from(chunk.length) + 4).next_multiple_of(8) as usize];
        self.read_at(chunk.offset, &mut payload)?;
        let sum = u32_at(&payload, payload.len() - 4);
        payload.truncate(chunk.length as usize);
        if CASTAGNOLI.checksum(&payload) != sum {
            return Err(self.damaged(chunk.offset, "a payload with its checksum", "another checksum"));
        }
        Ok(payload)
    }

    /// The first bytes of a payload that is at least so long, unchecked.
    pub(super) fn head<const N: usize>(&mut self, chunk: &Chunk) -> Result<[u8; N]> {
        if (chunk.length as usize) < N {
            return Err(self.damaged(chunk.offset, &format!("a payload of at least {N} bytes"), "fewer"));
        }
        let mut head = [0; N];
        self.read_at(chunk.offset, &mut head)?;
        Ok(head)
    }

    /// The error for a place in this file.
    pub(super) fn damaged(&self, offset: u64, expected: &str, got: &str) -> ProfilerError {
        ProfilerError::Damaged {
            path: self.path.clone(),
            offset,
            expected: expected.to_owned(),
            got: got.to_owned(),
        }
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(bytes))
            .map_err(ProfilerError::io(&self.path))
    }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

pub(super) fn i64_at(bytes: &[u8], offset: usize) -> i64 {
    i64::from_le_bytes(array(bytes, offset))
}

/// Some bytes at an offset, which the caller has checked.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}
