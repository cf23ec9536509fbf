//! A device that runs modules of known duration and power, as a workload.
//!
//! Its power over time is written down ahead: a run of so many iterations takes exactly their time on the device,
//! however late the test's own thread wakes up. What the thread oversleeps, the device idles. Under a simulated clock
//! nobody oversleeps. It may have a cache, in which weights stay warm that come round soon enough.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use joulewise_engine::{ClockReading, Cost, ModuleId, ModuleKind, Phase, Span, Sweeps};
use joulewise_profiler::Result;
use joulewise_profiler::ballast::Cache;
use joulewise_profiler::clock::SimulatedClock;
use joulewise_profiler::meter::EnergyMeter;
use joulewise_profiler::observer::ModuleTimes;
use joulewise_profiler::sensor::simulated::{SimulatedDevice, SimulatedSensor};
use joulewise_profiler::workload::{Part, Repeat, Repeated, Workload, WorkloadShape};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_pcg::Pcg64;

/// What the device draws between runs.
pub(crate) const IDLE_W: f64 = 1.0;

/// A module: path, kind, layer, seconds, watts.
pub(crate) type Module = (&'static str, ModuleKind, Option<u32>, f64, f64);

/// Modules whose power differs, so that shares of time and of energy differ too.
pub(crate) const MODULES: &[Module] = &[
    ("embed", ModuleKind::Embedding, None, 0.5e-3, 10.0),
    ("layer.0.attn", ModuleKind::Attention, Some(0), 1.0e-3, 20.0),
    ("layer.0.mlp", ModuleKind::MlpUp, Some(0), 2.0e-3, 60.0),
    ("layer.1.attn", ModuleKind::Attention, Some(1), 1.0e-3, 20.0),
    ("layer.1.mlp", ModuleKind::MlpUp, Some(1), 2.0e-3, 60.0),
    ("layer.2.attn", ModuleKind::Attention, Some(2), 1.0e-3, 20.0),
    ("layer.2.mlp", ModuleKind::MlpUp, Some(2), 2.0e-3, 60.0),
    ("layer.3.attn", ModuleKind::Attention, Some(3), 1.0e-3, 20.0),
    ("layer.3.mlp", ModuleKind::MlpUp, Some(3), 2.0e-3, 60.0),
    ("head", ModuleKind::Head, None, 1.0e-3, 40.0),
];

/// Joules of one iteration: 5 + 4 * (20 + 120) + 40 mJ.
pub(crate) const WHOLE_J: f64 = 0.605;
/// Seconds of one iteration.
pub(crate) const WHOLE_S: f64 = 13.5e-3;

/// A decoder whose modules read 100 kB of weights each, 1.7 MB in all.
pub(crate) const DECODER: &[Module] = &[
    ("h.0.qkv", ModuleKind::QkvProjection, Some(0), 1.0e-3, 40.0),
    ("h.0.out", ModuleKind::OutputProjection, Some(0), 1.0e-3, 30.0),
    ("h.0.up", ModuleKind::MlpUp, Some(0), 1.0e-3, 80.0),
    ("h.0.down", ModuleKind::MlpDown, Some(0), 1.0e-3, 70.0),
    ("h.1.qkv", ModuleKind::QkvProjection, Some(1), 1.0e-3, 40.0),
    ("h.1.out", ModuleKind::OutputProjection, Some(1), 1.0e-3, 30.0),
    ("h.1.up", ModuleKind::MlpUp, Some(1), 1.0e-3, 80.0),
    ("h.1.down", ModuleKind::MlpDown, Some(1), 1.0e-3, 70.0),
    ("h.2.qkv", ModuleKind::QkvProjection, Some(2), 1.0e-3, 40.0),
    ("h.2.out", ModuleKind::OutputProjection, Some(2), 1.0e-3, 30.0),
    ("h.2.up", ModuleKind::MlpUp, Some(2), 1.0e-3, 80.0),
    ("h.2.down", ModuleKind::MlpDown, Some(2), 1.0e-3, 70.0),
    ("h.3.qkv", ModuleKind::QkvProjection, Some(3), 1.0e-3, 40.0),
    ("h.3.out", ModuleKind::OutputProjection, Some(3), 1.0e-3, 30.0),
    ("h.3.up", ModuleKind::MlpUp, Some(3), 1.0e-3, 80.0),
    ("h.3.down", ModuleKind::MlpDown, Some(3), 1.0e-3, 70.0),
    ("head", ModuleKind::Head, None, 2.0e-3, 40.0),
];

/// A meter that makes no errors, so that what is left is the method's.
pub(crate) fn exact_meter(clock: &Arc<SimulatedClock>, device: &SimulatedDevice) -> EnergyMeter {
    let sensor = SimulatedSensor::counter(device, 1e-3).named("counter", 0.0);
    EnergyMeter::simulated(clock, vec![Box::new(sensor)])
}

/// The modules as a workload on a device.
pub(crate) struct SimulatedWorkload {
    device: SimulatedDevice,
    modules: Vec<Module>,
    parts: Vec<Part>,
    /// What everything draws more at a time, relative to what it should.
    drift: Box<dyn Fn(f64) -> f64>,
    idle_w: f64,
    /// What it has, and what it says of it.
    cache_bytes: f64,
    caches: Vec<Cache>,
    /// Seconds that a module takes longer where the program is cut around it.
    cut_s: Box<dyn Fn(&str) -> f64>,
    /// Seconds of a module's start that are over before one of its kind in front of it has ended.
    overlap_s: f64,
    wandering: Option<Wandering>,
}

/// A clock that is another in each trial.
pub(crate) struct Wandering {
    /// Clocks it may be at, relative to the one at rest.
    pub(crate) clocks: Vec<f64>,
    /// What energy and time change by for each 1 that the clock changes by.
    pub(crate) energy_effect: f64,
    pub(crate) time_effect: f64,
    /// Whether the device tells.
    pub(crate) is_told: bool,
    random: RefCell<Pcg64>,
    /// Cycles that were counted more than a clock that stays would have.
    excess: Cell<f64>,
}

impl Wandering {
    pub(crate) fn new(
        clocks: &[f64],
        energy_effect: f64,
        time_effect: f64,
        is_told: bool,
        seed: u64,
    ) -> Self {
        let random = RefCell::new(Pcg64::seed_from_u64(seed));
        let clocks = clocks.to_vec();
        Wandering { clocks, energy_effect, time_effect, is_told, random, excess: Cell::new(0.0) }
    }
}

/// The clock at rest.
pub(crate) const CLOCK_HZ: f64 = 1e9;

/// What a module takes with warm weights, of its seconds with cold ones.
const WARM: f64 = 0.4;

impl SimulatedWorkload {
    pub(crate) fn new(device: &SimulatedDevice) -> Self {
        SimulatedWorkload::of(device, MODULES)
    }

    pub(crate) fn of(device: &SimulatedDevice, modules: &[Module]) -> Self {
        let part = |(index, (path, kind, block, ..)): (usize, &Module)| Part {
            module: ModuleId(index as u32 + 1),
            path: (*path).to_owned(),
            kind: *kind,
            block: *block,
            format: Some("f32".to_owned()),
            weight_bytes: 1000,
            cost: Cost { flops: 1e6, bytes_read: 2e5, bytes_written: 1e5, weight_bytes: 1e5 },
            is_joined: false,
        };
        SimulatedWorkload {
            device: device.clone(),
            modules: modules.to_vec(),
            parts: modules.iter().enumerate().map(part).collect(),
            drift: Box::new(|_| 0.0),
            idle_w: device.power_w(device.clock().now_s()),
            cache_bytes: 0.0,
            caches: Vec::new(),
            cut_s: Box::new(|_| 0.0),
            overlap_s: 0.0,
            wandering: None,
        }
    }

    /// On a device that does more of a module where the program is cut around it, by so many seconds.
    pub(crate) fn costing_more_cut(mut self, cut_s: impl Fn(&str) -> f64 + 'static) -> Self {
        self.cut_s = Box::new(cut_s);
        self
    }

    /// On a device with a cache that tells `caches` of itself.
    pub(crate) fn caching(mut self, cache_bytes: f64, caches: &[Cache]) -> Self {
        self.cache_bytes = cache_bytes;
        self.caches = caches.to_vec();
        self
    }

    /// On a device where a module begins so many seconds before one of its kind in front of it has ended.
    pub(crate) fn overlapping(mut self, overlap_s: f64) -> Self {
        self.overlap_s = overlap_s;
        self
    }

    /// On a device whose clock wanders.
    pub(crate) fn wandering(mut self, wandering: Wandering) -> Self {
        self.wandering = Some(wandering);
        self
    }

    /// Each module reads so many bytes of weights, and nothing else.
    pub(crate) fn weighing(mut self, bytes: impl Fn(&str) -> f64) -> Self {
        for part in &mut self.parts {
            let weight_bytes = bytes(&part.path);
            part.cost =
                Cost { flops: weight_bytes, bytes_read: weight_bytes, bytes_written: 0.0, weight_bytes };
            part.weight_bytes = weight_bytes as u64;
        }
        self
    }

    /// On a device that does some modules at once with the one before them.
    pub(crate) fn joining(mut self, is_joined: impl Fn(&str) -> bool) -> Self {
        for part in &mut self.parts {
            part.is_joined = is_joined(&part.path);
        }
        self
    }

    /// On a device whose power drifts.
    pub(crate) fn drifting(mut self, drift: impl Fn(f64) -> f64 + 'static) -> Self {
        self.drift = Box::new(drift);
        self
    }

    /// Seconds and watts of modules that go round and round. A module's weights are warm to the share that a cache keeps
    /// of what was read since its last run: all up to half the cache, none from one and a half times the cache on.
    fn pattern(&self, modules: impl IntoIterator<Item = ModuleId>) -> Vec<(f64, f64)> {
        let modules: Vec<usize> = modules.into_iter().map(|ModuleId(id)| id as usize - 1).collect();
        let bytes = |module: usize| self.parts[module].cost.weight_bytes;
        let of = |(place, &module): (usize, &usize)| {
            let (.., duration_s, power_w) = self.modules[module];
            let since = modules[..place].iter().rev().chain(modules[place..].iter().rev());
            let read: f64 = since.take_while(|&&other| other != module).map(|&other| bytes(other)).sum();
            let read = (read + bytes(module)) / self.cache_bytes;
            let has_cache = self.cache_bytes > 0.0 && bytes(module) > 0.0;
            let is_cold = if has_cache { (read - 0.5).clamp(0.0, 1.0) } else { 1.0 };
            let before = modules[(place + modules.len() - 1) % modules.len()];
            let is_behind_its_like = self.modules[before].1 == self.modules[module].1;
            let hidden_s = if is_behind_its_like { self.overlap_s } else { 0.0 };
            (duration_s * (WARM + (1.0 - WARM) * is_cold) - hidden_s, power_w)
        };
        modules.iter().enumerate().map(of).collect()
    }

    fn all(&self) -> impl Iterator<Item = ModuleId> + use<> {
        (1..=self.modules.len() as u32).map(ModuleId)
    }

    /// The clock of the next trial.
    fn next_clock(&self) -> f64 {
        let of =
            |wandering: &Wandering| wandering.clocks.choose(&mut *wandering.random.borrow_mut()).copied();
        self.wandering.as_ref().and_then(of).unwrap_or(1.0)
    }

    fn read_clock(&self) -> Option<ClockReading> {
        let wandering = self.wandering.as_ref().filter(|wandering| wandering.is_told)?;
        let now_s = self.device.clock().now_s();
        let cycles = (CLOCK_HZ * (now_s + wandering.excess.get())) as u64;
        Some(ClockReading { cycles, time_ns: (now_s * 1e9) as u64 })
    }

    /// Runs modules one behind the other, over and over, at a clock.
    fn run_at(&self, clock: f64, iterations: usize, pattern: &[(f64, f64)]) -> f64 {
        let Some(wandering) = &self.wandering else { return self.run(iterations, pattern) };
        let time = 1.0 + wandering.time_effect * (clock - 1.0);
        let power = (1.0 + wandering.energy_effect * (clock - 1.0)) / time;
        let changed = pattern.iter().map(|(duration_s, power_w)| (duration_s * time, power_w * power));
        let run_s = self.run(iterations, &changed.collect::<Vec<_>>());
        wandering.excess.set(wandering.excess.get() + (clock - 1.0) * run_s);
        run_s
    }

    /// Runs modules one behind the other, over and over.
    fn run(&self, iterations: usize, pattern: &[(f64, f64)]) -> f64 {
        let clock = self.device.clock();
        let start_s = clock.now_s();
        let period_s: f64 = pattern.iter().map(|(duration_s, _)| duration_s).sum();
        let end_s = start_s + iterations as f64 * period_s;
        let gain = 1.0 + (self.drift)((start_s + end_s) / 2.0);
        let drifted: Vec<_> =
            pattern.iter().map(|(duration_s, power_w)| (*duration_s, power_w * gain)).collect();
        self.device.run_at(start_s, &drifted);
        self.device.set_power_at(end_s, self.idle_w);
        while clock.now_s() < end_s {
            clock.wait_until(end_s);
        }
        end_s - start_s
    }
}

struct Loop<'a> {
    workload: &'a SimulatedWorkload,
    clock: f64,
    pattern: Vec<(f64, f64)>,
}

impl Repeat for Loop<'_> {
    fn run(&mut self, iterations: usize) -> Result<f64> {
        Ok(self.workload.run_at(self.clock, iterations, &self.pattern))
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(self.workload.read_clock())
    }
}

struct Sets<'a> {
    workload: &'a SimulatedWorkload,
    clock: f64,
    sets: Vec<Vec<ModuleId>>,
}

impl Sets<'_> {
    /// Sets together and in program order, as an engine sweeps them.
    fn swept(&self, sweeps: &[Sweeps]) -> Vec<ModuleId> {
        let most = sweeps.iter().map(|sweeps| sweeps.count).max().unwrap_or(0);
        let turn = |turn: usize| {
            let swept = sweeps.iter().filter(|sweeps| turn < sweeps.count);
            let mut modules: Vec<ModuleId> = swept.flat_map(|sweeps| self.sets[sweeps.set].clone()).collect();
            modules.sort_by_key(|module| module.index());
            modules
        };
        (0..most).flat_map(turn).collect()
    }
}

impl Repeated for Sets<'_> {
    fn run(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        let modules = self.workload.all().chain(self.swept(sweeps));
        Ok(self.workload.run_at(self.clock, iterations, &self.workload.pattern(modules)))
    }

    fn rotate(&mut self, iterations: usize, sweeps: &[Sweeps]) -> Result<f64> {
        Ok(self.workload.run_at(self.clock, iterations, &self.workload.pattern(self.swept(sweeps))))
    }

    fn clock(&mut self) -> Result<Option<ClockReading>> {
        Ok(self.workload.read_clock())
    }
}

impl Workload for SimulatedWorkload {
    fn shape(&self) -> WorkloadShape {
        WorkloadShape { phase: Phase::Prefill, batch: 2, tokens: 5, kv_length: 0 }
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn repeat(&mut self, module: ModuleId) -> Result<Box<dyn Repeat + '_>> {
        let pattern = match module {
            ModuleId::ROOT => self.pattern(self.all()),
            module => self.pattern([module]),
        };
        Ok(Box::new(Loop { workload: self, clock: self.next_clock(), pattern }))
    }

    fn caches(&self) -> &[Cache] {
        &self.caches
    }

    fn repetition(&mut self, sets: &[Vec<ModuleId>]) -> Result<Box<dyn Repeated + '_>> {
        Ok(Box::new(Sets { workload: self, clock: self.next_clock(), sets: sets.to_vec() }))
    }

    fn observe(&mut self, times: &mut ModuleTimes) -> Result<()> {
        let pattern = self.pattern(self.all()).into_iter().zip(&self.parts);
        let pattern: Vec<(f64, f64)> =
            pattern.map(|((run_s, power_w), part)| (run_s + (self.cut_s)(&part.path), power_w)).collect();
        self.run(1, &pattern);
        let mut start_s = 0.0;
        let spans = pattern.iter().zip(&self.parts).map(|((duration_s, _), part)| {
            let span = Span { module: part.module, steps: 0..1, start_s, duration_s: *duration_s };
            start_s += duration_s;
            span
        });
        times.record(&spans.collect::<Vec<_>>());
        Ok(())
    }
}
