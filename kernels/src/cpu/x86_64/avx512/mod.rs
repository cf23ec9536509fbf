//! AVX-512 (F, BW, VL, DQ): 16 lanes, 32 registers, masks for the tails.

mod fixed;
pub(super) mod integer;
mod interleave;
mod matmul;
mod scale;
pub(super) mod vector;
mod weight;
mod widen;

use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;
use crate::cpu::vector::vector_functions;

pub(in crate::cpu) const TABLE: OpTable = OpTable {
    isa: Isa::Avx512,
    panel_width: matmul::PANEL_WIDTH,
    panel_rows: matmul::PANEL_ROWS,
    few_rows: matmul::FEW_ROWS,
    multiply_panel: matmul::multiply_panel,
    widen: widen::widen,
    integer: integer::KERNELS,
    brain: None,
    fixed: None,
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
    round_row,
    widen_rows,
};

/// With VNNI.
pub(in crate::cpu) static VNNI_TABLE: OpTable =
    OpTable { isa: Isa::Avx512Vnni, integer: integer::VNNI_KERNELS, fixed: Some(fixed::KERNELS), ..TABLE };

vector_functions!(vector::F32x16, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq"));

/// Whether this processor has the features the functions of this module are compiled for.
pub(in crate::cpu) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Whether it has VNNI besides.
pub(in crate::cpu) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avx512vnni")
}
