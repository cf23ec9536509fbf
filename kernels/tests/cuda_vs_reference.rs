//! Every CUDA kernel against the reference over random shapes. Needs a GPU; says `SKIP cuda: ...` where there is none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stdout, reason = "helpers of tests say why nothing was tested")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use joulewise_kernels::args::{self, ActivationKind, InputRounding, Mask, NormKind, Rows, RowsMut};
use joulewise_kernels::cuda::driver::{Context, CubinCache, DeviceBuffer};
use joulewise_kernels::cuda::{
    AttentionArgs, CacheView, CacheWriteArgs, CudaKernels, DecodeArgs, DecodeScratch, DeviceMatrix,
    DeviceRows, EmbedArgs, FusedNorm, KeyValues, LinearArgs, LinearPart, LinearScratch, MeanPoolArgs,
    NormArgs, RopeArgs, RopeTable, RotateArgs,
};
use joulewise_kernels::format::{Format, bytes_to_f32};
use joulewise_kernels::reference;

/// The device, or `None` with the reason printed. Tests take turns: they share one stream.
fn with_kernels(test: impl FnOnce(&CudaKernels)) {
    static KERNELS: OnceLock<Option<CudaKernels>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let kernels = KERNELS.get_or_init(|| {
        let context = match Context::new(0) {
            Ok(context) => context,
            Err(error) => {
                // Past the test runner, which swallows what passing tests print.
                let _ = writeln!(io::stderr(), "SKIP cuda: {error}; nothing was compared");
                return None;
            }
        };
        // A GPU without a compiler is a broken machine, not one to skip.
        Some(CudaKernels::load(&context, &CubinCache::for_user()).unwrap())
    });
    if let Some(kernels) = kernels {
        test(kernels);
    }
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Near normal, standard deviation 1.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (0..n).map(|_| (0..4).map(|_| uniform(self.bits())).sum::<f32>() * 1.73).collect()
    }
}

const POISON: f32 = f32::NAN;

struct Gpu<'a> {
    context: &'a Arc<Context>,
}

impl<'a> Gpu<'a> {
    fn new(kernels: &'a CudaKernels) -> Self {
        Gpu { context: kernels.context() }
    }

    fn floats(&self, values: &[f32]) -> DeviceBuffer<f32> {
        DeviceBuffer::from_slice(self.context, values).unwrap()
    }

    fn ints(&self, values: &[u32]) -> DeviceBuffer<u32> {
        DeviceBuffer::from_slice(self.context, values).unwrap()
    }

    fn poisoned(&self, n: usize) -> DeviceBuffer<f32> {
        self.floats(&vec![POISON; n])
    }

    fn read(&self, buffer: &DeviceBuffer<f32>) -> Vec<f32> {
        let mut out = vec![0.0; buffer.len()];
        buffer.read(0, &mut out).unwrap();
        out
    }

    /// The matrix and the values that its format made of `values`.
    fn matrix(&self, format: Format, n: usize, k: usize, values: &[f32]) -> (DeviceMatrix, Vec<f32>) {
        let matrix = DeviceMatrix::zeros(self.context, format, n, k).unwrap();
        let encoded = format.encode(values, n, k).unwrap();
        matrix.write_rows(0, &encoded).unwrap();
        let mut rounded = vec![0.0; n * k];
        encoded.decode(&mut rounded).unwrap();
        (matrix, rounded)
    }

    /// Activations in `format`, and what it made of `values`.
    fn typed(&self, format: Format, values: &[f32]) -> (Typed, Vec<f32>) {
        let encoded = format.encode(values, 1, values.len()).unwrap();
        let mut rounded = vec![0.0; values.len()];
        encoded.decode(&mut rounded).unwrap();
        (Typed { data: DeviceBuffer::from_slice(self.context, &encoded.data).unwrap(), format }, rounded)
    }

    fn poisoned_in(&self, format: Format, n: usize) -> Typed {
        self.typed(format, &vec![POISON; n]).0
    }
}

/// Activations of some float format on the device.
struct Typed {
    data: DeviceBuffer<u8>,
    format: Format,
}

impl Typed {
    fn rows(&self, rows: usize, cols: usize) -> DeviceRows<'_> {
        self.part(0, rows, cols, cols)
    }

    fn part(&self, offset: usize, rows: usize, cols: usize, stride: usize) -> DeviceRows<'_> {
        DeviceRows { data: &self.data, format: self.format, offset, rows, cols, stride }
    }

    fn read(&self) -> Vec<f32> {
        let mut bytes = vec![0; self.data.len()];
        self.data.read(0, &mut bytes).unwrap();
        let mut out = vec![0.0; bytes.len() / self.format.spec().code_bytes(1)];
        bytes_to_f32(self.format, &bytes, &mut out).unwrap();
        out
    }
}

fn nmse(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    if norm == 0.0 { error } else { error / norm }
}

#[track_caller]
fn close(got: &[f32], expected: &[f32], bound: f64, what: &str) {
    let error = nmse(got, expected);
    assert!(error <= bound, "{what}: NMSE {error:.2e}, bound {bound:.0e}");
}

/// f32 sums of up to some thousand terms in another order.
const F32_BOUND: f64 = 1e-11;
/// Scores of magnitude `s` are off by about `s 2^-24`, and their exponentials relatively by as much; ALiBi's random
/// slopes here make scores of some hundreds.
const ATTENTION_BOUND: f64 = 1e-9;
/// Activations rounded to 11 or 8 significant bits before they are multiplied: at most `2^-22` and `2^-16` of the
/// square of each; here with room for an unlucky draw of few elements.
fn rounded_bound(format: Format) -> f64 {
    match format {
        Format::F32 => F32_BOUND,
        Format::F16 => 2.4e-7,
        Format::Bf16 => 1.6e-5,
        _ => f64::NAN,
    }
}

/// With operands of 11 or 8 significant bits: queries and keys of standard deviation 1, `d` dimensions and a scale of
/// 0.3 give scores of standard deviation `0.3 sqrt(d)`, at most 4.8, each off by about `2^-11` or `2^-8` of that; so
/// are the weights relatively, and with them the squares of what they sum up.
fn attention_bound(format: Format) -> f64 {
    match format {
        Format::F32 => ATTENTION_BOUND,
        format => 25.0 * rounded_bound(format),
    }
}

const FORMATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];
const KINDS: [ActivationKind; 6] = [
    ActivationKind::GeluErf,
    ActivationKind::GeluTanh,
    ActivationKind::GeluSigmoid,
    ActivationKind::Relu,
    ActivationKind::Silu,
    ActivationKind::Tanh,
];

#[test]
fn rows_and_element_wise_functions() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(1);
        for round in 0..24 {
            let (rows, cols) = (random.between(1, 37), random.between(1, 300));
            let (offset, stride) = (random.below(9), cols + random.below(20));
            let data = random.floats(offset + rows * stride);
            let other = random.floats(offset + rows * stride);
            let (x, z) = (gpu.floats(&data), gpu.floats(&other));
            let view = |data| DeviceRows { data, format: Format::F32, offset, rows, cols, stride };
            let host = |data: &'_ [f32]| -> Vec<f32> {
                (0..rows).flat_map(|r| data[offset + r * stride..][..cols].to_vec()).collect()
            };
            let (hx, hz) = (host(&data), host(&other));
            let dense = |data| Rows { data, rows, cols, stride: cols };
            let y = gpu.poisoned(rows * cols);
            let out = DeviceRows::dense(&y, rows, cols);
            let mut expected = vec![0.0; rows * cols];
            let kind = KINDS[round % 6];

            kernels.activate(kind, view(&x), out).unwrap();
            let ry = RowsMut { data: &mut expected, rows, cols };
            reference::activate(args::Activate { kind, x: dense(&hx), y: ry });
            close(&gpu.read(&y), &expected, F32_BOUND, "activate");

            kernels.gate(kind, view(&x), view(&z), out).unwrap();
            let ry = RowsMut { data: &mut expected, rows, cols };
            reference::gate(args::Gate { kind, gate: dense(&hx), up: dense(&hz), y: ry });
            close(&gpu.read(&y), &expected, F32_BOUND, "gate");

            kernels.add(view(&x), view(&z), out).unwrap();
            let ry = RowsMut { data: &mut expected, rows, cols };
            reference::add(args::Add { a: dense(&hx), b: dense(&hz), y: ry });
            close(&gpu.read(&y), &expected, 0.0, "add");

            let indices: Vec<u32> = (0..rows).map(|_| random.below(rows) as u32).collect();
            kernels.select_rows(view(&x), &gpu.ints(&indices), out).unwrap();
            let ry = RowsMut { data: &mut expected, rows, cols };
            reference::select_rows(args::SelectRows { x: dense(&hx), indices: &indices, y: ry });
            close(&gpu.read(&y), &expected, 0.0, "select_rows");

            for kind in [NormKind::Layer, NormKind::Rms] {
                let (weight, bias) = (random.floats(cols), random.floats(cols));
                let (w, b) = (gpu.floats(&weight), gpu.floats(&bias));
                kernels
                    .norm(&NormArgs { kind, x: view(&x), weight: &w, bias: Some(&b), eps: 1e-5, y: out })
                    .unwrap();
                let ry = RowsMut { data: &mut expected, rows, cols };
                let bias = Some(bias.as_slice());
                reference::norm(args::Norm { kind, x: dense(&hx), weight: &weight, bias, eps: 1e-5, y: ry });
                close(&gpu.read(&y), &expected, F32_BOUND, "norm");
            }

            let index = gpu.ints(&vec![77; rows]);
            kernels.argmax(view(&x), &index).unwrap();
            let mut got = vec![0; rows];
            index.read(0, &mut got).unwrap();
            for (r, got) in got.iter().enumerate() {
                assert_eq!(*got as usize, reference::argmax(&hx[r * cols..][..cols]));
            }

            for format in FORMATS {
                let (table, rounded) = gpu.matrix(format, rows, cols, &hx);
                kernels.embed(&EmbedArgs { table: &table, ids: &gpu.ints(&indices), y: out }).unwrap();
                reference::embed(&rounded, &indices, RowsMut { data: &mut expected, rows, cols });
                close(&gpu.read(&y), &expected, 0.0, "embed");
            }

            let (batch, tokens) = (random.between(1, 4), random.between(1, 20));
            let pooled = random.floats(batch * tokens * cols);
            let mask: Vec<u8> = (0..batch * tokens).map(|_| random.below(3).min(1) as u8).collect();
            let device_mask = DeviceBuffer::from_slice(gpu.context, &mask).unwrap();
            let y = gpu.poisoned(batch * cols);
            for is_masked in [false, true] {
                kernels
                    .mean_pool(&MeanPoolArgs {
                        x: DeviceRows::dense(&gpu.floats(&pooled), batch * tokens, cols),
                        tokens,
                        mask: is_masked.then_some(&device_mask),
                        y: DeviceRows::dense(&y, batch, cols),
                    })
                    .unwrap();
                let mut expected = vec![0.0; batch * cols];
                reference::mean_pool(args::MeanPool {
                    x: Rows { data: &pooled, rows: batch * tokens, cols, stride: cols },
                    batch,
                    tokens,
                    mask: is_masked.then_some(Mask { visible: &mask, stride: tokens }),
                    y: RowsMut { data: &mut expected, rows: batch, cols },
                });
                close(&gpu.read(&y), &expected, F32_BOUND, "mean_pool");
            }
        }
    });
}

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

#[test]
fn rotary_embedding() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(4);
        for _ in 0..12 {
            let (rows, heads, head_dim) =
                (random.between(1, 9), random.between(1, 5), 2 * random.between(1, 40));
            let rotary = 2 * random.between(1, head_dim / 2);
            let positions: Vec<u32> = (0..rows).map(|_| random.below(50) as u32).collect();
            let (cos, sin) = (random.floats(50 * rotary / 2), random.floats(50 * rotary / 2));
            let cols = heads * head_dim;
            let x = random.floats(rows * cols);
            let y = gpu.poisoned(rows * cols);
            kernels
                .rope(&RopeArgs {
                    x: DeviceRows::dense(&gpu.floats(&x), rows, cols),
                    head_dim,
                    table: &RopeTable::new(gpu.context, &cos, &sin, rotary).unwrap(),
                    positions: &gpu.ints(&positions),
                    y: DeviceRows::dense(&y, rows, cols),
                })
                .unwrap();
            let mut expected = vec![0.0; rows * cols];
            reference::rope(args::Rope {
                x: Rows { data: &x, rows, cols, stride: cols },
                heads,
                head_dim,
                cos: &cos,
                sin: &sin,
                rotary,
                positions: &positions,
                y: RowsMut { data: &mut expected, rows, cols },
            });
            close(&gpu.read(&y), &expected, F32_BOUND, "rope");
        }
    });
}

/// One attention problem: sizes and what varies.
struct Problem {
    batch: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    starts: Vec<u32>,
    causal: bool,
    window: Option<usize>,
    slopes: Option<Vec<f32>>,
    mask: Option<Vec<u8>>,
}

impl Problem {
    fn random(random: &mut Random, tokens: usize, cached: bool) -> Self {
        let kv_heads = random.between(1, 3);
        let heads = kv_heads * random.pick(&[1, 2, 3, 4, 7, 8, 9]);
        let head_dim = random.pick(&[8, 16, 20, 33, 64, 64, 80, 96, 128, 128, 256]);
        let batch = random.between(1, 3);
        let capacity = tokens + if cached { random.pick(&[3, 70, 300]) } else { 0 };
        let starts = (0..batch).map(|_| if cached { random.below(capacity - tokens + 1) as u32 } else { 0 });
        let starts: Vec<u32> = starts.collect();
        let causal = cached || random.below(2) == 0;
        let window = (random.below(3) == 0).then(|| random.between(1, capacity));
        let slopes = (random.below(3) == 0).then(|| random.floats(heads));
        let mask = (!cached && random.below(2) == 0)
            .then(|| (0..batch * tokens).map(|_| random.below(4).min(1) as u8).collect());
        Problem { batch, tokens, heads, kv_heads, head_dim, capacity, starts, causal, window, slopes, mask }
    }

    fn describe(&self) -> String {
        let Problem { batch, tokens, heads, kv_heads, head_dim, causal, window, .. } = self;
        format!(
            "batch {batch} tokens {tokens} heads {heads}/{kv_heads} of {head_dim} causal {causal} window {window:?}, \
             slopes {} mask {} starts {:?}",
            self.slopes.is_some(),
            self.mask.is_some(),
            self.starts
        )
    }

    fn expected(&self, q: &[f32], k: args::HeadsView<'_>, v: args::HeadsView<'_>) -> Vec<f32> {
        let cols = self.heads * self.head_dim;
        let rows = self.batch * self.tokens;
        let mut y = vec![0.0; rows * cols];
        reference::attention(args::Attention {
            q: Rows { data: q, rows, cols, stride: cols },
            k,
            v,
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            kv_start: &self.starts,
            scale: 0.3,
            causal: self.causal,
            window: self.window,
            alibi_slopes: self.slopes.as_deref(),
            mask: self.mask.as_deref().map(|visible| Mask { visible, stride: self.tokens }),
            y: RowsMut { data: &mut y, rows, cols },
        });
        y
    }
}

#[test]
fn attention_without_a_cache() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(5);
        for round in 0..60 {
            let precision = FORMATS[round % 3];
            let tokens = random.between(1, 150);
            let p = Problem::random(&mut random, tokens, false);
            let (rows, cols, kv_cols) = (p.batch * p.tokens, p.heads * p.head_dim, p.kv_heads * p.head_dim);
            let (dq, q) = gpu.typed(precision, &random.floats(rows * cols));
            let (dk, k) = gpu.typed(precision, &random.floats(rows * kv_cols));
            let (dv, v) = gpu.typed(precision, &random.floats(rows * kv_cols));
            let y = gpu.poisoned_in(precision, rows * cols);
            let slopes = p.slopes.as_ref().map(|slopes| gpu.floats(slopes));
            let mask = p.mask.as_ref().map(|mask| DeviceBuffer::from_slice(gpu.context, mask).unwrap());
            kernels
                .attention(&AttentionArgs {
                    q: dq.rows(rows, cols),
                    kv: KeyValues::Projected { k: dk.rows(rows, kv_cols), v: dv.rows(rows, kv_cols) },
                    tokens: p.tokens,
                    heads: p.heads,
                    kv_heads: p.kv_heads,
                    head_dim: p.head_dim,
                    kv_start: &gpu.ints(&p.starts),
                    scale: 0.3,
                    causal: p.causal,
                    window: p.window,
                    slopes: slopes.as_ref(),
                    mask: mask.as_ref(),
                    y: y.rows(rows, cols),
                })
                .unwrap();
            let view = |data| args::HeadsView {
                data,
                batch_stride: p.tokens * kv_cols,
                head_stride: p.head_dim,
                token_stride: kv_cols,
            };
            let bound = attention_bound(precision);
            close(&y.read(), &p.expected(&q, view(&k), view(&v)), bound, &p.describe());
        }
    });
}

/// Fills a cache, appends to it, and attends: with the kernel for any number of tokens, and with that for one.
#[test]
fn attention_over_a_cache() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(6);
        for round in 0..72 {
            let format = FORMATS[round % 3];
            let tokens = if round % 2 == 0 { 1 } else { random.between(1, 40) };
            let p = Problem::random(&mut random, tokens, true);
            let (rows, cols, kv_cols) = (p.batch * tokens, p.heads * p.head_dim, p.kv_heads * p.head_dim);
            let elements = p.batch * p.kv_heads * p.capacity * p.head_dim;
            let round_to = |values: &[f32]| {
                let encoded = format.encode(values, 1, values.len()).unwrap();
                let mut rounded = vec![0.0; values.len()];
                encoded.decode(&mut rounded).unwrap();
                (encoded.data, rounded)
            };
            let (old_k, mut host_k) = round_to(&random.floats(elements));
            let (old_v, mut host_v) = round_to(&random.floats(elements));
            let (keys, values) = (
                DeviceBuffer::from_slice(gpu.context, &old_k).unwrap(),
                DeviceBuffer::from_slice(gpu.context, &old_v).unwrap(),
            );
            let (dq, q) = gpu.typed(format, &random.floats(rows * cols));
            let (dk, k) = gpu.typed(format, &random.floats(rows * kv_cols));
            let (dv, v) = gpu.typed(format, &random.floats(rows * kv_cols));
            let rotary = 2 * (p.head_dim / 4).max(1);
            let has_rope = tokens == 1 && round % 4 == 0;
            let (cos, sin) = (random.floats(p.capacity * rotary / 2), random.floats(p.capacity * rotary / 2));
            let rotate = |x: &[f32], heads: usize| {
                let mut y = vec![0.0; x.len()];
                reference::rope(args::Rope {
                    x: Rows { data: x, rows, cols: heads * p.head_dim, stride: heads * p.head_dim },
                    heads,
                    head_dim: p.head_dim,
                    cos: &cos,
                    sin: &sin,
                    rotary,
                    positions: &p.starts,
                    y: RowsMut { data: &mut y, rows, cols: heads * p.head_dim },
                });
                y
            };
            let (rotated_q, rotated_k) =
                if has_rope { (rotate(&q, p.heads), rotate(&k, p.kv_heads)) } else { (q.clone(), k.clone()) };
            for (new, host) in [(&rotated_k, &mut host_k), (&v, &mut host_v)] {
                reference::cache_write(args::CacheWrite {
                    x: Rows { data: &round_to(new).1, rows, cols: kv_cols, stride: kv_cols },
                    batch: p.batch,
                    tokens,
                    kv_heads: p.kv_heads,
                    head_dim: p.head_dim,
                    capacity: p.capacity,
                    kv_start: &p.starts,
                    cache: host,
                });
            }
            let cache = CacheView {
                keys: &keys,
                values: &values,
                format,
                batch: p.batch,
                kv_heads: p.kv_heads,
                capacity: p.capacity,
                head_dim: p.head_dim,
            };
            let y = gpu.poisoned_in(format, rows * cols);
            let kv_start = gpu.ints(&p.starts);
            let slopes = p.slopes.as_ref().map(|slopes| gpu.floats(slopes));
            let (k_rows, v_rows) = (dk.rows(rows, kv_cols), dv.rows(rows, kv_cols));
            if tokens == 1 {
                let scratch =
                    DecodeScratch::new(gpu.context, p.batch, p.heads, p.head_dim, p.capacity).unwrap();
                let table = RopeTable::new(gpu.context, &cos, &sin, rotary).unwrap();
                // Twice: the second run finds the counters as the first one left them.
                for _ in 0..2 {
                    kernels
                        .attention_decode(&DecodeArgs {
                            q: dq.rows(rows, cols),
                            new: Some((k_rows, v_rows)),
                            rope: has_rope.then_some((&table, &kv_start)),
                            cache,
                            heads: p.heads,
                            kv_start: &kv_start,
                            scale: 0.3,
                            window: p.window,
                            slopes: slopes.as_ref(),
                            scratch: &scratch,
                            y: y.rows(rows, cols),
                        })
                        .unwrap();
                }
            } else {
                kernels
                    .cache_write(&CacheWriteArgs { k: k_rows, v: v_rows, tokens, kv_start: &kv_start, cache })
                    .unwrap();
                kernels
                    .attention(&AttentionArgs {
                        q: dq.rows(rows, cols),
                        kv: KeyValues::Cached(cache),
                        tokens,
                        heads: p.heads,
                        kv_heads: p.kv_heads,
                        head_dim: p.head_dim,
                        kv_start: &kv_start,
                        scale: 0.3,
                        causal: true,
                        window: p.window,
                        slopes: slopes.as_ref(),
                        mask: None,
                        y: y.rows(rows, cols),
                    })
                    .unwrap();
            }
            let view = |data| args::HeadsView {
                data,
                batch_stride: p.kv_heads * p.capacity * p.head_dim,
                head_stride: p.capacity * p.head_dim,
                token_stride: p.head_dim,
            };
            let what = format!("{format} {}", p.describe());
            // Rotated keys may round to the neighbour of what the reference rounds them to.
            let rounded = if format == Format::F32 { 0.0 } else { rounded_bound(format) };
            let bound =
                if has_rope || tokens > 1 { attention_bound(format) } else { ATTENTION_BOUND + rounded };
            close(&y.read(), &p.expected(&rotated_q, view(&host_k), view(&host_v)), bound, &what);
            let mut bytes = vec![0; keys.len()];
            values.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, round_to(&host_v).0, "{what}: cached values");
        }
    });
}

/// Rotating queries and keys and writing the cache at once does what the three do one by one.
#[test]
fn rotation_of_a_prompt() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let mut random = Random(7);
        for round in 0..12 {
            let format = FORMATS[1 + round % 2];
            let (batch, tokens, kv_heads) =
                (random.between(1, 3), random.between(1, 30), random.between(1, 3));
            let (heads, head_dim) = (kv_heads * random.between(1, 4), 16 * random.between(1, 8));
            let (rows, capacity) = (batch * tokens, tokens + random.below(9));
            let starts: Vec<u32> = (0..batch).map(|_| random.below(capacity - tokens + 1) as u32).collect();
            let positions: Vec<u32> =
                (0..rows).map(|row| starts[row / tokens] + (row % tokens) as u32).collect();
            let (cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
            let stride = cols + 2 * kv_cols;
            let (all, _) = gpu.typed(format, &random.floats(rows * stride));
            let q = all.part(0, rows, cols, stride);
            let k = all.part(cols, rows, kv_cols, stride);
            let v = all.part(cols + kv_cols, rows, kv_cols, stride);
            let half = head_dim / 2;
            let (cos, sin) = (random.floats(capacity * half), random.floats(capacity * half));
            let table = RopeTable::new(gpu.context, &cos, &sin, head_dim).unwrap();
            let (positions, kv_start) = (gpu.ints(&positions), gpu.ints(&starts));
            let elements = batch * kv_heads * capacity * head_dim;
            let caches: Vec<_> = (0..4).map(|_| gpu.typed(format, &vec![0.0; elements]).0).collect();
            let cache =
                |keys, values| CacheView { keys, values, format, batch, kv_heads, capacity, head_dim };
            let (y, expected) = (gpu.poisoned_in(format, rows * cols), gpu.poisoned_in(format, rows * cols));
            let rotated = gpu.poisoned_in(format, rows * kv_cols);
            kernels
                .rotate_and_write(&RotateArgs {
                    q,
                    k,
                    v,
                    table: &table,
                    positions: &positions,
                    tokens,
                    kv_start: &kv_start,
                    cache: cache(&caches[0].data, &caches[1].data),
                    y: y.rows(rows, cols),
                })
                .unwrap();
            for (x, y) in [(q, expected.rows(rows, cols)), (k, rotated.rows(rows, kv_cols))] {
                let args = RopeArgs { x, head_dim, table: &table, positions: &positions, y };
                kernels.rope(&args).unwrap();
            }
            let cache = cache(&caches[2].data, &caches[3].data);
            let args =
                CacheWriteArgs { k: rotated.rows(rows, kv_cols), v, tokens, kv_start: &kv_start, cache };
            kernels.cache_write(&args).unwrap();
            // Products and their sum may be rounded at once in one and apart in the other.
            let bound = rounded_bound(format);
            close(&y.read(), &expected.read(), bound, "queries");
            close(&caches[0].read(), &caches[2].read(), bound, "keys");
            assert_eq!(caches[1].read(), caches[3].read(), "values");
        }
    });
}
