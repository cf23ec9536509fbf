//! Compiled kernels on the device.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock};

use cudarc::driver::sys;

use super::error::check;
use super::{Context, Result};

/// A kernel.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub(super) function: sys::CUfunction,
}

// SAFETY: function handles may be used from any thread while their module is loaded.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// A file of kernels, loaded.
#[derive(Debug)]
pub struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
    functions: RwLock<HashMap<String, Function>>,
}

// SAFETY: module handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: the driver's functions on modules are thread-safe.
unsafe impl Sync for Module {}

impl Module {
    /// Loads machine code made for exactly this device.
    ///
    /// # Errors
    /// When the driver does not take the code.
    pub fn load(context: &Arc<Context>, cubin: &[u8]) -> Result<Self> {
        context.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the driver reads the image's own header for its length; it comes from the compiler, or from the cache
        // with its checksum verified.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()) })?;
        Ok(Self { context: context.clone(), module, functions: RwLock::default() })
    }

    /// The kernel of this name, able to use as much shared memory as the device has.
    ///
    /// # Errors
    /// When there is none.
    pub fn function(&self, name: &str) -> Result<Function> {
        let known = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = known.get(name) {
            return Ok(*function);
        }
        drop(known);
        self.context.bind()?;
        let c_name = CString::new(name).unwrap_or_default();
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with a zero, `function` is writable.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&mut function, self.module, c_name.as_ptr())
        })?;
        let mut fixed_bytes = 0;
        // SAFETY: the function exists, `fixed_bytes` is writable.
        check("cuFuncGetAttribute", unsafe {
            sys::cuFuncGetAttribute(
                &mut fixed_bytes,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                function,
            )
        })?;
        let dynamic_bytes = self.context.shared_memory_bytes() as i32 - fixed_bytes;
        // SAFETY: the function exists; static and dynamic memory together stay within the device's limit.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(
                function,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                dynamic_bytes,
            )
        })?;
        let function = Function { function };
        self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), function);
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: loaded once, unloaded once, and none of its kernels is running.
        let _ = unsafe { sys::cuModuleUnload(self.module) };
    }
}
