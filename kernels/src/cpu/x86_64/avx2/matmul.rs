//! A few rows of `x` times one panel of `w`.
//!
//! The sums of up to 6 rows by 16 columns stay in 12 registers; each `k` takes two loads of weights, one broadcast
//! per row and two fused multiply-adds per row.

use std::arch::x86_64::*;

use crate::cpu::element::Element;
use crate::cpu::op_table::{K_BLOCK, PanelProduct, RowOrder};
use crate::cpu::x86_64::row_order::{InterleavedOrder, Order, ScoresOrder};

/// Two vectors.
pub(super) const PANEL_WIDTH: usize = 16;
/// 12 sums, two vectors of weights and a broadcast fit 16 registers.
pub(super) const PANEL_ROWS: usize = 6;

/// How far ahead of the weights in use to fetch; as for AVX-512.
const PREFETCH_BYTES: usize = 4096;

/// # Safety
///
/// As [`PanelProduct`] says; the processor has AVX2, FMA and F16C.
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

/// How 16 weights become two vectors.
trait Weight {
    /// Bytes of a weight.
    const SIZE: usize;

    /// Loads 16 weights, in an order that [`in_order`](Self::in_order) undoes.
    ///
    /// # Safety
    ///
    /// `w` is valid for 16 weights; the processor has AVX2 and F16C.
    unsafe fn load(w: *const u8) -> [__m256; 2];

    /// Columns 0 to 7 and 8 to 15.
    ///
    /// # Safety
    ///
    /// The processor has AVX2.
    #[inline(always)]
    unsafe fn in_order(sums: [__m256; 2]) -> [__m256; 2] {
        sums
    }
}

struct Single;

impl Weight for Single {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m256; 2] {
        let w = w.cast::<f32>();
        // SAFETY: 16 weights are readable.
        unsafe { [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))] }
    }
}

struct Half;

impl Weight for Half {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m256; 2] {
        let w = w.cast::<__m128i>();
        // SAFETY: 16 weights of two bytes are readable.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(w)), _mm256_cvtph_ps(_mm_loadu_si128(w.add(1)))] }
    }
}

/// The upper half of an `f32`: even columns are shifted up, odd ones masked in place; the sums are put in order once
/// at the end.
struct Brain;

impl Weight for Brain {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> [__m256; 2] {
        // SAFETY: 16 weights of two bytes are readable.
        unsafe {
            let pairs = _mm256_loadu_si256(w.cast());
            let even = _mm256_slli_epi32(pairs, 16);
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)]
        }
    }

    #[inline(always)]
    unsafe fn in_order([even, odd]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: arithmetic only.
        unsafe {
            // Columns 0 1 2 3 | 8 9 10 11 and 4 5 6 7 | 12 13 14 15.
            let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<W: Weight, X: Order>(p: &PanelProduct) {
    // SAFETY: the caller's promise is passed on, with the number of rows made a constant.
    unsafe {
        match p.rows {
            1 => multiply::<W, X, 1>(p),
            2 => multiply::<W, X, 2>(p),
            3 => multiply::<W, X, 3>(p),
            4 => multiply::<W, X, 4>(p),
            5 => multiply::<W, X, 5>(p),
            _ => multiply::<W, X, 6>(p),
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says, with `rows == ROWS` and `x` in the order `X`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<W: Weight, X: Order, const ROWS: usize>(p: &PanelProduct) {
    let step = PANEL_WIDTH * W::SIZE;
    let (mut x, mut w) = (p.x, p.w);
    let mut first = 0;
    while first < p.k {
        let terms = K_BLOCK.min(p.k - first);
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for _ in 0..terms {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(PREFETCH_BYTES).cast());
            // SAFETY: `w` and `x` stand at term `first + i < k`: 16 weights and `ROWS` activations.
            unsafe {
                let [low, high] = W::load(w);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*x.add(r * X::row_stride()));
                    sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
                }
            }
            w = w.wrapping_add(step);
            x = x.wrapping_add(X::k_stride(ROWS));
        }
        let accumulate = p.accumulate || first > 0;
        first += terms;
        for (r, sums) in sums.iter().enumerate() {
            let mut row = [0.0; PANEL_WIDTH];
            // SAFETY: `row` holds two vectors.
            unsafe {
                let [low, high] = W::in_order(*sums);
                _mm256_storeu_ps(row.as_mut_ptr(), low);
                _mm256_storeu_ps(row.as_mut_ptr().add(8), high);
            }
            for (j, sum) in row.iter().enumerate().take(p.cols) {
                // SAFETY: row `r < rows` of `y` and the bias have column `j < cols`; nobody else touches them.
                unsafe {
                    let y = p.y.add(r * p.y_stride + j);
                    let sum = if accumulate { *y + sum } else { *sum };
                    *y = if p.bias.is_null() || first < p.k { sum } else { sum + *p.bias.add(j) };
                }
            }
        }
    }
}
