//! What the benchmarks share: named shapes, seeded inputs, the machine's ceilings, and how a number is taken.
//!
//! A time says little by itself. Every benchmark here stands beside what this machine could do at best, measured in
//! the same process: the rate of its multiply-add units and the rate at which it reads memory ([`ceiling`]).
//!
//! - `cargo bench -p joulewise-benches --bench matmul` (or `attention`, `elementwise`, ...): criterion, for whoever
//!   changes a kernel and wants to see the difference.
//! - `cargo bench -p joulewise-benches --bench roofline`: one table of everything, in Markdown.
//! - `benches/peers/`: whole models beside the engines that users would pick instead.

pub mod case;
pub mod ceiling;
pub mod criterion_run;
pub mod input;
pub mod machine;
pub mod model;
pub mod roofline;
pub mod run;
pub mod shape;
pub mod timing;
