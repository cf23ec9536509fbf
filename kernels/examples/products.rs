//! Times products of one shape on every instruction set: `products M N K THREADS [FORMAT ...]`.
//!
//! With few rows the weights are taken from several matrices in turn, 256 MiB in all, so that they come from memory.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool that prints, and stops at the first error"
)]

use std::sync::Arc;
use std::time::Instant;

use joulewise_kernels::args::{InputRounding, MatMul, Rows, RowsMut};
use joulewise_kernels::cpu::{CpuKernels, Isa, ThreadPool};
use joulewise_kernels::format::Format;

/// Bytes of weights to go through.
const COLD_BYTES: usize = 256 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let (m, n, k, threads) = (number(0), number(1), number(2), number(3));
    let only = &args[4..];
    let x: Vec<f32> = (0..m * k).map(|i| (i * 7919 % 1021) as f32 / 510.0 - 1.0).collect();
    let mut y = vec![0.0; m * n];
    for isa in Isa::ALL {
        let pool = Arc::new(ThreadPool::new(threads));
        let Some(kernels) = CpuKernels::for_isa(*isa, pool) else { continue };
        for format in Format::ALL {
            for rounding in [InputRounding::None, InputRounding::PerToken] {
                let name = match rounding {
                    InputRounding::None => format.name().to_owned(),
                    _ => format!("{format}-dynamic"),
                };
                let is_rounded = rounding != InputRounding::None;
                if is_rounded && !matches!(format, Format::Int8 | Format::Fp8E4m3)
                    || !only.is_empty() && !only.contains(&name) && !only.iter().any(|arg| arg == isa.name())
                    || only.iter().any(|arg| Isa::ALL.iter().any(|isa| isa.name() == arg))
                        && !only.iter().any(|arg| arg == isa.name())
                    || only.iter().any(|arg| !Isa::ALL.iter().any(|isa| isa.name() == arg))
                        && !only.contains(&name)
                {
                    continue;
                }
                let w = kernels.pack(*format, n, k, &mut |range, out| {
                    for (i, out) in (range.start * k..).zip(out) {
                        *out = ((i * 104_729 + i / 13) % 2039) as f32 / 1019.0 - 1.0;
                    }
                    Ok::<(), std::convert::Infallible>(())
                });
                let w = w.unwrap();
                let cold = m < 16 && std::env::var_os("HOT").is_none();
                let copies = if cold { (COLD_BYTES / w.size_bytes()).clamp(1, 400) } else { 1 };
                let copies: Vec<_> = (0..copies).map(|_| w.clone()).collect();
                let mut times = Vec::new();
                let begin = Instant::now();
                while times.len() < 3 || begin.elapsed().as_secs_f64() < 0.6 {
                    let start = Instant::now();
                    for w in &copies {
                        let x = Rows { data: &x, rows: m, cols: k, stride: k };
                        let y = RowsMut { data: &mut y, rows: m, cols: n };
                        kernels
                            .matmul(MatMul {
                                x,
                                rounding,
                                w,
                                bias: None,
                                activation: None,
                                residual: None,
                                next: &[],
                                y,
                            })
                            .unwrap();
                    }
                    times.push(start.elapsed().as_secs_f64() / copies.len() as f64);
                }
                times.sort_by(f64::total_cmp);
                let (best, median) = (times[0], times[times.len() / 2]);
                println!(
                    "{:12} {:18} {:9.1} us  {:8.1} GFLOP/s  {:6.1} GB/s  (best {:.1} us)",
                    isa.name(),
                    name,
                    median * 1e6,
                    2.0 * (m * n * k) as f64 / median * 1e-9,
                    w.size_bytes() as f64 / median * 1e-9,
                    best * 1e6
                );
            }
        }
    }
}
