//! Collects how long each module took, run by run.

use joulewise_engine::{Granularity, ModuleId, Observer, Program, Span};

/// Sums of module times over runs. All memory is taken up front: recording a run allocates nothing.
#[derive(Clone, Debug)]
pub struct ModuleTimes {
    seconds: Vec<f64>,
    n_runs: usize,
    last_run: Vec<Span>,
}

impl ModuleTimes {
    /// For modules with ids below `n_modules`.
    pub fn new(n_modules: usize) -> Self {
        ModuleTimes { seconds: vec![0.0; n_modules], n_runs: 0, last_run: Vec::with_capacity(n_modules) }
    }

    /// Adds one run.
    pub fn record(&mut self, spans: &[Span]) {
        for span in spans {
            if let Some(seconds) = self.seconds.get_mut(span.module.index()) {
                *seconds += span.duration_s;
            }
        }
        self.n_runs += 1;
        self.last_run.clear();
        self.last_run.extend_from_slice(spans);
    }

    /// Mean seconds of a module per run, 0 before the first.
    pub fn mean_s(&self, module: ModuleId) -> f64 {
        let total_s = self.seconds.get(module.index()).copied().unwrap_or(0.0);
        total_s / self.n_runs.max(1) as f64
    }

    /// The spans of the last run, in order.
    pub fn last_run(&self) -> &[Span] {
        &self.last_run
    }

    /// Forgets all runs and keeps the memory.
    pub fn clear(&mut self) {
        self.seconds.fill(0.0);
        self.n_runs = 0;
        self.last_run.clear();
    }
}

impl Observer for ModuleTimes {
    fn granularity(&self) -> Granularity {
        Granularity::Module
    }

    fn spans(&mut self, _: &Program, spans: &[Span]) {
        self.record(spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_means_over_runs_per_module() {
        let span =
            |module, start_s, duration_s| Span { module: ModuleId(module), steps: 0..1, start_s, duration_s };
        let mut times = ModuleTimes::new(3);
        times.record(&[span(1, 0.0, 0.5), span(2, 0.5, 1.0), span(1, 1.5, 0.25)]);
        times.record(&[span(1, 0.0, 0.25), span(2, 0.5, 2.0)]);
        assert_eq!(times.mean_s(ModuleId(1)), 0.5);
        assert_eq!(times.mean_s(ModuleId(2)), 1.5);
        assert_eq!(times.last_run().len(), 2);
        times.clear();
        assert_eq!(times.mean_s(ModuleId(1)), 0.0);
    }
}
