//! The planner against brute force, and its bound against the planner.

#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

use joulewise_profiler::planner::bound::Bound;
use joulewise_profiler::planner::front::Front;
use joulewise_profiler::planner::problem::{Choice, Limits, Objective, Problem, Totals};
use joulewise_profiler::planner::reason::Reason;
use proptest::prelude::*;

fn choice() -> impl Strategy<Value = Totals> {
    // Few distinct values, so that ties and exact hits of a limit happen.
    (0..20u32, 1..20u32, 1..6u32, 1..6u32).prop_map(|(sensitivity, energy, size, time)| Totals {
        sensitivity_nats: f64::from(sensitivity) / 8.0,
        energy_j: f64::from(energy) / 4.0,
        size_bytes: f64::from(size),
        duration_s: f64::from(time),
    })
}

fn problem() -> impl Strategy<Value = Problem> {
    let group = prop::collection::vec(choice(), 1..5);
    let objective = prop::sample::select(vec![Objective::Energy, Objective::Time, Objective::Bytes]);
    (prop::collection::vec(group, 1..=6), objective).prop_map(|(groups, objective)| Problem {
        objective,
        fixed: Totals { energy_j: 1.0, ..Totals::default() },
        groups: groups
            .into_iter()
            .map(|group| {
                let choices = group.into_iter().enumerate();
                choices.map(|(strategy, totals)| Choice { strategy, totals }).collect()
            })
            .collect(),
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..80u32, prop::option::of(4..24u32), prop::option::of(4..24u32)).prop_map(
        |(sensitivity, size, time)| Limits {
            sensitivity_nats: Some(f64::from(sensitivity) / 8.0),
            size_bytes: size.map(f64::from),
            duration_s: time.map(f64::from),
        },
    )
}

/// Every plan there is.
fn all_plans(problem: &Problem) -> Vec<Vec<usize>> {
    problem.groups.iter().fold(vec![vec![]], |plans, choices| {
        let extend =
            |plan: Vec<usize>| (0..choices.len()).map(move |choice| [plan.clone(), vec![choice]].concat());
        plans.into_iter().flat_map(extend).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_plan_that_loses_as_little_as_a_strategy_everywhere_costs_less_than_the_bound(
        problem in problem(),
        strategy in 0..4usize,
    ) {
        let everywhere = problem.everywhere(strategy);
        for (choices, &choice) in problem.groups.iter().zip(&everywhere) {
            let has_it = choices.iter().any(|choice| choice.strategy == strategy);
            prop_assert_eq!(choices[choice].strategy, if has_it { strategy } else { 0 });
        }
        let own = problem.totals(&everywhere);
        let bound = Bound::of(&problem, own.sensitivity_nats).unwrap();
        let as_good = all_plans(&problem).iter().map(|plan| problem.totals(plan))
            .filter(|totals| totals.sensitivity_nats <= own.sensitivity_nats)
            .map(|totals| problem.objective.of(&totals))
            .fold(f64::INFINITY, f64::min);
        prop_assert!(bound.cost <= as_good + 1e-9 && as_good <= problem.objective.of(&own));
    }

    #[test]
    fn the_front_is_that_of_brute_force(problem in problem(), limits in limits()) {
        let front = Front::of(&problem, &limits);
        prop_assert!(front.is_exact);
        let allowed: Vec<Totals> = all_plans(&problem)
            .iter()
            .map(|plan| problem.totals(plan))
            .filter(|totals| limits.allow(totals))
            .collect();
        // All values are multiples of 1/8: sums are exact, whatever their order.
        let cost = |totals: &Totals| problem.objective.of(totals);
        let is_beaten = |a: &Totals| allowed.iter().any(|b| {
            b.sensitivity_nats <= a.sensitivity_nats && cost(b) <= cost(a)
                && (b.sensitivity_nats < a.sensitivity_nats || cost(b) < cost(a))
        });
        let mut expected: Vec<(f64, f64)> =
            allowed.iter().filter(|a| !is_beaten(a)).map(|a| (a.sensitivity_nats, cost(a))).collect();
        expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
        expected.dedup();
        let got: Vec<(f64, f64)> = front.totals().map(|a| (a.sensitivity_nats, cost(a))).collect();
        prop_assert_eq!(got, expected);
        for index in 0..front.len() {
            let point = front.point(index);
            prop_assert_eq!(problem.totals(&point.plan), point.totals);
            prop_assert!(limits.allow(&point.totals));
        }
    }

    #[test]
    fn no_plan_beats_the_bound(problem in problem(), budget in 0..80u32) {
        let budget = f64::from(budget) / 8.0;
        let front = Front::of(&problem, &Limits::default());
        let cost = |totals: &Totals| problem.objective.of(totals);
        match (front.best_within(budget), Bound::of(&problem, budget)) {
            (Some(best), Some(bound)) => {
                // A fraction of a segment rounds once.
                prop_assert!(bound.cost <= cost(&best.totals) + 1e-9);
                // One group's worth is the most that mixing within one group can gain.
                let widest = problem.groups.iter().map(|choices| {
                    let costs = choices.iter().map(|choice| cost(&choice.totals));
                    costs.clone().fold(0.0, f64::max) - costs.fold(f64::INFINITY, f64::min)
                });
                prop_assert!(cost(&best.totals) - bound.cost <= widest.fold(0.0, f64::max) + 1e-9);
            }
            (best, bound) => prop_assert!(best.is_none() && bound.is_none()),
        }
    }
}

fn choice_of(strategy: usize, sensitivity_nats: f64, energy_j: f64) -> Choice {
    Choice { strategy, totals: Totals { sensitivity_nats, energy_j, ..Totals::default() } }
}

#[test]
fn a_budget_buys_the_steepest_saving_first() {
    let problem = Problem {
        objective: Objective::Energy,
        fixed: Totals::default(),
        groups: vec![
            vec![choice_of(0, 0.0, 10.0), choice_of(1, 1.0, 4.0), choice_of(2, 4.0, 3.0)],
            vec![choice_of(0, 0.0, 10.0), choice_of(1, 1.0, 8.0)],
        ],
    };
    let front = Front::of(&problem, &Limits::default());
    assert_eq!(front.best_within(1.0).unwrap().plan, [1, 0]);
    assert_eq!(front.best_within(2.0).unwrap().plan, [1, 1]);
    assert_eq!(front.best_within(-0.1), None);
    // Half of the second group's step is left over: 4 + 10 - 0.5 * 2.
    let bound = Bound::of(&problem, 1.5).unwrap();
    assert_eq!((bound.cost, bound.price_per_nat), (13.0, 2.0));
    let reasons = Reason::of_plan(&problem, &[1, 0]);
    let (cheaper, safer) = (reasons[0].cheaper.unwrap(), reasons[0].safer.unwrap());
    assert_eq!((cheaper.strategy, cheaper.cost_change, cheaper.sensitivity_change_nats), (2, -1.0, 3.0));
    assert_eq!((safer.strategy, safer.rate_per_nat()), (0, 6.0));
    assert_eq!(reasons[1].safer, None);
}

#[test]
fn a_limit_on_bytes_can_cost_energy_and_can_be_out_of_reach() {
    let sized = |strategy, sensitivity_nats, energy_j, size_bytes| Choice {
        strategy,
        totals: Totals { sensitivity_nats, energy_j, size_bytes, duration_s: 1.0 },
    };
    let group = vec![sized(0, 0.0, 1.0, 4.0), sized(1, 1.0, 2.0, 1.0)];
    let problem = Problem { groups: vec![group.clone(), group], ..Problem::default() };
    let within =
        |size_bytes| Front::of(&problem, &Limits { size_bytes: Some(size_bytes), ..Limits::default() });
    assert_eq!(within(8.0).point(0).plan, [0, 0]);
    assert_eq!(within(5.0).point(0).totals.energy_j, 3.0);
    assert_eq!(within(2.0).point(0).plan, [1, 1]);
    assert!(within(1.0).is_empty());
    assert!(Front::of(&Problem { groups: vec![vec![]], ..problem.clone() }, &Limits::default()).is_empty());
}
