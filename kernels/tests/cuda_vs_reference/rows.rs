//! Operations that take rows one by one: activations, norms, look-ups, pooling.

use joulewise_kernels::args::{self, ActivationKind, Mask, NormKind, Rows, RowsMut};
use joulewise_kernels::cuda::driver::DeviceBuffer;
use joulewise_kernels::cuda::{DeviceRows, EmbedArgs, MeanPoolArgs, NormArgs};
use joulewise_kernels::format::Format;
use joulewise_kernels::reference;

use crate::{F32_BOUND, FORMATS, Gpu, Random, close, with_kernels};

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
            let kind = ActivationKind::ALL[round % 6];

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
