//! How long the planner takes, and how close its bound is, at sizes far beyond today's models.
//!
//! Costs are made up as measured ones look: energy falls with the bits of a format, sensitivity rises by half a decade
//! to a decade per format, both with a spread per group.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Instant;

use joulewise_profiler::planner::bound::Bound;
use joulewise_profiler::planner::front::Front;
use joulewise_profiler::planner::problem::{Choice, Limits, Objective, Problem, Totals};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

const FORMATS: usize = 9;

fn problem(groups: usize, seed: u64) -> Problem {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut group = || {
        let (size, fragility) =
            (10f64.powf(random.random_range(-3.0..-1.0)), 10f64.powf(random.random_range(-5.0..-2.0)));
        let choice = |strategy: usize| {
            let (saving, harm): (f64, f64) = (random.random_range(0.6..1.4), random.random_range(0.4..2.5));
            let bits = 32.0 / (1.0 + strategy as f64);
            let sensitivity_nats =
                if strategy == 0 { 0.0 } else { fragility * harm * 2f64.powi(strategy as i32) };
            let energy_j = size * (0.2 + saving * bits / 32.0);
            Choice {
                strategy,
                totals: Totals { sensitivity_nats, energy_j, size_bytes: bits, duration_s: energy_j },
            }
        };
        (0..FORMATS).map(choice).collect()
    };
    Problem {
        objective: Objective::Energy,
        fixed: Totals::default(),
        groups: (0..groups).map(|_| group()).collect(),
    }
}

fn main() {
    println!(
        "| groups x formats | plans on the front | exact | time of the whole front | gap to the bound |"
    );
    println!("|---|--:|---|--:|--:|");
    for groups in [24, 96, 200] {
        let problem = problem(groups, groups as u64);
        let start = Instant::now();
        let front = Front::of(&problem, &Limits::default());
        let duration_s = start.elapsed().as_secs_f64();
        let worst = front.totals().last().map_or(0.0, |totals| totals.sensitivity_nats);
        let budget = worst / 4.0;
        let (best, bound) = (front.best_within(budget), Bound::of(&problem, budget));
        let gap = best.zip(bound).map(|(best, bound)| best.totals.energy_j / bound.cost - 1.0);
        let gap = gap.map_or("-".to_owned(), |gap| format!("{gap:.1e}"));
        println!(
            "| {groups} x {FORMATS} | {} | {} | {duration_s:.2} s | {gap} |",
            front.len(),
            front.is_exact
        );
    }
}
