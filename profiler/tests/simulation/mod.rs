//! A device that runs modules of known duration and power, as a workload.
//!
//! Its power over time is written down ahead: a run of so many iterations takes exactly their time on the device,
//! however late the test's own thread wakes up. What the thread oversleeps, the device idles.

use std::thread;
use std::time::Duration;

use joulewise_engine::{Cost, ModuleId, ModuleKind, Phase, Span};
use joulewise_profiler::Result;
use joulewise_profiler::clock;
use joulewise_profiler::observer::ModuleTimes;
use joulewise_profiler::sensor::simulated::SimulatedDevice;
use joulewise_profiler::workload::{Part, Repeat, Workload, WorkloadShape};

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

/// The modules as a workload on a device.
pub(crate) struct SimulatedWorkload {
    device: SimulatedDevice,
    parts: Vec<Part>,
}

impl SimulatedWorkload {
    pub(crate) fn new(device: &SimulatedDevice) -> Self {
        let part = |(index, (path, kind, block, ..)): (usize, &Module)| Part {
            module: ModuleId(index as u32 + 1),
            path: (*path).to_owned(),
            kind: *kind,
            block: *block,
            format: Some("f32".to_owned()),
            weight_bytes: 1000,
            cost: Cost { flops: 1e6, bytes_read: 2e5, bytes_written: 1e5, weight_bytes: 1e5 },
        };
        SimulatedWorkload { device: device.clone(), parts: MODULES.iter().enumerate().map(part).collect() }
    }
}

/// Modules to run one behind the other, over and over.
struct Loop {
    device: SimulatedDevice,
    modules: Vec<Module>,
}

impl Repeat for Loop {
    fn run(&mut self, iterations: usize) -> Result<f64> {
        let start_s = clock::now_s();
        let mut end_s = start_s;
        for _ in 0..iterations {
            for (.., duration_s, power_w) in &self.modules {
                self.device.set_power_at(end_s, *power_w);
                end_s += duration_s;
            }
        }
        self.device.set_power_at(end_s, IDLE_W);
        while clock::now_s() < end_s {
            thread::sleep(Duration::from_secs_f64((end_s - clock::now_s()).max(0.0)));
        }
        Ok(end_s - start_s)
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
        let modules = match module {
            ModuleId::ROOT => MODULES.to_vec(),
            ModuleId(id) => vec![MODULES[id as usize - 1]],
        };
        Ok(Box::new(Loop { device: self.device.clone(), modules }))
    }

    fn observe(&mut self, times: &mut ModuleTimes) -> Result<()> {
        self.repeat(ModuleId::ROOT)?.run(1)?;
        let mut start_s = 0.0;
        let spans = MODULES.iter().zip(&self.parts).map(|((.., duration_s, _), part)| {
            let span = Span { module: part.module, steps: 0..1, start_s, duration_s: *duration_s };
            start_s += duration_s;
            span
        });
        times.record(&spans.collect::<Vec<_>>());
        Ok(())
    }
}
