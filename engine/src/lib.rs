//! Transformer inference as linear programs of steps that can be cut, observed and replayed.
//!
//! A model family describes itself once with a [`ModelBuilder`]; the resulting [`ModelGraph`] is lowered to a
//! [`Program`] for each phase, batch and length, and a [`Backend`] makes the program executable. A [`Session`] ties
//! these together. Whoever wants to know where time (and, with a meter, energy) goes hands the session an
//! [`Observer`]: the same steps are then run module by module, and each module's time comes back.
//!
//! This crate opens no file, reads no sensor and knows no model by name.

#![forbid(unsafe_code)]

mod alibi;
mod arena;
mod backend;
mod batch;
mod builder;
mod calibration;
mod error;
mod fusion;
mod generate;
mod graph;
mod kv_cache;
mod module;
mod observer;
mod op;
mod precision;
mod program;
mod repetition;
mod rope;
mod sampler;
mod session;
mod weight;

pub use alibi::alibi_slopes;
pub use arena::Arena;
pub use backend::cpu::CpuBackend;
pub use backend::cuda::CudaBackend;
pub use backend::{Backend, BackendModel, ClockReading, Executable, LoadProgress, Mark, StepInputs};
pub use batch::TokenBatch;
pub use builder::{Attention, Flow, Linear, ModelBuilder, Norm};
pub use calibration::Calibration;
pub use error::{EngineError, Result};
pub use generate::{StopReason, StopRule, generate};
pub use graph::{CacheLayout, ModelGraph, OutputKind, PositionRule, Step};
pub use joulewise_kernels::args::{ActivationKind, InputRounding, NormKind};
pub use joulewise_kernels::format::Format;
pub use joulewise_kernels::sampling::{Draw, SamplingRule};
pub use kv_cache::{CacheMemory, CacheShape, KvCache};
pub use module::{Module, ModuleId, ModuleKind, ModuleTree};
pub use observer::{Granularity, Observer, Span, Unobserved, ValueReader};
pub use op::{
    AttentionSpec, Cost, IndexInput, Op, Operand, RopeId, RowChoice, RowDomain, ValueId, ValueShape,
};
pub use precision::{ActivationMode, Precision, PrecisionPlan, Strategy};
pub use program::{Cut, Phase, Program, ProgramKey};
pub use repetition::{Repetition, Sweeps};
pub use rope::{RopeScaling, RopeSpec, RopeTable};
pub use sampler::{Sampler, greedy};
pub use session::{ForwardOptions, Observed, Output, PausedRun, Replay, Session, SessionOptions};
pub use weight::{TensorInfo, WeightId, WeightLayout, WeightReader, WeightShape, WeightSource, WeightSpec};
