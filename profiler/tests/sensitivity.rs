//! Sensitivities of a tiny model against passes that take no short cut.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod tiny;

use joulewise_engine::Strategy;
use joulewise_profiler::ProfilerError;
use joulewise_profiler::planner::group::Group;
use joulewise_profiler::planner::journal::Journal;
use joulewise_profiler::planner::probe::{Probe, windows};
use joulewise_profiler::planner::sensitivity::{GroupSensitivity, Outcome, Walk, plan_of};
use serde_json::json;
use tiny::RandomWeights;

const STRATEGIES: [Strategy; 3] = [Strategy::Bf16, Strategy::Int8Weight, Strategy::Int4];

fn probe(graph: &joulewise_engine::ModelGraph) -> Probe {
    let ids: Vec<u32> = (0..36).map(|i| (i * 17 + i * i) % tiny::VOCAB as u32).collect();
    Probe::of(graph, &windows(&ids, 12), 0).unwrap()
}

#[test]
fn groups_follow_from_what_steps_read() {
    let groups = Group::of_model(&tiny::decoder());
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let expected = [
        "wte + lm_head",
        "wpe",
        "layers.0.attn.{q,k,v}_proj",
        "layers.0.attn.o_proj",
        "layers.0.mlp.{gate,up}_proj",
        "layers.0.mlp.down_proj",
        "layers.1.attn.{q,k,v}_proj",
        "layers.1.attn.o_proj",
        "layers.1.mlp.{gate,up}_proj",
        "layers.1.mlp.down_proj",
    ];
    assert_eq!(names, expected);
    assert_eq!(groups[0].kind_name(), "embedding + head");
    assert_eq!((groups[0].parameters, groups[2].parameters), (40 * 32, 3 * 32 * 32));
    let graph = tiny::decoder();
    let followers: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.followers.iter().map(|module| graph.modules.get(*module).path.as_str()).collect())
        .collect();
    let expected: [&[&str]; 10] = [
        &[],
        &["sum"],
        &["layers.0.norm", "layers.0.attn"],
        &["layers.0.attn_residual"],
        &["layers.0.mlp.act"],
        &["layers.0.mlp_residual"],
        &["layers.1.norm", "layers.1.attn"],
        &["layers.1.attn_residual"],
        &["layers.1.mlp.act"],
        &["layers.1.mlp_residual", "rows"],
    ];
    assert_eq!(followers, expected);
    for module in graph.step_modules() {
        let with = groups.iter().filter(|group| group.has(module) || group.followers.contains(&module));
        assert_eq!(with.count(), 1, "{}", graph.modules.get(module).path);
    }
    assert!(groups[1].is_wide && !groups[1].may_be(Strategy::Int8Weight) && groups[1].may_be(Strategy::Bf16));
}

#[test]
fn the_short_cut_changes_no_result() {
    let graph = tiny::decoder();
    let (source, probe, groups) = (RandomWeights(graph.clone()), probe(&graph), Group::of_model(&graph));
    let mut session = tiny::open(&graph);
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&folder.path().join("journal"), &json!({}), false).unwrap();
    let mut walk = Walk::new(&mut session, &source, Strategy::Fp32, None, &probe).unwrap();
    let rows = walk.measure(&groups, &STRATEGIES, &mut journal, &mut |_, _, _| Ok(())).unwrap();
    for (group, row) in groups.iter().zip(&rows) {
        let mut last_error = 0.0;
        for (strategy, outcome) in STRATEGIES.iter().zip(&row.outcomes) {
            let Outcome::Measured(effect) = outcome else {
                assert!(
                    group.is_wide && *strategy != Strategy::Bf16,
                    "{} {strategy}: {outcome:?}",
                    group.name
                );
                continue;
            };
            let plan = plan_of(Strategy::Fp32, None, [(group, *strategy)]);
            assert_eq!(walk.divergence_of(&plan).unwrap(), effect.divergence, "{} {strategy}", group.name);
            assert!(effect.weight_nmse > last_error, "fewer bits, larger error");
            assert!(effect.divergence.kl_nats.mean > 0.0);
            // Inputs are independent of the rounding of weights: the relative error of a product is about that of its
            // weights; biases and looked-up rows leave an order of magnitude either way.
            let ratio = effect.output_nmse / effect.weight_nmse;
            assert!((0.1..10.0).contains(&ratio), "{} {strategy}: {ratio}", group.name);
            last_error = effect.weight_nmse;
        }
        let (removed, perturbed) = (&row.impact.removed.kl_nats, &row.impact.perturbed.kl_nats);
        assert!(removed.mean > 0.0 && perturbed.mean > 0.0, "{}", group.name);
    }
    // Without its head the model gives every token the same probability, which is never further than ln n from the truth;
    // equal logits round the sum of the exponentials once.
    let furthest_nats = rows[0].impact.removed.kl_percentiles_nats[5];
    assert!(furthest_nats <= (tiny::VOCAB as f64).ln() + 1e-9, "{furthest_nats}");
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let graph = tiny::decoder();
    let (source, probe, groups) = (RandomWeights(graph.clone()), probe(&graph), Group::of_model(&graph));
    let folder = tempfile::tempdir().unwrap();
    let measure = |file: &str,
                   resume: bool,
                   stop_after: usize|
     -> (Result<Vec<GroupSensitivity>, ProfilerError>, usize) {
        let mut session = tiny::open(&graph);
        let mut journal = Journal::open(&folder.path().join(file), &json!({}), resume).unwrap();
        let mut walk = Walk::new(&mut session, &source, Strategy::Fp32, None, &probe).unwrap();
        let mut steps = 0;
        let rows = walk.measure(&groups, &STRATEGIES, &mut journal, &mut |_, done, _| {
            steps = done;
            if done == stop_after { Err(ProfilerError::Protocol("stop".to_owned())) } else { Ok(()) }
        });
        (rows, steps)
    };
    let whole = measure("whole", false, usize::MAX).0.unwrap();
    for stop_after in [1, 6, 17, 39] {
        assert!(measure("parts", false, stop_after).0.is_err());
        let (resumed, steps) = measure("parts", true, usize::MAX);
        assert_eq!(resumed.unwrap(), whole);
        assert_eq!(steps, groups.len() * 4);
    }
}
