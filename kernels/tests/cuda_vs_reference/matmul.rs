//! Products of every weight format with any number of rows, alone and with all that can be fused.

use joulewise_kernels::KernelError;
use joulewise_kernels::args::{self, ActivationKind, InputRounding, NormKind, Rows, RowsMut};
use joulewise_kernels::cuda::{
    CudaKernels, DeviceRows, FusedNorm, LinearArgs, LinearPart, LinearScratch, NormArgs, NormRounding,
};
use joulewise_kernels::format::Format;
use joulewise_kernels::reference;

use crate::{F32_BOUND, FORMATS, Gpu, Random, close, rounded_bound, with_kernels};

/// Room for any product of the tests.
fn scratch(
    gpu: &Gpu<'_>,
    kernels: &CudaKernels,
    parts: &[LinearPart<'_>],
    x: &DeviceRows<'_>,
) -> LinearScratch {
    let sizes = parts
        .iter()
        .map(|part| kernels.scratch_size(part.w, x.rows, x.format, InputRounding::PerToken))
        .chain(parts.iter().map(|part| kernels.scratch_size(part.w, x.rows, x.format, InputRounding::None)));
    LinearScratch::new(gpu.context, sizes.reduce(|a, b| a.max(b)).unwrap()).unwrap()
}

/// What operands cost in a product: `x` in 16 bits, weights in halves where their scale is multiplied in before, 4-bit
/// ones and all of many rows; results as their type rounds them. Each adds at most its own square.
fn product_bound(weights: Format, x: Format, y: Format) -> f64 {
    let operand = match weights {
        Format::F32 => 0.0,
        Format::Bf16 => rounded_bound(Format::Bf16),
        // f16 holds e4m3 and integers, and what is left of a row of either after its scale to 2^-11.
        _ => 2.0 * rounded_bound(Format::F16),
    };
    // bf16 loses nothing in f16 but what lies below 2^-14 of normal values.
    let input = if x == Format::Bf16 { 1e-8 } else { 0.0 };
    F32_BOUND + operand + input + if y == Format::F32 { 0.0 } else { rounded_bound(y) }
}

/// Tensor cores add 8-bit floats with 14 bits: aligned to the largest of 32 products each step, `2^-13` of it at most
/// per step is cut off, always towards zero, so the errors of `k / 32` steps add up linearly against sums that grow with
/// `sqrt(k)`.
const FP8_SUMS: f64 = 2e-4;

#[test]
fn matrix_products() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(2);
        let fixed = [
            (1, 768, 768),
            (1, 50, 64),
            (130, 200, 96),
            (257, 384, 320),
            (1530, 1403, 72),
            (1500, 1410, 64),
            (1, 3, 3072),
            (40, 129, 1024),
            (7, 300, 4096),
            (32, 260, 2048),
            (64, 100, 1536),
            (300, 2100, 512),
        ];
        for round in 0..60 {
            let (m, n, k) = if round < fixed.len() {
                fixed[round]
            } else {
                let m = random.pick(&[1, 1, 2, 5, 8, 9, 16, 17, 33, 64, 70, 150]);
                (m, random.between(1, 200), random.between(1, 260))
            };
            let k = if round % 2 == 0 { k.next_multiple_of(8) } else { k };
            for (i, format) in Format::ALL.iter().copied().enumerate() {
                let x_format = if format == Format::Bf16 { Format::Bf16 } else { FORMATS[(round + i) % 3] };
                let y_format = if round % 2 == 0 { x_format } else { Format::F32 };
                let (dx, x) = gpu.typed(x_format, &random.floats(m * k));
                let (bias, values) = (random.floats(n), random.floats(n * k));
                let (dr, residual) = gpu.typed(FORMATS[round % 3], &random.floats(m * n));
                let (w, rounded) = gpu.matrix(format, n, k, &values);
                let y = gpu.poisoned_in(y_format, m * n);
                let db = gpu.floats(&bias);
                let kind = (round % 3 == 1).then_some(ActivationKind::GeluTanh);
                let has_residual = round % 3 == 2;
                let rounding = match format {
                    Format::Int8 | Format::Fp8E4m3 if round % 4 == 1 => InputRounding::PerToken,
                    Format::Int8 | Format::Fp8E4m3 if round % 4 == 2 => InputRounding::Static { scale: 0.03 },
                    _ => InputRounding::None,
                };
                let bias = (round % 4 != 3).then_some(&bias);
                let parts = [LinearPart { w: &w, bias: bias.is_some().then_some(&db), y: y.rows(m, n) }];
                let input = dx.rows(m, k);
                let scratch = scratch(&gpu, kernels, &parts, &input);
                kernels
                    .linear(&LinearArgs {
                        x: input,
                        norm: None,
                        rounding,
                        is_rounded: false,
                        parts: &parts,
                        gate: None,
                        activation: kind,
                        residual: has_residual.then_some(dr.rows(m, n)),
                        scratch: &scratch,
                    })
                    .unwrap();
                let mut expected = vec![0.0; m * n];
                let hx = Rows { data: &x, rows: m, cols: k, stride: k };
                let hx = reference::round_inputs(hx, rounding, format);
                let hx = Rows { data: &hx, rows: m, cols: k, stride: k };
                let out = RowsMut { data: &mut expected, rows: m, cols: n };
                reference::matmul(hx, &rounded, bias.map(Vec::as_slice), out);
                for (i, y) in expected.iter_mut().enumerate() {
                    if let Some(kind) = kind {
                        *y = reference::activation(kind, f64::from(*y)) as f32;
                    }
                    if has_residual {
                        *y += residual[i];
                    }
                }
                let what =
                    format!("linear {format} x {x_format} y {y_format} {rounding:?} m {m} n {n} k {k}");
                let mut bound = product_bound(format, x_format, y_format);
                if format == Format::Fp8E4m3 && rounding != InputRounding::None {
                    bound += FP8_SUMS;
                }
                if rounding != InputRounding::None {
                    // An input half way between two codes may fall to either side: at most a few of them, each off by a
                    // whole code.
                    bound += 1e-5;
                }
                close(&y.read(), &expected, bound, &what);
            }
        }
    });
}

/// One, some and many rows; several matrices, or two that a gate joins; a norm in front of one row.
#[test]
fn products_with_everything_fused() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(3);
        for round in 0..24 {
            let k = 32 * random.between(1, 170);
            let n = [random.between(1, 400), random.between(1, 90), random.between(1, 90)];
            let m = [1, 1, 4, 12, 30, 50, 140, 300][round % 8];
            for format in Format::ALL.iter().copied() {
                let is_gate = round % 3 == 0;
                let n = if is_gate { [n[0], n[0], 1] } else { n };
                let rounding = match format {
                    Format::Int8 | Format::Fp8E4m3 if round % 2 == 1 => InputRounding::PerToken,
                    _ => InputRounding::None,
                };
                let matrices: Vec<_> =
                    n.iter().map(|n| gpu.matrix(format, *n, k, &random.floats(n * k))).collect();
                let has_norm = m == 1;
                if !kernels.can_join(&matrices[0].0, m, has_norm) {
                    continue;
                }
                let x_format = if format == Format::Bf16 { Format::Bf16 } else { FORMATS[round % 2] };
                let (dx, x) = gpu.typed(x_format, &random.floats(m * k));
                let (gain, shift) = (random.floats(k), random.floats(k));
                let (dg, ds) = (gpu.floats(&gain), gpu.floats(&shift));
                let kind = if round % 2 == 0 { NormKind::Layer } else { NormKind::Rms };
                let mut input = x.clone();
                if has_norm {
                    reference::norm(args::Norm {
                        kind,
                        x: Rows { data: &x, rows: m, cols: k, stride: k },
                        weight: &gain,
                        bias: Some(&shift),
                        eps: 1e-6,
                        y: RowsMut { data: &mut input, rows: m, cols: k },
                    });
                }
                let input = Rows { data: &input, rows: m, cols: k, stride: k };
                let input = reference::round_inputs(input, rounding, format);
                let biases: Vec<Vec<f32>> = n.iter().map(|n| random.floats(*n)).collect();
                let device_biases: Vec<_> = biases.iter().map(|bias| gpu.floats(bias)).collect();
                let results: Vec<_> = n.iter().map(|n| gpu.poisoned_in(Format::F32, m * n)).collect();
                let parts: Vec<_> = (0..3)
                    .map(|i| LinearPart {
                        w: &matrices[i].0,
                        bias: Some(&device_biases[i]),
                        y: results[i].rows(m, n[i]),
                    })
                    .collect();
                let parts = if is_gate { &parts[..2] } else { &parts };
                let product = |i: usize| {
                    let mut y = vec![0.0; m * n[i]];
                    let x = Rows { data: &input, rows: m, cols: k, stride: k };
                    let out = RowsMut { data: &mut y, rows: m, cols: n[i] };
                    reference::matmul(x, &matrices[i].1, Some(&biases[i]), out);
                    y
                };
                let rows = dx.rows(m, k);
                let scratch = scratch(&gpu, kernels, parts, &rows);
                let is_rounded =
                    round % 4 == 3 && kernels.round_rows(&rows, rounding, &matrices[0].0, &scratch).unwrap();
                kernels
                    .linear(&LinearArgs {
                        x: rows,
                        norm: has_norm.then_some(FusedNorm { kind, weight: &dg, bias: Some(&ds), eps: 1e-6 }),
                        rounding,
                        is_rounded,
                        parts,
                        gate: is_gate.then_some(ActivationKind::Silu),
                        activation: None,
                        residual: None,
                        scratch: &scratch,
                    })
                    .unwrap();
                let mut bound = 2.0 * product_bound(format, x_format, Format::F32);
                if rounding != InputRounding::None {
                    bound += 1e-5 + if format == Format::Fp8E4m3 { 2.0 * FP8_SUMS } else { 0.0 };
                }
                let what = format!("{format} m {m} n {n:?} k {k} {rounding:?}");
                if is_gate {
                    let (gate, up) = (product(0), product(1));
                    let silu = |x: f32| reference::activation(ActivationKind::Silu, f64::from(x));
                    let expected: Vec<f32> =
                        gate.iter().zip(up).map(|(g, u)| (silu(*g) * f64::from(u)) as f32).collect();
                    close(&results[0].read(), &expected, bound, &format!("gate {what}"));
                } else {
                    for (i, result) in results.iter().enumerate() {
                        close(&result.read(), &product(i), bound, &format!("part {i} {what}"));
                    }
                }
            }
        }
    });
}

/// Products so small that several blocks of a cluster share each tile on Hopper: rows, columns, steps of 128 bytes and whether
/// there is a gate. A test beside the choice of tiles makes sure that with these shapes each of the kernels for that runs in
/// clusters of every size.
const SHARED_TILES: [(usize, usize, usize, bool); 28] = [
    (3, 61, 4, false),
    (3, 61, 6, false),
    (3, 61, 8, false),
    (3, 61, 10, false),
    (3, 61, 12, false),
    (3, 61, 14, false),
    (3, 61, 16, false),
    (66, 4541, 20, false),
    (66, 3645, 15, false),
    (131, 957, 16, false),
    (131, 61, 15, false),
    (131, 61, 17, false),
    (131, 61, 14, false),
    (131, 61, 16, false),
    (3, 2493, 12, true),
    (3, 61, 6, true),
    (3, 61, 8, true),
    (3, 61, 10, true),
    (3, 61, 12, true),
    (3, 61, 14, true),
    (3, 61, 16, true),
    (66, 2301, 20, true),
    (66, 1853, 15, true),
    (66, 957, 16, true),
    (131, 61, 15, true),
    (131, 61, 17, true),
    (131, 61, 14, true),
    (131, 61, 16, true),
];

#[test]
fn tiles_that_blocks_share() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(4);
        let mut round = 0;
        for (m, n, steps, is_gate) in SHARED_TILES {
            let gate = is_gate.then_some(ActivationKind::Silu);
            let joined = if is_gate { vec![n, n] } else { vec![n - 41, 33, 8] };
            for n in [if is_gate { joined.clone() } else { vec![n] }, joined] {
                for format in [Format::F16, Format::Bf16, Format::Int8, Format::Fp8E4m3] {
                    round += 1;
                    let rounding =
                        if format.is_float() { InputRounding::None } else { InputRounding::PerToken };
                    let bytes = steps * 128 - 16;
                    let k = if format.is_float() { bytes / 2 } else { bytes };
                    let matrices: Vec<_> =
                        n.iter().map(|n| gpu.matrix(format, *n, k, &random.floats(n * k))).collect();
                    if !kernels.can_join(&matrices[0].0, m, false) {
                        continue;
                    }
                    let x_format = if format == Format::Bf16 { Format::Bf16 } else { Format::F16 };
                    let y_format = FORMATS[round % 3];
                    let (dx, x) = gpu.typed(x_format, &random.floats(m * k));
                    let x = reference::round_inputs(
                        Rows { data: &x, rows: m, cols: k, stride: k },
                        rounding,
                        format,
                    );
                    let has_bias = round % 4 != 0;
                    let biases: Vec<Vec<f32>> = n.iter().map(|n| random.floats(*n)).collect();
                    let device_biases: Vec<_> = biases.iter().map(|bias| gpu.floats(bias)).collect();
                    let results: Vec<_> = n.iter().map(|n| gpu.poisoned_in(y_format, m * n)).collect();
                    let has_residual = n.len() == 1 && round % 5 != 0;
                    let (dr, residual) = gpu.typed(FORMATS[round / 2 % 3], &random.floats(m * n[0]));
                    let parts: Vec<_> = (0..n.len())
                        .map(|i| LinearPart {
                            w: &matrices[i].0,
                            bias: has_bias.then_some(&device_biases[i]),
                            y: results[i].rows(m, n[i]),
                        })
                        .collect();
                    let input = dx.rows(m, k);
                    let scratch = scratch(&gpu, kernels, &parts, &input);
                    let activation = (gate.is_none() && round % 2 == 0).then_some(ActivationKind::GeluErf);
                    kernels
                        .linear(&LinearArgs {
                            x: input,
                            norm: None,
                            rounding,
                            is_rounded: false,
                            parts: &parts,
                            gate,
                            activation,
                            residual: has_residual.then_some(dr.rows(m, n[0])),
                            scratch: &scratch,
                        })
                        .unwrap();
                    let activated =
                        |kind: ActivationKind, y: f32| reference::activation(kind, f64::from(y)) as f32;
                    let mut expected: Vec<Vec<f32>> = (0..n.len())
                        .map(|i| {
                            let mut y = vec![0.0; m * n[i]];
                            let x = Rows { data: &x, rows: m, cols: k, stride: k };
                            let out = RowsMut { data: &mut y, rows: m, cols: n[i] };
                            let bias = has_bias.then_some(biases[i].as_slice());
                            reference::matmul(x, &matrices[i].1, bias, out);
                            if let Some(kind) = activation {
                                y.iter_mut().for_each(|y| *y = activated(kind, *y));
                            }
                            y
                        })
                        .collect();
                    if let Some(kind) = gate {
                        let up = expected.pop().unwrap();
                        expected[0].iter_mut().zip(up).for_each(|(y, up)| *y = activated(kind, *y) * up);
                    }
                    if has_residual {
                        expected[0].iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
                    }
                    let mut bound = 2.0 * product_bound(format, x_format, y_format);
                    if rounding != InputRounding::None {
                        bound += 1e-5 + if format == Format::Fp8E4m3 { 2.0 * FP8_SUMS } else { 0.0 };
                    }
                    for (i, (result, expected)) in results.iter().zip(expected).enumerate() {
                        let what = format!("part {i} {format} y {y_format} m {m} n {n:?} k {k} {gate:?}");
                        close(&result.read(), &expected, bound, &what);
                    }
                }
            }
        }
    });
}

/// Residuals that Hopper requests before the products: each kernel for that, rows and columns that end within a tile, and a
/// residual that is a part of wider rows.
#[test]
fn residuals_ahead_of_products() {
    const BEFORE: usize = 8;
    const BESIDE: usize = 16;
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(5);
        let types = [
            (Format::F16, Format::F16),
            (Format::Bf16, Format::F16),
            (Format::F16, Format::Bf16),
            (Format::F32, Format::F32),
        ];
        let mut round = 0;
        // Low tiles, narrow ones, and pairs of wide ones.
        for (m, n, k) in [(41, 96, 112), (200, 160, 80), (200, 168, 80), (1790, 1824, 144)] {
            for format in [Format::F16, Format::Bf16, Format::Int8, Format::Fp8E4m3] {
                for (residual_format, y_format) in types {
                    round += 1;
                    let rounding =
                        if format.is_float() { InputRounding::None } else { InputRounding::PerToken };
                    let (w, values) = gpu.matrix(format, n, k, &random.floats(n * k));
                    let x_format = if format == Format::Bf16 { Format::Bf16 } else { Format::F16 };
                    let (dx, x) = gpu.typed(x_format, &random.floats(m * k));
                    let x = reference::round_inputs(
                        Rows { data: &x, rows: m, cols: k, stride: k },
                        rounding,
                        format,
                    );
                    let stride = n + BESIDE;
                    let (dr, residual) = gpu.typed(residual_format, &random.floats(m * stride));
                    let bias = (round % 2 == 0).then(|| random.floats(n));
                    let device_bias = bias.as_ref().map(|bias| gpu.floats(bias));
                    let y = gpu.poisoned_in(y_format, m * n);
                    let parts = [LinearPart { w: &w, bias: device_bias.as_ref(), y: y.rows(m, n) }];
                    let input = dx.rows(m, k);
                    let scratch = scratch(&gpu, kernels, &parts, &input);
                    kernels
                        .linear(&LinearArgs {
                            x: input,
                            norm: None,
                            rounding,
                            is_rounded: false,
                            parts: &parts,
                            gate: None,
                            activation: None,
                            residual: Some(dr.part(BEFORE, m, n, stride)),
                            scratch: &scratch,
                        })
                        .unwrap();
                    let mut expected = vec![0.0; m * n];
                    let x = Rows { data: &x, rows: m, cols: k, stride: k };
                    let out = RowsMut { data: &mut expected, rows: m, cols: n };
                    reference::matmul(x, &values, bias.as_deref(), out);
                    for (row, expected) in expected.chunks_mut(n).enumerate() {
                        let added = &residual[BEFORE + row * stride..];
                        expected.iter_mut().zip(added).for_each(|(y, added)| *y += added);
                    }
                    let mut bound = 2.0 * product_bound(format, x_format, y_format);
                    if rounding != InputRounding::None {
                        bound += 1e-5 + if format == Format::Fp8E4m3 { 2.0 * FP8_SUMS } else { 0.0 };
                    }
                    let what = format!("{format} m {m} n {n} k {k}, residual {residual_format} y {y_format}");
                    close(&y.read(), &expected, bound, &what);
                }
            }
        }
    });
}

/// A norm that leaves the codes which products behind it multiply, and perhaps its own result: every bit is that of a norm and
/// products that round their input by themselves.
#[test]
fn norms_that_leave_codes() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(6);
        let is_hopper = kernels.context().compute_capability() == (9, 0);
        // Rows of half a piece of 16 codes, longer ones than threads keep in registers, and more than there are multiprocessors.
        let fixed =
            [(2, 8), (5, 24), (40, 768), (300, 1032), (150, 4096), (3, 16392), (2, 20000), (7, 77), (1, 64)];
        for round in 0..60 {
            let (m, k) = match fixed.get(round) {
                Some(shape) => *shape,
                None => (random.between(2, 280), 8 * random.between(1, 300)),
            };
            let (offset, stride) =
                if round % 3 == 0 { (random.below(9), k + random.below(20)) } else { (0, k) };
            let (x_format, y_format) = (FORMATS[round % 3], FORMATS[round / 3 % 3]);
            let (dx, _) = gpu.typed(x_format, &random.floats(offset + m * stride));
            let (weight, bias) = (gpu.floats(&random.floats(k)), gpu.floats(&random.floats(k)));
            for format in [Format::Int8, Format::Fp8E4m3] {
                for rounding in [InputRounding::PerToken, InputRounding::Static { scale: 0.02 }] {
                    let n = [random.between(1, 150), random.between(1, 90), random.between(1, 90)];
                    let n = &n[..random.between(1, 3)];
                    let matrices: Vec<_> =
                        n.iter().map(|n| gpu.matrix(format, *n, k, &random.floats(n * k)).0).collect();
                    let what = format!(
                        "{format} {rounding:?} m {m} n {n:?} k {k}, x {x_format} at {offset} by {stride}, y {y_format}"
                    );
                    let takes_codes = kernels.takes_codes(&matrices[0], m, rounding);
                    let is_expected = is_hopper && k % 8 == 0 && m > 1;
                    assert_eq!(takes_codes, is_expected, "{what}");
                    let run = |is_fused: bool, is_y_read: bool, stale: &[f32]| {
                        let y = gpu.poisoned_in(y_format, m * k);
                        let results: Vec<_> = n.iter().map(|n| gpu.poisoned_in(Format::F32, m * n)).collect();
                        let parts: Vec<_> = matrices
                            .iter()
                            .zip(results.iter().zip(n))
                            .map(|(w, (result, n))| LinearPart { w, bias: None, y: result.rows(m, *n) })
                            .collect();
                        let normed = y.rows(m, k);
                        let scratch = scratch(&gpu, kernels, &parts, &normed);
                        // Something else was rounded before.
                        let (stale, _) = gpu.typed(Format::F32, stale);
                        kernels.round_rows(&stale.rows(m, k), rounding, &matrices[0], &scratch).unwrap();
                        let norm = NormArgs {
                            kind: if round % 2 == 0 { NormKind::Layer } else { NormKind::Rms },
                            x: dx.part(offset, m, k, stride),
                            weight: &weight,
                            bias: (round % 4 < 2).then_some(&bias),
                            eps: 1e-6,
                            y: normed,
                        };
                        if is_fused {
                            let w = &matrices[0];
                            let rounded = NormRounding { rounding, w, scratch: &scratch, is_y_read };
                            kernels.norm_and_round(&norm, &rounded)?;
                        } else {
                            kernels.norm(&norm)?;
                        }
                        kernels.linear(&LinearArgs {
                            x: normed,
                            norm: None,
                            rounding,
                            is_rounded: is_fused,
                            parts: &parts,
                            gate: None,
                            activation: None,
                            residual: None,
                            scratch: &scratch,
                        })?;
                        let bits =
                            |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                        let results = results.iter().map(|result| bits(result.read())).collect::<Vec<_>>();
                        Ok::<_, KernelError>((y.read(), results))
                    };
                    let stale = random.floats(m * k);
                    if !takes_codes {
                        let refused = run(true, true, &stale);
                        assert!(matches!(refused, Err(KernelError::NoKernel { .. })), "{what}");
                        continue;
                    }
                    let (y, expected) = run(false, true, &stale).unwrap();
                    for is_y_read in [false, true] {
                        let (written, got) = run(true, is_y_read, &stale).unwrap();
                        assert!(got == expected, "{what}, y read: {is_y_read}");
                        let is_same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                        let is_as_it_should = match is_y_read {
                            true => written.iter().zip(&y).all(is_same),
                            false => written.iter().all(|y| y.is_nan()),
                        };
                        assert!(is_as_it_should, "normed value, {what}, y read: {is_y_read}");
                    }
                }
            }
        }
    });
}
