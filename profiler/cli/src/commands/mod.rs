//! One file per command.

pub(crate) mod bench;
pub(crate) mod classify;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod profile;
pub(crate) mod sensors;
pub(crate) mod verify;
