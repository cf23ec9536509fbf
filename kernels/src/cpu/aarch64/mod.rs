//! Kernels for 64-bit ARM: NEON, which every such processor has, and its instructions for integers.
//!
//! The functions carry `#[target_feature]` where they need more than the baseline, so they may only be called on a
//! processor that has it; the tables are reachable only through [`Isa::is_available`].
//! Dot-product and matrix instructions are written in assembly, the language's own functions for them being unstable.

mod fixed;
mod integer;
mod matmul;
mod scale;
mod vector;
mod weight;

use std::arch::is_aarch64_feature_detected;

use super::Isa;
use super::op_table::OpTable;
use super::scalar;
use super::vector::vector_functions;

pub(super) const TABLE: OpTable = OpTable {
    isa: Isa::Neon,
    panel_width: matmul::PANEL_WIDTH,
    panel_rows: matmul::PANEL_ROWS,
    few_rows: 0,
    multiply_panel: matmul::multiply_panel,
    widen: matmul::widen,
    integer: integer::KERNELS,
    brain: None,
    fixed: None,
    interleave: scalar::TABLE.interleave,
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

/// With dot products of bytes.
pub(super) const DOTPROD_TABLE: OpTable = OpTable {
    isa: Isa::NeonDotprod,
    integer: integer::DOTPROD_KERNELS,
    fixed: Some(fixed::KERNELS),
    ..TABLE
};

/// With products of small matrices of bytes besides.
pub(super) const I8MM_TABLE: OpTable =
    OpTable { isa: Isa::NeonI8mm, integer: integer::I8MM_KERNELS, ..DOTPROD_TABLE };

vector_functions!(vector::F32x4);

pub(super) fn has_dotprod() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

pub(super) fn has_i8mm() -> bool {
    has_dotprod() && is_aarch64_feature_detected!("i8mm")
}
