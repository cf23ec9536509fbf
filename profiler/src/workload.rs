//! What is measured: one program of a model, with its inputs in place, that can be run whole, watched and replayed.
//!
//! The protocol ([`crate::experiment`]) sees only the trait; a session is one implementation, a simulated device of
//! known truth (in the tests) another.

use joulewise_engine::{
    ClockReading, Cost, ModuleId, ModuleKind, Observer, Op, Phase, Program, Repetition, Replay, Session,
    Sweeps, TokenBatch, WeightId,
};

use crate::ballast::Cache;
use crate::error::{ProfilerError, Result};
use crate::observer::ModuleTimes;

/// A module of the program, with what its steps cost by count.
#[derive(Clone, Debug)]
pub struct Part {
    /// The module.
    pub module: ModuleId,
    /// The checkpoint's own name.
    pub path: String,
    /// What it does.
    pub kind: ModuleKind,
    /// The layer it belongs to.
    pub block: Option<u32>,
    /// Number format of its matrices, `None` without any.
    pub format: Option<String>,
    /// Stored bytes of its matrices.
    pub weight_bytes: u64,
    /// Operations and traffic of one iteration.
    pub cost: Cost,
    /// Whether the device does it at once with the part before it, when it runs the whole program.
    pub is_joined: bool,
}

/// Shape of one iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadShape {
    /// What the run is for.
    pub phase: Phase,
    /// Sequences.
    pub batch: usize,
    /// New tokens per sequence.
    pub tokens: usize,
    /// Tokens that stand in the cache before the run.
    pub kv_length: usize,
}

/// Something whose modules can be measured.
pub trait Workload {
    /// Shape of one iteration.
    fn shape(&self) -> WorkloadShape;

    /// The modules that own steps, in program order.
    fn parts(&self) -> &[Part];

    /// Makes a module ready to be run over and over; [`ModuleId::ROOT`] is the whole program in one piece.
    ///
    /// # Errors
    /// When the module owns no step, or the device fails.
    fn repeat(&mut self, module: ModuleId) -> Result<Box<dyn Repeat + '_>>;

    /// Makes sets of modules ready to be run extra times behind each run of the whole program, or alone.
    ///
    /// # Errors
    /// When a module owns no step, the device has no room, or it fails.
    fn repetition(&mut self, sets: &[Vec<ModuleId>]) -> Result<Box<dyn Repeated + '_>>;

    /// The device's caches, as far as they are known.
    fn caches(&self) -> &[Cache] {
        &[]
    }

    /// Runs the whole program once, cut at modules, and records what each took.
    ///
    /// # Errors
    /// When the device fails.
    fn observe(&mut self, times: &mut ModuleTimes) -> Result<()>;
}

/// A module, or a whole program, that can be run over and over.
pub trait Repeat {
    /// Runs it so many times and returns the seconds that took, waiting included.
    ///
    /// # Errors
    /// When the device fails.
    fn run(&mut self, iterations: usize) -> Result<f64>;

    /// Reads the device's clock, where it can be read.
    ///
    /// # Errors
    /// When the device fails.
    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(None)
    }
}

impl Repeat for Replay<'_> {
    fn run(&mut self, iterations: usize) -> Result<f64> {
        Ok(Replay::run(self, iterations)?)
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(Replay::clock(self)?)
    }
}

/// A whole program with sets of modules that can be run extra times.
pub trait Repeated {
    /// Runs the whole program and then the sweeps, so many times; seconds that took, waiting included.
    ///
    /// # Errors
    /// When the device fails.
    fn run(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64>;

    /// Runs the sweeps alone.
    ///
    /// # Errors
    /// When the device fails.
    fn rotate(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64>;

    /// Reads the device's clock, where it can be read.
    ///
    /// # Errors
    /// When the device fails.
    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(None)
    }
}

impl Repeated for Repetition<'_> {
    fn run(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        Ok(Repetition::run(self, iterations, sweeps)?)
    }

    fn rotate(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        Ok(Repetition::rotate(self, iterations, sweeps)?)
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(Repetition::clock(self)?)
    }
}

/// The last program of a session.
///
/// Tokens are in place and the cache is filled before anything is measured; an iteration reads no input and hands out
/// no result.
pub struct SessionWorkload<'a> {
    session: &'a mut Session,
    shape: WorkloadShape,
    parts: Vec<Part>,
    caches: Vec<Cache>,
}

impl<'a> SessionWorkload<'a> {
    /// A whole batch without a cache.
    ///
    /// # Errors
    /// Those of [`Session::forward`].
    pub fn forward(session: &'a mut Session, batch: &TokenBatch) -> Result<Self> {
        session.forward(batch)?;
        Self::of_last_run(session)
    }

    /// A prompt into the cache.
    ///
    /// # Errors
    /// Those of [`Session::prefill`].
    pub fn prefill(session: &'a mut Session, prompt: &TokenBatch) -> Result<Self> {
        session.prefill(prompt)?;
        Self::of_last_run(session)
    }

    /// One token behind a prompt that fills the cache; the key-value length stays that of the prompt.
    ///
    /// # Errors
    /// Those of [`Session::prefill`] and [`Session::decode`].
    pub fn decode(session: &'a mut Session, prompt: &TokenBatch) -> Result<Self> {
        session.prefill(prompt)?;
        let last_tokens: Vec<u32> =
            prompt.ids().chunks_exact(prompt.tokens()).filter_map(|row| row.last().copied()).collect();
        session.decode(&last_tokens)?;
        Self::of_last_run(session)
    }

    fn of_last_run(session: &'a mut Session) -> Result<Self> {
        let program = session.last_program().cloned();
        let program = program.ok_or_else(|| ProfilerError::Protocol("nothing was run yet".to_owned()))?;
        let kv_length = session.last_kv_start();
        let key = program.key();
        let shape = WorkloadShape { phase: key.phase, batch: key.batch, tokens: key.tokens, kv_length };
        let joined = session.joined_modules();
        let is_joined = |module: ModuleId| joined.iter().any(|modules| modules[1..].contains(&module));
        let cuts = program.cuts(joulewise_engine::Granularity::Module).iter();
        let parts = cuts
            .map(|cut| Part {
                is_joined: is_joined(cut.module),
                ..part(&program, cut.module, cut.steps.clone(), kv_length)
            })
            .collect();
        Ok(SessionWorkload { session, shape, parts, caches: Vec::new() })
    }

    /// With the device's caches.
    #[must_use]
    pub fn with_caches(mut self, caches: Vec<Cache>) -> Self {
        self.caches = caches;
        self
    }
}

fn part(program: &Program, module: ModuleId, steps: std::ops::Range<usize>, kv_length: usize) -> Part {
    let description = program.graph().modules.get(module);
    let mut matrices: Vec<WeightId> =
        program.steps()[steps.clone()].iter().filter_map(|step| matrix(&step.op)).collect();
    matrices.sort_by_key(|weight| weight.index());
    matrices.dedup();
    let mut formats: Vec<&str> =
        matrices.iter().map(|&weight| program.weight_format(weight).name()).collect();
    formats.dedup();
    Part {
        module,
        path: description.path.clone(),
        kind: description.kind,
        block: description.block,
        format: (!formats.is_empty()).then(|| formats.join(" + ")),
        weight_bytes: matrices.iter().map(|&weight| program.weight_bytes(weight) as u64).sum(),
        cost: program.cost(steps, kv_length),
        is_joined: false,
    }
}

/// The matrix an operation multiplies with or looks up in: what a precision plan can change.
fn matrix(op: &Op) -> Option<WeightId> {
    match op {
        Op::Embed { table, .. } => Some(*table),
        Op::Linear { weight, .. } => Some(*weight),
        _ => None,
    }
}

impl Workload for SessionWorkload<'_> {
    fn shape(&self) -> WorkloadShape {
        self.shape
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn repeat(&mut self, module: ModuleId) -> Result<Box<dyn Repeat + '_>> {
        Ok(Box::new(self.session.replay(module)?))
    }

    fn repetition(&mut self, sets: &[Vec<ModuleId>]) -> Result<Box<dyn Repeated + '_>> {
        Ok(Box::new(self.session.repetition(sets)?))
    }

    fn caches(&self) -> &[Cache] {
        &self.caches
    }

    fn observe(&mut self, times: &mut ModuleTimes) -> Result<()> {
        self.session.observed(times as &mut dyn Observer).repeat()?;
        Ok(())
    }
}
