//! cuBLASLt, for comparison in benches only: loaded from wherever it is, and nothing else ever calls it.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use libloading::Library;

use super::driver::{CudaError, DeviceBuffer, DeviceMemory, Result, Stream};
use crate::format::Format;

type Handle = *mut c_void;
/// `cublasLtMatmulHeuristicResult_t`: the algorithm, the workspace it needs, and what does not matter here.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    rest: [u64; 3],
}

const WORKSPACE_BYTES: usize = 64 << 20;
// Values of the library's headers.
const COMPUTE_F32: c_int = 68;
const COMPUTE_I32: c_int = 72;
const REAL_F32: c_int = 0;
const REAL_F16: c_int = 2;
const REAL_I8: c_int = 3;
const REAL_I32: c_int = 10;
const REAL_BF16: c_int = 14;
const REAL_E4M3: c_int = 28;
const DESCRIPTION_TRANSPOSES_A: c_int = 3;
const PREFERENCE_WORKSPACE: c_int = 1;

/// The library and a handle of it.
#[derive(Debug)]
pub struct CublasLt {
    library: Arc<Library>,
    handle: Handle,
    workspace: DeviceBuffer<u8>,
    stream: Arc<Stream>,
}

/// One product `y [m, n] = x [m, k] w [n, k]^T`, ready to be submitted.
pub struct PeerProduct<'a> {
    peer: &'a CublasLt,
    description: Handle,
    layouts: [Handle; 3],
    heuristic: Heuristic,
    is_integer: bool,
}

impl CublasLt {
    /// Looks where PyTorch and toolkits have it; `JOULEWISE_CUBLASLT` names a file that goes first.
    ///
    /// # Errors
    /// [`CudaError::Nvrtc`] naming the step that failed when there is none, or it does not start.
    pub fn find(stream: &Arc<Stream>) -> Result<Self> {
        let failed = |what| CudaError::Nvrtc { what, code: -1 };
        // SAFETY: loading the library runs its initialisers, which are harmless.
        let open = |path: &PathBuf| unsafe { Library::new(path) }.ok();
        let library = candidates().iter().find_map(open).ok_or(failed("finding cuBLASLt"))?;
        let workspace = DeviceBuffer::zeros(stream.context(), WORKSPACE_BYTES)?;
        let mut peer = Self {
            library: Arc::new(library),
            handle: std::ptr::null_mut(),
            workspace,
            stream: stream.clone(),
        };
        let create: unsafe extern "C" fn(*mut Handle) -> c_int = peer.symbol("cublasLtCreate")?;
        // SAFETY: the documented signature; the context is current since the allocation above.
        status("cublasLtCreate", unsafe { create(&mut peer.handle) })?;
        Ok(peer)
    }

    fn symbol<T: Copy>(&self, name: &'static str) -> Result<T> {
        // SAFETY: every caller passes the documented signature of the function it names.
        unsafe { self.library.get::<T>(name.as_bytes()) }
            .map(|symbol| *symbol)
            .map_err(|_| CudaError::Nvrtc { what: name, code: -1 })
    }

    /// Chooses an algorithm; results are f16, bf16 under bf16 and fp8, and integers of 32 bits under int8.
    ///
    /// # Errors
    /// When the library knows none.
    pub fn product(&self, format: Format, m: usize, n: usize, k: usize) -> Result<PeerProduct<'_>> {
        let (operand, result, compute, scale) = match format {
            Format::Int8 => (REAL_I8, REAL_I32, COMPUTE_I32, REAL_I32),
            Format::Fp8E4m3 => (REAL_E4M3, REAL_BF16, COMPUTE_F32, REAL_F32),
            Format::Bf16 => (REAL_BF16, REAL_BF16, COMPUTE_F32, REAL_F32),
            _ => (REAL_F16, REAL_F16, COMPUTE_F32, REAL_F32),
        };
        let describe: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> c_int =
            self.symbol("cublasLtMatmulDescCreate")?;
        let set: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int =
            self.symbol("cublasLtMatmulDescSetAttribute")?;
        let lay_out: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> c_int =
            self.symbol("cublasLtMatrixLayoutCreate")?;
        let prefer: unsafe extern "C" fn(*mut Handle) -> c_int =
            self.symbol("cublasLtMatmulPreferenceCreate")?;
        let set_preference: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int =
            self.symbol("cublasLtMatmulPreferenceSetAttribute")?;
        let choose: unsafe extern "C" fn(
            Handle,
            Handle,
            Handle,
            Handle,
            Handle,
            Handle,
            Handle,
            c_int,
            *mut Heuristic,
            *mut c_int,
        ) -> c_int = self.symbol("cublasLtMatmulAlgoGetHeuristic")?;
        let (mut description, mut preference, mut found) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        let mut layouts = [std::ptr::null_mut(); 3];
        let mut heuristic = Heuristic { algorithm: [0; 8], workspace_bytes: 0, rest: [0; 3] };
        let yes: c_int = 1;
        // The library counts columns first: y^T = w x^T, with w transposed.
        let shapes = [(operand, k, n), (operand, k, m), (result, n, m)];
        // SAFETY: documented signatures, all outputs are writable and all inputs live until the calls return.
        unsafe {
            status("cublasLtMatmulDescCreate", describe(&mut description, compute, scale))?;
            let value = std::ptr::from_ref(&yes).cast();
            status("cublasLtMatmulDescSetAttribute", set(description, DESCRIPTION_TRANSPOSES_A, value, 4))?;
            for (layout, (kind, rows, cols)) in layouts.iter_mut().zip(shapes) {
                let code = lay_out(layout, kind, rows as u64, cols as u64, rows as i64);
                status("cublasLtMatrixLayoutCreate", code)?;
            }
            status("cublasLtMatmulPreferenceCreate", prefer(&mut preference))?;
            let value = std::ptr::from_ref(&WORKSPACE_BYTES).cast();
            let code = set_preference(preference, PREFERENCE_WORKSPACE, value, size_of::<usize>());
            status("cublasLtMatmulPreferenceSetAttribute", code)?;
            let [w, x, y] = layouts;
            let code =
                choose(self.handle, description, w, x, y, y, preference, 1, &mut heuristic, &mut found);
            status("cublasLtMatmulAlgoGetHeuristic", code)?;
        }
        if found == 0 {
            return Err(CudaError::Nvrtc { what: "cuBLASLt's choice of an algorithm", code: -1 });
        }
        let is_integer = format == Format::Int8;
        Ok(PeerProduct { peer: self, description, layouts, heuristic, is_integer })
    }
}

impl PeerProduct<'_> {
    /// Submits the product. Buffers hold at least the shapes it was made for.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn submit(&self, w: &DeviceBuffer<u8>, x: &DeviceBuffer<u8>, y: &DeviceBuffer<u8>) -> Result<()> {
        let multiply: unsafe extern "C" fn(
            Handle,
            Handle,
            *const c_void,
            u64,
            Handle,
            u64,
            Handle,
            *const c_void,
            u64,
            Handle,
            u64,
            Handle,
            *const Heuristic,
            u64,
            usize,
            Handle,
        ) -> c_int = self.peer.symbol("cublasLtMatmul")?;
        let (one, zero) = if self.is_integer { (1u32, 0u32) } else { (1f32.to_bits(), 0) };
        let address = |buffer: &DeviceBuffer<u8>| buffer.allocation().address();
        let [w_layout, x_layout, y_layout] = self.layouts;
        // SAFETY: the documented signature; descriptions live as long as the library, operands until the stream got there
        // since freeing them waits, and scalars are read before the call returns.
        let code = unsafe {
            multiply(
                self.peer.handle,
                self.description,
                std::ptr::from_ref(&one).cast(),
                address(w),
                w_layout,
                address(x),
                x_layout,
                std::ptr::from_ref(&zero).cast(),
                address(y),
                y_layout,
                address(y),
                y_layout,
                &self.heuristic,
                address(&self.peer.workspace),
                WORKSPACE_BYTES,
                self.peer.stream.raw(),
            )
        };
        status("cublasLtMatmul", code)
    }
}

fn status(what: &'static str, code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(CudaError::Nvrtc { what, code }) }
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::env::var_os("JOULEWISE_CUBLASLT").map(PathBuf::from).into_iter().collect();
    for name in ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"] {
        found.push(name.into());
        found.push(PathBuf::from("/usr/local/cuda/lib64").join(name));
    }
    found
}
