//! Runs the program as a user would.

#![allow(clippy::unwrap_used, reason = "a program that cannot be started is a failed test")]

use std::process::Command;

/// What a run left behind.
pub(crate) struct Run {
    pub(crate) code: i32,
    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) stdout: String,
    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) stderr: String,
}

/// Runs `joulewise` with these arguments.
pub(crate) fn joulewise(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_joulewise")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
