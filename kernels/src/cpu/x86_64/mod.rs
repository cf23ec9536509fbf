//! Kernels for x86-64.
//!
//! The functions carry `#[target_feature]`, so they may only be called on a processor that has the features; the
//! tables are reachable only through [`Isa::is_available`](super::Isa::is_available).

pub(super) mod amx;
pub(super) mod avx2;
pub(super) mod avx512;
mod row_order;
