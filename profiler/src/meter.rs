//! The energy meter: a set of sensors, sampled by a thread of its own, and windows over them.
//!
//! ```no_run
//! use joulewise_profiler::meter::EnergyMeter;
//! use joulewise_profiler::sensor::{SearchPaths, discover};
//!
//! let meter = EnergyMeter::start(discover(&SearchPaths::default()).sensors);
//! let window = meter.begin();
//! // ... work ...
//! let measurement = meter.end(window);
//! for reading in &measurement.readings {
//!     let _ = (&reading.sensor, reading.energy_j, reading.provenance);
//! }
//! ```
//! A window is two moments and no more: windows may nest and overlap, and a window can be asked for again later, when
//! a slow sensor has told what it had not told yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::{Clock, Follower, SimulatedClock, WallClock};
use crate::conditions::{Look, Watch};
use crate::energy::{Energy, EnergyReading, Provenance, UPDATES_MEASURED};
use crate::error::Result;
use crate::marker::MarkerLine;
use crate::process;
use crate::sensor::{Reading, Scope, Sensor, SensorInfo, SensorKind};
use crate::statistics::Z95;
use crate::trace::{Trace, WindowEnergy};

/// How long a sensor that fails is left alone.
const RETRY_S: f64 = 1.0;
/// Share of a slow counter's period for which it is left alone after a change.
const QUIET_SHARE: f64 = 0.85;
/// What a logger may take to write a row, beyond its period.
const SETTLE_S: f64 = 0.2;

/// Which part of the machine does the work, and thus whose joules are the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeteredDevice {
    /// The processors.
    Cpu,
    /// One GPU.
    Gpu {
        /// Index of the driver.
        index: u32,
    },
}

/// A set of sensors under sampling.
pub struct EnergyMeter {
    clock: Arc<dyn Clock>,
    channels: Arc<Channels>,
    infos: Vec<SensorInfo>,
    /// Looks at the machine; nothing watches a simulated one.
    watch: Option<Watch>,
    /// Raised while the marker's load runs.
    line: Option<MarkerLine>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

/// All sensors with what they said, and the time at which they said it.
struct Channels {
    clock: Arc<dyn Clock>,
    channels: Vec<Mutex<Channel>>,
}

/// One sensor with what it said so far.
struct Channel {
    sensor: Box<dyn Sensor>,
    trace: Trace,
    /// Filled by the sensor, emptied into the trace; kept to allocate once.
    inbox: Vec<Reading>,
    due_s: f64,
    interval_s: f64,
}

/// An open window.
#[derive(Clone, Copy, Debug)]
#[must_use = "a window measures nothing until it is ended"]
pub struct Window {
    start_s: f64,
    start_cpu_time_s: Option<f64>,
}

/// A window that is over.
#[derive(Clone, Copy, Debug)]
pub struct ClosedWindow {
    /// Start on the time line of [`crate::clock`].
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
    /// Processor time of this process within the window.
    pub cpu_time_s: Option<f64>,
}

/// What a window measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Start on the time line of [`crate::clock`].
    pub start_s: f64,
    /// Length.
    pub duration_s: f64,
    /// Processor time of this process within the window.
    pub cpu_time_s: Option<f64>,
    /// One reading per sensor, in the order of the meter's sensors.
    pub readings: Vec<EnergyReading>,
}

impl Channel {
    fn new(sensor: Box<dyn Sensor>) -> Self {
        let info = sensor.info();
        let interval_s = match info.kind {
            SensorKind::EnergyCounter if info.is_current() => 20e-3,
            // Often enough to see the moment of a change to a fortieth of the period.
            SensorKind::EnergyCounter => (info.update_period_s / 40.0).clamp(1e-3, 50e-3),
            // A fast logger's rows come in bundles.
            SensorKind::Power => info.update_period_s.clamp(10e-3, 1.0),
        };
        let trace = Trace::new(info);
        Channel { sensor, trace, inbox: Vec::new(), due_s: 0.0, interval_s }
    }

    fn read(&mut self, clock: &dyn Clock) {
        let n_points = self.trace.points().len();
        let result = self.sensor.read(&mut self.inbox);
        for reading in self.inbox.drain(..) {
            self.trace.push(reading);
        }
        let now_s = clock.now_s();
        // Behind a change of a slow counter nothing happens for almost a period; reading may cost milliseconds.
        let info = self.sensor.info();
        let is_waiting = info.kind == SensorKind::EnergyCounter
            && !info.is_current()
            && self.trace.points().len() > n_points;
        let pause_s = if is_waiting { QUIET_SHARE * info.update_period_s } else { self.interval_s };
        self.due_s = now_s + pause_s;
        if let Err(error) = result {
            self.trace.fail(now_s, &error.to_string());
            self.due_s = now_s + RETRY_S.max(self.interval_s);
        }
    }
}

fn lock(channel: &Mutex<Channel>) -> MutexGuard<'_, Channel> {
    // A sensor that panicked under the lock leaves a trace that is complete up to its last reading.
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channels {
    fn read_due(&self) {
        let now_s = self.clock.now_s();
        for channel in &self.channels {
            let mut channel = lock(channel);
            if channel.due_s <= now_s {
                channel.read(self.clock.as_ref());
            }
        }
    }
}

impl Follower for Channels {
    fn due_s(&self) -> f64 {
        self.channels.iter().map(|channel| lock(channel).due_s).fold(f64::INFINITY, f64::min)
    }

    fn act(&self) {
        self.read_due();
    }
}

impl EnergyMeter {
    /// Starts sampling by a thread of its own.
    pub fn start(sensors: Vec<Box<dyn Sensor>>) -> Self {
        let mut meter = EnergyMeter::new(Arc::new(WallClock), sensors);
        meter.watch = Some(Watch::default());
        let (channels, stop) = (Arc::clone(&meter.channels), Arc::clone(&meter.stop));
        meter.sampler = thread::Builder::new()
            .name("energy sampler".to_owned())
            .spawn(move || sample(&channels, &stop))
            .ok();
        meter
    }

    /// Samples simulated sensors while simulated time passes.
    pub fn simulated(clock: &Arc<SimulatedClock>, sensors: Vec<Box<dyn Sensor>>) -> Self {
        let meter = EnergyMeter::new(clock.clone(), sensors);
        clock.follow(meter.channels.clone());
        meter
    }

    fn new(clock: Arc<dyn Clock>, sensors: Vec<Box<dyn Sensor>>) -> Self {
        let infos = sensors.iter().map(|sensor| sensor.info().clone()).collect();
        let channels = sensors.into_iter().map(|sensor| Mutex::new(Channel::new(sensor))).collect();
        let channels = Arc::new(Channels { clock: clock.clone(), channels });
        channels.read_due();
        EnergyMeter {
            clock,
            channels,
            infos,
            watch: None,
            line: None,
            stop: Arc::new(AtomicBool::new(false)),
            sampler: None,
        }
    }

    /// The clock it measures by.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// What the sensors are.
    pub fn sensors(&self) -> &[SensorInfo] {
        &self.infos
    }

    /// Has something else look at the machine, or at a simulated one.
    #[must_use]
    pub fn watched_by(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Has the marker raise a line to an external meter.
    #[must_use]
    pub fn marking(mut self, line: MarkerLine) -> Self {
        self.line = Some(line);
        self
    }

    /// Raises or lowers that line, if there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark(&self, level: bool) -> Result<()> {
        self.line.as_ref().map_or(Ok(()), |line| line(level))
    }

    /// Looks at the machine, beside any window.
    pub fn look(&self, device: MeteredDevice) -> Look {
        self.watch.as_ref().map(|watch| watch.look(device, self.clock.now_s())).unwrap_or_default()
    }

    /// Opens a window.
    pub fn begin(&self) -> Window {
        let window = Window { start_s: self.clock.now_s(), start_cpu_time_s: process::cpu_time_s() };
        self.read_current();
        window
    }

    /// Closes a window without asking what it held: that can wait until other windows are done, too. A window may be
    /// closed more than once, each time later.
    pub fn close(&self, window: Window) -> ClosedWindow {
        self.read_current();
        let end_cpu_time_s = process::cpu_time_s();
        ClosedWindow {
            start_s: window.start_s,
            duration_s: self.clock.now_s() - window.start_s,
            cpu_time_s: end_cpu_time_s.zip(window.start_cpu_time_s).map(|(end, start)| end - start),
        }
    }

    /// Watches the machine at rest for `duration_s`, or as long as the slowest sensor needs.
    pub fn rest(&self, duration_s: f64) -> Measurement {
        let slowest_s = self.infos.iter().map(|info| info.update_period_s).fold(0.0, f64::max);
        let window = self.begin();
        self.clock.wait_until(self.clock.now_s() + duration_s.max(4.0 * slowest_s));
        self.end(window)
    }

    /// Closes a window, waits until every sensor has told of its end, and says what it held.
    pub fn end(&self, window: Window) -> Measurement {
        let closed = self.close(window);
        let end_s = closed.start_s + closed.duration_s;
        self.settle(end_s);
        let readings = self.energy_between(closed.start_s, end_s);
        Measurement {
            start_s: closed.start_s,
            duration_s: closed.duration_s,
            cpu_time_s: closed.cpu_time_s,
            readings,
        }
    }

    /// Waits until power sensors have told of the moment `end_s`: their next sample, or the next rows of a log. Gives
    /// up on one that stays silent for longer than its period explains.
    pub fn settle(&self, end_s: f64) {
        for (channel, info) in self.channels.channels.iter().zip(&self.infos) {
            let until_s = end_s + SETTLE_S + 3.0 * info.update_period_s;
            while info.kind == SensorKind::Power
                && lock(channel).trace.last_time_s().is_some_and(|last_s| last_s < end_s)
                && self.clock.now_s() < until_s
            {
                self.clock.wait_until(self.clock.now_s() + 5e-3);
            }
        }
    }

    /// The energy between two moments, one reading per sensor.
    pub fn energy_between(&self, start_s: f64, end_s: f64) -> Vec<EnergyReading> {
        let readings = self.channels.channels.iter().zip(&self.infos);
        readings.map(|(channel, info)| reading(&lock(channel).trace, info, start_s, end_s)).collect()
    }

    /// The indices of the sensors whose sum is the energy of work on `device`.
    ///
    /// A meter that the user brought is taken alone: they said what is behind it. Else a GPU is told by its own
    /// sensors, and processors by sockets and memory, by the board's input, or by the estimate, in this order. Domains
    /// that overlap are never added.
    pub fn primary(&self, device: MeteredDevice) -> Vec<usize> {
        let choose = |fits: &dyn Fn(&Scope) -> bool| -> Vec<usize> {
            let indices = self.infos.iter().enumerate();
            indices.filter(|(_, info)| info.counts_in_total && fits(&info.scope)).map(|(i, _)| i).collect()
        };
        let is_external = |scope: &Scope| matches!(scope, Scope::External { .. });
        let is_socket = |scope: &Scope| matches!(scope, Scope::CpuPackage { .. } | Scope::Dram { .. });
        let is_board = |scope: &Scope| matches!(scope, Scope::Board { .. } | Scope::Platform);
        let is_process = |scope: &Scope| matches!(scope, Scope::Process);
        let mut candidates = vec![choose(&is_external)];
        match device {
            MeteredDevice::Gpu { index } => candidates.push(choose(&|scope| *scope == Scope::Gpu { index })),
            MeteredDevice::Cpu => candidates.push(choose(&is_socket)),
        }
        candidates.push(choose(&is_board).into_iter().take(1).collect());
        if device == MeteredDevice::Cpu {
            candidates.push(choose(&is_process));
        }
        candidates.into_iter().find(|candidate| !candidate.is_empty()).unwrap_or_default()
    }

    /// The longest update period among some sensors: what a window has to outlast.
    pub fn update_period_s(&self, sensors: &[usize]) -> f64 {
        sensors.iter().map(|&i| self.infos[i].update_period_s).fold(0.0, f64::max)
    }

    /// Power by one sensor between two moments, for drawing: at most `most` samples, as watts or as the mean between two
    /// readings of a counter. Readings closer together than the sampler's interval are left out, since the power between
    /// them is mostly the counter's own grain.
    pub fn power_samples(&self, sensor: usize, start_s: f64, end_s: f64, most: usize) -> Vec<Reading> {
        let channel = lock(&self.channels.channels[sensor]);
        let grain_s = if self.infos[sensor].is_current() { 0.9 * channel.interval_s } else { 0.0 };
        let spacing_s = ((end_s - start_s) / most.max(1) as f64).max(grain_s);
        let mut thinned: Vec<Reading> = Vec::new();
        for point in channel.trace.points().iter().filter(|point| (start_s..=end_s).contains(&point.time_s)) {
            if thinned.last().is_none_or(|last| point.time_s - last.time_s >= spacing_s) {
                thinned.push(*point);
            }
        }
        match self.infos[sensor].kind {
            SensorKind::Power => thinned,
            SensorKind::EnergyCounter => thinned
                .windows(2)
                .map(|pair| Reading {
                    time_s: pair[1].time_s,
                    value: (pair[1].value - pair[0].value) / (pair[1].time_s - pair[0].time_s),
                })
                .collect(),
        }
    }

    /// Counters whose value is current are also read at both ends of every window.
    fn read_current(&self) {
        for channel in &self.channels.channels {
            let mut channel = lock(channel);
            if channel.sensor.info().is_current() {
                channel.read(self.clock.as_ref());
            }
        }
    }
}

impl Measurement {
    /// The energy of the sensors with these indices, which cover disjoint scopes.
    pub fn energy(&self, sensors: &[usize]) -> Energy {
        let readings: Vec<&EnergyReading> = sensors.iter().map(|&i| &self.readings[i]).collect();
        Energy::of_window(&readings)
    }
}

impl Drop for EnergyMeter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            sampler.thread().unpark();
            // A sampler that panicked has nothing left to hand over.
            let _ = sampler.join();
        }
    }
}

/// The sampler: reads what is due until told to stop.
fn sample(channels: &Channels, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        channels.read_due();
        let pause_s = channels.due_s() - channels.clock.now_s();
        thread::park_timeout(Duration::from_secs_f64(pause_s.clamp(0.0, RETRY_S)));
    }
}

/// What one sensor has to say of a window.
pub(crate) fn reading(trace: &Trace, info: &SensorInfo, start_s: f64, end_s: f64) -> EnergyReading {
    let mut reading = EnergyReading {
        sensor: info.name.clone(),
        scope: info.scope.clone(),
        counts_in_total: info.counts_in_total,
        provenance: Provenance::Unresolved,
        energy_j: None,
        upper_bound_j: None,
        sampling_j: 0.0,
        systematic_j: 0.0,
        duration_s: end_s - start_s,
        updates: 0,
        reason: None,
        is_lost: false,
    };
    match trace.energy(start_s, end_s) {
        WindowEnergy::Resolved { energy_j, sampling_sd_j, updates } if energy_j > 0.0 => {
            reading.energy_j = Some(energy_j);
            // A counter's smallest step is uncertain at both ends of the window, like its period.
            reading.sampling_j = Z95 * sampling_sd_j.hypot(info.resolution_j / 6.0_f64.sqrt());
            reading.systematic_j = info.systematic_relative * energy_j;
            reading.updates = updates;
            reading.provenance = match info.provenance {
                Provenance::Measured if updates < UPDATES_MEASURED => Provenance::MeasuredLowResolution,
                provenance => provenance,
            };
        }
        WindowEnergy::Resolved { .. } => {
            reading.upper_bound_j = Some(info.resolution_j);
            reading.reason = Some("the sensor saw no energy".to_owned());
        }
        WindowEnergy::Unresolved { upper_bound_j, reason, is_lost } => {
            reading.is_lost = is_lost;
            reading.upper_bound_j = upper_bound_j.map(|bound_j| bound_j.max(info.resolution_j));
            reading.reason = Some(reason);
        }
    }
    reading
}
