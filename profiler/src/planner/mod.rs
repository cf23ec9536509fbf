//! From joules per layer to a plan: which group of layers to keep in which format.
//!
//! `group` says what is decided together; `sensitivity` what each format does to the model's answers, `cost` what it
//! saves of a `request` (`regressed` where energies come from regression, `turns` otherwise); `front` finds every plan worth having and `bound` says how far from the best it can be; `additivity` tests
//! the assumption that losses and savings add up; `verify` runs the plan on data it has not seen. `plan_file` is the
//! result, which a person can edit.

pub mod additivity;
pub mod bound;
pub mod cost;
pub mod divergence;
pub mod document;
pub mod estimate;
pub mod files;
pub mod findings;
pub mod front;
pub mod group;
pub mod journal;
pub mod median;
mod pace;
pub mod plan_file;
pub mod probe;
pub mod problem;
pub mod reason;
pub mod regressed;
pub mod request;
pub mod sensitivity;
pub mod study;
pub mod turns;
pub mod verify;
