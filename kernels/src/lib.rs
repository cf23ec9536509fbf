//! Number formats and hand-written transformer kernels on slices.
//!
//! This crate knows no model, no file and no sensor: an operation takes slices with named shapes ([`args`]),
//! checks them once, and computes. Everywhere `x [m, k]`, `w [n, k]`, `y [m, n] = x w^T`, row-major `f32`
//! activations.
//!
//! - [`format`](mod@format): the number formats weights are stored in, one table, one file each.
//! - [`reference`](mod@reference): every operation again, slow and obviously right; the oracle of the tests.
//! - [`sampling`](mod@sampling): drawing a token from logits, the same one on every device.
//! - [`cpu`]: the fast ones. [`CpuKernels`](cpu::CpuKernels) is a table of functions for one instruction set,
//!   chosen once at run time, and the threads they run on.
//! - [`cuda`]: the same for NVIDIA GPUs, compiled at load for the one at hand.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use joulewise_kernels::{args::{InputRounding, MatMul, Rows, RowsMut}, cpu::{CpuKernels, ThreadPool}, format::Format};
//!
//! let kernels = CpuKernels::best(Arc::new(ThreadPool::new(2)));
//! // w [2, 3], stored as bf16, packed the way this machine's instruction set likes it.
//! let rows = [[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
//! let w = kernels.pack(Format::Bf16, 2, 3, &mut |range, out| {
//!     out.copy_from_slice(rows[range].as_flattened());
//!     Ok::<(), std::convert::Infallible>(())
//! }).unwrap();
//! let x = [1.0, 0.0, -1.0];
//! let mut y = [0.0; 2];
//! kernels.matmul(MatMul {
//!     x: Rows { data: &x, rows: 1, cols: 3, stride: 3 },
//!     rounding: InputRounding::None,
//!     w: &w,
//!     bias: None,
//!     activation: None,
//!     residual: None, next: &[],
//!     y: RowsMut { data: &mut y, rows: 1, cols: 2 },
//! })?;
//! assert_eq!(y, [-2.0, -2.0]);
//! # Ok::<(), joulewise_kernels::KernelError>(())
//! ```

pub mod args;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod format;
pub mod reference;
pub mod sampling;

pub use error::{KernelError, Result};
#[doc(no_inline)]
pub use half;
