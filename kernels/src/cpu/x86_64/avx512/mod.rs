//! AVX-512 (F, BW, VL, DQ): 16 lanes, 32 registers, masks for the tails.

mod interleave;
mod matmul;
mod vector;
mod widen;

use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;
use crate::cpu::vector::vector_functions;

pub(in crate::cpu) static TABLE: OpTable = OpTable {
    isa: Isa::Avx512,
    panel_width: matmul::PANEL_WIDTH,
    panel_rows: matmul::PANEL_ROWS,
    multiply_panel: matmul::multiply_panel,
    widen: widen::widen,
    interleave: interleave::interleave,
    norm,
    activate,
    gate,
    add,
    rope,
    softmax,
    argmax,
    exponentials,
    dots,
    weighted_sum,
};

vector_functions!(vector::F32x16, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq"));

/// Whether this processor has the features the functions of this module are compiled for.
pub(in crate::cpu) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}
