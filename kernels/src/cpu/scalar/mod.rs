//! Plain Rust for every operation: what runs where nothing faster exists.

mod integer;
mod matmul;
mod vector;

use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;
use crate::cpu::vector::vector_functions;

pub(super) const TABLE: OpTable = OpTable {
    isa: Isa::Scalar,
    panel_width: matmul::PANEL_WIDTH,
    panel_rows: matmul::PANEL_ROWS,
    few_rows: 0,
    multiply_panel: matmul::multiply_panel,
    widen: matmul::widen,
    integer: integer::KERNELS,
    brain: None,
    fixed: None,
    interleave: matmul::interleave,
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

vector_functions!(vector::Lanes);
