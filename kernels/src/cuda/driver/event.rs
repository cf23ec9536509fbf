//! Points in time on the device.

use std::sync::Arc;

use cudarc::driver::sys;

use super::error::check;
use super::{Context, Result};

/// A time stamp that a stream records when it gets there.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    pub(super) event: sys::CUevent,
}

// SAFETY: event handles may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: the driver's functions on events are thread-safe.
unsafe impl Sync for Event {}

impl Event {
    /// An event that was not recorded yet.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: the context is current, `event` is writable.
        check("cuEventCreate", unsafe {
            sys::cuEventCreate(&mut event, sys::CUevent_flags::CU_EVENT_DEFAULT as u32)
        })?;
        Ok(Self { context: context.clone(), event })
    }

    /// Waits until the stream got there.
    ///
    /// # Errors
    /// When something submitted before it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event exists.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.event) })
    }

    /// Seconds from `earlier` to this event, both recorded; waits for this one.
    ///
    /// # Errors
    /// When one of them was not recorded, or something submitted before them failed.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        self.synchronize()?;
        earlier.synchronize()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events exist, `milliseconds` is writable.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime(&mut milliseconds, earlier.event, self.event)
        })?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: created once, destroyed once; the driver waits if it is being recorded.
        let _ = unsafe { sys::cuEventDestroy_v2(self.event) };
    }
}
