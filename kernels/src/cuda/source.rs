//! The kernel files, embedded, and what they are compiled for.

use super::driver::nvrtc::{Compiled, Nvrtc};
use super::driver::{CubinCache, Result};

/// One `.cu` file.
#[derive(Debug)]
pub struct Source {
    /// Its name.
    pub file: &'static str,
    /// The element type it is compiled for, where it is compiled once for each: the slow ones, side by side.
    pub(super) element: Option<&'static str>,
    /// What it shares with other files.
    shared: &'static str,
    text: &'static str,
    /// The only architecture it is written for; `None`: all.
    only: Option<&'static str>,
}

/// Architectures that every change is compiled for, GPU or not.
pub const CHECKED_ARCHITECTURES: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90a"];

const PRELUDE: &str = include_str!("../../cuda/prelude.cuh");
const OPTIONS: &[&str] = &["-std=c++17", "--ptxas-options=-v"];

/// Decoding of weights, in front of the files that multiply them.
const CODES: &str = include_str!("../../cuda/codes.cuh");

/// A row of inputs on its way from memory, in front of the files that normalise rows or multiply just one.
const ROW: &str = include_str!("../../cuda/row.cuh");

/// Rows as codes, in front of the files that round them.
const ROUNDED: &str = include_str!("../../cuda/rounded.cuh");

const ROW_AND_ROUNDED: &str =
    concat!(include_str!("../../cuda/row.cuh"), include_str!("../../cuda/rounded.cuh"));

/// What only Hopper has, and how its products end.
const HOPPER_AND_ENDING: &str =
    concat!(include_str!("../../cuda/hopper.cuh"), include_str!("../../cuda/gemm_ending.cuh"));

/// The softmax of attention, in front of the files that have scores on tensor cores.
const SOFTMAX: &str = include_str!("../../cuda/softmax.cuh");

const HOPPER_AND_SOFTMAX: &str =
    concat!(include_str!("../../cuda/hopper.cuh"), include_str!("../../cuda/softmax.cuh"));

const CODES_AND_ROW: &str = concat!(include_str!("../../cuda/codes.cuh"), include_str!("../../cuda/row.cuh"));

macro_rules! source {
    ($file:literal) => {
        source!($file, None)
    };
    ($file:literal, $element:expr) => {
        source!($file, $element, None)
    };
    ($file:literal, $element:expr, $only:expr) => {
        source!($file, $element, $only, "")
    };
    ($file:literal, $element:expr, $only:expr, $shared:expr) => {
        Source {
            file: $file,
            shared: $shared,
            text: include_str!(concat!("../../cuda/", $file)),
            element: $element,
            only: $only,
        }
    };
}

const ELEMENTS: &[&str] = &["f32", "f16", "bf16", "s8", "e4m3", "e5m2", "s4", "nf4", "mxfp4", "nvfp4"];

/// Every file.
pub static SOURCES: &[Source] = &[
    source!("attention_decode.cu", Some("f32")),
    source!("attention_decode.cu", Some("f16")),
    source!("attention_decode.cu", Some("bf16")),
    source!("attention_mma.cu", Some("f16"), None, SOFTMAX),
    source!("attention_mma.cu", Some("bf16"), None, SOFTMAX),
    source!("attention_hopper.cu", Some("f16"), Some("sm_90a"), HOPPER_AND_SOFTMAX),
    source!("attention_hopper.cu", Some("bf16"), Some("sm_90a"), HOPPER_AND_SOFTMAX),
    source!("attention.cu"),
    source!("rows.cu"),
    source!("clock.cu"),
    source!("sampling.cu"),
    source!("norm.cu", None, None, ROW_AND_ROUNDED),
    source!("rope.cu"),
    source!("gemv.cu", None, None, ROW),
    source!("gemm_simt.cu"),
    source!("gemm_mma.cu"),
    source!("quantise.cu", None, None, ROUNDED),
    source!("gemm_hopper.cu", Some("f16"), Some("sm_90a"), HOPPER_AND_ENDING),
    source!("gemm_hopper.cu", Some("bf16"), Some("sm_90a"), HOPPER_AND_ENDING),
    source!("gemm_hopper.cu", Some("s8"), Some("sm_90a"), HOPPER_AND_ENDING),
    source!("gemm_hopper.cu", Some("e4m3"), Some("sm_90a"), HOPPER_AND_ENDING),
    source!("gemv_codes.cu", Some("s8"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("e4m3"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("e5m2"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("nf4"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("s4"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("mxfp4"), None, CODES_AND_ROW),
    source!("gemv_codes.cu", Some("nvfp4"), None, CODES_AND_ROW),
    source!("gemm_stream.cu", Some("f16"), None, CODES),
    source!("gemm_stream.cu", Some("bf16"), None, CODES),
    source!("gemm_stream.cu", Some("s8"), None, CODES),
    source!("gemm_stream.cu", Some("e4m3"), None, CODES),
    source!("gemm_stream.cu", Some("e5m2"), None, CODES),
    source!("gemm_stream.cu", Some("s4"), None, CODES),
    source!("gemm_stream.cu", Some("nf4"), None, CODES),
    source!("gemm_stream.cu", Some("mxfp4"), None, CODES),
    source!("gemm_stream.cu", Some("nvfp4"), None, CODES),
];

impl Source {
    /// Whether the file has kernels for this architecture.
    pub fn is_for(&self, arch: &str) -> bool {
        self.only.is_none_or(|only| only == arch)
    }

    /// Whether the kernel of this name is in this compilation of the file.
    pub(super) fn has(&self, kernel: &str) -> bool {
        self.element
            .is_none_or(|element| kernel.split('_').find(|part| ELEMENTS.contains(part)) == Some(element))
    }

    /// Compiles the file.
    ///
    /// # Errors
    /// [`CudaError::Compile`](super::driver::CudaError::Compile).
    pub fn compile(&self, nvrtc: &Nvrtc, arch: &str) -> Result<Compiled> {
        nvrtc.compile(self.file, &self.full_text(), arch, OPTIONS)
    }

    /// The machine code, from the cache or compiled now.
    pub(super) fn cubin(&self, nvrtc: &Nvrtc, arch: &str, cache: &CubinCache) -> Result<Vec<u8>> {
        let (major, minor) = nvrtc.version();
        let text = self.full_text();
        let version = format!("nvrtc {major}.{minor}");
        let key = CubinCache::key(&[&text, arch, &version, &OPTIONS.join(" ")]);
        if let Some(cubin) = cache.get(&key) {
            return Ok(cubin);
        }
        let compiled = self.compile(nvrtc, arch)?;
        cache.put(&key, &compiled.cubin);
        Ok(compiled.cubin)
    }

    fn full_text(&self) -> String {
        let element = self.element.map(|element| format!("#define ELEMENT_{element}\n")).unwrap_or_default();
        format!("{PRELUDE}\n{element}{}\n#line 1 \"{}\"\n{}", self.shared, self.file, self.text)
    }
}

/// The compiler's name of a device's instruction set; 9.0 has instructions that only `sm_90a` lets one use.
pub fn architecture((major, minor): (i32, i32)) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".to_owned(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// What the assembler says about one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Name of the kernel.
    pub kernel: String,
    /// Registers per thread.
    pub registers: usize,
    /// Bytes written to memory because registers ran out.
    pub spilled_bytes: usize,
}

/// Reads `ptxas -v`'s report.
pub fn resources(log: &str) -> Vec<Resources> {
    let mut kernels: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            let kernel = name.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Resources { kernel, registers: 0, spilled_bytes: 0 });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(bytes) = number_before(line, " bytes spill stores") {
            kernel.spilled_bytes += bytes;
        }
        if let Some(registers) = number_before(line, " registers") {
            kernel.registers = registers;
        }
    }
    kernels
}

fn number_before(line: &str, what: &str) -> Option<usize> {
    let text = &line[..line.find(what)?];
    text.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_report_is_understood() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'gemv_f16' for 'sm_90a'\n\
            ptxas info    : Function properties for gemv_f16\n\
            \x20   8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
            ptxas info    : Used 64 registers, used 1 barriers, 128 bytes smem\n";
        let expected = Resources { kernel: "gemv_f16".to_owned(), registers: 64, spilled_bytes: 12 };
        assert_eq!(resources(log), [expected]);
    }
}
