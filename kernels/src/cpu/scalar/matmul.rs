//! A few rows of `x` times one panel of `w`.

use half::f16;

use crate::cpu::op_table::{Interleave, PanelProduct, RowOrder, SCORES_STRIDE};
use crate::cpu::packed::{BlockScales, Scales};
use crate::format::{Codes, ScaleKind, e8m0, fp8_e4m3, fp8_e5m2};

/// Two SSE or NEON vectors.
pub(super) const PANEL_WIDTH: usize = 8;
/// Rows whose sums fit the registers beside the weights.
pub(super) const PANEL_ROWS: usize = 4;

/// `k` whose weights are widened at once; a multiple of every unit.
const WIDEN: usize = 64;

/// Rows to columns; see [`Interleave`].
pub(super) fn interleave(args: Interleave<'_>) {
    args.checked_k();
    let Interleave { x, stride, rows, width, packed } = args;
    for (i, packed) in packed.chunks_exact_mut(width).enumerate() {
        for (r, packed) in packed.iter_mut().enumerate() {
            *packed = if r < rows { x[r * stride + i] } else { 0.0 };
        }
    }
}

/// Units of a panel to `out [terms, 8]`.
pub(super) fn widen(codes: Codes, units: &[u8], out: &mut [f32]) {
    let widen_pair =
        |unit: &[u8; 4], term| f32::from_bits(u32::from_le_bytes(*unit) << (16 * (1 - term)) & 0xffff_0000);
    match codes {
        Codes::F32 => widen_units::<4, 1>(units, out, |unit, _| f32::from_le_bytes(*unit)),
        Codes::F16 => widen_units::<2, 1>(units, out, |unit, _| f16::from_le_bytes(*unit).to_f32()),
        Codes::Bf16 => widen_units::<4, 2>(units, out, widen_pair),
        Codes::Int8 => widen_units::<4, 4>(units, out, |unit, term| f32::from(unit[term] as i8)),
        Codes::E4m3 => widen_units::<1, 1>(units, out, |unit, _| fp8_e4m3::decode(unit[0])),
        Codes::E5m2 => widen_units::<1, 1>(units, out, |unit, _| fp8_e5m2::decode(unit[0])),
        Codes::Table(values) => widen_units::<4, 8>(units, out, |unit, term| {
            values[(u32::from_le_bytes(*unit) >> (4 * term) & 15) as usize]
        }),
    }
}

#[inline(always)]
fn widen_units<const SIZE: usize, const TERMS: usize>(
    units: &[u8],
    out: &mut [f32],
    value: impl Fn(&[u8; SIZE], usize) -> f32,
) {
    let units = units.as_chunks::<SIZE>().0.as_chunks::<PANEL_WIDTH>().0;
    let out = out.as_chunks_mut::<PANEL_WIDTH>().0.as_chunks_mut::<TERMS>().0;
    for (units, out) in units.iter().zip(out) {
        for (term, out) in out.iter_mut().enumerate() {
            for (unit, out) in units.iter().zip(out) {
                *out = value(unit, term);
            }
        }
    }
}

/// # Safety
///
/// As [`PanelProduct`] says.
pub(super) unsafe fn multiply_panel(product: &PanelProduct) {
    let p = product;
    let (row_stride, k_stride) = match p.x_order {
        RowOrder::Interleaved => (1, p.rows),
        RowOrder::Scores => (SCORES_STRIDE, 1),
    };
    let mut wide = [0.0; WIDEN * PANEL_WIDTH];
    let unit_size = p.codes.unit_size() * PANEL_WIDTH;
    let (mut first, mut block) = (0, 0);
    while first < p.k {
        let end = p.block_end(first);
        let mut sums = [[0.0; PANEL_WIDTH]; PANEL_ROWS];
        for start in (first..end).step_by(WIDEN) {
            let units = WIDEN.min(end - start).div_ceil(p.codes.terms());
            let weights = &mut wide[..units * p.codes.terms() * PANEL_WIDTH];
            // SAFETY: the panel holds `k` terms in whole units, and blocks start with a unit.
            let bytes = unsafe {
                std::slice::from_raw_parts(p.w.add(start / p.codes.terms() * unit_size), units * unit_size)
            };
            widen(p.codes, bytes, weights);
            for (r, sums) in sums.iter_mut().enumerate().take(p.rows) {
                for (i, weights) in weights.as_chunks::<PANEL_WIDTH>().0.iter().enumerate() {
                    // SAFETY: row `r < rows` of `x` has element `start + i < k`, padded to whole units.
                    let x = unsafe { *p.x.add(r * row_stride + (start + i) * k_stride) };
                    for (sum, w) in sums.iter_mut().zip(weights) {
                        *sum += x * w;
                    }
                }
            }
        }
        let is_first = first == 0 && !p.accumulate;
        for (r, sums) in sums.iter().enumerate().take(p.rows) {
            for (j, sum) in sums.iter().enumerate().take(p.cols) {
                // SAFETY: row `r < rows` of `y` has column `j < cols`, nobody else touches it, and scales and a bias
                // have it too.
                unsafe {
                    let y = &mut *p.y.add(r * p.y_stride + j);
                    let before = if is_first { 0.0 } else { *y };
                    *y = match &p.scales {
                        Scales::Rows(scales) if end == p.k => (before + sum) * *scales.add(j),
                        Scales::Blocks(scales) => before + sum * block_scale(scales, block * PANEL_WIDTH + j),
                        _ => before + sum,
                    };
                    if !p.bias.is_null() && end == p.k {
                        *y += *p.bias.add(j);
                    }
                }
            }
        }
        first = end;
        if let Scales::Blocks(scales) = p.scales
            && end.is_multiple_of(scales.block_len)
        {
            block += 1;
        }
    }
}

/// # Safety
///
/// Scale `at` is readable.
unsafe fn block_scale(scales: &BlockScales, at: usize) -> f32 {
    // SAFETY: scale `at` is readable.
    let scale = unsafe {
        match scales.kind {
            ScaleKind::F16 => scales.first.cast::<f16>().add(at).read_unaligned().to_f32(),
            ScaleKind::E8m0 => e8m0::decode(*scales.first.add(at)),
            ScaleKind::E4m3 => fp8_e4m3::decode(*scales.first.add(at)),
            ScaleKind::F32 | ScaleKind::None => scales.first.cast::<f32>().add(at).read_unaligned(),
        }
    };
    scale * scales.tensor_scale
}
