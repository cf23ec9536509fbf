//! Tokens drawn on the device are those that the host draws.

use joulewise_kernels::cuda::driver::DeviceBuffer;
use joulewise_kernels::reference;
use joulewise_kernels::sampling::{Draw, SamplingRule};

use crate::{FORMATS, Gpu, with_kernels};

/// Sums are of whole numbers, so the tokens are the same, not nearly the same.
#[test]
fn draws_the_reference_s_tokens() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = crate::Random(3);
        for round in 0..60 {
            let (rows, cols) = (random.between(1, 9), 1 + random.below([7, 300, 5000, 60_000][round % 4]));
            let (offset, stride) = (random.below(9), cols + random.below(20));
            let spread = random.pick(&[0.01, 1.0, 6.0, 200.0]);
            let mut values = random.floats(offset + rows * stride);
            for value in &mut values {
                *value *= spread;
                match (round % 5, random.below(9)) {
                    // Few different values: ties everywhere.
                    (1, _) => *value = value.round(),
                    (2, 0) => *value = random.pick(&[f32::NAN, f32::NEG_INFINITY, -0.0]),
                    (3, _) => *value = 0.25,
                    (4, 0) if round % 3 == 0 => *value = f32::INFINITY,
                    _ => {}
                }
            }
            let draws: Vec<Draw> = (0..rows)
                .map(|_| {
                    let rule = SamplingRule {
                        temperature: random.pick(&[0.0, 0.3, 1.0, 4.0]),
                        top_k: random.pick(&[None, Some(1), Some(1 + cols / 3), Some(cols + 3)]),
                        top_p: random.pick(&[None, Some(0.0), Some(0.5), Some(0.95), Some(1.0)]),
                    };
                    let bits = random.bits();
                    Draw { rule, random: random.pick(&[0, u64::MAX, bits]) }
                })
                .collect();
            let (logits, rounded) = gpu.typed(FORMATS[round % 3], &values);
            let words: Vec<u64> = draws.iter().flat_map(|draw| draw.words()).collect();
            let words = DeviceBuffer::from_slice(gpu.context, &words).unwrap();
            let tokens = gpu.ints(&vec![u32::MAX; rows]);
            kernels.sample(logits.part(offset, rows, cols, stride), &words, &tokens).unwrap();
            let mut got = vec![0; rows];
            tokens.read(0, &mut got).unwrap();
            for (row, (draw, got)) in draws.iter().zip(got).enumerate() {
                let expected = reference::sample(&rounded[offset + row * stride..][..cols], draw);
                assert_eq!(got, expected, "row {row} of {rows} x {cols}, {draw:?}");
            }
        }
    });
}
