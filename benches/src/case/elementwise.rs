//! Everything between the products: norms, activations, softmax, rotary embedding, embedding rows, additions.
//!
//! They are held against the rate at which memory can be read; their few flops are not counted.

use std::hint::black_box;

use joulewise_kernels::args::{
    Activate, ActivationKind, Add, Embed, Gate, Norm, NormKind, Rope, Rows, RowsMut,
};
use joulewise_kernels::cpu::CpuKernels;
use joulewise_kernels::format::Format;

use super::{Call, Case, must};
use crate::input;
use crate::roofline::Work;
use crate::shape::{LinearShape, RowsShape, rows};

const NORMS: &[(NormKind, &str)] = &[(NormKind::Layer, "layer_norm"), (NormKind::Rms, "rms_norm")];

const ACTIVATIONS: &[(ActivationKind, &str)] = &[
    (ActivationKind::GeluErf, "gelu_erf"),
    (ActivationKind::GeluTanh, "gelu_tanh"),
    (ActivationKind::GeluSigmoid, "gelu_sigmoid"),
    (ActivationKind::Relu, "relu"),
    (ActivationKind::Silu, "silu"),
    (ActivationKind::Tanh, "tanh"),
];

/// Rows of an embedding table.
const VOCABULARY: usize = 4096;

/// Every operation at every shape.
pub fn elementwise(kernels: &CpuKernels, is_test: bool) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for shape in rows(is_test) {
        cases.extend(NORMS.iter().map(|(kind, op)| norm(kernels, shape, *kind, op)));
        cases.extend(ACTIVATIONS.iter().map(|(kind, op)| activate(kernels, shape, *kind, op)));
        cases.extend([gate(kernels, shape), add(kernels, shape)]);
        cases.extend([softmax(kernels, shape), rope(kernels, shape)]);
        cases.extend(Format::ALL.iter().map(|format| embed(kernels, shape, *format)));
    }
    cases
}

/// A case on `m` rows of `cols` that reads and writes `moved` elements.
fn case<'a>(
    op: impl Into<String>,
    shape: RowsShape,
    cols: usize,
    moved: usize,
    prepare: impl FnOnce() -> Call<'a> + 'a,
) -> Case<'a> {
    Case {
        op: op.into(),
        shape: format!("{} {}x{cols}", shape.name, shape.m),
        work: Work::repeated(0.0, (moved * size_of::<f32>()) as f64),
        prepare: Box::new(prepare),
    }
}

fn view(data: &[f32], rows: usize, cols: usize) -> Rows<'_> {
    Rows { data: black_box(data), rows, cols, stride: cols }
}

fn view_mut(data: &mut [f32], rows: usize, cols: usize) -> RowsMut<'_> {
    RowsMut { data: black_box(data), rows, cols }
}

fn norm<'a>(kernels: &'a CpuKernels, shape: RowsShape, kind: NormKind, op: &str) -> Case<'a> {
    let RowsShape { m, k, .. } = shape;
    case(op, shape, k, 2 * m * k + 2 * k, move || {
        let (x, weight, bias) = (input::values(1, m * k), input::values(2, k), input::values(3, k));
        let mut y = vec![0.0; m * k];
        Box::new(move || {
            let (x, y) = (view(&x, m, k), view_mut(&mut y, m, k));
            let bias = (kind == NormKind::Layer).then_some(&bias[..]);
            must(kernels.norm(Norm { kind, x, weight: &weight, bias, eps: 1e-5, y }));
        })
    })
}

fn activate<'a>(kernels: &'a CpuKernels, shape: RowsShape, kind: ActivationKind, op: &str) -> Case<'a> {
    let RowsShape { m, d_ff, .. } = shape;
    case(op, shape, d_ff, 2 * m * d_ff, move || {
        let x = input::values(1, m * d_ff);
        let mut y = vec![0.0; m * d_ff];
        Box::new(move || {
            let (x, y) = (view(&x, m, d_ff), view_mut(&mut y, m, d_ff));
            must(kernels.activate(Activate { kind, x, y }));
        })
    })
}

fn gate(kernels: &CpuKernels, shape: RowsShape) -> Case<'_> {
    let RowsShape { m, d_ff, .. } = shape;
    case("silu_gate", shape, d_ff, 3 * m * d_ff, move || {
        let (gate, up) = (input::values(1, m * d_ff), input::values(2, m * d_ff));
        let mut y = vec![0.0; m * d_ff];
        Box::new(move || {
            let (gate, up, y) = (view(&gate, m, d_ff), view(&up, m, d_ff), view_mut(&mut y, m, d_ff));
            must(kernels.gate(Gate { kind: ActivationKind::Silu, gate, up, y }));
        })
    })
}

fn add(kernels: &CpuKernels, shape: RowsShape) -> Case<'_> {
    let RowsShape { m, k, .. } = shape;
    case("add", shape, k, 3 * m * k, move || {
        let (a, b) = (input::values(1, m * k), input::values(2, m * k));
        let mut y = vec![0.0; m * k];
        Box::new(move || {
            let (a, b, y) = (view(&a, m, k), view(&b, m, k), view_mut(&mut y, m, k));
            must(kernels.add(Add { a, b, y }));
        })
    })
}

fn softmax(kernels: &CpuKernels, shape: RowsShape) -> Case<'_> {
    let RowsShape { m, k, .. } = shape;
    case("softmax", shape, k, 2 * m * k, move || {
        let x = input::values(1, m * k);
        let mut y = vec![0.0; m * k];
        Box::new(move || must(kernels.softmax(view(&x, m, k), view_mut(&mut y, m, k))))
    })
}

fn rope(kernels: &CpuKernels, shape: RowsShape) -> Case<'_> {
    let RowsShape { m, k, head_dim, .. } = shape;
    case("rope", shape, k, 2 * m * k + m * head_dim, move || {
        let x = input::values(1, m * k);
        let angles = input::values(2, m * head_dim / 2);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let positions: Vec<u32> = (0..m as u32).collect();
        let mut y = vec![0.0; m * k];
        Box::new(move || {
            must(kernels.rope(Rope {
                x: view(&x, m, k),
                heads: k / head_dim,
                head_dim,
                cos: &cos,
                sin: &sin,
                rotary: head_dim,
                positions: &positions,
                y: view_mut(&mut y, m, k),
            }));
        })
    })
}

fn embed(kernels: &CpuKernels, shape: RowsShape, format: Format) -> Case<'_> {
    let RowsShape { m, k, name, .. } = shape;
    let table = LinearShape { name, n: VOCABULARY, k };
    let row_bytes = format.spec().encoded_bytes(1, k);
    let bytes = (m * (row_bytes + k * size_of::<f32>())) as f64;
    let embed = case(format!("embed {format}"), shape, k, 0, move || {
        let table = input::weights(kernels, format, table, 1);
        let ids = input::indices(2, m, VOCABULARY);
        let mut y = vec![0.0; m * k];
        Box::new(move || {
            must(kernels.embed(Embed { table: &table, ids: black_box(&ids), y: view_mut(&mut y, m, k) }));
        })
    });
    Case { work: Work::repeated(0.0, bytes), ..embed }
}
