//! The CUDA driver behind safe types: context, memory, streams, events, graphs, modules; NVRTC and its cache.
//!
//! The driver library is found at run time, so this builds and runs where there is no CUDA; [`Context::new`] then says
//! what is missing.

mod buffer;
mod cache;
mod context;
mod error;
mod event;
mod graph;
mod module;
pub mod nvrtc;
mod stream;
mod tensor_map;

pub use buffer::{DeviceBuffer, DeviceMemory, PinnedBuffer, Plain};
pub use cache::CubinCache;
pub use context::Context;
pub use error::CudaError;
pub use event::Event;
pub use graph::Graph;
pub use module::{Function, Module};
pub(crate) use stream::Launch;
pub use stream::Stream;
pub(crate) use tensor_map::{TensorElement, TensorMap, TensorMaps};

/// Result of everything the driver can refuse.
pub type Result<T> = std::result::Result<T, CudaError>;
