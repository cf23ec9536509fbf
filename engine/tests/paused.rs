//! Passes that stop and go on must come to what an uninterrupted pass comes to, bit by bit.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod tiny;

use joulewise_engine::{
    CpuBackend, EngineError, ForwardOptions, Op, PrecisionPlan, Session, SessionOptions, Strategy, TokenBatch,
};
use joulewise_kernels::args::AttentionProducts;
use tiny::RandomWeights;

const ALL_LOGITS: ForwardOptions = ForwardOptions { all_logits: true, keep_hidden_states: false };

fn batch() -> TokenBatch {
    TokenBatch::padded(&[vec![3, 14, 15, 9, 26], vec![5, 35, 8]], 0).unwrap()
}

#[test]
fn a_pass_can_be_paused_in_front_of_every_step() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    for options in [ALL_LOGITS, ForwardOptions::default()] {
        let whole = session.forward_with(&batch(), options).unwrap().data.to_vec();
        let mut paused = session.begin(&batch(), options).unwrap();
        for step in 0..=paused.program().steps().len() {
            session.advance(&mut paused, step).unwrap();
            // Another pass in between leaves nothing behind.
            session.forward(&TokenBatch::single(&[1, 2, 3]).unwrap()).unwrap();
            assert_eq!(session.finish(&paused).unwrap().data, whole, "paused in front of step {step}");
        }
    }
}

#[test]
fn a_changed_weight_is_the_same_from_the_start_or_from_the_step_that_uses_it() {
    let graph = tiny::decoder();
    let source = RandomWeights(graph.clone());
    let mut session = tiny::open(&graph);
    let plan =
        PrecisionPlan { rules: vec![("layers.1.mlp.up".into(), Strategy::Bf16)], ..Strategy::Fp32.into() };
    let mut variant = session.with_plan(&source, &plan).unwrap();
    let mut opened =
        Session::open(&CpuBackend::new(2), graph.clone(), &source, &plan, SessionOptions::default()).unwrap();
    let expected = opened.forward_with(&batch(), ALL_LOGITS).unwrap().data.to_vec();
    assert_eq!(variant.weight_bytes(), opened.weight_bytes());
    assert_eq!(variant.forward_with(&batch(), ALL_LOGITS).unwrap().data, expected);
    let mut paused = session.begin(&batch(), ALL_LOGITS).unwrap();
    let module = graph.modules.find("layers.1.mlp.up").unwrap();
    let first = paused.program().steps().iter().position(|step| step.module == module).unwrap();
    session.advance(&mut paused, first).unwrap();
    assert!(paused.size_bytes() > 0);
    assert_eq!(variant.finish(&paused).unwrap().data, expected);
    assert_ne!(session.finish(&paused).unwrap().data, expected, "the session keeps its own weights");
}

#[test]
fn an_attention_rounds_as_its_projection_does() {
    let graph = tiny::decoder();
    let rule = |pattern: &str| PrecisionPlan {
        rules: vec![(pattern.to_owned(), Strategy::Int8Dynamic)],
        ..Strategy::Fp32.into()
    };
    // Which layers' attentions may round: rotation stands between them and what rules can name.
    let rounded = |plan: &PrecisionPlan| -> Vec<bool> {
        let products = plan.attention_products(&graph);
        let attentions = graph.steps.iter().filter(|step| matches!(step.op, Op::Attention { .. }));
        attentions.map(|step| products[step.module.index()] == AttentionProducts::Bf16).collect()
    };
    let (none, all) = (rounded(&Strategy::Fp32.into()), rounded(&Strategy::Int8Dynamic.into()));
    assert!(none.len() > 1 && none.iter().all(|rounded| !rounded) && all.iter().all(|rounded| *rounded));
    let second: Vec<bool> = (0..none.len()).map(|layer| layer == 1).collect();
    assert_eq!(rounded(&rule("layers.1.attn.qkv")), second);
    assert_eq!(rounded(&rule("layers.1.attn.out")), none);
}

#[test]
fn values_can_be_changed_while_a_pass_waits() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let mut paused = session.begin(&batch(), ALL_LOGITS).unwrap();
    let head = paused.program().steps().len() - 1;
    let Op::Linear { x, .. } = paused.program().steps()[head].op.clone() else {
        panic!("a head is a linear")
    };
    session.advance(&mut paused, head).unwrap();
    paused.value_mut(x.value).unwrap().fill(0.0);
    assert!(session.finish(&paused).unwrap().data.iter().all(|logit| *logit == 0.0));
    assert!(paused.value(graph.output).is_none(), "nothing has written the result yet");
}

#[test]
fn what_cannot_be_is_refused() {
    let graph = tiny::decoder();
    let mut session = tiny::open(&graph);
    let mut paused = session.begin(&batch(), ALL_LOGITS).unwrap();
    session.advance(&mut paused, 4).unwrap();
    assert!(matches!(session.advance(&mut paused, 3), Err(EngineError::Unsupported(_))));
    assert!(matches!(session.advance(&mut paused, 1000), Err(EngineError::Unsupported(_))));
    let mut other = tiny::open(&tiny::decoder());
    assert!(matches!(other.finish(&paused), Err(EngineError::Unsupported(_))));
}
