//! A queue of work for the device.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys;

use super::buffer::{Allocation, DeviceMemory};
use super::error::check;
use super::tensor_map::TensorMaps;
use super::{Context, DeviceBuffer, Event, Function, Graph, PinnedBuffer, Plain, Result};

/// Work on one stream runs in the order of submission.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    pub(super) stream: sys::CUstream,
    /// While capturing: the memory that launches use, and their number.
    captured: Mutex<Option<(Vec<Weak<Allocation>>, usize)>>,
}

// SAFETY: stream handles may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: the driver's functions on streams are thread-safe.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that does not wait for the default stream.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.bind()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: the context is current, `stream` is writable.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)
        })?;
        Ok(Self { context: context.clone(), stream, captured: Mutex::new(None) })
    }

    /// The device.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The driver's handle, for libraries that submit by themselves.
    pub(crate) fn raw(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Waits for everything submitted so far.
    ///
    /// # Errors
    /// When any of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the stream exists.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Has `event` stamped when everything submitted so far is done.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.context.bind()?;
        // SAFETY: both exist.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.event, self.stream) })
    }

    /// Submits a copy of `len` elements from the start of `from` to `to[start..]`. The caller leaves `from` alone until
    /// the stream got there.
    ///
    /// # Panics
    /// When either does not have as many elements.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn upload<T: Plain>(
        &self,
        from: &PinnedBuffer<T>,
        to: &DeviceBuffer<T>,
        start: usize,
        len: usize,
    ) -> Result<()> {
        assert!(len <= from.as_slice().len() && start + len <= to.len(), "copy of {len} elements");
        self.context.bind()?;
        // SAFETY: both ranges were checked above; freeing either waits for the device.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                to.address(start),
                from.as_slice().as_ptr().cast(),
                len * size_of::<T>(),
                self.stream,
            )
        })
    }

    /// Copies `len` elements from the start of `from` to the start of `to`, and waits for them.
    ///
    /// # Panics
    /// When either does not have as many elements.
    ///
    /// # Errors
    /// When the driver fails, or anything submitted before did.
    pub fn download<T: Plain>(
        &self,
        from: &DeviceBuffer<T>,
        to: &mut PinnedBuffer<T>,
        len: usize,
    ) -> Result<()> {
        assert!(len <= from.len() && len <= to.as_slice().len(), "copy of {len} elements");
        self.context.bind()?;
        // SAFETY: both ranges were checked above, and the copy is waited for while `to` is borrowed.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                to.as_mut_slice().as_mut_ptr().cast(),
                from.address(0),
                len * size_of::<T>(),
                self.stream,
            )
        })?;
        self.synchronize()
    }

    /// Captures what `body` launches on this stream instead of running it.
    ///
    /// # Errors
    /// Those of `body`, or of the driver.
    pub fn capture<E: From<super::CudaError>>(
        &self,
        body: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<Graph, E> {
        self.context.bind()?;
        // SAFETY: the stream exists. Other threads may go on calling the driver meanwhile.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(
                self.stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            )
        })?;
        *self.captured() = Some((Vec::new(), 0));
        let result = body();
        // Capturing ends even when the body failed: the stream would be unusable otherwise.
        let captured = self.captured().take();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is capturing, `graph` is writable.
        let code = unsafe { sys::cuStreamEndCapture(self.stream, &mut graph) };
        if let Err(error) = result {
            if !graph.is_null() {
                // SAFETY: nobody else has the graph.
                let _ = unsafe { sys::cuGraphDestroy(graph) };
            }
            return Err(error);
        }
        check("cuStreamEndCapture", code)?;
        let (mut memory, launches) = captured.unwrap_or_default();
        memory.sort_by_key(Weak::as_ptr);
        memory.dedup_by_key(|memory| memory.as_ptr());
        Ok(Graph::instantiate(&self.context, graph, memory, launches)?)
    }

    fn captured(&self) -> std::sync::MutexGuard<'_, Option<(Vec<Weak<Allocation>>, usize)>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: created once, destroyed once.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

/// Most arguments of a kernel.
const MAX_ARGUMENTS: usize = 56;

/// An argument with exactly the width of its C type.
enum Argument {
    Word(u64),
    Maps(Box<TensorMaps>),
}

/// One launch being put together, arguments in the kernel's order.
pub(crate) struct Launch<'a> {
    stream: &'a Stream,
    function: Function,
    arguments: Vec<Argument>,
    memory: Vec<Weak<Allocation>>,
    is_capturing: bool,
    cluster: usize,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(stream: &'a Stream, function: Function) -> Self {
        let is_capturing = stream.captured().is_some();
        let arguments = Vec::with_capacity(MAX_ARGUMENTS);
        Self { stream, function, arguments, memory: Vec::new(), is_capturing, cluster: 1 }
    }

    fn push(mut self, value: u64) -> Self {
        self.arguments.push(Argument::Word(value));
        self
    }

    /// A pointer to byte `offset` of memory.
    pub(crate) fn memory(mut self, memory: &dyn DeviceMemory, offset: usize) -> Self {
        if self.is_capturing {
            self.memory.push(Arc::downgrade(memory.allocation()));
        }
        self.push(memory.allocation().address + offset as u64)
    }

    /// A pointer to element `offset`.
    pub(crate) fn buffer<T: Plain>(self, buffer: &DeviceBuffer<T>, offset: usize) -> Self {
        self.memory(buffer, offset * size_of::<T>())
    }

    /// A pointer to the start of a buffer, or null.
    pub(crate) fn optional<T: Plain>(self, buffer: Option<&DeviceBuffer<T>>) -> Self {
        match buffer {
            Some(buffer) => self.buffer(buffer, 0),
            None => self.push(0),
        }
    }

    /// No pointer.
    pub(crate) fn null(self) -> Self {
        self.push(0)
    }

    /// A 32-bit number. Sizes beyond it were refused before.
    pub(crate) fn int(self, value: usize) -> Self {
        self.push(u64::from(value as u32))
    }

    /// A 64-bit number.
    pub(crate) fn long(self, value: usize) -> Self {
        self.push(value as u64)
    }

    pub(crate) fn float(self, value: f32) -> Self {
        self.push(u64::from(value.to_bits()))
    }

    /// Where the copy engine finds operands; the memory they describe is `memory`.
    pub(crate) fn maps(mut self, maps: Box<TensorMaps>, memory: &[&dyn DeviceMemory]) -> Self {
        if self.is_capturing {
            self.memory.extend(memory.iter().map(|memory| Arc::downgrade(memory.allocation())));
        }
        self.arguments.push(Argument::Maps(maps));
        self
    }

    /// So many neighbouring blocks run at the same time and read each other's shared memory, if more than one; for kernels
    /// of compute capability 9.0 that do not say themselves. The grid's width is a multiple.
    pub(crate) fn cluster(mut self, blocks: usize) -> Self {
        self.cluster = blocks;
        self
    }

    /// Submits the launch.
    ///
    /// `overlaps` lets the kernel start before those in front of it are done; it then waits by itself before it
    /// touches anything they write. Ignored by devices that cannot.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, order and width, and with them the kernel stays within the
    /// buffers.
    pub(crate) unsafe fn submit(
        mut self,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        overlaps: bool,
    ) -> Result<()> {
        self.stream.context.bind()?;
        let mut pointers: Vec<*mut c_void> = self
            .arguments
            .iter_mut()
            .map(|argument| match argument {
                Argument::Word(word) => std::ptr::from_mut(word).cast(),
                Argument::Maps(maps) => std::ptr::from_mut(&mut **maps).cast(),
            })
            .collect();
        let mut attributes = Vec::with_capacity(2);
        if overlaps && self.stream.context.compute_capability() >= (9, 0) {
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            });
        }
        if self.cluster > 1 {
            let size = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.cluster as u32, y: 1, z: 1 };
            attributes.push(sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { clusterDim: size },
            });
        }
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0] as u32,
            gridDimY: grid[1] as u32,
            gridDimZ: grid[2] as u32,
            blockDimX: threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes as u32,
            hStream: self.stream.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: arguments and attributes live until the call returns, which copies them; the caller vouches for the rest.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernelEx(
                &config,
                self.function.function,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })?;
        if let Some((memory, launches)) = self.stream.captured().as_mut() {
            memory.append(&mut self.memory);
            *launches += 1;
        }
        Ok(())
    }
}
