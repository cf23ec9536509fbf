//! Products of activations and packed weights, every format at the shapes of real models.

use std::hint::black_box;

use joulewise_kernels::args::{InputRounding, MatMul, Rows, RowsMut};
use joulewise_kernels::cpu::CpuKernels;
use joulewise_kernels::format::Format;

use super::{Call, Case, must};
use crate::input;
use crate::roofline::Work;
use crate::shape::{LinearShape, linears};

/// Where the weights of consecutive products come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// One matrix again and again: from the cache, if it fits.
    Cached,
    /// Many equal matrices in turn, as the layers of a model: from memory.
    Cold,
}

/// Bytes that cold weights take in all; more than the last-level caches of today.
const COLD_BYTES: usize = 256 << 20;

/// Rows of a prompt or a sentence: bound by arithmetic.
const PROMPT: usize = 128;

/// Heads are applied to the last token of a prompt only.
const LARGEST_PROMPT_N: usize = 32_000;

/// Products with the weights of every linear layer in every format; cold weights only for a single row, where they
/// matter.
pub fn matmul(kernels: &CpuKernels, weights: Weights, is_test: bool) -> Vec<Case<'_>> {
    let rows = if weights == Weights::Cold { &[1][..] } else { &[1, PROMPT] };
    let mut cases = Vec::new();
    for &m in rows {
        for shape in linears(is_test) {
            if m == 1 || shape.n <= LARGEST_PROMPT_N {
                cases.extend(
                    Format::ALL.iter().map(|format| case(kernels, weights, is_test, *format, shape, m)),
                );
            }
        }
    }
    cases
}

fn case(
    kernels: &CpuKernels,
    weights: Weights,
    is_test: bool,
    format: Format,
    shape: LinearShape,
    m: usize,
) -> Case<'_> {
    let LinearShape { name, n, k } = shape;
    let weight_bytes = format.spec().encoded_bytes(n, k);
    let copies = match weights {
        Weights::Cached => 1,
        Weights::Cold if is_test => 2,
        Weights::Cold => COLD_BYTES.div_ceil(weight_bytes),
    };
    let activation_bytes = (m * (n + k) * size_of::<f32>()) as f64;
    let bytes = weight_bytes as f64 + activation_bytes;
    let working_set_bytes = (copies * weight_bytes) as f64 + activation_bytes;
    let prepare = move || -> Call<'_> {
        let matrix = input::weights(kernels, format, shape, 2);
        let matrices = vec![matrix; copies];
        let x = input::values(1, m * k);
        let mut y = vec![0.0; m * n];
        let mut next = 0;
        Box::new(move || {
            next = (next + 1) % copies;
            must(kernels.matmul(MatMul {
                x: Rows { data: black_box(&x), rows: m, cols: k, stride: k },
                rounding: InputRounding::None,
                w: &matrices[next],
                bias: None,
                activation: None,
                residual: None,
                next: &[],
                y: RowsMut { data: black_box(&mut y), rows: m, cols: n },
            }));
        })
    };
    Case {
        op: format!("matmul {format}{}", if weights == Weights::Cold { ", cold weights" } else { "" }),
        shape: format!("{name} {m}x{n}x{k}"),
        work: Work { flops: shape.flops(m), bytes, working_set_bytes },
        prepare: Box::new(prepare),
    }
}
