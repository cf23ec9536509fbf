//! The number formats: names, sizes, error bounds, and bit-exact rounding against golden hashes.

use std::str::FromStr;

use joulewise_kernels::KernelError;
use joulewise_kernels::format::{EncodedMatrix, Format, bytes_to_f32, e2m1, fp8_e4m3, fp8_e5m2};
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
        assert_eq!(hex(&format.encode(&patterns(), 1, 1 << 20).unwrap().data), golden, "{format}");
    }
}

/// Every 16-bit pattern as a value, NaN replaced by zero.
fn all_halves(value: fn(u16) -> f32) -> impl Iterator<Item = f32> {
    (0..=u16::MAX).map(value).map(|value| if value.is_nan() { 0.0 } else { value })
}

#[test]
fn small_floats_are_bit_exact() {
    let bf16 = |bits| half::bf16::from_bits(bits).to_f32();
    let f16 = |bits| half::f16::from_bits(bits).to_f32();
    // SHA-256 of one code per byte, computed independently with ml_dtypes, saturating.
    for (encode, value, golden) in [
        (
            fp8_e4m3::encode as fn(f32) -> u8,
            bf16 as fn(u16) -> f32,
            "ec6eecf742e25e847f18e13240011d639b9119d72f5256dcfb380400cfe3eda2",
        ),
        (fp8_e4m3::encode, f16, "e722e731c0e7efd7c94f18855dd4b45429e84ad4ec3f065847f67338d477b5d0"),
        (fp8_e5m2::encode, bf16, "976e5d966f4e33a72fd8b5ea1d2a09c123575e27ef4e7d3f0f4581ecbbe33c7f"),
        (fp8_e5m2::encode, f16, "a50dc6e96e3a35ca974e559b29c974783053b151c80c82b4646b5b15e3e3d539"),
        (e2m1::encode, bf16, "0d3469a11c6606c7ff159c052353651d685d828b7fa00d6844090be7c47fb81d"),
    ] {
        assert_eq!(hex(&all_halves(value).map(encode).collect::<Vec<_>>()), golden);
    }
    // Every code as f32, NaN as zero.
    for (decode, golden) in [
        (
            fp8_e4m3::decode as fn(u8) -> f32,
            "0c5d81084420441d5c98db2c276b865fc29738d60fba9c32b55aa8214762b794",
        ),
        (fp8_e5m2::decode, "f3e7031368f3245d56c8114ed15a46144bf609430c117e10fc3e0f5114d773b3"),
    ] {
        let values = (0..=255).map(decode).map(|value| if value.is_nan() { 0.0 } else { value });
        assert_eq!(hex(&values.flat_map(f32::to_le_bytes).collect::<Vec<_>>()), golden);
    }
}

/// 4096 values that meet every rounding case of the block formats.
fn ramp() -> Vec<f32> {
    (0..4096i32).map(|i| ((i * 7919 % 1021) - 510) as f32 / 64.0 * 2f32.powi((i / 16 * 5 % 13) - 6)).collect()
}

#[test]
fn blocks_are_bit_exact() {
    let values = ramp();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(hex(&bytes), "e8e15c422b0e390edb8ba39aec2f4770fee1d441f4a012a8fa55c793acf08ee2");
    // The first bytes of the SHA-256 of scales and codes, computed independently with numpy; `nf4` packs the first of
    // two codes into the high nibble there.
    for (format, scales, codes) in [
        (Format::Mxfp4, "ca552d470e60efb5", "ff7a0cd3981f3e74"),
        (Format::Nvfp4, "6968f6103f5c06e5", "f0aee36746a38e1f"),
        (Format::Nf4, "b0b5eab0a6d47a32", "ef31ef6a6fb3dda5"),
    ] {
        let mut encoded = format.encode(&values, 1, values.len()).unwrap();
        assert_eq!(&hex(&encoded.scales)[..16], scales, "{format}");
        if format == Format::Nf4 {
            encoded.data.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
        }
        assert_eq!(&hex(&encoded.data)[..16], codes, "{format}");
    }
    let nvfp4 = Format::Nvfp4.encode(&values, 1, values.len()).unwrap();
    assert_eq!(nvfp4.tensor_scale.to_bits(), 0x3e42_4925);
}

/// Formats with scales decode to themselves: what a checkpoint stores does not change by being read.
#[test]
fn decoded_values_encode_to_themselves() {
    let values = ramp();
    for format in Format::ALL {
        let mut once = vec![0.0; values.len()];
        format.encode(&values, 8, 512).unwrap().decode(&mut once).unwrap();
        let mut twice = vec![0.0; values.len()];
        format.encode(&once, 8, 512).unwrap().decode(&mut twice).unwrap();
        // The scale is computed anew from the largest decoded value, which is off by one rounding of `f32`; `int4`'s is
        // taken from 7.5 steps, which no code reaches.
        let bound = if *format == Format::Int4 { format.spec().nmse_bound } else { 1e-13 };
        let error: f64 = once.iter().zip(&twice).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let norm: f64 = once.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!(error <= bound * norm, "{format}: {:e}", error / norm);
    }
}

/// Rows that no block divides, a row of zeros, and values at the ends of the range.
#[test]
fn tails_and_extremes() {
    for format in Format::ALL {
        for k in [1, 26, 312, 1200] {
            let row = |r: usize| match r {
                0 => vec![0.0; k],
                1 => vec![1e-38; k],
                2 => vec![3e38; k],
                _ => (0..k).map(|i| (i as f32 - 3.0) * 0.25).collect(),
            };
            for r in 0..4 {
                let values = row(r);
                let encoded = format.encode(&values, 1, k).unwrap();
                assert_eq!(encoded.data.len() + encoded.scales.len(), format.spec().encoded_bytes(1, k));
                let mut decoded = vec![f32::NAN; k];
                encoded.decode(&mut decoded).unwrap();
                assert!(!decoded.iter().any(|value| value.is_nan()), "{format} k={k} row {r}");
                if r == 0 {
                    assert!(decoded.iter().all(|value| *value == 0.0), "{format} k={k}");
                }
            }
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for format in Format::ALL {
        assert!(format.encode(&[1.0; 5], 2, 3).is_err());
        let encoded = format.encode(&[1.0; 6], 2, 3).unwrap();
        assert!(encoded.decode(&mut [0.0; 5]).is_err());
        assert!(encoded.decode_row(2, &mut [0.0; 3]).is_err());
        let (block_len, data, scales) = (encoded.block_len, encoded.data.clone(), encoded.scales.clone());
        let again = EncodedMatrix::from_parts(
            *format,
            (2, 3),
            block_len,
            data.clone(),
            scales.clone(),
            encoded.tensor_scale,
        );
        assert_eq!(again.unwrap(), encoded);
        assert!(EncodedMatrix::from_parts(*format, (3, 3), block_len, data, scales, 1.0).is_err());
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
        let encoded = format.encode(&[1.0; 35], 5, 7).unwrap();
        assert_eq!((encoded.format, encoded.n, encoded.k), (*format, 5, 7));
        assert_eq!(encoded.size_bytes(), format.spec().encoded_bytes(5, 7));
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
        format.encode(&values, 1, values.len()).unwrap().decode(&mut decoded).unwrap();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = values.iter().zip(&decoded).map(|(x, y)| square(x - y)).sum();
        let norm: f64 = values.iter().map(|x| square(*x)).sum();
        assert!(error <= format.spec().nmse_bound * norm, "{format}: {:e}", error / norm);
    }
}

#[test]
fn bytes_decode_at_any_alignment() {
    let values = [0.0, -0.0, 1.0, -2.5, 65504.0, 2f32.powi(-14), f32::INFINITY];
    assert!(bytes_to_f32(Format::Int8, &[1, 2], &mut [0.0; 2]).is_err());
    for format in Format::FLOATS {
        let mut bytes = vec![0xff];
        bytes.extend(format.encode(&values, 1, 7).unwrap().data);
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
