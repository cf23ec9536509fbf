//! Plain Rust for every operation: what runs where nothing faster exists, and the base of the other tables.

mod activation;
mod attention;
mod matmul;
mod norm;
mod rope;
mod softmax;

use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;
use crate::format::Format;

pub(super) static TABLE: OpTable = OpTable {
    isa: Isa::Scalar,
    panel_width: matmul::PANEL_WIDTH,
    panel_rows: matmul::PANEL_ROWS,
    multiply_panel: matmul::multiply_panel,
    widen: Format::widen,
    interleave: matmul::interleave,
    norm: norm::norm,
    activate: activation::activate,
    gate: activation::gate,
    add: activation::add,
    rope: rope::rope,
    softmax: softmax::softmax,
    argmax: softmax::argmax,
    attention: attention::attention,
};
