//! Kernels for the CPU: one safe front, one table of functions per instruction set.
//!
//! [`CpuKernels`] checks the shapes of an operation once, splits it into tasks (`ops/`) and runs them on a
//! [`ThreadPool`], calling the functions of its table (`op_table.rs`).
//! Most of those are written once over vectors (`vector/`), products and transpositions for each instruction set
//! (`scalar/`, `x86_64/`, `aarch64/`).
//! The instruction set is chosen at run time; holding a `CpuKernels` proves that the processor has it.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod buffer;
mod check;
mod fetch;
mod grid;
mod head_cache;
mod op_table;
mod ops;
mod output;
mod packed;
mod prefetch;
mod quantize;
mod rounded_input;
mod scalar;
mod scratch;
mod storage;
mod thread_pool;
mod unit;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fmt;
use std::sync::Arc;

use crate::args::{
    Activate, Add, Attention, CacheWrite, Embed, Gate, InputRounding, MatMul, MeanPool, Norm, Rope,
    RoundedMatMul, Rows, RowsMut, SelectRows,
};
use crate::error::Result;
use crate::format::{Block, EncodedMatrix, Format};
pub use buffer::Buffer;
pub use head_cache::HeadCache;
use op_table::OpTable;
pub use packed::{PackedMatrix, ReadRows};
pub use rounded_input::{InputKind, RoundedInput};
pub use thread_pool::ThreadPool;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What the compiler makes of plain Rust; everywhere.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with VNNI for registers of AVX2.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
    /// The same with tiles of integers and of bf16.
    Amx,
    /// 64-bit ARM; all of them have NEON.
    Neon,
    /// The same with dot products of bytes.
    NeonDotprod,
    /// The same with products of small matrices of bytes.
    NeonI8mm,
}

impl Isa {
    /// Every instruction set, slowest first, available here or not.
    pub const ALL: &'static [Self] = &[
        Self::Scalar,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Amx,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
    ];

    /// The name, such as `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this processor (and this build) has it.
    pub fn is_available(self) -> bool {
        table(self).is_some()
    }

    /// The fastest one this processor has.
    pub fn best() -> Self {
        Self::ALL.iter().copied().rfind(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The operations, for one instruction set, on one thread pool.
///
/// Every method checks its arguments and returns [`KernelError::Shape`](crate::KernelError::Shape) or
/// [`KernelError::Index`](crate::KernelError::Index) when they do not fit; nothing has been written then.
/// A result does not depend on the number of threads, nor on the other rows of the call.
#[derive(Clone, Debug)]
pub struct CpuKernels {
    table: &'static OpTable,
    pool: Arc<ThreadPool>,
}

impl CpuKernels {
    /// The fastest kernels this processor can run.
    pub fn best(pool: Arc<ThreadPool>) -> Self {
        Self { table: table(Isa::best()).unwrap_or(&scalar::TABLE), pool }
    }

    /// The kernels of one instruction set, if this processor has it.
    pub fn for_isa(isa: Isa, pool: Arc<ThreadPool>) -> Option<Self> {
        table(isa).map(|table| Self { table, pool })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.table.isa
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The pool.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Packs weights `[n, k]` for this instruction set, rounding them to `format`.
    ///
    /// `read_rows(range, out)` fills `out [range.len(), k]` with the rows of the range; ranges come in order and
    /// cover every row once.
    ///
    /// # Errors
    ///
    /// The first error of `read_rows`.
    pub fn pack<E>(
        &self,
        format: Format,
        n: usize,
        k: usize,
        read_rows: &mut ReadRows<'_, E>,
    ) -> std::result::Result<PackedMatrix, E> {
        PackedMatrix::pack(format, n, k, self.table.panel_width, read_rows)
    }

    /// The same for a table that is only looked up, never multiplied: where rows have no scales each lies by itself, and a
    /// lookup reads its cache lines alone.
    ///
    /// # Errors
    ///
    /// The first error of `read_rows`.
    pub fn pack_table<E>(
        &self,
        format: Format,
        n: usize,
        k: usize,
        read_rows: &mut ReadRows<'_, E>,
    ) -> std::result::Result<PackedMatrix, E> {
        let has_scales = format.spec().block != Block::Element;
        let width = if has_scales { self.table.panel_width } else { 1 };
        PackedMatrix::pack(format, n, k, width, read_rows)
    }

    /// Packs weights that are in a storage format already, without rounding them again.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`](crate::KernelError::Shape) when blocks of 4-bit codes are not a multiple of 8 long.
    pub fn pack_encoded(&self, encoded: &EncodedMatrix) -> Result<PackedMatrix> {
        PackedMatrix::pack_encoded(encoded, self.table.panel_width)
    }

    /// `y = f(x w^T + bias) + residual`.
    ///
    /// # Cost
    ///
    /// `2 m n k` flops; reads the weights once, writes `4 m n` bytes.
    pub fn matmul(&self, args: MatMul<'_>) -> Result<()> {
        ops::matmul::run(self, args)
    }

    /// Several products of the same inputs, shared out among threads as one where [`can_join`](Self::can_join) says so. The
    /// bits are those of [`matmul`](Self::matmul). What comes next is what the first one says.
    pub fn matmul_joined<const N: usize>(&self, products: [MatMul<'_>; N]) -> Result<()> {
        ops::matmul::run_joined(self, products)
    }

    /// Whether products of the same `m` rows with two weights are better joined: each that is run by itself begins with
    /// nothing fetched, splits its inputs and waits for its last task.
    pub fn can_join(&self, weights: [&PackedMatrix; 2], rounding: InputRounding, m: usize) -> bool {
        ops::matmul::can_join(self, weights, rounding, m)
    }

    /// What products of `m` rows with these weights round their inputs to; `None` when they read floats.
    pub fn input_kind(&self, w: &PackedMatrix, rounding: InputRounding, m: usize) -> Option<InputKind> {
        ops::matmul::input_kind(self, w, rounding, m)
    }

    /// Rounds inputs for all products that read this kind of them.
    pub fn round(&self, x: Rows<'_>, kind: InputKind, out: &mut RoundedInput) -> Result<()> {
        ops::matmul::round_input(self, x, kind, out)
    }

    /// [`matmul`](Self::matmul) of inputs that were rounded before.
    ///
    /// # Errors
    ///
    /// [`KernelError::InputKind`](crate::KernelError::InputKind) when they were rounded for other weights, too.
    pub fn matmul_rounded(&self, args: RoundedMatMul<'_>) -> Result<()> {
        ops::matmul::run_rounded(self, args)
    }

    /// Normalises every row.
    ///
    /// # Cost
    ///
    /// About `8 m k` flops; reads and writes `4 m k` bytes.
    pub fn norm(&self, args: Norm<'_>) -> Result<()> {
        ops::norm::run(self, args, None)
    }

    /// Normalises every row and rounds it, while it is in the nearest cache, for the products that read it.
    pub fn norm_rounded(&self, args: Norm<'_>, kind: InputKind, out: &mut RoundedInput) -> Result<()> {
        ops::norm::run(self, args, Some((kind, out)))
    }

    /// `y = f(x)`.
    pub fn activate(&self, args: Activate<'_>) -> Result<()> {
        ops::elementwise::activate(self, args)
    }

    /// `y = f(gate) * up`.
    pub fn gate(&self, args: Gate<'_>) -> Result<()> {
        ops::elementwise::gate(self, args)
    }

    /// `y = a + b`.
    pub fn add(&self, args: Add<'_>) -> Result<()> {
        ops::elementwise::add(self, args)
    }

    /// `y = table[ids]`.
    pub fn embed(&self, args: Embed<'_>) -> Result<()> {
        ops::embed::run(self, args)
    }

    /// Rotates queries or keys by their positions.
    pub fn rope(&self, args: Rope<'_>) -> Result<()> {
        ops::rope::run(self, args)
    }

    /// `y = softmax(scale q k^T + bias, masked) v`.
    ///
    /// # Cost
    ///
    /// `4 tokens visible heads head_dim` flops per sequence; reads the visible keys and values once per block of
    /// queries.
    pub fn attention(&self, args: Attention<'_>) -> Result<()> {
        ops::attention::run(self, args)
    }

    /// Rounds new keys or values to the format of a cache and stores them.
    pub fn cache_write(&self, args: CacheWrite<'_>) -> Result<()> {
        ops::rows::cache_write(self, args)
    }

    /// Mean over the visible tokens of each sequence.
    pub fn mean_pool(&self, args: MeanPool<'_>) -> Result<()> {
        ops::rows::mean_pool(self, args)
    }

    /// Copies chosen rows.
    pub fn select_rows(&self, args: SelectRows<'_>) -> Result<()> {
        ops::rows::select_rows(args)
    }

    /// The index of the largest element; the first one wins ties, NaN never wins, 0 when nothing can win.
    pub fn argmax(&self, x: &[f32]) -> usize {
        // SAFETY: `self` exists, so the processor has the table's instruction set.
        unsafe { (self.table.argmax)(x) }
    }

    /// `y = exp(x - max x) / sum exp(x - max x)`, row by row.
    pub fn softmax(&self, x: Rows<'_>, y: RowsMut<'_>) -> Result<()> {
        ops::softmax::run(self, x, y)
    }
}

/// The table of an instruction set, if this processor has it.
fn table(isa: Isa) -> Option<&'static OpTable> {
    match isa {
        Isa::Scalar => Some(&scalar::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86_64::avx2::is_available().then_some(&x86_64::avx2::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => x86_64::avx2::has_vnni().then_some(&x86_64::avx2::VNNI_TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86_64::avx512::is_available().then_some(&x86_64::avx512::TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => x86_64::avx512::has_vnni().then_some(&x86_64::avx512::VNNI_TABLE),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => x86_64::amx::is_available().then_some(&x86_64::amx::TABLE),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Some(&aarch64::TABLE),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => aarch64::has_dotprod().then_some(&aarch64::DOTPROD_TABLE),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => aarch64::has_i8mm().then_some(&aarch64::I8MM_TABLE),
        // Those of other processors.
        _ => None,
    }
}
