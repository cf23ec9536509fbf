//! How good a plan can be at all: the linear relaxation of the choice problem.
//!
//! Where a group may mix its choices, the optimum is known in closed form: walk along the lower convex hulls of all
//! groups, steepest saving first, until the budget is used up (Sinha and Zoltners 1979). No real plan costs less, so
//! the difference to a plan bounds what a better search could find. The slope at which the walk stops is the price of
//! quality: joules (or seconds, or bytes) per nat.

use serde::{Deserialize, Serialize};

use super::problem::{Choice, Objective, Problem};

/// The relaxation at one budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// No plan within the budget costs less, in the unit of the problem's objective.
    pub cost: f64,
    /// What the last nat of the budget saves, in the same unit; 0 where the budget is not used up.
    pub price_per_nat: f64,
}

impl Bound {
    /// The bound at a sensitivity budget; `None` when no plan keeps to it.
    pub fn of(problem: &Problem, sensitivity_nats: f64) -> Option<Bound> {
        let mut cost = problem.objective.of(&problem.fixed);
        let mut left = sensitivity_nats - problem.fixed.sensitivity_nats;
        let mut segments = Vec::new();
        for choices in &problem.groups {
            let hull = hull(choices, problem.objective);
            let first = hull.first()?;
            cost += first.1;
            left -= first.0;
            segments.extend(hull.windows(2).map(|pair| (pair[1].0 - pair[0].0, pair[0].1 - pair[1].1)));
        }
        // Sums of the same terms in another order differ by a few units in the last place.
        if left < -1e-12 * sensitivity_nats.abs() {
            return None;
        }
        segments.sort_by(|a, b| (b.1 / b.0).total_cmp(&(a.1 / a.0)));
        for (nats, saving) in segments {
            if nats > left {
                let price_per_nat = saving / nats;
                return Some(Bound { cost: cost - price_per_nat * left.max(0.0), price_per_nat });
            }
            left -= nats;
            cost -= saving;
        }
        Some(Bound { cost, price_per_nat: 0.0 })
    }
}

/// Sensitivity and cost of the choices on the lower convex hull, by rising sensitivity and falling cost.
fn hull(choices: &[Choice], objective: Objective) -> Vec<(f64, f64)> {
    let point = |choice: &Choice| (choice.totals.sensitivity_nats, objective.of(&choice.totals));
    let mut points: Vec<(f64, f64)> = choices.iter().map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if hull.last().is_some_and(|last| point.1 >= last.1) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            // `b` stays only if the saving from `a` to `b` is steeper than from `b` on.
            let is_convex = (a.1 - b.1) * (point.0 - b.0) > (b.1 - point.1) * (b.0 - a.0);
            if is_convex {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}
