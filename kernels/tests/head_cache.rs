//! The cache of keys and values: what is stored is what the format says, whatever the values.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use joulewise_kernels::KernelError;
use joulewise_kernels::args::HeadsShape;
use joulewise_kernels::cpu::HeadCache;
use joulewise_kernels::format::Format;
use proptest::prelude::*;

/// Any bits, ordinary numbers most of the time.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![6 => -4.0f32..4.0, 2 => -1e6f32..1e6, 1 => Just(0.0), 1 => any::<u32>().prop_map(f32::from_bits)]
}

fn cache() -> impl Strategy<Value = (HeadsShape, Vec<f32>)> {
    (1usize..3, 1usize..4, 1usize..6, 1usize..70).prop_flat_map(|(batch, heads, capacity, head_dim)| {
        let shape = HeadsShape { batch, heads, capacity, head_dim };
        (Just(shape), prop::collection::vec(value(), batch * heads * capacity * head_dim))
    })
}

/// Bit by bit, but for the payload of NaN.
fn is_same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// A row is rounded as a row of weights is.
    #[test]
    fn rows_are_rounded_as_weights_are((shape, values) in cache()) {
        for format in HeadCache::FORMATS {
            let cached = HeadCache::encode(*format, shape, &values).unwrap();
            let encoded = format.encode(&values, shape.rows(), shape.head_dim).unwrap();
            let mut expected = vec![0.0; values.len()];
            encoded.decode(&mut expected).unwrap();
            let decoded = cached.decode();
            prop_assert!(decoded.iter().zip(&expected).all(|(a, b)| is_same(*a, *b)), "{}", format);
            prop_assert_eq!(cached.size_bytes(), format.spec().encoded_bytes(shape.rows(), shape.head_dim));
        }
    }

    /// Half a step of the row's scale for int8; 11 significant bits, or half the smallest half, for f16; nothing for f32.
    #[test]
    fn errors_are_bounded((shape, values) in cache()) {
        for format in HeadCache::FORMATS {
            let decoded = HeadCache::encode(*format, shape, &values).unwrap().decode();
            let rows = values.chunks(shape.head_dim).zip(decoded.chunks(shape.head_dim));
            for (values, decoded) in rows.filter(|(values, _)| values.iter().all(|x| x.abs() <= 65504.0)) {
                let largest = values.iter().fold(0.0, |largest: f64, x| largest.max(f64::from(x.abs())));
                for (x, y) in values.iter().zip(decoded) {
                    let (x, y) = (f64::from(*x), f64::from(*y));
                    let bound = match format {
                        Format::F32 => 0.0,
                        Format::F16 => (x.abs() / 2048.0).max(2f64.powi(-25)),
                        // The scale, the quotient and the product are rounded to f32 on the way; a row of tiny numbers
                        // has the smallest normal number for its scale.
                        _ => (largest / 254.0).max(f64::from(f32::MIN_POSITIVE)) * (1.0 + 1e-4),
                    };
                    prop_assert!((x - y).abs() <= bound, "{} {} became {}", format, x, y);
                }
            }
        }
    }
}

#[test]
fn rows_that_were_never_written_are_zero() {
    let shape = HeadsShape { batch: 2, heads: 3, capacity: 500, head_dim: 7 };
    for format in HeadCache::FORMATS {
        let cache = HeadCache::zeroed(*format, shape).unwrap();
        assert!(cache.decode().iter().all(|value| *value == 0.0));
        assert_eq!((cache.format(), cache.shape()), (*format, shape));
    }
}

#[test]
fn formats_without_kernels_and_absurd_sizes_are_refused() {
    let shape = HeadsShape { batch: 1, heads: 1, capacity: 1, head_dim: 64 };
    for format in Format::ALL.iter().filter(|format| !HeadCache::FORMATS.contains(format)) {
        assert!(matches!(HeadCache::zeroed(*format, shape), Err(KernelError::NoKernel { .. })), "{format}");
    }
    for absurd in [usize::MAX, usize::MAX / 4, 1 << 62] {
        let shape = HeadsShape { capacity: absurd, ..shape };
        assert!(matches!(HeadCache::zeroed(Format::Int8, shape), Err(KernelError::Shape { .. })));
    }
    // Sizes that can be counted and that no machine has, of codes and of scales.
    let (long, flat) = (HeadsShape { capacity: 1 << 54, ..shape }, HeadsShape { head_dim: 1, ..shape });
    let many = HeadsShape { capacity: 1 << 61, ..flat };
    for (format, shape) in [(Format::F32, long), (Format::Int8, long), (Format::Int8, many)] {
        let refused = HeadCache::zeroed(format, shape);
        assert!(matches!(refused, Err(KernelError::OutOfMemory { .. })), "{format} {shape:?}");
    }
    assert!(matches!(
        HeadCache::encode(Format::F16, shape, &[0.0; 63]),
        Err(KernelError::Shape { got: 63, .. })
    ));
}
