//! A loaded model takes the memory of its packed weights and little else; the checkpoint is not held beside them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use std::path::PathBuf;
use std::process::Command;

use joulewise_engine::{CpuBackend, Session, SessionOptions, Strategy};
use joulewise_models::{ModelSpec, export, load};

/// Where the measured process finds the model.
const DIRECTORY: &str = "JOULEWISE_TEST_RESIDENT_MEMORY";

/// Removed with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Memory of this process (Linux, Documentation/filesystems/proc.rst): `VmRSS:` what it has, `VmHWM:` the most it has
/// had.
fn memory_bytes(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_loaded_model_takes_the_memory_of_its_packed_weights() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return measure(directory.into());
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("joulewise-resident-{}", std::process::id())));
    let model = load(&ModelSpec::parse("synth:tinybert").unwrap()).unwrap();
    export(&model, &Strategy::Fp32.into(), &scratch.0, |_, _| {}).unwrap();
    // A process of its own: this one has had the memory that writing takes.
    let test = "a_loaded_model_takes_the_memory_of_its_packed_weights";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([test, "--exact", "--nocapture"]).env(DIRECTORY, &scratch.0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn measure(directory: PathBuf) {
    let before = memory_bytes("VmRSS:");
    let model = load(&ModelSpec::Directory(directory)).unwrap();
    let backend = CpuBackend::new(1);
    let plan = Strategy::Int8Weight.into();
    let options = SessionOptions::default();
    let session = Session::open(&backend, model.graph.clone(), &*model.weights, &plan, options).unwrap();
    let weights = session.weight_bytes();
    // The code that ran for the first time and the file's table of contents take memory too, and a huge page may be only
    // partly used: 4 MiB. The checkpoint, in f32, has 57 MB.
    let most = weights + weights / 10 + (4 << 20);
    let loaded = memory_bytes("VmRSS:") - before;
    assert!(loaded <= most, "{weights} bytes of weights take {loaded}");
    // Meanwhile one matrix at a time is there encoded and packed; the largest is the word table, in f16.
    let table = 30_522 * 312 * 2;
    let peak = memory_bytes("VmHWM:") - before;
    assert!(peak <= most + table, "{weights} bytes of weights took {peak}");
}
