//! The embedded models on the embedded texts, against Hugging Face transformers 5.23 in f32 on the same.

#![allow(clippy::unwrap_used, reason = "a test says where it stopped")]

use joulewise_engine::{CpuBackend, ForwardOptions, Session, SessionOptions, Strategy, TokenBatch, greedy};
use joulewise_models::demo::{SST2_EXCERPT, WIKITEXT2_EXCERPT};
use joulewise_models::{LoadedModel, ModelSpec, load};

fn open(name: &str) -> (LoadedModel, Session) {
    let model = load(&ModelSpec::parse(name).unwrap()).unwrap();
    let (backend, plan) = (CpuBackend::new(2), Strategy::Fp32.into());
    let weights = model.weights.as_ref();
    let session =
        Session::open(&backend, model.graph.clone(), weights, &plan, SessionOptions::default()).unwrap();
    (model, session)
}

#[test]
fn every_sentence_is_classified_as_the_reference_does() {
    let (model, mut session) = open("demo:distilbert");
    assert_eq!(model.config.labels().unwrap(), ["NEGATIVE", "POSITIVE"]);
    let mut classes = String::new();
    let mut right = 0;
    for line in SST2_EXCERPT.lines().skip(1) {
        let (sentence, label) = line.split_once('\t').unwrap();
        let ids = model.tokenizer().unwrap().encode(sentence).unwrap();
        let class = greedy(session.forward(&TokenBatch::single(&ids).unwrap()).unwrap().data).to_string();
        right += usize::from(class == label);
        classes.push_str(&class);
    }
    assert_eq!(classes, "1011010010100001110000111001001011001011110100011001010100000011");
    assert_eq!(right, 58);
}

#[test]
fn the_text_is_as_likely_as_to_the_reference() {
    let (model, mut session) = open("demo:gpt2");
    let ids = model.tokenizer().unwrap().encode(WIKITEXT2_EXCERPT).unwrap();
    assert_eq!((ids.len(), &ids[..4]), (1210, &[222, 200, 303, 2316][..]));
    let options = ForwardOptions { all_logits: true, ..ForwardOptions::default() };
    let mut negative_log_likelihood = 0.0;
    for window in ids.chunks_exact(256) {
        let logits = session.forward_with(&TokenBatch::single(window).unwrap(), options).unwrap();
        for (position, next) in window.iter().enumerate().skip(1) {
            let row = logits.row(position - 1);
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            negative_log_likelihood += sum.ln() - f64::from(row[*next as usize]);
        }
    }
    // A thousand tokens, each with a rounding error of some 1e-6 in its logits.
    assert!((negative_log_likelihood - 3223.467134).abs() < 1e-2, "{negative_log_likelihood}");
}
