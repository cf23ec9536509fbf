//! Activations, gates, sums, softmax, argmax and rotary embedding.

use joulewise_kernels::args::{Activate, ActivationKind, Add, Gate, Rope, RowsMut};
use joulewise_kernels::reference;

use crate::{EPSILON, Matrix, Random, assert_close, kernels};

/// Relative to `|x|` for functions that behave like `x` or `0`, to `|tanh x|` for tanh: the rounded argument of an
/// exponential moves a sigmoid by at most `max |u sigmoid'(u)| < 0.23` roundings of `u`, which is itself at most
/// six roundings old; the exponential, the sum, the quotient and the product add six more.
fn tolerance(kind: ActivationKind, x: f32) -> f64 {
    let scale = match kind {
        ActivationKind::Tanh => f64::from(x).tanh().abs(),
        _ => f64::from(x.abs()),
    };
    8.0 * EPSILON * scale + f64::from(f32::MIN_POSITIVE)
}

/// Everything of interest: a fine grid, the tails, and tiny values.
fn inputs() -> Vec<f32> {
    let grid = (-6000..=6000).map(|i| i as f32 / 500.0);
    let tails = (-100..=100).map(|i| i as f32);
    let tiny = (-40..0).flat_map(|e| [2f32.powi(e), -(2f32.powi(e))]);
    grid.chain(tails).chain(tiny).chain([0.0, -0.0, 1e30, -1e30]).collect()
}

#[test]
fn activations_match() {
    let data = inputs();
    let n = data.len();
    let x = Matrix { data, rows: 1, cols: n, stride: n };
    for kernels in kernels() {
        for kind in ActivationKind::ALL {
            let (mut y, mut expected) = (vec![f32::NAN; n], vec![0.0; n]);
            let args = |data| Activate { kind, x: x.view(), y: RowsMut { data, rows: 1, cols: n } };
            kernels.activate(args(&mut y)).unwrap();
            reference::activate(args(&mut expected));
            let what = format!("{} {kind:?}", kernels.isa());
            assert_close(&what, &y, &expected, |i| tolerance(kind, x.data[i]));
        }
    }
}

#[test]
fn elementwise_shapes() {
    let mut random = Random(20);
    for kernels in kernels() {
        for _ in 0..40 {
            let (m, n) = (1 + random.below(40), 1 + random.below(700));
            let (a, b) = (random.matrix(m, n), random.matrix(m, n));
            let kind = random.choose(&ActivationKind::ALL);
            let (mut y, mut expected) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
            let gate =
                |data| Gate { kind, gate: a.view(), up: b.view(), y: RowsMut { data, rows: m, cols: n } };
            kernels.gate(gate(&mut y)).unwrap();
            reference::gate(gate(&mut expected));
            let what = format!("{} {kind:?} m={m} n={n}", kernels.isa());
            assert_close(&what, &y, &expected, |i| {
                // One more rounding for the product.
                let up = f64::from(b.row(i / n)[i % n].abs());
                tolerance(kind, a.row(i / n)[i % n]) * up + 2.0 * EPSILON * f64::from(expected[i].abs())
            });

            let add = |data| Add { a: a.view(), b: b.view(), y: RowsMut { data, rows: m, cols: n } };
            kernels.add(add(&mut y)).unwrap();
            reference::add(add(&mut expected));
            assert_eq!(y, expected, "{what}");
        }
    }
}

#[test]
fn softmax_matches() {
    let mut random = Random(21);
    for kernels in kernels() {
        for n in [1, 2, 7, 16, 26, 100, 1000, 5000] {
            let m = 3;
            let mut x = random.matrix(m, n);
            x.data.iter_mut().for_each(|x| *x *= 20.0);
            if n > 2 {
                x.data[1] = f32::NEG_INFINITY;
            }
            let (mut y, mut expected) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
            kernels.softmax(x.view(), RowsMut { data: &mut y, rows: m, cols: n }).unwrap();
            reference::softmax(x.view(), RowsMut { data: &mut expected, rows: m, cols: n });
            // `x - max` is at most 40 and rounded once; two ulp of exponential; the sum of positive terms in at
            // least 8 chains; the quotient. An exponential below the smallest normal number may be flushed.
            let roundings = 40.0 + 4.0 + (n as f64 / 8.0 + 8.0) + 2.0;
            assert_close(&format!("{} n={n}", kernels.isa()), &y, &expected, |i| {
                roundings * EPSILON * f64::from(expected[i]) + f64::from(f32::MIN_POSITIVE)
            });
        }
    }
}

#[test]
fn argmax_matches() {
    let mut random = Random(22);
    let nan = f32::NAN;
    let infinity = f32::INFINITY;
    for kernels in kernels() {
        let mut cases = vec![
            vec![],
            vec![nan],
            vec![nan, nan, -infinity],
            vec![-infinity, -infinity],
            vec![1.0, 2.0, 2.0],
            vec![nan, 1.0, nan, 3.0, infinity, infinity],
            vec![-0.0, 0.0],
        ];
        for n in [1, 15, 16, 17, 31, 33, 64, 100, 1000, 50257] {
            let mut x = random.values(n);
            // Ties between distant lanes, and NaN anywhere.
            for _ in 0..4 {
                x[random.below(n)] = 1.5;
            }
            cases.push(x.clone());
            x[random.below(n)] = nan;
            x[0] = nan;
            cases.push(x);
            cases.push(vec![-1.0; n]);
        }
        for x in cases {
            assert_eq!(kernels.argmax(&x), reference::argmax(&x), "{} n={}", kernels.isa(), x.len());
        }
    }
}

#[test]
fn rope_matches() {
    let mut random = Random(23);
    for kernels in kernels() {
        for _ in 0..40 {
            let (m, heads) = (1 + random.below(20), 1 + random.below(5));
            let head_dim = random.choose(&[1, 2, 8, 16, 25, 64, 80, 128]);
            let rotary = random.choose(&[head_dim / 2 * 2, head_dim / 4 * 2, 0]);
            let max_positions = 50;
            let x = random.matrix(m, heads * head_dim);
            let (cos, sin) =
                (random.values(max_positions * rotary / 2), random.values(max_positions * rotary / 2));
            let positions: Vec<u32> = (0..m).map(|_| random.below(max_positions) as u32).collect();
            let n = heads * head_dim;
            let (mut y, mut expected) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
            let args = |data| Rope {
                x: x.view(),
                heads,
                head_dim,
                cos: &cos,
                sin: &sin,
                rotary,
                positions: &positions,
                y: RowsMut { data, rows: m, cols: n },
            };
            kernels.rope(args(&mut y)).unwrap();
            reference::rope(args(&mut expected));
            // Two products of numbers below 1 and their difference: three roundings of at most 1, 1 and 2.
            assert_close(&format!("{} {head_dim} {rotary}", kernels.isa()), &y, &expected, |_| 4.0 * EPSILON);
        }
    }
}
