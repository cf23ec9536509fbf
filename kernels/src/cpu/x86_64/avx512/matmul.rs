//! A few rows of `x` times one panel of `w`.
//!
//! The sums of up to 14 rows by 32 columns stay in 28 registers; each `k` takes two loads of weights, one broadcast
//! per row and two fused multiply-adds per row, so with many rows the two multipliers are the limit and with few
//! rows the memory is.

use std::arch::x86_64::*;

use super::vector::mask;
use crate::cpu::element::Element;
use crate::cpu::op_table::{K_BLOCK, PanelProduct, RowOrder, Wanted};
use crate::cpu::x86_64::row_order::{InterleavedOrder, Order, ScoresOrder};

/// Two vectors.
pub(super) const PANEL_WIDTH: usize = 32;
/// 28 sums, two vectors of weights and a broadcast fit 32 registers.
pub(super) const PANEL_ROWS: usize = 14;

/// How far ahead of the weights in use to fetch.
///
/// Measured on weights in L3, against reading the same bytes and doing nothing else: 4 KiB gives 103 % with one row and
/// 92 % with eight (f16), 1 KiB 93 % and 73 %; the non-temporal hint is several times slower.
const PREFETCH_BYTES: usize = 4096;

/// # Safety
///
/// As [`PanelProduct`] says; the processor has AVX-512 F, BW, VL and DQ.
pub(super) unsafe fn multiply_panel(product: &PanelProduct) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        match product.element {
            Element::F32 if product.x_order == RowOrder::Scores => {
                multiply_rows::<Single, ScoresOrder>(product)
            }
            Element::F32 => multiply_rows::<Single, InterleavedOrder>(product),
            Element::F16 => multiply_rows::<Half, InterleavedOrder>(product),
            Element::Bf16 => multiply_rows::<Brain, InterleavedOrder>(product),
        }
    }
}

/// How 32 weights become two vectors.
trait Weight {
    /// Bytes of a weight.
    const SIZE: usize;

    /// Loads 32 weights, in an order that [`in_order`](Self::in_order) undoes.
    ///
    /// # Safety
    ///
    /// `w` is valid for 32 weights; the processor has AVX-512 F and BW.
    unsafe fn load(w: *const u8) -> [__m512; 2];

    /// Columns 0 to 15 and 16 to 31.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F.
    #[inline(always)]
    unsafe fn in_order(sums: [__m512; 2]) -> [__m512; 2] {
        sums
    }
}

struct Single;

impl Weight for Single {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m512; 2] {
        let w = w.cast::<f32>();
        // SAFETY: 32 weights are readable.
        unsafe { [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))] }
    }
}

struct Half;

impl Weight for Half {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m512; 2] {
        // The form without exception control, the only one that takes its operand from memory: half the work for
        // the ports that multiply. The conversion is exact, so no rounding mode matters.
        const MODE: i32 = _MM_FROUND_CUR_DIRECTION;
        let w = w.cast::<__m256i>();
        // SAFETY: 32 weights of two bytes are readable.
        unsafe {
            let (low, high) = (_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1)));
            [_mm512_cvt_roundph_ps::<MODE>(low), _mm512_cvt_roundph_ps::<MODE>(high)]
        }
    }
}

/// The upper half of an `f32`: even columns are shifted up, odd ones masked in place, which is cheaper than widening
/// in order; the sums are put in order once at the end.
struct Brain;

impl Weight for Brain {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m512; 2] {
        // SAFETY: 32 weights of two bytes are readable.
        unsafe {
            let pairs = _mm512_loadu_si512(w.cast());
            let even = _mm512_slli_epi32(pairs, 16);
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
        }
    }

    #[inline(always)]
    unsafe fn in_order([even, odd]: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: arithmetic only.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            [_mm512_permutex2var_ps(even, low, odd), _mm512_permutex2var_ps(even, high, odd)]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply_rows<W: Weight, X: Order>(p: &PanelProduct) {
    // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
    unsafe {
        match p.rows {
            1 => multiply::<W, X, 1>(p),
            2 => multiply::<W, X, 2>(p),
            3 => multiply::<W, X, 3>(p),
            4 => multiply::<W, X, 4>(p),
            5 => multiply::<W, X, 5>(p),
            6 => multiply::<W, X, 6>(p),
            7 => multiply::<W, X, 7>(p),
            8 => multiply::<W, X, 8>(p),
            9 => multiply::<W, X, 9>(p),
            10 => multiply::<W, X, 10>(p),
            11 => multiply::<W, X, 11>(p),
            12 => multiply::<W, X, 12>(p),
            13 => multiply::<W, X, 13>(p),
            _ => multiply::<W, X, 14>(p),
        }
    }
}

/// Terms from one fetch of [`Wanted::Lines`] to the next.
const FETCH_EVERY: usize = 4;

/// Fetches [`Wanted::Lines`] into L2, spread evenly over a product, so that loads of its own do not queue behind them.
struct Later {
    line: *const u8,
    /// Lines per fetch.
    burst: usize,
}

impl Later {
    fn new(p: &PanelProduct) -> Self {
        match p.wanted {
            Wanted::Lines(line, count) => Self { line, burst: count.div_ceil(p.k.div_ceil(FETCH_EVERY)) },
            Wanted::Weights => Self { line: p.w, burst: 0 },
        }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.burst {
            // SAFETY: a hint; it does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.line.cast()) };
            self.line = self.line.wrapping_add(64);
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS` and `x` in the order `X`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn multiply<W: Weight, X: Order, const ROWS: usize>(p: &PanelProduct) {
    let masks = [mask(p.cols), mask(p.cols.saturating_sub(16))];
    let step = PANEL_WIDTH * W::SIZE;
    let (mut x, mut w) = (p.x, p.w);
    let mut later = Later::new(p);
    let mut first = 0;
    while first < p.k {
        let terms = K_BLOCK.min(p.k - first);
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for term in 0..terms {
            match p.wanted {
                Wanted::Weights => {
                    for line in 0..step / 64 {
                        _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(PREFETCH_BYTES + line * 64).cast());
                    }
                }
                Wanted::Lines(..) if term % FETCH_EVERY == 0 => later.fetch(),
                Wanted::Lines(..) => {}
            }
            // SAFETY: `w` and `x` stand at term `first + i < k`: 32 weights and `ROWS` activations.
            unsafe {
                let [low, high] = W::load(w);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.add(r * X::row_stride()));
                    sums[0] = _mm512_fmadd_ps(x, low, sums[0]);
                    sums[1] = _mm512_fmadd_ps(x, high, sums[1]);
                }
            }
            w = w.wrapping_add(step);
            x = x.wrapping_add(X::k_stride(ROWS));
        }
        let accumulate = p.accumulate || first > 0;
        first += terms;
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: row `r < rows` of `y` and the bias have `cols` columns; the masks cover exactly those.
            unsafe {
                let sums = W::in_order(*sums);
                for (half, sum) in sums.into_iter().enumerate() {
                    let y = p.y.wrapping_add(r * p.y_stride + 16 * half);
                    let mut sum = sum;
                    if accumulate {
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[half], y));
                    }
                    if !p.bias.is_null() && first == p.k {
                        let bias = p.bias.wrapping_add(16 * half);
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[half], bias));
                    }
                    _mm512_mask_storeu_ps(y, masks[half], sum);
                }
            }
        }
    }
}
