//! Memory of the device, and memory of the host that the device can reach.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys;

use super::error::check;
use super::{Context, CudaError, Result};

/// Element types that are plain bytes on both sides.
pub trait Plain: bytemuck::Pod + std::fmt::Debug + Send + Sync {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for half::f16 {}

/// Device memory of any element type.
pub trait DeviceMemory: std::fmt::Debug + Sync + sealed::Sealed {
    /// Bytes of the elements.
    fn size_bytes(&self) -> usize;

    #[doc(hidden)]
    fn allocation(&self) -> &Arc<Allocation>;
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for super::DeviceBuffer<T> {}
}

impl<T: Plain> DeviceMemory for DeviceBuffer<T> {
    fn size_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }
}

/// Kernels may read up to a vector behind the last element; an allocation is padded by this much.
const PADDING_BYTES: usize = 256;

/// Device memory that is freed when the last reference goes.
#[derive(Debug)]
pub struct Allocation {
    context: Arc<Context>,
    pub(super) address: sys::CUdeviceptr,
}

impl Allocation {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Kernels that were submitted may still be using the memory.
        let _ = self.context.synchronize();
        // SAFETY: allocated once, freed once, and nothing submitted uses it any more.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// `len` elements on the device.
///
/// Device memory is only ever touched by what streams submit, so a shared reference is enough to have it written.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    pub(super) allocation: Arc<Allocation>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> DeviceBuffer<T> {
    /// Zeroed memory.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn zeros(context: &Arc<Context>, len: usize) -> Result<Self> {
        context.bind()?;
        let size_bytes = len * size_of::<T>() + PADDING_BYTES;
        let mut address = 0;
        // SAFETY: the context is current, `address` is writable.
        match unsafe { sys::cuMemAlloc_v2(&mut address, size_bytes) } {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let available_bytes = context.memory_bytes()?.0;
                return Err(CudaError::OutOfMemory { needed_bytes: size_bytes, available_bytes });
            }
            code => check("cuMemAlloc", code)?,
        }
        let allocation = Arc::new(Allocation { context: context.clone(), address });
        // SAFETY: the range was just allocated.
        check("cuMemsetD8", unsafe { sys::cuMemsetD8_v2(address, 0, size_bytes) })?;
        // The memset runs on the default stream, which other streams do not wait for.
        context.synchronize()?;
        Ok(Self { allocation, len, element: PhantomData })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn from_slice(context: &Arc<Context>, values: &[T]) -> Result<Self> {
        let buffer = Self::zeros(context, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the elements.
    pub fn size_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    pub(super) fn address(&self, offset: usize) -> u64 {
        self.allocation.address + (offset * size_of::<T>()) as u64
    }

    /// Overwrites elements from `start` on; waits until that is done, but not for other streams.
    ///
    /// # Panics
    /// When the elements do not fit.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn write(&self, start: usize, values: &[T]) -> Result<()> {
        assert!(start + values.len() <= self.len, "{} elements at {start} of {}", values.len(), self.len);
        if values.is_empty() {
            return Ok(());
        }
        self.allocation.context.bind()?;
        // SAFETY: the range was checked above; a copy from pageable memory returns when the source was read.
        check("cuMemcpyHtoD", unsafe {
            sys::cuMemcpyHtoD_v2(self.address(start), values.as_ptr().cast(), size_of_val(values))
        })?;
        // SAFETY: the context is current; a pageable copy may still be on its way to the device on the default stream.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(std::ptr::null_mut()) })
    }

    /// Copies elements from `start` on to the host, after everything that was submitted to any stream.
    ///
    /// # Panics
    /// When there are not as many elements.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn read(&self, start: usize, out: &mut [T]) -> Result<()> {
        assert!(start + out.len() <= self.len, "{} elements at {start} of {}", out.len(), self.len);
        self.allocation.context.synchronize()?;
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: the range was checked above, and any bytes are a valid `T`.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), self.address(start), size_of_val(out))
        })
    }
}

/// Host memory that the device copies from and to without a detour.
#[derive(Debug)]
pub struct PinnedBuffer<T> {
    context: Arc<Context>,
    pointer: *mut T,
    len: usize,
}

// SAFETY: the memory belongs to this value alone; `T` is plain.
unsafe impl<T: Plain> Send for PinnedBuffer<T> {}
// SAFETY: shared references only read.
unsafe impl<T: Plain> Sync for PinnedBuffer<T> {}

impl<T: Plain> PinnedBuffer<T> {
    /// Zeroed memory.
    ///
    /// # Errors
    /// When the host cannot pin as much.
    pub fn zeros(context: &Arc<Context>, len: usize) -> Result<Self> {
        context.bind()?;
        let mut pointer = std::ptr::null_mut();
        let size_bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current, `pointer` is writable. Without flags the memory is cached, so that the host
        // can read it fast.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut pointer, size_bytes, 0) })?;
        // SAFETY: `size_bytes` were just allocated.
        unsafe { pointer.cast::<u8>().write_bytes(0, size_bytes) };
        Ok(Self { context: context.clone(), pointer: pointer.cast(), len })
    }

    /// The elements. The caller has waited for copies into them.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised elements, valid as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }

    /// The elements, for writing. The caller has waited for copies out of them.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        // Copies that were submitted may still be using the memory.
        let _ = self.context.synchronize();
        // SAFETY: allocated once, freed once, and no copy uses it any more.
        let _ = unsafe { sys::cuMemFreeHost(self.pointer.cast()) };
    }
}
