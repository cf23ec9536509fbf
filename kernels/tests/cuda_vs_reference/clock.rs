//! The GPU's own clock against the host's.

use std::thread::sleep;
use std::time::{Duration, Instant};

use joulewise_kernels::cuda::CudaKernels;
use joulewise_kernels::cuda::driver::DeviceBuffer;

use crate::{Gpu, with_kernels};

/// One reading, and the host's time before and behind it.
fn read(kernels: &CudaKernels, reading: &DeviceBuffer<u64>) -> ([u64; 2], Instant, Instant) {
    let before = Instant::now();
    kernels.read_clock(reading).unwrap();
    let mut words = [0; 2];
    reading.read(0, &mut words).unwrap();
    (words, before, Instant::now())
}

/// What the GPU says has passed lies between what the host saw at most and at least.
#[test]
fn counts_the_time_that_passed() {
    with_kernels(|kernels| {
        let gpu = Gpu::new(kernels);
        let reading = DeviceBuffer::from_slice(gpu.context, &[0; 2]).unwrap();
        // Loads the kernel.
        read(kernels, &reading);
        for wait in [1, 10, 50].map(Duration::from_millis) {
            let (first, before_first, behind_first) = read(kernels, &reading);
            sleep(wait);
            let (second, before_second, behind_second) = read(kernels, &reading);
            let passed = Duration::from_nanos(second[1] - first[1]);
            // The GPU's timer moves in steps; this leaves room for coarse ones.
            let step = Duration::from_micros(32);
            let (least, most) = (before_second - behind_first, behind_second - before_first);
            assert!(
                passed + step >= least && passed <= most + step,
                "{passed:?}, the host saw {least:?} to {most:?}"
            );
            // An idle GPU may be slow, and none is faster.
            let clock_hz = (second[0] - first[0]) as f64 / passed.as_secs_f64();
            assert!((0.1e9..3.5e9).contains(&clock_hz), "{clock_hz:.3e} Hz");
        }
    });
}

#[test]
fn refuses_too_short_a_reading() {
    with_kernels(|kernels| {
        let reading = DeviceBuffer::from_slice(Gpu::new(kernels).context, &[0]).unwrap();
        assert!(kernels.read_clock(&reading).is_err());
    });
}
