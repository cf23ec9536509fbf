//! Every CUDA kernel against the reference over random shapes. Needs a GPU; says `SKIP cuda: ...` where there is none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stdout, reason = "helpers of tests say why nothing was tested")]

mod attention;
mod clock;
mod matmul;
mod rotary;
mod rows;
mod sampling;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use joulewise_kernels::cuda::driver::{Context, CubinCache, DeviceBuffer};
use joulewise_kernels::cuda::{CudaKernels, DeviceMatrix, DeviceRows};
use joulewise_kernels::format::{Format, bytes_to_f32};

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

const FORMATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];
