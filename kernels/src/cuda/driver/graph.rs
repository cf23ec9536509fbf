//! Launches that were captured once and are submitted as one.

use std::sync::{Arc, Weak};

use cudarc::driver::sys;

use super::buffer::Allocation;
use super::error::check;
use super::{Context, CudaError, Result, Stream};

/// A captured sequence of launches.
///
/// It does not keep the memory alive that the launches use, but remembers it, and refuses to run when some of it is
/// gone: a cache that was replaced is freed at once, not when the last graph that knew it goes. The modules whose code it
/// runs have to outlive it: whoever keeps a graph keeps the kernels it was captured with.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
    memory: Vec<Weak<Allocation>>,
    launches: usize,
}

// SAFETY: a graph may be launched from any thread as long as no two do so at once; launching takes `&mut self`.
unsafe impl Send for Graph {}

impl Graph {
    pub(super) fn instantiate(
        context: &Arc<Context>,
        graph: sys::CUgraph,
        memory: Vec<Weak<Allocation>>,
        launches: usize,
    ) -> Result<Self> {
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just captured, `executable` is writable.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        // SAFETY: the template is not needed once it is instantiated, and nobody else has it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check("cuGraphInstantiate", code)?;
        Ok(Self { context: context.clone(), executable, memory, launches })
    }

    /// Number of launches inside.
    pub fn launches(&self) -> usize {
        self.launches
    }

    /// Submits all of it.
    ///
    /// # Errors
    /// [`CudaError::StaleGraph`] when memory it uses was freed.
    pub fn launch(&mut self, stream: &Stream) -> Result<()> {
        if self.memory.iter().any(|memory| memory.strong_count() == 0) {
            return Err(CudaError::StaleGraph);
        }
        self.context.bind()?;
        // SAFETY: the graph is instantiated, and all memory it touches is alive; who frees it later waits first.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.executable, stream.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: instantiated once, destroyed once, and not running any more.
        let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}
