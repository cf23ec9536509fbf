//! Products of 8-bit integers, with or without VNNI.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors are not inlined into functions compiled for more features"
)]

use std::arch::x86_64::*;

use super::matmul::PANEL_WIDTH;
use super::vector::{F32x16, mask};
use crate::args::ActivationKind;
use crate::cpu::op_table::{PANELS, PIECE_BYTES, RoundRow, RoundedKernels, RoundedProduct, RoundedRow};
use crate::cpu::vector::math::activation;

/// 24 sums, two vectors of weights and what multiplying them takes fit 32 registers.
pub(in crate::cpu::x86_64) const ROWS: usize = 12;
/// Rows whose sums over [`PANELS`] panels fit the registers beside the weights.
const FEW_ROWS: usize = 2;
/// Words of four codes in a piece of inputs.
const PIECE_WORDS: usize = PIECE_BYTES / 4;
/// How far ahead of the weights in use to fetch; see the products of floats.
const PREFETCH_BYTES: usize = 4096;
/// The same for each of [`PANELS`] panels.
const ACROSS_PREFETCH_BYTES: usize = 2048;

pub(super) const KERNELS: RoundedKernels = RoundedKernels {
    rows: ROWS,
    multiply: multiply_madd,
    multiply_in_turn: None,
    ends: true,
    round: quantize,
};

/// With VNNI.
pub(super) const VNNI_KERNELS: RoundedKernels = RoundedKernels { multiply: multiply_vnni, ..KERNELS };

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::cpu::x86_64) fn quantize(row: RoundRow<'_>) -> RoundedRow {
    // Closures have the features of the function they are written in.
    crate::cpu::quantize::quantize_with(row, |x| largest(x), |x, inverse, codes| round(x, inverse, codes))
}

/// The largest finite magnitude, and whether there is a NaN.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn largest(x: &[f32]) -> (f32, bool) {
    const INFINITY_BITS: u32 = f32::INFINITY.to_bits();
    let magnitude = _mm512_set1_epi32(i32::MAX);
    // The bits of magnitudes are ordered as the magnitudes are.
    let mut most = [_mm512_setzero_si512(); 4];
    let (pieces, tail) = x.as_chunks::<PIECE_BYTES>();
    for piece in pieces {
        for i in 0..4 {
            // SAFETY: 16 of 64 floats.
            let bits = unsafe { _mm512_loadu_si512(piece.as_ptr().add(16 * i).cast()) };
            most[i] = _mm512_max_epu32(most[i], _mm512_and_si512(bits, magnitude));
        }
    }
    for tail in tail.chunks(16) {
        // SAFETY: the mask covers what there is.
        let bits = unsafe { _mm512_maskz_loadu_epi32(mask(tail.len()), tail.as_ptr().cast()) };
        most[0] = _mm512_max_epu32(most[0], _mm512_and_si512(bits, magnitude));
    }
    let most = _mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3]));
    let all = _mm512_reduce_max_epu32(most);
    if all < INFINITY_BITS {
        return (f32::from_bits(all), false);
    }
    let finite = x.iter().map(|x| x.abs().to_bits()).filter(|bits| *bits < INFINITY_BITS);
    (f32::from_bits(finite.max().unwrap_or(0)), all > INFINITY_BITS)
}

/// Rounds a piece; the sum of its codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn round(x: &[f32; PIECE_BYTES], inverse: f32, codes: &mut [i8; PIECE_BYTES]) -> i32 {
    let (inverse, most, least) = (_mm512_set1_ps(inverse), _mm512_set1_ps(127.0), _mm512_set1_ps(-127.0));
    // Packing interleaves blocks of four words of its inputs; this puts them in order.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut steps = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        // SAFETY: 16 of 64 floats.
        let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * i)) };
        // Of a NaN and another, the second one is the result: a NaN becomes the largest code.
        let x = _mm512_min_ps(_mm512_mul_ps(x, inverse), most);
        steps[i] = _mm512_cvtps_epi32(_mm512_max_ps(x, least));
    }
    let halves = [_mm512_packs_epi32(steps[0], steps[1]), _mm512_packs_epi32(steps[2], steps[3])];
    let packed = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(halves[0], halves[1]));
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), packed) };
    let pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), packed);
    _mm512_reduce_add_epi32(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
}

/// How four products of bytes are added to a sum of 32 bits.
trait Dot {
    /// What is added to the sums for each unit of a row's codes because of the way the weights are read.
    const EXCESS: i32;
    type Weights: Copy;
    type Inputs: Copy;

    /// Sixteen words of weights.
    unsafe fn weights(w: *const u8) -> Self::Weights;
    /// A word of inputs in every lane.
    unsafe fn inputs(x: *const i8) -> Self::Inputs;
    unsafe fn add(sum: __m512i, w: Self::Weights, x: Self::Inputs) -> __m512i;
}

/// One instruction, whose first factor is unsigned: weights are moved up by 128, and 128 times the sum of the inputs is
/// taken off at the end.
struct Vnni;

// SAFETY, for every block below: the processor has the features and the words are readable, as the caller promises.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Dot for Vnni {
    const EXCESS: i32 = 128;
    type Weights = __m512i;
    type Inputs = __m512i;

    #[inline(always)]
    unsafe fn weights(w: *const u8) -> __m512i {
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(w.cast()), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn inputs(x: *const i8) -> __m512i {
        unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }
}

/// Even and odd bytes, widened to 16 bits, apart.
struct Madd;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl Dot for Madd {
    const EXCESS: i32 = 0;
    type Weights = [__m512i; 2];
    type Inputs = [__m512i; 2];

    #[inline(always)]
    unsafe fn weights(w: *const u8) -> [__m512i; 2] {
        unsafe { even_and_odd(_mm512_loadu_si512(w.cast())) }
    }

    #[inline(always)]
    unsafe fn inputs(x: *const i8) -> [__m512i; 2] {
        unsafe { even_and_odd(_mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512i, w: [__m512i; 2], x: [__m512i; 2]) -> __m512i {
        unsafe {
            let sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w[0], x[0]));
            _mm512_add_epi32(sum, _mm512_madd_epi16(w[1], x[1]))
        }
    }
}

#[inline(always)]
unsafe fn even_and_odd(words: __m512i) -> [__m512i; 2] {
    // SAFETY: arithmetic only.
    unsafe { [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(words)), _mm512_srai_epi16::<8>(words)] }
}

/// Defines the products of one [`Dot`], compiled for its features, with the numbers of rows and panels made constants.
macro_rules! products {
    ($name:ident, $rows:ident, $dot:ty, $features:meta) => {
        /// # Safety
        ///
        /// As [`RoundedProduct`] says; the processor has the features.
        #[$features]
        pub(in crate::cpu::x86_64) unsafe fn $name(p: &RoundedProduct) {
            let mut panel = 0;
            while panel < p.panels {
                let several = p.rows <= FEW_ROWS && panel + PANELS <= p.panels;
                // SAFETY: the caller's promise is passed on.
                unsafe {
                    match p.rows {
                        1 if several => $rows::<1, PANELS>(p, panel),
                        2 if several => $rows::<2, PANELS>(p, panel),
                        1 => $rows::<1, 1>(p, panel),
                        2 => $rows::<2, 1>(p, panel),
                        3 => $rows::<3, 1>(p, panel),
                        4 => $rows::<4, 1>(p, panel),
                        5 => $rows::<5, 1>(p, panel),
                        6 => $rows::<6, 1>(p, panel),
                        7 => $rows::<7, 1>(p, panel),
                        8 => $rows::<8, 1>(p, panel),
                        9 => $rows::<9, 1>(p, panel),
                        10 => $rows::<10, 1>(p, panel),
                        11 => $rows::<11, 1>(p, panel),
                        _ => $rows::<12, 1>(p, panel),
                    }
                }
                panel += if several { PANELS } else { 1 };
            }
        }

        #[$features]
        unsafe fn $rows<const ROWS: usize, const PANELS: usize>(p: &RoundedProduct, first: usize) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<$dot, ROWS, PANELS>(p, first) }
        }
    };
}

products!(
    multiply_vnni,
    rows_vnni,
    Vnni,
    target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
);
products!(multiply_madd, rows_madd, Madd, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq"));

/// # Safety
///
/// As [`RoundedProduct`] says, with `rows == ROWS` and `PANELS` panels from `first` on; the processor has the features of
/// `D`.
#[inline(always)]
unsafe fn multiply<D: Dot, const ROWS: usize, const PANELS: usize>(p: &RoundedProduct, first: usize) {
    let prefetch = if PANELS > 1 { ACROSS_PREFETCH_BYTES } else { PREFETCH_BYTES };
    let panel_bytes = p.pieces * PIECE_WORDS * 4 * PANEL_WIDTH;
    // SAFETY: `w` and `x` stand at a word below `k / 4`: 32 words of each panel, one of each row.
    unsafe {
        let mut sums = [[[_mm512_setzero_si512(); 2]; PANELS]; ROWS];
        let (mut x, mut w) = (p.x, p.w.wrapping_add(first * p.panel_stride));
        for panel in 0..PANELS {
            let scales = p.w_scales.wrapping_byte_add((first + panel) * p.panel_stride);
            _mm_prefetch::<_MM_HINT_T0>(scales.cast());
            _mm_prefetch::<_MM_HINT_T0>(scales.wrapping_add(16).cast());
        }
        for piece in 0..p.pieces {
            // Behind the last pieces of these panels come the first of the next ones.
            let at = piece * PIECE_WORDS * 4 * PANEL_WIDTH;
            let ahead = if at + prefetch < panel_bytes { 0 } else { PANELS * p.panel_stride - panel_bytes };
            for word in 0..PIECE_WORDS {
                let mut weights = [[D::weights(w), D::weights(w.add(64))]; PANELS];
                for panel in 0..PANELS {
                    let w = w.wrapping_add(panel * p.panel_stride);
                    let wanted = w.wrapping_add(prefetch + ahead);
                    _mm_prefetch::<_MM_HINT_T0>(wanted.cast());
                    _mm_prefetch::<_MM_HINT_T0>(wanted.wrapping_add(64).cast());
                    if panel > 0 {
                        weights[panel] = [D::weights(w), D::weights(w.add(64))];
                    }
                }
                for r in 0..ROWS {
                    let x = D::inputs(x.add(r * PIECE_BYTES + 4 * word));
                    for panel in 0..PANELS {
                        let sums = &mut sums[r][panel];
                        sums[0] = D::add(sums[0], weights[panel][0], x);
                        sums[1] = D::add(sums[1], weights[panel][1], x);
                    }
                }
                w = w.wrapping_add(4 * PANEL_WIDTH);
            }
            x = x.wrapping_add(ROWS * PIECE_BYTES);
        }
        // A copy, so that the sums themselves, which are never indexed by a variable, stay in registers.
        let sums = sums;
        for r in 0..ROWS {
            let row = *p.x_rows.add(r);
            let excess = _mm512_set1_epi32(row.sum.wrapping_mul(D::EXCESS));
            for panel in 0..PANELS {
                for half in 0..2 {
                    let sum = _mm512_sub_epi32(sums[r][panel][half], excess);
                    store(p, r, row.scale, first + panel, half, sum);
                }
            }
        }
    }
}

/// Scales sixteen finished sums of row `r` and writes them to `y`.
///
/// # Safety
///
/// As [`RoundedProduct`] says; the processor has AVX-512 F, BW, VL and DQ.
#[inline(always)]
unsafe fn store(p: &RoundedProduct, r: usize, x_scale: f32, panel: usize, half: usize, sum: __m512i) {
    // SAFETY: scales are readable for whole panels, and the caller's promise is passed on.
    unsafe {
        let scales = p.w_scales.wrapping_byte_add(panel * p.panel_stride).wrapping_add(16 * half);
        let scale = _mm512_mul_ps(_mm512_set1_ps(x_scale), _mm512_loadu_ps(scales));
        let values = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
        let columns = Columns::new(p, panel, half);
        columns.store(r, columns.end(r, values, p.ending.activation));
    }
}

/// Sixteen columns of a product's results.
#[derive(Clone, Copy)]
pub(in crate::cpu::x86_64) struct Columns {
    columns: __mmask16,
    /// Of the first row; a row's is `y_stride` further.
    y: *mut f32,
    y_stride: usize,
    bias: Option<__m512>,
    /// Of the first row, unless null.
    residual: *const f32,
    residual_stride: usize,
}

impl Columns {
    /// Those of half of a panel.
    ///
    /// # Safety
    ///
    /// As [`RoundedProduct`] says; the processor has AVX-512 F, BW, VL and DQ.
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn new(p: &RoundedProduct, panel: usize, half: usize) -> Self {
        let column = panel * PANEL_WIDTH + 16 * half;
        let columns = mask(p.cols.saturating_sub(column));
        let residual = p.ending.residual;
        Self {
            columns,
            y: p.y.wrapping_add(column),
            y_stride: p.y_stride,
            // SAFETY: the bias has `cols` elements, and the mask covers no more.
            bias: (!p.bias.is_null())
                .then(|| unsafe { _mm512_maskz_loadu_ps(columns, p.bias.wrapping_add(column)) }),
            residual: if residual.is_null() { residual } else { residual.wrapping_add(column) },
            residual_stride: p.ending.residual_stride,
        }
    }

    /// Scaled sums of row `r`, after the bias, an activation and the residual; zero behind the columns.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new), and `r` is below the number of rows.
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn end(
        &self,
        r: usize,
        sum: __m512,
        kind: Option<ActivationKind>,
    ) -> __m512 {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            let mut sum = self.add_bias(sum);
            if let Some(kind) = kind {
                sum = activation(kind, F32x16(sum)).0;
            }
            self.add_residual(r, sum)
        }
    }

    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn add_bias(&self, sum: __m512) -> __m512 {
        match self.bias {
            // SAFETY: the processor has AVX-512 F.
            Some(bias) => unsafe { _mm512_add_ps(sum, bias) },
            None => sum,
        }
    }

    /// Zero behind the columns.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end).
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn add_residual(&self, r: usize, mut sum: __m512) -> __m512 {
        // SAFETY: row `r` of a residual has the columns that the mask covers.
        unsafe {
            if !self.residual.is_null() {
                let residual = self.residual.wrapping_add(r * self.residual_stride);
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(self.columns, residual));
            }
            _mm512_maskz_mov_ps(self.columns, sum)
        }
    }

    /// Writes results of row `r`.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end).
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn store(&self, r: usize, results: __m512) {
        // SAFETY: row `r` of `y` has the columns that the mask covers.
        unsafe { _mm512_mask_storeu_ps(self.y.wrapping_add(r * self.y_stride), self.columns, results) };
    }

    /// Whether each row has all columns, and they are a cache line.
    pub(in crate::cpu::x86_64) fn are_lines(&self) -> bool {
        let is_line = self.y.align_offset(size_of::<__m512>()) == 0 && self.y_stride.is_multiple_of(16);
        is_line && self.columns == mask(16)
    }

    /// Writes results of row `r` past the caches; a fence has to follow before other threads are told.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end), and they [are lines](Self::are_lines).
    #[inline(always)]
    pub(in crate::cpu::x86_64) unsafe fn stream(&self, r: usize, results: __m512) {
        // SAFETY: row `r` of `y` has 16 columns and starts at a cache line.
        unsafe { _mm512_stream_ps(self.y.wrapping_add(r * self.y_stride), results) };
    }
}
