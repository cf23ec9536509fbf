//! Inputs that are the same in every run.

use std::convert::Infallible;

use joulewise_kernels::cpu::{CpuKernels, PackedMatrix};
use joulewise_kernels::format::Format;
use rand::distr::{Distribution, Uniform};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg32;

use crate::shape::LinearShape;

/// `len` values in `-1..1`.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Pcg32::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// `len` row indices of a table of `rows` rows.
pub fn indices(seed: u64, len: usize, rows: usize) -> Vec<u32> {
    let mut rng = Pcg32::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..rows as u32)).collect()
}

/// Weights of a linear layer, of the size trained ones have, packed for `kernels`.
pub fn weights(kernels: &CpuKernels, format: Format, shape: LinearShape, seed: u64) -> PackedMatrix {
    let mut rng = Pcg32::seed_from_u64(seed);
    let range = Uniform::new(-0.05f32, 0.05).unwrap_or_else(|_| unreachable!("the range is not empty"));
    let packed = kernels.pack(format, shape.n, shape.k, &mut |_, out| {
        out.fill_with(|| range.sample(&mut rng));
        Ok::<(), Infallible>(())
    });
    match packed {
        Ok(packed) => packed,
        Err(never) => match never {},
    }
}
