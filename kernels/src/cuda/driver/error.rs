//! What can go wrong between a program and a GPU, each in one paragraph that says how to go on.

use cudarc::driver::sys::CUresult;

/// Why CUDA could not do what was asked of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver library on this machine.
    #[error(
        "no CUDA driver was found: libcuda.so (nvcuda.dll on Windows) is not installed or not on the library path; \
         install NVIDIA's driver, or run on the CPU with `--device cpu`"
    )]
    NoDriver,
    /// The driver is older than the interface this program was written against.
    #[error(
        "the CUDA driver is too old: it speaks CUDA {}.{}, at least 12.0 is needed (driver 525 or newer)",
        got / 1000,
        got % 1000 / 10
    )]
    DriverTooOld {
        /// As the driver reports it: 1000 * major + 10 * minor.
        got: i32,
    },
    /// There is no such device.
    #[error(
        "there is no CUDA device {index}: the driver sees {count}; check `nvidia-smi` and CUDA_VISIBLE_DEVICES"
    )]
    NoDevice {
        /// The device asked for.
        index: usize,
        /// Devices there are.
        count: usize,
    },
    /// The device is older than the oldest that kernels are written for.
    #[error("{name} has compute capability {major}.{minor}, the kernels need at least 7.5 (Turing)")]
    DeviceTooOld {
        /// Name of the device.
        name: String,
        /// Major part of its compute capability.
        major: i32,
        /// Minor part of its compute capability.
        minor: i32,
    },
    /// NVRTC is in none of the places where it usually is.
    #[error(
        "kernels are compiled for the GPU at hand by NVRTC, and libnvrtc was not found ({searched} places were \
         searched); install it with `pip install nvidia-cuda-nvrtc-cu12`, or with the CUDA toolkit, or point \
         JOULEWISE_NVRTC at the library or its directory"
    )]
    NoNvrtc {
        /// Number of places.
        searched: usize,
    },
    /// NVRTC itself failed.
    #[error("NVRTC: {what} failed with code {code}")]
    Nvrtc {
        /// The function.
        what: &'static str,
        /// Its result.
        code: i32,
    },
    /// A kernel file does not compile.
    #[error("{file} does not compile for {arch}:\n{log}")]
    Compile {
        /// The file.
        file: &'static str,
        /// The target.
        arch: String,
        /// What the compiler said.
        log: String,
    },
    /// The device's memory is used up.
    #[error(
        "the GPU is out of memory: {needed_bytes} bytes were asked for and {available_bytes} are free; a narrower \
         strategy, a shorter context or a smaller batch needs less"
    )]
    OutOfMemory {
        /// Bytes asked for.
        needed_bytes: usize,
        /// Bytes the device has free.
        available_bytes: usize,
    },
    /// A graph refers to memory that was freed since it was captured.
    #[error("a captured graph was launched after memory it uses had been freed")]
    StaleGraph,
    /// The driver refused a call.
    #[error("CUDA: {what} failed: {name} ({code})")]
    Driver {
        /// The call.
        what: &'static str,
        /// Name of the error.
        name: String,
        /// Its number.
        code: u32,
    },
}

impl CudaError {
    pub(super) fn driver(what: &'static str, code: CUresult) -> Self {
        Self::Driver { what, name: format!("{code:?}"), code: code as u32 }
    }
}

/// `Ok` for `CUDA_SUCCESS`.
pub(super) fn check(what: &'static str, code: CUresult) -> Result<(), CudaError> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(CudaError::driver(what, code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_sentence_that_says_what_was_found_and_what_is_needed() {
        let name = "Tesla P100".to_owned();
        let cases = [
            (CudaError::NoDriver, ["no CUDA driver", "--device cpu"]),
            (CudaError::DriverTooOld { got: 11_040 }, ["11.4", "at least 12.0"]),
            (CudaError::NoDevice { index: 3, count: 2 }, ["device 3", "sees 2"]),
            (
                CudaError::DeviceTooOld { name, major: 6, minor: 0 },
                ["Tesla P100 has compute capability 6.0", "7.5"],
            ),
            (CudaError::NoNvrtc { searched: 9 }, ["libnvrtc was not found", "pip install"]),
            (
                CudaError::OutOfMemory { needed_bytes: 4096, available_bytes: 1024 },
                ["4096 bytes were asked for and 1024 are free", "a shorter context"],
            ),
        ];
        for (error, expected) in cases {
            let sentence = error.to_string();
            assert!(expected.iter().all(|part| sentence.contains(part)), "{sentence}");
            assert!(!sentence.contains(['\n', '{']) && !sentence.ends_with('.'), "{sentence}");
        }
    }
}
