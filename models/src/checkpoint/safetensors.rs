//! The safetensors container: eight bytes of header length, a JSON header, then the tensors back to back.
//!
//! The header comes from wherever a user found the file, so nothing in it is believed: every offset is checked against
//! the shape, against the other tensors and against the length of the file before a byte is read through it. The rules
//! are those of the format's reference implementation: tensors lie back to back without holes and fill the file.

use std::fmt;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::{ModelError, Result};

/// Bytes of the length field.
const LENGTH_BYTES: usize = 8;

/// Longest header that is believed, as in the reference implementation.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// Longest name and most sizes that are believed; what is longer would only bury an error message.
const MAX_NAME_BYTES: usize = 1000;
const MAX_SIZES: usize = 16;

/// Where one tensor lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorEntry {
    /// Number format.
    pub(super) dtype: Dtype,
    /// Shape, row-major.
    pub(super) shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub(super) start: usize,
    /// One past the last byte, counted from the start of the file.
    pub(super) end: usize,
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's object; kept as a list, because a map would hide a name that occurs twice.
struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads and checks the header of `file`; `origin` names the file in errors.
///
/// # Errors
/// [`ModelError::Safetensors`], whatever the file holds.
pub(super) fn parse_header(origin: &str, file: &[u8]) -> Result<Vec<(String, TensorEntry)>> {
    let invalid = |problem: String| ModelError::Safetensors { origin: origin.to_owned(), problem };
    let length =
        file.first_chunk::<LENGTH_BYTES>().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| {
            invalid(format!("it has {} bytes, fewer than the 8 of the header length", file.len()))
        })?;
    let header_end = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_HEADER_BYTES)
        .map(|length| LENGTH_BYTES + length)
        .ok_or_else(|| invalid(format!("it claims a header of {length} bytes, more than any file has")))?;
    let header = file.get(LENGTH_BYTES..header_end).ok_or_else(|| {
        invalid(format!("its header should end at byte {header_end}, the file ends at byte {}", file.len()))
    })?;
    let RawHeader(raw) = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("its header is unreadable: {error}")))?;

    let mut entries = Vec::with_capacity(raw.len());
    for (name, RawEntry { dtype, shape, data_offsets: (start, end) }) in raw {
        if name.len() > MAX_NAME_BYTES || shape.len() > MAX_SIZES {
            let (bytes, sizes) = (name.len(), shape.len());
            return Err(invalid(format!(
                "it has a tensor with a name of {bytes} bytes and a shape of {sizes} sizes"
            )));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, size| bits.checked_mul(*size));
        let bytes = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8).ok_or_else(|| {
            invalid(format!(
                "tensor `{name}` has shape {shape:?}, which is no whole number of bytes in memory"
            ))
        })?;
        if start > end || end - start != bytes {
            return Err(invalid(format!(
                "tensor `{name}` has shape {shape:?} in {dtype}, {bytes} bytes, but lies at offsets {start}..{end}"
            )));
        }
        // Offsets count from the end of the header.
        let end = end.checked_add(header_end).filter(|end| *end <= file.len()).ok_or_else(|| {
            invalid(format!(
                "tensor `{name}` ends {end} bytes behind the header, the file only has {} there",
                file.len() - header_end
            ))
        })?;
        entries.push((name, TensorEntry { dtype, shape, start: end - bytes, end }));
    }

    entries.sort_by_key(|(_, entry)| (entry.start, entry.end));
    let mut end = header_end;
    for (name, entry) in &entries {
        if entry.start != end {
            let problem =
                if entry.start < end { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(invalid(format!("tensor `{name}` {problem}")));
        }
        end = entry.end;
    }
    if end != file.len() {
        return Err(invalid(format!("its tensors end at byte {end}, the file at byte {}", file.len())));
    }
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(invalid(format!("tensor `{}` occurs twice", pair[0]))),
        None => Ok(entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn problem(header: &str, data: usize) -> String {
        parse_header("x.safetensors", &file(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn what_the_reference_writes_can_be_read() {
        let data: Vec<u8> = (0..24).collect();
        let view = |dtype, shape, range: std::ops::Range<usize>| {
            safetensors::tensor::TensorView::new(dtype, shape, &data[range]).unwrap()
        };
        let tensors = [
            ("b", view(Dtype::F16, vec![2, 3], 0..12)),
            ("a", view(Dtype::F32, vec![2], 0..8)),
            ("scalar", view(Dtype::I64, vec![], 8..16)),
            ("empty", view(Dtype::F32, vec![0, 4], 0..0)),
        ];
        let file = safetensors::serialize(tensors, None).unwrap();
        let entries = parse_header("x", &file).unwrap();
        assert_eq!(entries.len(), 4);
        let (_, b) = entries.iter().find(|(name, _)| name == "b").unwrap();
        assert_eq!((b.dtype, &b.shape[..], &file[b.start..b.end]), (Dtype::F16, &[2, 3][..], &data[..12]));
    }

    #[test]
    fn lying_headers_get_one_sentence() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let cases = [
            (one("F32", "[2]", "[0,8]"), 7, "ends 8 bytes behind the header, the file only has 7 there"),
            (one("F32", "[2]", "[0,8]"), 9, "the file at byte"),
            (one("F32", "[2]", "[0,4]"), 4, "but lies at offsets 0..4"),
            (one("F32", "[2]", "[8,0]"), 8, "but lies at offsets 8..0"),
            (one("F32", "[2]", "[4,12]"), 12, "leaves a hole before it"),
            (one("U8", "[18446744073709551615]", "[0,18446744073709551615]"), 8, "no whole number of bytes"),
            (
                one("U8", "[2305843009213693951]", "[16140901064495857664,18446744073709551615]"),
                8,
                "the file only has",
            ),
            (one("F32", "[4294967296,4294967296,16]", "[0,0]"), 0, "no whole number of bytes"),
            (one("F4", "[3]", "[0,1]"), 1, "no whole number of bytes"),
            (one("U8", &format!("[{}1]", "1,".repeat(16)), "[0,1]"), 1, "a shape of 17 sizes"),
            (one("Q7", "[1]", "[0,1]"), 1, "unknown variant `Q7`"),
            (one("F32", "[-1]", "[0,4]"), 4, "its header is unreadable"),
            (one("F32", "[1.5]", "[0,4]"), 4, "its header is unreadable"),
            (r#"{"t":{"dtype":"F32","shape":[1]}}"#.to_owned(), 4, "missing field `data_offsets`"),
            ("[]".to_owned(), 0, "expected an object from tensor names"),
            ("{".to_owned(), 0, "its header is unreadable"),
            ("[".repeat(100_000), 0, "its header is unreadable"),
        ];
        for (header, data, expected) in cases {
            let got = problem(&header, data);
            assert!(got.contains(expected), "{got} should contain: {expected}");
            assert!(got.starts_with("x.safetensors is not a valid safetensors file: "), "{got}");
        }
    }

    #[test]
    fn names_and_bytes_belong_to_one_tensor() {
        let entry = |offsets: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        let twice = format!(r#"{{"t":{},"t":{}}}"#, entry("[0,4]"), entry("[4,8]"));
        assert!(problem(&twice, 8).contains("tensor `t` occurs twice"));
        let overlap = format!(r#"{{"t":{},"u":{}}}"#, entry("[0,4]"), entry("[2,6]"));
        assert!(problem(&overlap, 6).contains("tensor `u` overlaps"));
    }

    #[test]
    fn short_and_huge_lengths_are_refused() {
        for bytes in [&b""[..], b"1234567"] {
            assert!(parse_header("x", bytes).unwrap_err().to_string().contains("fewer than the 8"));
        }
        let huge = parse_header("x", &u64::MAX.to_le_bytes()).unwrap_err().to_string();
        assert!(huge.contains("more than any file has"), "{huge}");
        let truncated = parse_header("x", &file("{}", 0)[..9]).unwrap_err().to_string();
        assert!(truncated.contains("the file ends at byte 9"), "{truncated}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(length in 0u64..200, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = length.to_le_bytes().to_vec();
            file.extend(bytes);
            let _ = parse_header("x", &file);
        }

        /// Plausible headers with hostile numbers: whatever is accepted can be read.
        #[test]
        fn accepted_entries_lie_inside_the_file(
            tensors in prop::collection::vec(("[a-c]", 0usize..3, hostile(), hostile(), hostile()), 0..4),
            data in 0usize..40,
        ) {
            let dtypes = ["U8", "F16", "F32"];
            let entries: Vec<String> = tensors
                .iter()
                .map(|(name, dtype, size, start, end)| {
                    let dtype = dtypes[*dtype];
                    format!(r#""{name}":{{"dtype":"{dtype}","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
                })
                .collect();
            let file = file(&format!("{{{}}}", entries.join(",")), data);
            for (_, entry) in parse_header("x", &file).unwrap_or_default() {
                prop_assert!(entry.start <= entry.end && entry.end <= file.len());
                prop_assert_eq!(entry.shape.iter().product::<usize>() * entry.dtype.bitsize(), 8 * (entry.end - entry.start));
            }
        }
    }

    fn hostile() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..20, Just(usize::MAX), Just(usize::MAX - 3), Just(1 << 62), any::<usize>()]
    }
}
