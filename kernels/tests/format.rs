//! The number formats: names, sizes, error bounds, and bit-exact rounding against golden hashes.

use std::str::FromStr;

use joulewise_kernels::KernelError;
use joulewise_kernels::format::{Format, bytes_to_f32};
use sha2::{Digest, Sha256};

fn encode(format: Format, values: &[f32]) -> Vec<u8> {
    (format.spec().encode)(values, 1, values.len()).data
}

/// 2^20 bit patterns spread over all of `f32` (the multiplier is the golden ratio's), NaN replaced by zero.
fn patterns() -> Vec<f32> {
    let value = |i: u32| f32::from_bits(i.wrapping_mul(2_654_435_761));
    (0..1 << 20).map(value).map(|value| if value.is_nan() { 0.0 } else { value }).collect()
}

#[test]
fn rounding_is_bit_exact() {
    // SHA-256 of the little-endian codes, computed independently with numpy and ml_dtypes.
    for (format, golden) in [
        (Format::Bf16, "613c7f88232f48afb66800717b6644b4aceb5b7352ba750a3d36706b7aa88daf"),
        (Format::F16, "f7a2a451079a4014a46683fa944885ebf58aade0884c55a6b47dd2b65537178e"),
    ] {
        let digest = Sha256::digest(encode(format, &patterns()));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden, "{format}");
    }
}

#[test]
fn names_round_trip() {
    for format in Format::ALL {
        assert_eq!(Format::from_str(format.name()).unwrap(), *format);
        assert_eq!(format.to_string(), format.spec().name);
        assert_eq!(format.spec().format, *format);
    }
    assert!(matches!("f12".parse::<Format>(), Err(KernelError::UnknownFormat(name)) if name == "f12"));
}

#[test]
fn sizes_agree() {
    for format in Format::ALL {
        let encoded = (format.spec().encode)(&[1.0; 35], 5, 7);
        assert_eq!((encoded.format, encoded.n, encoded.k), (*format, 5, 7));
        assert_eq!(encoded.data.len(), format.spec().encoded_bytes(5, 7));
    }
}

#[test]
fn errors_stay_within_the_bound() {
    // Normal in every format: magnitudes between 2^-10 and 2^10.
    let values: Vec<f32> = (0..50_000i32)
        .map(|i| {
            ((i * 7919 % 1021 - 510) as f32 / 1021.0 + 1.0)
                * 2f32.powi(i % 20 - 10)
                * if i % 2 == 0 { 1.0 } else { -1.0 }
        })
        .collect();
    for format in Format::ALL {
        let mut decoded = vec![0.0; values.len()];
        (format.spec().decode)(&(format.spec().encode)(&values, 1, values.len()), &mut decoded);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = values.iter().zip(&decoded).map(|(x, y)| square(x - y)).sum();
        let norm: f64 = values.iter().map(|x| square(*x)).sum();
        assert!(error <= format.spec().nmse_bound * norm, "{format}: {:e}", error / norm);
    }
}

#[test]
fn bytes_decode_at_any_alignment() {
    let values = [0.0, -0.0, 1.0, -2.5, 65504.0, 2f32.powi(-14), f32::INFINITY];
    for format in Format::ALL {
        let mut bytes = vec![0xff];
        bytes.extend(encode(*format, &values));
        let expected = if *format == Format::Bf16 {
            values.map(|x| if x == 65504.0 { 65536.0 } else { x })
        } else {
            values
        };
        let mut out = [1.0; 7];
        bytes_to_f32(*format, &bytes[1..], &mut out).unwrap();
        assert_eq!(out.map(f32::to_bits), expected.map(f32::to_bits), "{format}");
        let error = bytes_to_f32(*format, &bytes, &mut out).unwrap_err();
        assert!(matches!(error, KernelError::Shape { op: "bytes_to_f32", .. }));
    }
}
