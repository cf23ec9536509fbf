//! AVX2 with FMA and F16C: 8 lanes, 16 registers.

mod fixed;
mod integer;
mod interleave;
mod matmul;
mod scale;
mod vector;
mod weight;
mod widen;

use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;
use crate::cpu::vector::vector_functions;

pub(in crate::cpu) const TABLE: OpTable = OpTable {
    isa: Isa::Avx2,
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
    OpTable { isa: Isa::Avx2Vnni, fixed: Some(fixed::KERNELS), ..TABLE };

vector_functions!(vector::F32x8, target_feature(enable = "avx2,fma,f16c"));

/// Whether this processor has the features the functions of this module are compiled for.
pub(in crate::cpu) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Whether it has VNNI besides.
pub(in crate::cpu) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}
