//! What this machine can do at best: multiply-adds per second, and bytes read per second.
//!
//! Both are measured with the widest vectors the processor has, through `pulp`, which picks them at run time and needs
//! no unsafe code here.

use std::hint::black_box;
use std::time::Instant;

use joulewise_kernels::cpu::ThreadPool;
use memmap2::{Advice, MmapMut};
use pulp::{Arch, Simd, WithSimd};

/// The best of this many runs is the ceiling: whatever else the machine did, it could do this.
const RUNS: usize = 9;

/// A vector of accumulators per chain; enough chains to hide the latency of a multiply-add on every core so far.
const CHAINS: usize = 12;

/// Independent chains of multiply-adds that never leave the registers.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyAdds {
    /// Length of a chain.
    pub iterations: usize,
}

impl MultiplyAdds {
    /// Works on every thread of a pool: flops done, a multiply-add being two.
    pub fn run(self, pool: &ThreadPool) -> f64 {
        on_every_thread(pool, &|_| Arch::new().dispatch(self))
    }
}

impl WithSimd for MultiplyAdds {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        // Chains start at different values, so that the compiler cannot fold them into one, and stay near 1.
        let mut chains: [S::f32s; CHAINS] = std::array::from_fn(|i| simd.splat_f32s(black_box(i as f32)));
        let factor = simd.splat_f32s(black_box(0.5));
        let summand = simd.splat_f32s(black_box(0.5));
        for _ in 0..self.iterations {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, factor, summand);
            }
        }
        for chain in chains {
            black_box(simd.reduce_sum_f32s(chain));
        }
        (2 * S::F32_LANES * CHAINS * self.iterations) as f64
    }
}

/// Places of its memory at which a thread reads at once: a core keeps more lines in flight for several sequences than
/// for one, on some processors by half.
const STREAMS: usize = 8;

/// Sums a slice, which is as little as one can do with what one reads.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (vectors, _) = S::as_simd_f32s(self.0);
        let len = vectors.len() / STREAMS;
        let streams: [&[S::f32s]; STREAMS] = std::array::from_fn(|i| &vectors[i * len..][..len]);
        let mut sums = [simd.splat_f32s(0.0); STREAMS];
        for i in 0..len {
            for (sum, stream) in sums.iter_mut().zip(streams) {
                *sum = simd.add_f32s(*sum, stream[i]);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        size_of_val(self.0) as f64
    }
}

/// Memory that is read again and again, on huge pages where the system grants them.
pub struct ReadBuffer {
    memory: MmapMut,
}

impl ReadBuffer {
    /// Memory of this size.
    ///
    /// # Errors
    /// When the system has not that much.
    pub fn new(size_bytes: usize) -> std::io::Result<Self> {
        let mut memory = MmapMut::map_anon(size_bytes)?;
        // Refused where there are no huge pages; small pages do then.
        let _ = memory.advise(Advice::HugePage);
        // Memory that was never written would all be the one page of zeros.
        memory.fill(1);
        Ok(Self { memory })
    }

    fn part(&self, part: usize, parts: usize) -> &[f32] {
        let (_, values, _) = pulp::bytemuck::pod_align_to::<u8, f32>(&self.memory);
        let len = values.len() / parts;
        &values[part * len..(part + 1) * len]
    }

    /// Reads all of it `passes` times, each thread of a pool its own part: bytes read.
    pub fn read(&self, pool: &ThreadPool, passes: usize) -> f64 {
        on_every_thread(pool, &|thread| {
            let part = self.part(thread, pool.threads());
            (0..passes).map(|_| Arch::new().dispatch(Sum(black_box(part)))).sum()
        })
    }
}

/// Calls `f` with the number of each thread; the sum of what it returns.
fn on_every_thread(pool: &ThreadPool, f: &(dyn Fn(usize) -> f64 + Sync)) -> f64 {
    let amounts: Vec<std::sync::Mutex<f64>> = (0..pool.threads()).map(|_| 0.0.into()).collect();
    pool.run(pool.threads(), &|thread| {
        let amount = f(thread);
        *amounts[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = amount;
    });
    amounts.into_iter().map(|amount| amount.into_inner().unwrap_or_default()).sum()
}

/// Amount per second of the best run.
fn best_rate(is_test: bool, run: impl Fn() -> f64) -> f64 {
    let rate = || {
        let begin = Instant::now();
        run() / begin.elapsed().as_secs_f64()
    };
    (0..if is_test { 1 } else { RUNS }).map(|_| rate()).fold(0.0, f64::max)
}

/// The ceilings of one number of threads.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// Threads.
    pub threads: usize,
    /// f32 multiply-adds.
    pub flops_per_s: f64,
    /// Read rate for each size of memory that is read over and over, ascending.
    pub read_bytes_per_s: Vec<(usize, f64)>,
}

/// Sizes from the second-level cache to well beyond the last one.
const READ_SIZES: &[usize] = &[256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];

impl Ceilings {
    /// Measures; about ten seconds.
    ///
    /// # Errors
    /// When there is no memory to read.
    pub fn measure(pool: &ThreadPool, is_test: bool) -> std::io::Result<Self> {
        let sizes = if is_test { &READ_SIZES[..1] } else { READ_SIZES };
        let read = |size: &usize| {
            let buffer = ReadBuffer::new(*size)?;
            // Small memory is read several times, for the start of the threads not to count.
            let passes = if is_test { 1 } else { (64 << 20) / size + 1 };
            Ok((*size, best_rate(is_test, || buffer.read(pool, passes))))
        };
        let adds = MultiplyAdds { iterations: if is_test { 100 } else { 1_000_000 } };
        Ok(Self {
            threads: pool.threads(),
            flops_per_s: best_rate(is_test, || adds.run(pool)),
            read_bytes_per_s: sizes.iter().map(read).collect::<std::io::Result<_>>()?,
        })
    }

    /// Read rate for memory of about this size.
    pub fn read_rate(&self, working_set_bytes: f64) -> f64 {
        let distance = |size: usize| (size as f64 / working_set_bytes.max(1.0)).ln().abs();
        let nearest = self.read_bytes_per_s.iter().min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
        nearest.map_or(f64::NAN, |(_, rate)| *rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_positive_and_the_nearest_size_is_taken() {
        let pool = ThreadPool::new(2);
        let ceilings = Ceilings::measure(&pool, true).unwrap();
        assert!(ceilings.flops_per_s > 0.0);
        assert!(ceilings.read_rate(1e9) > 0.0);
        let ceilings = Ceilings { read_bytes_per_s: vec![(1000, 3.0), (1_000_000, 1.0)], ..ceilings };
        assert_eq!((ceilings.read_rate(2e3), ceilings.read_rate(1e5)), (3.0, 1.0));
    }
}
