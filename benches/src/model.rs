//! Whole models: which ones are measured, and how long each of their modules takes.

use std::collections::BTreeMap;

use joulewise_engine::{
    ActivationMode, Cost, CpuBackend, Granularity, ModuleKind, Observer, Phase, PrecisionPlan, Program,
    Session, SessionOptions, Span, Strategy, TokenBatch,
};
use joulewise_kernels::cpu::CpuKernels;
use joulewise_models::{ModelSpec, load, synthetic};

use crate::case::must;
use crate::roofline::Work;

/// One step of a model that is measured over and over.
#[derive(Clone, Copy, Debug)]
pub struct ModelStep {
    /// Name of the model, as on the command line.
    pub model: &'static str,
    /// Precision.
    pub strategy: Strategy,
    /// What is run.
    pub phase: Phase,
    /// Tokens of the sequence or prompt; before a decode step, tokens in the cache.
    pub tokens: usize,
}

/// A sentence classifier over 128 tokens, a prompt of 128 tokens, and the token behind it, in every strategy that needs no calibration;
/// smaller models when the benchmarks run as tests.
pub fn model_steps(is_test: bool) -> Vec<ModelStep> {
    let (encoder, decoder, tokens) = if is_test {
        ("demo:distilbert", "demo:gpt2", 8)
    } else {
        ("synth:distilbert-base", "synth:gpt2", 128)
    };
    let steps = [(encoder, Phase::Forward), (decoder, Phase::Prefill), (decoder, Phase::Decode)];
    let strategies =
        || Strategy::all().filter(|strategy| strategy.precision().activation != ActivationMode::Static);
    let step =
        |(model, phase)| strategies().map(move |strategy| ModelStep { model, strategy, phase, tokens });
    steps.into_iter().flat_map(step).collect()
}

/// Opens a model on these kernels.
pub fn open(kernels: &CpuKernels, model: &str, plan: &PrecisionPlan) -> Session {
    let model = must(load(&must(ModelSpec::parse(model))));
    let backend = CpuBackend::with_kernels(kernels.clone());
    must(Session::open(&backend, model.graph.clone(), &*model.weights, plan, SessionOptions::default()))
}

/// Token ids for a model, the same every time.
pub fn token_ids(session: &Session, tokens: usize) -> Vec<u32> {
    synthetic::prompt(session.graph().vocab_size, tokens)
}

impl ModelStep {
    /// `gpt2 decode 128`.
    pub fn label(&self) -> String {
        let model = self.model.split(':').next_back().unwrap_or(self.model);
        format!("{model} {} {}", self.phase.name(), self.tokens)
    }

    /// Opens the model and runs the step once, so that [`joulewise_engine::Observed::repeat`] repeats it.
    pub fn session(&self, kernels: &CpuKernels) -> Session {
        let mut session = open(kernels, self.model, &self.strategy.into());
        let ids = token_ids(&session, self.tokens);
        let batch = must(TokenBatch::single(&ids));
        match self.phase {
            Phase::Forward => {
                must(session.forward(&batch));
            }
            Phase::Prefill => {
                must(session.prefill(&batch));
            }
            Phase::Decode => {
                must(session.prefill(&batch));
                must(session.decode(&ids[..1]));
            }
        }
        session
    }
}

/// Counted work of a session's last run.
pub fn work_of_last_run(session: &Session) -> Work {
    let cost = session.last_program().map_or_else(Cost::default, |program| {
        program.cost(0..program.steps().len(), session.last_kv_start())
    });
    let bytes = cost.bytes_read + cost.bytes_written;
    // Consecutive runs read all weights before they come back to the first one.
    Work { flops: cost.flops, bytes, working_set_bytes: session.weight_bytes() as f64 }
}

/// Times of the modules of a step, added up by what they do.
#[derive(Debug, Default)]
pub struct KindTimes {
    /// Seconds of each run, and the cost of one run.
    pub kinds: BTreeMap<ModuleKind, (Vec<f64>, Cost)>,
    kv_start: usize,
}

impl KindTimes {
    /// For runs with this many tokens in the cache.
    pub fn new(kv_start: usize) -> Self {
        Self { kinds: BTreeMap::new(), kv_start }
    }
}

impl Observer for KindTimes {
    fn granularity(&self) -> Granularity {
        Granularity::Module
    }

    fn spans(&mut self, program: &Program, spans: &[Span]) {
        let mut run: BTreeMap<ModuleKind, (f64, Cost)> = BTreeMap::new();
        for span in spans {
            let kind = program.graph().modules.get(span.module).kind;
            let (seconds, cost) = run.entry(kind).or_default();
            *seconds += span.duration_s;
            *cost += program.cost(span.steps.clone(), self.kv_start);
        }
        for (kind, (seconds, cost)) in run {
            let (times_s, kind_cost) = self.kinds.entry(kind).or_default();
            times_s.push(seconds);
            *kind_cost = cost;
        }
    }
}
