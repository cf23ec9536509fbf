//! AMX: tiles of 16 rows of 64 bytes, and instructions that multiply two of them; everything else is AVX-512.
//!
//! The instructions are written in assembly, the language's own functions for them being unstable.

mod ends;
mod narrow;
mod piece;
mod rounded;
mod tile;

use std::sync::LazyLock;

use super::avx512;
use crate::cpu::Isa;
use crate::cpu::op_table::OpTable;

/// Rows of weights in a panel.
const PANEL_WIDTH: usize = 32;

pub(in crate::cpu) const TABLE: OpTable = OpTable {
    isa: Isa::Amx,
    integer: rounded::INTEGER_KERNELS,
    brain: Some(rounded::BRAIN_KERNELS),
    ..avx512::VNNI_TABLE
};

/// Whether the processor has tiles of integers and of bf16, and the system lets this process use them.
pub(in crate::cpu) fn is_available() -> bool {
    // Asked for once; the permission holds for all threads of the process.
    static PERMITTED: LazyLock<bool> = LazyLock::new(|| {
        let vectors = avx512::has_vnni() && is_x86_feature_detected!("avx512bf16");
        vectors && tile::exist() && tile::request()
    });
    *PERMITTED
}
