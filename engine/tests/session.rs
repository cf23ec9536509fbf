//! A session against itself: every way to compute the same thing must give the same thing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tiny;

use std::sync::Arc;

use joulewise_engine::{
    ActivationKind, Attention, AttentionSpec, CpuBackend, EngineError, Format, ForwardOptions, Granularity,
    IndexInput, Linear, ModelBuilder, ModelGraph, ModuleId, ModuleKind, Norm, Observer, OutputKind, Phase,
    PositionRule, Program, Sampler, SamplingRule, Session, SessionOptions, Span, StopReason, StopRule,
    Strategy, Sweeps, TokenBatch, generate,
};
use joulewise_kernels::cpu::{CpuKernels, Isa, ThreadPool};

const PROMPT: [u32; 7] = [3, 14, 15, 9, 26, 5, 35];

/// Two f32 evaluations of the same sums in another order: relative rounding 2^-24 per operation, a few hundred
/// operations deep, leaves several orders of magnitude to this bound; a wrong key or position misses it by as much.
fn assert_close(a: &[f32], b: &[f32]) {
    let difference: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    assert!(a.len() == b.len() && difference <= 1e-10 * norm, "{difference} against {norm}");
}

#[test]
fn decoding_token_by_token_equals_one_forward_pass() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let batch = TokenBatch::single(&PROMPT).unwrap();
    let options = ForwardOptions { all_logits: true, ..Default::default() };
    let all = session.forward_with(&batch, options).unwrap().data.to_vec();
    let rows: Vec<&[f32]> = all.chunks_exact(tiny::VOCAB).collect();
    let prefix = TokenBatch::single(&PROMPT[..2]).unwrap();
    assert_close(session.prefill(&prefix).unwrap().data, rows[1]);
    for (position, token) in PROMPT.iter().enumerate().skip(2) {
        assert_close(session.decode(&[*token]).unwrap().data, rows[position]);
    }
    assert_eq!(session.lengths(), [7]);
}

#[test]
fn sequences_of_a_padded_batch_do_not_see_each_other() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let alone: Vec<Vec<f32>> = [&PROMPT[..3], &PROMPT[..]]
        .iter()
        .map(|prompt| {
            session.prefill(&TokenBatch::single(prompt).unwrap()).unwrap();
            session.decode(&[8]).unwrap().data.to_vec()
        })
        .collect();
    session.prefill(&TokenBatch::padded(&[&PROMPT[..3], &PROMPT[..]], 0).unwrap()).unwrap();
    let together = session.decode(&[8, 8]).unwrap();
    assert_close(together.row(0), &alone[0]);
    assert_close(together.row(1), &alone[1]);
    // Padding on the left is the same prompt.
    let left = [&[0; 4][..], &PROMPT[..3], &PROMPT[..]].concat();
    let mask = [[0; 4].as_slice(), &[1; 10]].concat();
    session.prefill(&TokenBatch::dense(left, 2).unwrap().with_mask(mask).unwrap()).unwrap();
    let together = session.decode(&[8, 8]).unwrap();
    assert_close(together.row(0), &alone[0]);
    assert_close(together.row(1), &alone[1]);
}

#[test]
fn a_sequence_can_be_cut_back_and_continued_otherwise() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    let first = session.decode(&[1]).unwrap().data.to_vec();
    session.decode(&[2]).unwrap();
    session.truncate(PROMPT.len());
    assert_eq!(session.decode(&[1]).unwrap().data, first);
}

/// Logits behind each token of the prompt but the first, through a cache, token by token and all at once.
fn logits_through_cache(session: &mut Session) -> [Vec<f32>; 2] {
    let mut single = session.prefill(&TokenBatch::single(&PROMPT[..2]).unwrap()).unwrap().data.to_vec();
    for token in &PROMPT[2..] {
        single.extend_from_slice(session.decode(&[*token]).unwrap().data);
    }
    let options = ForwardOptions { all_logits: true, ..Default::default() };
    let all = session.prefill_with(&TokenBatch::single(&PROMPT).unwrap(), options).unwrap();
    [single, all.data[tiny::VOCAB..].to_vec()]
}

#[test]
fn a_cache_in_fewer_bits_is_as_close_as_its_format_and_smaller() {
    let graph = tiny::decoder();
    let mut exact = tiny::open(&graph);
    let [expected, at_once] = logits_through_cache(&mut exact);
    assert_close(&at_once, &expected);
    assert!(!exact.rounds_cache() && exact.cache_format() == Some(Format::F32));
    // Keys and values of two heads of 6 elements at 64 positions, in each layer.
    let rows = 2 * 2 * 64 * tiny::LAYERS;
    assert_eq!(exact.cache_bytes(), rows * 6 * 4);
    let traffic = |session: &Session| {
        let program = session.last_program().unwrap();
        program.cost(0..program.steps().len(), 0)
    };
    let exact_cost = traffic(&exact);
    for (format, row_bytes) in [(Format::F16, 6 * 2), (Format::Int8, 6 + 4)] {
        let mut session = tiny::open_with_cache(&graph, Some(format)).unwrap();
        // Keys and values of three layers are off by the format's NMSE each; what norms and softmax make of that stays
        // below ten times it. And it is off: something was rounded.
        let bound = 10.0 * 2.0 * tiny::LAYERS as f64 * format.spec().nmse_bound;
        for logits in logits_through_cache(&mut session) {
            let difference: f64 = logits.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
            let nmse = difference / norm;
            assert!(nmse > 1e-12 && nmse <= bound, "{format}: {nmse:e}, at most {bound:e}");
        }
        assert!(session.rounds_cache() && session.cache_format() == Some(format));
        assert_eq!(session.cache_bytes(), rows * row_bytes);
        // Seven tokens are written and read, two heads of keys and of values each, in every layer.
        let cost = traffic(&session);
        let saved = (7 * 2 * 2 * tiny::LAYERS * (6 * 4 - row_bytes)) as f64;
        assert_eq!(cost.bytes_written, exact_cost.bytes_written - saved);
        assert_eq!(cost.bytes_read, exact_cost.bytes_read - saved);
        // A pass without a cache rounds nothing.
        let batch = TokenBatch::single(&PROMPT).unwrap();
        assert_eq!(session.forward(&batch).unwrap().data, exact.forward(&batch).unwrap().data);
    }
    let error = tiny::open_with_cache(&graph, Some(Format::Int4)).err().unwrap();
    let expected = "a key-value cache on the CPU is kept in one of f32, f16, int8, not in int4";
    assert!(error.to_string().contains(expected), "{error}");
}

/// Collects what it is shown.
struct Recorder {
    granularity: Granularity,
    paths: Vec<String>,
    covered: Vec<std::ops::Range<usize>>,
}

impl Observer for Recorder {
    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn spans(&mut self, program: &Program, spans: &[Span]) {
        self.paths = spans.iter().map(|span| program.graph().modules.get(span.module).path.clone()).collect();
        self.covered = spans.iter().map(|span| span.steps.clone()).collect();
    }
}

#[test]
fn every_granularity_covers_every_step_once_and_changes_no_result() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let batch = TokenBatch::single(&PROMPT).unwrap();
    let plain = session.forward(&batch).unwrap().data.to_vec();
    let steps = session.last_program().unwrap().steps().len();
    for (granularity, expected) in [
        (Granularity::Off, 1),
        (Granularity::Block, tiny::LAYERS + 2),
        (Granularity::Module, 1 + tiny::LAYERS * 10 + 2),
        (Granularity::Step, steps),
    ] {
        let mut recorder = Recorder { granularity, paths: vec![], covered: vec![] };
        assert_eq!(session.observed(&mut recorder).forward(&batch).unwrap().data, plain);
        assert_eq!(recorder.covered.len(), expected, "{granularity:?}: {:?}", recorder.paths);
        let mut next = 0;
        for range in &recorder.covered {
            assert_eq!(range.start, next);
            next = range.end;
        }
        assert_eq!(next, steps);
        if granularity == Granularity::Block {
            assert_eq!(recorder.paths[1], "layers.0");
        }
    }
}

#[test]
fn replaying_any_module_leaves_the_result_of_the_program_unchanged() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    let plain = session.decode(&[4]).unwrap().data.to_vec();
    let program = session.last_program().unwrap().clone();
    let mut modules: Vec<ModuleId> = program.cuts(Granularity::Module).iter().map(|cut| cut.module).collect();
    modules.push(graph.modules.find("layers.1").unwrap());
    modules.push(graph.modules.find("layers.2.mlp").unwrap());
    modules.push(ModuleId::ROOT);
    for module in modules {
        let mut replay = session.replay(module).unwrap();
        assert!(replay.run(3).unwrap() > 0.0);
        // What the module computed the third time still leads to the same logits.
        replay.finish().unwrap();
        assert_eq!(session.output().unwrap().data, plain, "{}", graph.modules.get(module).path);
    }
    assert_eq!(session.lengths(), [PROMPT.len() as u32 + 1]);
}

/// An encoder in which every reason to round inputs elsewhere than in the product occurs: a norm and three linears
/// behind it, a linear whose activated result only another linear reads, and one whose result is read again.
fn encoder() -> Arc<ModelGraph> {
    const WIDTH: usize = 72;
    let mut b = ModelBuilder::new(tiny::VOCAB, 64, PositionRule::Sequential);
    let (mut x, _) = b.embedding("embed", IndexInput::TokenIds, tiny::VOCAB, WIDTH).unwrap();
    for layer in 0..2 {
        x = b
            .block(&format!("layers.{layer}"), layer, |b| {
                let normed = b.norm("norm", x, Norm::rms(1e-6))?;
                let core = b.scope("attn", |b| {
                    let [q, k, v] = ["q", "k", "v"]
                        .map(|name| b.linear(name, normed, Linear::new(ModuleKind::QkvProjection, WIDTH)));
                    let spec = AttentionSpec {
                        heads: 3,
                        kv_heads: 3,
                        head_dim: 24,
                        scale: 0.2,
                        causal: false,
                        window: None,
                        alibi_slopes: None,
                    };
                    b.attention(q?, k?, v?, Attention { spec, rope: None, cache_layer: None })
                })?;
                let up = b.linear("up", core, Linear::new(ModuleKind::MlpUp, 100))?;
                let act = b.activation("act", ModuleKind::MlpActivation, ActivationKind::GeluErf, up)?;
                let down = b.linear("down", act, Linear::new(ModuleKind::MlpDown, WIDTH))?;
                let again = b.linear("again", down, Linear::new(ModuleKind::MlpDown, WIDTH))?;
                b.add("residual", down, again)
            })
            .unwrap();
    }
    Arc::new(b.finish(OutputKind::Embedding, x).unwrap())
}

#[test]
fn what_several_linears_share_changes_no_result() {
    let graph = encoder();
    for strategy in [Strategy::Bf16, Strategy::Int8Dynamic, Strategy::Int4] {
        let source = tiny::RandomWeights(graph.clone());
        let options = SessionOptions::default();
        let mut session =
            Session::open(&CpuBackend::new(2), graph.clone(), &source, &strategy.into(), options).unwrap();
        for tokens in [3, 40] {
            let ids: Vec<u32> = (0..tokens).map(|i| i * 7 % tiny::VOCAB as u32).collect();
            let batch = TokenBatch::single(&ids).unwrap();
            let plain = session.forward(&batch).unwrap().data.to_vec();
            for granularity in [Granularity::Step, Granularity::Module, Granularity::Block] {
                let mut recorder = Recorder { granularity, paths: vec![], covered: vec![] };
                assert_eq!(session.observed(&mut recorder).forward(&batch).unwrap().data, plain);
                session.forward(&batch).unwrap();
                let program = session.last_program().unwrap().clone();
                for cut in program.cuts(granularity) {
                    let mut replay = session.replay(cut.module).unwrap();
                    replay.run(2).unwrap();
                    replay.finish().unwrap();
                    let path = &graph.modules.get(cut.module).path;
                    assert_eq!(session.output().unwrap().data, plain, "{strategy} {path}");
                }
            }
        }
    }
}

#[test]
fn linears_of_one_input_are_done_at_once_where_it_is_in_fixed_point() {
    let graph = tiny::decoder();
    let [up, gate] = ["up", "gate"].map(|name| graph.modules.find(&format!("layers.0.mlp.{name}")).unwrap());
    for isa in Isa::ALL {
        let Some(kernels) = CpuKernels::for_isa(*isa, Arc::new(ThreadPool::new(2))) else { continue };
        let has_dots =
            matches!(isa, Isa::Avx2Vnni | Isa::Avx512Vnni | Isa::Amx | Isa::NeonDotprod | Isa::NeonI8mm);
        for (strategy, expected) in [(Strategy::Fp32, false), (Strategy::Int4, has_dots)] {
            let (source, options) = (tiny::RandomWeights(graph.clone()), SessionOptions::default());
            let backend = CpuBackend::with_kernels(kernels.clone());
            let mut session =
                Session::open(&backend, graph.clone(), &source, &strategy.into(), options).unwrap();
            session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
            session.decode(&[4]).unwrap();
            assert_eq!(session.joined_modules().contains(&vec![up, gate]), expected, "{isa} {strategy}");
        }
    }
}

#[test]
fn modules_run_extra_times_leave_every_later_result_unchanged() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let decode_all = |session: &mut Session| -> Vec<Vec<f32>> {
        [4, 8, 15].iter().map(|token| session.decode(&[*token]).unwrap().data.to_vec()).collect()
    };
    let in_every_layer = |name: &str| -> Vec<ModuleId> {
        (0..tiny::LAYERS)
            .map(|layer| graph.modules.find(&format!("layers.{layer}.{name}")).unwrap())
            .collect()
    };
    session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    let plain = decode_all(&mut session);
    let sets = ["attn", "norm", "mlp.up", "residual", "attn.out"].map(in_every_layer);
    let sets = [&sets[..], &[vec![graph.modules.find("head").unwrap()]]].concat();
    session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    for (token, expected) in [4, 8, 15].iter().zip(&plain) {
        session.decode(&[*token]).unwrap();
        let all: Vec<Sweeps> = (0..sets.len()).map(|set| Sweeps { set, count: set + 1 }).collect();
        let mut repetition = session.repetition(&sets).unwrap();
        assert!(repetition.run(2, &all).unwrap() > 0.0);
        assert!(repetition.rotate(3, &all).unwrap() > 0.0);
        assert!(repetition.run(1, &[Sweeps { set: sets.len(), count: 1 }]).is_err());
        drop(repetition);
        assert_eq!(session.output().unwrap().data, expected, "sweeps write nowhere but to their own memory");
    }
    // There is nothing to repeat before anything was run.
    assert!(tiny::open(&graph).repetition(&sets).is_err());
}

#[test]
fn counted_costs_add_up_over_modules() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    let program = session.last_program().unwrap().clone();
    let whole = program.cost(0..program.steps().len(), 0);
    let mut sum = joulewise_engine::Cost::default();
    for cut in program.cuts(Granularity::Module) {
        sum += program.cost(cut.steps.clone(), 0);
    }
    // Both are sums of integers far below 2^53.
    assert_eq!(sum, whole);
    // Linears of one layer: qkv 24x48, out 24x24, up and gate 24x40 each, down 40x24; two flops per weight and token.
    let linears = 24 * 48 + 24 * 24 + 3 * 24 * 40;
    let head = 2 * tiny::VOCAB * 24;
    assert!(whole.flops > (2 * 7 * linears * tiny::LAYERS + head) as f64);
    let attention = graph.modules.find("layers.1.attn").unwrap();
    let qkv = program
        .cuts(Granularity::Module)
        .iter()
        .find(|cut| graph.modules.get(cut.module).path == "layers.0.attn.qkv");
    assert_eq!(program.cost(qkv.unwrap().steps.clone(), 0).flops, (2 * 7 * 24 * 48) as f64);
    // Activations count in the format that a device keeps them in, weights in theirs.
    let steps = qkv.unwrap().steps.clone();
    for (format, bytes) in [(Format::F32, 4), (Format::F16, 2)] {
        let formats = vec![format; graph.values.len()];
        let cost = (*program).clone().with_value_formats(formats.into()).cost(steps.clone(), 0);
        let moved = (cost.bytes_read - cost.weight_bytes, cost.bytes_written);
        assert_eq!(moved, ((7 * 24 * bytes) as f64, (7 * 48 * bytes) as f64));
        assert!(cost.weight_bytes >= (24 * 48 * 4) as f64);
    }
    // Two rotary embeddings, the cache write and attention itself; not the projections around them.
    assert_eq!(program.module_steps(attention).unwrap().len(), 4);
}

#[test]
fn hidden_states_are_kept_when_asked_for() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let batch = TokenBatch::single(&PROMPT).unwrap();
    session.forward(&batch).unwrap();
    assert!(session.hidden_state(0).is_err());
    let options = ForwardOptions { keep_hidden_states: true, ..Default::default() };
    session.forward_with(&batch, options).unwrap();
    for index in 0..=tiny::LAYERS {
        let hidden = session.hidden_state(index).unwrap();
        assert_eq!((hidden.rows, hidden.cols), (7, 24));
    }
    assert!(session.hidden_state(tiny::LAYERS + 1).is_err());
}

#[test]
fn generation_stops_for_each_of_its_reasons() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let mut sampler = Sampler::greedy();
    let mut tokens = vec![];
    let stop = StopRule { max_tokens: 5, end_tokens: vec![] };
    let reason = generate(&mut session, &PROMPT, &mut sampler, &stop, |token| {
        tokens.push(token);
        true
    });
    assert_eq!((reason.unwrap(), tokens.len()), (StopReason::MaxTokens, 5));
    let stop = StopRule { max_tokens: 5, end_tokens: vec![tokens[0]] };
    let reason = generate(&mut session, &PROMPT, &mut sampler, &stop, |_| true).unwrap();
    assert_eq!(reason, StopReason::EndToken);
    let stop = StopRule { max_tokens: 1000, end_tokens: vec![] };
    let reason = generate(&mut session, &PROMPT, &mut sampler, &stop, |_| true).unwrap();
    assert_eq!(reason, StopReason::ContextFull);
    let reason = generate(&mut session, &PROMPT, &mut sampler, &stop, |_| false).unwrap();
    assert_eq!(reason, StopReason::Interrupted);
}

#[test]
fn decoding_draws_what_samplers_draw_from_the_logits() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let rule = SamplingRule { temperature: 0.8, top_k: Some(20), top_p: Some(0.9) };
    let mut samplers = [Sampler::new(rule, 1), Sampler::greedy(), Sampler::new(rule, 2)];
    let mut beside = samplers.clone();
    let batch = TokenBatch::padded(&[&PROMPT[..3], &PROMPT, &PROMPT[2..]], 0).unwrap();
    session.prefill(&batch).unwrap();
    let mut tokens = vec![1, 2, 3];
    for _ in 0..8 {
        let next = session.decode_next(&tokens, &mut samplers).unwrap();
        let logits = session.output().unwrap();
        let expected: Vec<u32> =
            beside.iter_mut().enumerate().map(|(row, sampler)| sampler.sample(logits.row(row))).collect();
        assert_eq!(next, expected);
        tokens = next;
    }
    let refused = session.decode_next(&tokens, &mut samplers[..2]);
    assert!(matches!(refused, Err(EngineError::BatchShape { expected: 3, got: 2, .. })));
}

#[test]
fn misuse_is_an_error_not_a_panic() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    assert!(matches!(session.decode(&[1]), Err(EngineError::Unsupported(_))));
    assert!(matches!(session.replay(ModuleId::ROOT), Err(EngineError::Unsupported(_))));
    let unknown = TokenBatch::single(&[tiny::VOCAB as u32]).unwrap();
    assert!(matches!(session.forward(&unknown), Err(EngineError::TokenOutOfRange { .. })));
    let long = TokenBatch::single(&[1; 65]).unwrap();
    assert!(matches!(session.forward(&long), Err(EngineError::ContextOverflow { needed: 65, limit: 64 })));
    session.prefill(&TokenBatch::single(&[1; 64]).unwrap()).unwrap();
    assert!(matches!(session.decode(&[1]), Err(EngineError::ContextOverflow { needed: 65, limit: 64 })));
    assert!(matches!(session.decode(&[1, 2]), Err(EngineError::BatchShape { .. })));
}

/// One layer of attention that can see any number of tokens.
fn endless_decoder(positions: usize) -> Arc<ModelGraph> {
    let mut b = ModelBuilder::new(tiny::VOCAB, positions, PositionRule::Sequential);
    let (x, table) = b.embedding("embed", IndexInput::TokenIds, tiny::VOCAB, 8).unwrap();
    let spec = AttentionSpec {
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        scale: 0.3,
        causal: true,
        window: None,
        alibi_slopes: None,
    };
    let attention = Attention { spec, rope: None, cache_layer: Some(0) };
    let x = b.block("layers.0", 0, |b| b.attention(x, x, x, attention)).unwrap();
    let last = b.logit_rows("last", x).unwrap();
    let logits = b.tied_head("head", last, table).unwrap();
    Arc::new(b.finish(OutputKind::NextToken, logits).unwrap())
}

#[test]
fn caches_that_no_machine_holds_are_refused() {
    for positions in [1 << 50, 1 << 60, usize::MAX] {
        let graph = endless_decoder(positions);
        let mut options = SessionOptions::default();
        options.context = Some(positions);
        let source = tiny::RandomWeights(graph.clone());
        let backend = CpuBackend::new(1);
        let mut session = Session::open(&backend, graph, &source, &Strategy::Fp32.into(), options).unwrap();
        let refused = session.prefill(&TokenBatch::single(&PROMPT).unwrap()).unwrap_err();
        assert!(matches!(refused, EngineError::Kernel(_)), "{positions}: {refused}");
        // A pass without a cache needs none.
        session.forward(&TokenBatch::single(&PROMPT).unwrap()).unwrap();
    }
}

#[test]
fn runs_that_the_weights_leave_no_room_for_are_refused_with_the_figures() {
    let graph = tiny::decoder();
    let source = tiny::RandomWeights(graph.clone());
    let backend = CpuBackend::new(1);
    let open = |available_bytes| {
        let mut options = SessionOptions::default();
        options.available_bytes = available_bytes;
        Session::open(&backend, graph.clone(), &source, &Strategy::Fp32.into(), options).unwrap()
    };
    let batch = |n: usize| TokenBatch::dense(vec![1; n * 7], n).unwrap();
    let available = open(None).weight_bytes() + 100_000;
    let mut session = open(Some(available));
    session.prefill(&batch(2)).unwrap();
    // Keys and values alone: 3 layers, 2 heads of 6 elements, 7 tokens.
    let least = |n: usize| 2 * 3 * 2 * 6 * 7 * 4 * n;
    for n in [50, 10_000] {
        match session.prefill(&batch(n)) {
            Err(EngineError::RunOutOfMemory { batch, tokens, needed_bytes, available_bytes }) => {
                assert_eq!((batch, tokens, available_bytes), (n, 7, 100_000));
                assert!(needed_bytes > least(n).max(available_bytes), "{needed_bytes}");
            }
            other => panic!("{n} sequences: {other:?}"),
        }
        assert!(matches!(session.forward(&batch(n)), Err(EngineError::RunOutOfMemory { .. })));
        assert!(session.check_room(Phase::Prefill, n, 7).is_err());
    }
    // What is asked for in numbers need not fit 64 bits.
    assert!(session.check_room(Phase::Prefill, usize::MAX, 7).is_err());
    assert!(matches!(session.check_room(Phase::Forward, 1, 65), Err(EngineError::ContextOverflow { .. })));
    session.check_room(Phase::Prefill, 2, 7).unwrap();
    // A refusal leaves the session as usable as before.
    session.prefill(&batch(2)).unwrap();
    session.decode(&[3, 4]).unwrap();
}
