//! Multiplies matrices a given number of times and does nothing else, for whoever counts instructions.
//!
//! `one_product ISA FORMAT INPUTS M N K TIMES`, `INPUTS` being `f32` or `int8`: rounded row by row.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;

use joulewise_kernels::args::{InputRounding, MatMul, Rows, RowsMut};
use joulewise_kernels::cpu::{CpuKernels, Isa, ThreadPool};
use joulewise_kernels::format::Format;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if run(&words.iter().map(String::as_str).collect::<Vec<_>>()).is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    }
}

/// `None` when the arguments make no sense here.
fn run(words: &[&str]) -> Option<()> {
    let [isa, format, inputs, sizes @ ..] = words else { return None };
    let sizes: Vec<usize> = sizes.iter().map(|size| size.parse().ok()).collect::<Option<_>>()?;
    let [m, n, k, times] = sizes[..] else { return None };
    let isa = *Isa::ALL.iter().find(|known| known.name() == *isa)?;
    let format = *Format::ALL.iter().find(|known| known.spec().name == *format)?;
    let kernels = CpuKernels::for_isa(isa, Arc::new(ThreadPool::new(1)))?;
    // Some values; which ones does not matter.
    let value = |i: usize| (i * 7919 % 1000) as f32 * 1e-3 - 0.5;
    let packed = kernels.pack(format, n, k, &mut |_, out| {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = value(i));
        Ok::<(), Infallible>(())
    });
    let w = match packed {
        Ok(packed) => packed,
        Err(never) => match never {},
    };
    let x: Vec<f32> = (0..m * k).map(value).collect();
    let mut y = vec![0.0; m * n];
    let rounding = match *inputs {
        "f32" => InputRounding::None,
        "int8" => InputRounding::PerToken,
        _ => return None,
    };
    for _ in 0..times {
        let x = Rows { data: &x, rows: m, cols: k, stride: k };
        let y = RowsMut { data: &mut y, rows: m, cols: n };
        kernels
            .matmul(MatMul { x, rounding, w: &w, bias: None, activation: None, residual: None, next: &[], y })
            .ok()?;
    }
    Some(())
}
