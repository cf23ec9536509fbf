//! One device and its primary context.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute};

use super::error::check;
use super::{CudaError, Result};

/// A device that is open. Buffers, streams and modules keep it open.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    index: usize,
    name: String,
    compute_capability: (i32, i32),
    multiprocessors: usize,
    shared_memory_bytes: usize,
    l2_bytes: usize,
    driver_version: i32,
}

// SAFETY: a context handle may be made current in any thread, and the driver's functions are thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above; the other fields are never changed.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a device.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::DriverTooOld`], [`CudaError::NoDevice`], [`CudaError::DeviceTooOld`].
    pub fn new(index: usize) -> Result<Arc<Self>> {
        let driver_version = Self::start_driver()?;
        let mut count = 0;
        // SAFETY: the driver is started, `count` is writable.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
        if index >= count as usize {
            return Err(CudaError::NoDevice { index, count: count as usize });
        }
        let mut device = 0;
        // SAFETY: the index is in range, `device` is writable.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, index as i32) })?;
        let attribute = |attribute| -> Result<i32> {
            let mut value = 0;
            // SAFETY: the device exists, `value` is writable.
            check("cuDeviceGetAttribute", unsafe {
                sys::cuDeviceGetAttribute(&mut value, attribute, device)
            })?;
            Ok(value)
        };
        use CUdevice_attribute as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared_memory_bytes =
            attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        let l2_bytes = attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
        let name = cudarc::driver::result::device::get_name(device)
            .map_err(|error| CudaError::driver("cuDeviceGetName", error.0))?;
        if (major, minor) < (7, 5) {
            return Err(CudaError::DeviceTooOld { name, major, minor });
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: the device exists, `context` is writable; `drop` releases what is retained here.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        Ok(Arc::new(Self {
            device,
            context,
            index,
            name,
            compute_capability: (major, minor),
            multiprocessors,
            shared_memory_bytes,
            l2_bytes,
            driver_version,
        }))
    }

    /// Loads and starts the driver: its version.
    fn start_driver() -> Result<i32> {
        // SAFETY: opens the driver's library, whose initialisers are harmless.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let mut version = 0;
        // SAFETY: the library is there, `version` is writable.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        if version < 12_000 {
            return Err(CudaError::DriverTooOld { got: version });
        }
        // SAFETY: the library is there; the only valid flag is 0.
        match unsafe { sys::cuInit(0) } {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => Err(CudaError::NoDevice { index: 0, count: 0 }),
            // A driver library without its kernel module, as in a container without a GPU.
            sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | sys::CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
                Err(CudaError::NoDriver)
            }
            code => check("cuInit", code).map(|()| version),
        }
    }

    /// Makes this the context of the calling thread; every method that calls the driver does so first.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Waits for everything that was submitted to the device.
    ///
    /// # Errors
    /// When any of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the context is current.
        check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }

    /// Number of the device, as `nvidia-smi` may or may not order them.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Name of the device, e.g. `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Major and minor compute capability.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Shared memory that one block can have.
    pub fn shared_memory_bytes(&self) -> usize {
        self.shared_memory_bytes
    }

    /// Size of the second-level cache.
    pub fn l2_bytes(&self) -> usize {
        self.l2_bytes
    }

    /// 1000 * major + 10 * minor of the newest CUDA the driver speaks.
    pub fn driver_version(&self) -> i32 {
        self.driver_version
    }

    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn memory_bytes(&self) -> Result<(usize, usize)> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current, both are writable.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `new`, released once. Nothing can be done about an error here.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
