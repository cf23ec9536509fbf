//! Products, packing and embedding.

use std::convert::Infallible;

use joulewise_kernels::KernelError;
use joulewise_kernels::args::{
    Activate, ActivationKind, Add, Embed, InputRounding, MatMul, Norm, NormKind, ProductOutput,
    RoundedMatMul, Rows, RowsMut,
};
use joulewise_kernels::cpu::{Buffer, CpuKernels, Isa, PackedMatrix, RoundedInput};
use joulewise_kernels::format::{Block, Format};
use joulewise_kernels::reference;

use crate::{EPSILON, Matrix, Random, assert_close, kernels};

fn pack(kernels: &CpuKernels, format: Format, n: usize, k: usize, w: &[f32]) -> PackedMatrix {
    let Ok(packed) = kernels.pack(format, n, k, &mut |range, out| {
        out.copy_from_slice(&w[range.start * k..range.end * k]);
        Ok::<(), Infallible>(())
    });
    packed
}

fn decode(packed: &PackedMatrix) -> Vec<f32> {
    let mut dense = vec![0.0; packed.n() * packed.k()];
    for (r, row) in dense.chunks_exact_mut(packed.k().max(1)).enumerate() {
        packed.decode_row(r, row).unwrap();
    }
    dense
}

fn multiply(kernels: &CpuKernels, x: &Matrix, w: &PackedMatrix, bias: Option<&[f32]>) -> Vec<f32> {
    multiply_rounded(kernels, x, InputRounding::None, w, bias)
}

fn multiply_rounded(
    kernels: &CpuKernels,
    x: &Matrix,
    rounding: InputRounding,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.rows * w.n()];
    kernels
        .matmul(MatMul {
            x: x.view(),
            rounding,
            w,
            bias,
            activation: None,
            residual: None,
            next: &[],
            y: RowsMut { data: &mut y, rows: x.rows, cols: w.n() },
        })
        .unwrap();
    y
}

/// The kernel sums the products of a block in a row (512 terms, or those that share a scale), and then the blocks' sums
/// times their scales; together with the product's own rounding, three of weight and scale, and the bias at most so
/// many roundings touch a term, each relative to the sum of magnitudes.
///
/// Where inputs are in fixed point the sums of a block (128 terms, or those that share a scale) are exact, which is fewer
/// roundings: up to five join the digits, and one adds each block.
fn roundings(format: Format, k: usize) -> f64 {
    let block = match format.spec().block {
        Block::Weights(len) => len,
        _ => 512,
    };
    (k.min(block) + k / block + 8) as f64
}

fn check(kernels: &CpuKernels, random: &mut Random, format: Format, m: usize, n: usize, k: usize) {
    let what = format!("{} {format} m={m} n={n} k={k}", kernels.isa());
    let x = random.matrix(m, k);
    let dense = random.values(n * k);
    check_values(&what, kernels, format, &x, (&dense, n), random);
}

fn check_values(
    what: &str,
    kernels: &CpuKernels,
    format: Format,
    x: &Matrix,
    (dense, n): (&[f32], usize),
    random: &mut Random,
) {
    let (m, k) = (x.rows, x.cols);
    let w = pack(kernels, format, n, k, dense);
    assert_eq!((w.n(), w.k(), w.format()), (n, k, format), "{what}");

    // Packing rounds exactly as encoding does.
    let mut rounded = vec![0.0; n * k];
    format.encode(dense, n, k).unwrap().decode(&mut rounded).unwrap();
    assert_eq!(decode(&w), rounded, "{what}");

    let bias = random.values(n);
    let bias = (random.below(2) == 0).then_some(&bias[..]);
    let mut expected = vec![0.0; m * n];
    reference::matmul(x.view(), &rounded, bias, RowsMut { data: &mut expected, rows: m, cols: n });
    // Tiles of bf16 take inputs of 8 significant bits, and sum all terms in a row.
    let roundings = match rounds_to_bf16(kernels, format, m) {
        true => (k + 4) as f64 + EPSILON.recip() / 256.0,
        false => roundings(format, k),
    };
    assert_close(what, &multiply(kernels, x, &w, bias), &expected, |i| {
        let (r, j) = (i / n, i % n);
        let weights = &rounded[j * k..][..k];
        let products = x.row(r).iter().zip(weights).map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs());
        let bias = bias.map_or(0.0, |bias| f64::from(bias[j].abs()));
        roundings * EPSILON * (products.sum::<f64>() + bias) + moved(kernels, format, x.row(r), weights)
    });
}

/// How far a result moves because inputs are put in fixed point: each by half a step, which is at most `2^-22` of the
/// row's largest, or `2^-126`; and by underflow, as each product does by up to `2^-149` in all kernels.
fn moved(kernels: &CpuKernels, format: Format, x: &[f32], weights: &[f32]) -> f64 {
    let on_grid = [Format::Int8, Format::Int4, Format::Mxfp4, Format::Nvfp4].contains(&format);
    let half_step = match kernels.isa() {
        Isa::Avx2Vnni | Isa::Avx512Vnni | Isa::Amx | Isa::NeonDotprod | Isa::NeonI8mm if on_grid => {
            let largest = x.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
            (largest / f64::from(1 << 23)).max(f64::from(f32::MIN_POSITIVE) / 2.0)
        }
        _ => 0.0,
    };
    let weights: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
    half_step * weights + x.len() as f64 * f64::from(f32::from_bits(1)) * (1.0 + weights)
}

/// Whether a product of bf16 weights without rounded inputs rounds them all the same.
fn rounds_to_bf16(kernels: &CpuKernels, format: Format, m: usize) -> bool {
    kernels.isa() == Isa::Amx && format == Format::Bf16 && m > 4
}

#[test]
fn products_match() {
    let mut random = Random(1);
    for kernels in kernels() {
        for format in Format::ALL {
            for (m, n, k) in
                [(1, 1, 1), (1, 33, 26), (2, 64, 312), (5, 31, 1200), (15, 96, 600), (29, 17, 26)]
            {
                check(&kernels, &mut random, *format, m, n, k);
            }
            for m in 1..=17 {
                let (n, k) = (1 + random.below(70), 1 + random.below(70));
                check(&kernels, &mut random, *format, m, n, k);
            }
            for _ in 0..12 {
                let (m, n, k) = (1 + random.below(60), 1 + random.below(140), 1 + random.below(1400));
                check(&kernels, &mut random, *format, m, n, k);
            }
        }
    }
}

/// Rows of very different sizes, one of zeros, and one with a single large input; large, small and zero weights.
#[test]
fn products_of_extremes_match() {
    let mut random = Random(6);
    for kernels in kernels() {
        for format in Format::ALL {
            // Bf16 tiles take subnormal inputs for zero, and halves have no such range.
            if matches!(format, Format::Bf16 | Format::F16) {
                continue;
            }
            for (w_factor, x_factors) in [
                (1.0, [1e30, 1e-30, 1e-37]),
                (1e-20, [1e30, 1e10, 1.0]),
                (1e20, [1e-30, 1e-38, 1e10]),
                (0.0, [1.0; 3]),
            ] {
                let (n, k) = (1 + random.below(140), 1 + random.below(700));
                let mut x = random.matrix(5, k);
                for (r, row) in x.data.chunks_mut(x.stride).take(5).enumerate() {
                    match x_factors.get(r) {
                        Some(factor) => row.iter_mut().for_each(|x| *x *= factor),
                        None if r == 3 => row.fill(0.0),
                        None => row[k / 2] = 3e6,
                    }
                }
                let dense: Vec<f32> = random.values(n * k).iter().map(|w| w * w_factor).collect();
                let what = format!("{} {format} n={n} k={k} weights of {w_factor:e}", kernels.isa());
                check_values(&what, &kernels, *format, &x, (&dense, n), &mut random);
            }
        }
    }
}

/// An infinity or a NaN among the inputs comes out as it does of a sum of floats, and leaves other rows alone.
#[test]
fn inputs_need_not_be_finite() {
    let mut random = Random(7);
    for kernels in kernels() {
        for format in Format::ALL {
            // Tiles of bf16 round the inputs of more rows.
            let (m, n, k) = (4, 70, 150);
            let w = pack(&kernels, *format, n, k, &random.values(n * k));
            let dense = decode(&w);
            let mut x = random.matrix(m, k);
            let finite = multiply(&kernels, &x, &w, None);
            let (first, second) = (random.below(k), random.below(k));
            x.data[x.stride + first] = f32::INFINITY;
            x.data[x.stride + second] = f32::NEG_INFINITY;
            x.data[2 * x.stride + first] = f32::NAN;
            x.data[3 * x.stride + second] = f32::NEG_INFINITY;
            let mut expected = vec![0.0; m * n];
            reference::matmul(x.view(), &dense, None, RowsMut { data: &mut expected, rows: m, cols: n });
            let got = multiply(&kernels, &x, &w, None);
            let what = format!("{} {format}", kernels.isa());
            assert_eq!(got[..n], finite[..n], "{what}");
            assert!(expected[n..].iter().all(|y| !y.is_finite()), "{what}");
            for (got, expected) in got[n..].iter().zip(&expected[n..]) {
                assert!(
                    got == expected || got.is_nan() && expected.is_nan(),
                    "{what}: {got}, not {expected}"
                );
            }
        }
    }
}

/// Rounded inputs: the codes are those of the reference, so only the sums differ.
#[test]
fn products_of_rounded_inputs_match() {
    let mut random = Random(5);
    for kernels in kernels() {
        for format in [Format::Int8, Format::Fp8E4m3, Format::F16, Format::Mxfp4] {
            for (m, n, k) in [(1, 33, 26), (2, 64, 312), (7, 31, 1200), (33, 130, 700)] {
                for rounding in [InputRounding::PerToken, InputRounding::Static { scale: 0.01 }] {
                    let mut x = random.matrix(m, k);
                    // A row of zeros has no range.
                    x.data[..k].fill(0.0);
                    let dense = random.values(n * k);
                    let w = pack(&kernels, format, n, k, &dense);
                    let (dense, bias) = (decode(&w), random.values(n));
                    let rounded = reference::round_inputs(x.view(), rounding, format);
                    let view = Rows { data: &rounded, rows: m, cols: k, stride: k };
                    let mut expected = vec![0.0; m * n];
                    let y = RowsMut { data: &mut expected, rows: m, cols: n };
                    reference::matmul(view, &dense, Some(&bias), y);
                    let got = multiply_rounded(&kernels, &x, rounding, &w, Some(&bias));
                    let what = format!("{} {format} {rounding:?} m={m} n={n} k={k}", kernels.isa());
                    let roundings = roundings(format, k);
                    assert_close(&what, &got, &expected, |i| {
                        let (r, j) = (i / n, i % n);
                        let (x, weights) = (&rounded[r * k..][..k], &dense[j * k..][..k]);
                        let sum: f64 = x.iter().zip(weights).map(|(x, w)| f64::from((x * w).abs())).sum();
                        roundings * EPSILON * (sum + f64::from(bias[j].abs()))
                            + moved(&kernels, format, x, weights)
                    });
                }
            }
        }
    }
}

#[test]
fn empty_products() {
    for kernels in kernels() {
        for (m, n, k) in [(0, 5, 5), (5, 0, 5), (3, 40, 0)] {
            check(&kernels, &mut Random(2), Format::F32, m, n, k);
        }
    }
}

/// A row's result is the same bits alone, among others, and on any number of threads; with tiles of bf16 among as many
/// others as make it worthwhile to round the inputs.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    use joulewise_kernels::cpu::ThreadPool;
    let mut random = Random(3);
    for kernels in kernels() {
        let alone = CpuKernels::for_isa(kernels.isa(), ThreadPool::new(1).into()).unwrap();
        for format in Format::ALL {
            let (m, n, k) = (37, 150, 1100);
            let w = pack(&kernels, *format, n, k, &random.values(n * k));
            let x = random.matrix(m, k);
            let y = multiply(&kernels, &x, &w, None);
            assert_eq!(y, multiply(&alone, &x, &w, None));
            let others = if rounds_to_bf16(&kernels, *format, m) { 5 } else { 1 };
            for r in [0, 1, 17, 32] {
                let data = x.data[r * x.stride..][..others * x.stride].to_vec();
                let rows = Matrix { data, rows: others, cols: k, stride: x.stride };
                let got = &multiply(&alone, &rows, &w, None)[..n];
                assert_eq!(&y[r * n..][..n], got, "{} {format}", kernels.isa());
            }
        }
    }
}

#[test]
fn embeddings_match() {
    let mut random = Random(4);
    for kernels in kernels() {
        for format in Format::ALL {
            let (n, k) = (70, 1 + random.below(90));
            let table = pack(&kernels, *format, n, k, &random.values(n * k));
            let ids: Vec<u32> = (0..9).map(|_| random.below(n) as u32).collect();
            let (mut y, mut expected) = (vec![f32::NAN; 9 * k], vec![0.0; 9 * k]);
            kernels
                .embed(Embed { table: &table, ids: &ids, y: RowsMut { data: &mut y, rows: 9, cols: k } })
                .unwrap();
            reference::embed(&decode(&table), &ids, RowsMut { data: &mut expected, rows: 9, cols: k });
            assert_eq!(y, expected);
            let w = random.values(n * k);
            let Ok(table) = kernels.pack_table(*format, n, k, &mut |range, out| {
                out.copy_from_slice(&w[range.start * k..range.end * k]);
                Ok::<(), Infallible>(())
            });
            kernels
                .embed(Embed { table: &table, ids: &ids, y: RowsMut { data: &mut y, rows: 9, cols: k } })
                .unwrap();
            let expected = decode(&pack(&kernels, *format, n, k, &w));
            for (id, y) in ids.iter().zip(y.chunks_exact(k)) {
                assert_eq!(y, &expected[*id as usize * k..][..k], "{format} {id}");
            }
        }
    }
}

#[test]
fn packing_passes_errors_on() {
    for kernels in kernels() {
        let result = kernels
            .pack(Format::F32, 100, 3, &mut |range, _| if range.start > 40 { Err("end") } else { Ok(()) });
        assert_eq!(result.err(), Some("end"));
    }
}

/// An activation and a residual at the end of a product give the bits that the operations by themselves give.
#[test]
fn endings_are_the_operations_they_stand_for() {
    let mut random = Random(9);
    for kernels in kernels() {
        for format in [Format::F32, Format::Bf16, Format::Int8] {
            for rounding in [InputRounding::None, InputRounding::PerToken] {
                for round in 0..14 {
                    let (m, n, k) = (1 + random.below(70), 1 + random.below(100), random.below(300));
                    let (x, residual) = (random.matrix(m, k), random.matrix(m, n));
                    let w = pack(&kernels, format, n, k, &random.values(n * k));
                    let bias = random.values(n);
                    let activation = ActivationKind::ALL.get(round % 7).copied();
                    let residual = (random.below(3) > 0).then(|| residual.view());
                    let mut expected = multiply_rounded(&kernels, &x, rounding, &w, Some(&bias));
                    if let Some(kind) = activation {
                        let before = expected.clone();
                        let y = RowsMut { data: &mut expected, rows: m, cols: n };
                        kernels
                            .activate(Activate {
                                kind,
                                x: Rows { data: &before, rows: m, cols: n, stride: n },
                                y,
                            })
                            .unwrap();
                    }
                    if let Some(residual) = residual {
                        let before = expected.clone();
                        let y = RowsMut { data: &mut expected, rows: m, cols: n };
                        kernels
                            .add(Add {
                                a: Rows { data: &before, rows: m, cols: n, stride: n },
                                b: residual,
                                y,
                            })
                            .unwrap();
                    }
                    let mut y = vec![f32::NAN; m * n];
                    let ours = RowsMut { data: &mut y, rows: m, cols: n };
                    let args = MatMul {
                        x: x.view(),
                        rounding,
                        w: &w,
                        bias: Some(&bias),
                        activation,
                        residual,
                        next: &[&w],
                        y: ours,
                    };
                    kernels.matmul(args).unwrap();
                    let what = format!("{} {format} {rounding:?} {activation:?}", kernels.isa());
                    assert_eq!(y, expected, "{what} m={m} n={n} k={k}");
                }
            }
        }
    }
}

/// Results that are written past the caches, because there are many, are those that a few of the rows give.
#[test]
fn large_results_are_those_of_their_rows() {
    let mut random = Random(15);
    for kernels in kernels() {
        for format in [Format::Bf16, Format::Int8] {
            // More than 4 MiB of results; a row of the second ends within a cache line.
            for n in [2048, 2060] {
                let (m, k) = (515, 70);
                let (x, residual) = (random.matrix(m, k), random.matrix(m, n));
                let w = pack(&kernels, format, n, k, &random.values(n * k));
                let bias = random.values(n);
                let product = |rows: std::ops::Range<usize>| {
                    let mut y = Buffer::zeroed(rows.len() * n).unwrap();
                    y.fill(f32::NAN);
                    let part = |matrix: &'_ Matrix| Matrix {
                        data: matrix.data[rows.start * matrix.stride..].to_vec(),
                        rows: rows.len(),
                        ..*matrix
                    };
                    let (x, residual) = (part(&x), part(&residual));
                    let args = MatMul {
                        x: x.view(),
                        rounding: InputRounding::PerToken,
                        w: &w,
                        bias: Some(&bias),
                        activation: Some(ActivationKind::Relu),
                        residual: Some(residual.view()),
                        next: &[],
                        y: RowsMut { data: &mut y, rows: rows.len(), cols: n },
                    };
                    kernels.matmul(args).unwrap();
                    y.to_vec()
                };
                let y = product(0..m);
                for first in (0..m).step_by(103) {
                    let rows = first..m.min(first + 103);
                    let expected = product(rows.clone());
                    assert_eq!(
                        y[rows.start * n..rows.end * n],
                        expected,
                        "{} {format} n={n} {first}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

/// Products that are joined give the bits that each gives by itself, also of a row that is multiplied as floats.
#[test]
fn joined_products_are_those_by_themselves() {
    let mut random = Random(21);
    for kernels in kernels() {
        for format in [Format::F32, Format::Int8, Format::Int4, Format::Mxfp4, Format::Nvfp4] {
            for round in 0..8 {
                let (m, k) = (1 + random.below(5), 1 + random.below(700));
                let mut x = random.matrix(m, k);
                if round == 7 {
                    x.data[0] = f32::INFINITY;
                }
                let shapes = [1 + random.below(700), 1 + random.below(40), 1 + random.below(300)];
                let weights = shapes.map(|n| pack(&kernels, format, n, k, &random.values(n * k)));
                let bias = random.values(shapes[1]);
                let biases = [None, Some(&bias[..]), None];
                let mut results = shapes.map(|n| vec![f32::NAN; m * n]);
                let [a, b, c] = &mut results;
                let product = |i: usize, y| MatMul {
                    x: x.view(),
                    rounding: InputRounding::None,
                    w: &weights[i],
                    bias: biases[i],
                    activation: None,
                    residual: None,
                    next: &[],
                    y: RowsMut { data: y, rows: m, cols: shapes[i] },
                };
                kernels.matmul_joined([product(0, a), product(1, b), product(2, c)]).unwrap();
                for (i, result) in results.iter().enumerate() {
                    let expected = multiply(&kernels, &x, &weights[i], biases[i]);
                    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    let what = format!("{} {format} m={m} k={k} n={}", kernels.isa(), shapes[i]);
                    assert_eq!(bits(result), bits(&expected), "{what}");
                }
            }
        }
    }
}

/// What a product of one kind of inputs is read as by the next.
const INPUTS: [(Format, InputRounding); 3] = [
    (Format::Bf16, InputRounding::None),
    (Format::Int8, InputRounding::PerToken),
    (Format::Int8, InputRounding::Static { scale: 0.01 }),
];

/// Inputs rounded once for several products, by a norm or by the product before: the bits are those of products that
/// round their own.
#[test]
fn inputs_rounded_before_give_the_same_bits() {
    let mut random = Random(23);
    let mut handed_over = 0;
    for kernels in kernels() {
        let (mut shared, mut handed) = (RoundedInput::default(), RoundedInput::default());
        for round in 0..60 {
            let [(first, rounding), (second, next_rounding)] =
                [random.choose(&INPUTS), random.choose(&INPUTS)];
            let m = 1 + random.below(100);
            let [n, k, next_n] = [120, 300, 40].map(|most| 1 + random.below(most));
            let (x, residual) = (random.matrix(m, k), random.matrix(m, n));
            let (gain, bias) = (random.values(k), random.values(n));
            let w = pack(&kernels, first, n, k, &random.values(n * k));
            let next_w = pack(&kernels, second, next_n, n, &random.values(next_n * n));
            let activation = ActivationKind::ALL.get(round % 7).copied();
            let residual = (random.below(2) > 0).then(|| residual.view());
            let Some(kind) = kernels.input_kind(&w, rounding, m) else { continue };
            // Normalised as often as not.
            let x = if random.below(2) > 0 {
                let mut y = vec![f32::NAN; m * k];
                let data = RowsMut { data: &mut y, rows: m, cols: k };
                let norm =
                    Norm { kind: NormKind::Rms, x: x.view(), weight: &gain, bias: None, eps: 1e-5, y: data };
                kernels.norm_rounded(norm, kind, &mut shared).unwrap();
                Matrix { data: y, rows: m, cols: k, stride: k }
            } else {
                kernels.round(x.view(), kind, &mut shared).unwrap();
                x
            };
            assert_eq!(shared.holds(), Some((kind, m, k)));
            let what = format!("{} {first} {second} {activation:?} m={m} n={n} k={k}", kernels.isa());
            let (mut y, mut expected) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            let rows = RowsMut { data: &mut expected, rows: m, cols: n };
            let bias = Some(&bias[..]);
            kernels
                .matmul(MatMul {
                    x: x.view(),
                    rounding,
                    w: &w,
                    bias,
                    activation,
                    residual,
                    next: &[],
                    y: rows,
                })
                .unwrap();
            let rows = ProductOutput::Rows(RowsMut { data: &mut y, rows: m, cols: n });
            let next = Some(&next_w);
            let product = RoundedMatMul { x: &shared, w: &w, bias, activation, residual, next, y: rows };
            kernels.matmul_rounded(product).unwrap();
            assert_eq!(y, expected, "{what}");
            let Some(kind) = kernels.input_kind(&next_w, next_rounding, m) else { continue };
            let rounded = ProductOutput::Rounded(&mut handed, kind);
            let product = RoundedMatMul { x: &shared, w: &w, bias, activation, residual, next, y: rounded };
            kernels.matmul_rounded(product).unwrap();
            assert_eq!(handed.holds(), Some((kind, m, n)));
            let y = Matrix { data: expected, rows: m, cols: n, stride: n };
            let expected = multiply_rounded(&kernels, &y, next_rounding, &next_w, None);
            let mut y = vec![f32::NAN; m * next_n];
            let rows = ProductOutput::Rows(RowsMut { data: &mut y, rows: m, cols: next_n });
            let (bias, activation, residual, next) = (None, None, None, None);
            let product = RoundedMatMul { x: &handed, w: &next_w, bias, activation, residual, next, y: rows };
            kernels.matmul_rounded(product).unwrap();
            assert_eq!(y, expected, "{what} handed over");
            handed_over += 1;
        }
    }
    assert!(handed_over > 10, "few products follow each other: {handed_over}");
}

/// Inputs that were never rounded, or for other weights.
#[test]
fn inputs_rounded_for_other_weights_are_refused() {
    for kernels in kernels() {
        let w = pack(&kernels, Format::Int8, 8, 64, &[0.5; 8 * 64]);
        let other = pack(&kernels, Format::F32, 8, 64, &[0.5; 8 * 64]);
        let kind = kernels.input_kind(&w, InputRounding::PerToken, 6).unwrap();
        assert_eq!(kernels.input_kind(&other, InputRounding::None, 6), None);
        let (mut x, mut y) = (RoundedInput::default(), vec![0.0; 6 * 8]);
        for (is_rounded, w) in [(false, &w), (true, &other)] {
            if is_rounded {
                let zeros = Rows { data: &[0.0; 6 * 64], rows: 6, cols: 64, stride: 64 };
                kernels.round(zeros, kind, &mut x).unwrap();
            }
            let rows = ProductOutput::Rows(RowsMut { data: &mut y, rows: 6, cols: 8 });
            let (bias, activation, residual, next) = (None, None, None, None);
            let product = RoundedMatMul { x: &x, w, bias, activation, residual, next, y: rows };
            let result = kernels.matmul_rounded(product);
            assert!(matches!(result, Err(KernelError::InputKind { .. })), "{result:?}");
        }
    }
}

/// Infinities and NaNs among inputs that are rounded, in vectors and in tails.
#[test]
fn inputs_that_are_not_finite_round_as_the_reference_does() {
    for kernels in kernels() {
        for k in [5, 64, 100, 200] {
            for (at, odd) in [(0, f32::INFINITY), (k - 1, f32::NEG_INFINITY), (k / 2, f32::NAN)] {
                let mut random = Random(10);
                let mut x = random.matrix(8, k);
                x.data[at] = odd;
                let w = pack(&kernels, Format::Int8, 9, k, &random.values(9 * k));
                let rounded = reference::round_inputs(x.view(), InputRounding::PerToken, Format::Int8);
                let mut expected = vec![0.0; 8 * 9];
                let view = Rows { data: &rounded, rows: 8, cols: k, stride: k };
                let y = RowsMut { data: &mut expected, rows: 8, cols: 9 };
                reference::matmul(view, &decode(&w), None, y);
                let got = multiply_rounded(&kernels, &x, InputRounding::PerToken, &w, None);
                for (got, expected) in got.iter().zip(&expected) {
                    // Both are sums of at most 200 products of magnitudes up to 2.
                    let is_close = (got - expected).abs() <= 200.0 * 2.0 * 200.0 * EPSILON as f32;
                    assert!(
                        is_close || got.is_nan() && expected.is_nan(),
                        "{} {k} {odd}: {got}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}
