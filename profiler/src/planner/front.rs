//! All plans worth having: an exact dynamic programme over lists of undominated partial plans.
//!
//! Group by group, every kept partial plan is extended by every choice, and what another plan beats in all respects is
//! dropped (Nemhauser and Ullmann 1969). What remains behind the last group is the whole Pareto front of cost against
//! sensitivity, not only the optimum for one budget. Sizes and times matter to dominance only where their limits can
//! still be missed; a partial plan that is certain to keep to a limit counts as having none of it.

use serde::{Deserialize, Serialize};

use super::problem::{Choice, Limits, Objective, Problem, Totals};

/// Undominated partial plans that are kept per group; beyond, the front is thinned and says so.
pub const MAX_STATES: usize = 400_000;
/// The same where sizes or times take part: every plan is then held against every other.
const MAX_STATES_CONSTRAINED: usize = 3_000;

/// A plan on the front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What it adds up to.
    pub totals: Totals,
    /// Index of the choice of each group.
    pub plan: Vec<usize>,
}

/// The front, by rising sensitivity and falling cost.
#[derive(Clone, Debug, Default)]
pub struct Front {
    states: Vec<State>,
    levels: Vec<Vec<Step>>,
    /// Nothing undominated was left out.
    pub is_exact: bool,
}

/// A partial plan.
#[derive(Clone, Copy, Debug)]
struct State {
    totals: Totals,
    step: Step,
}

/// Where a state comes from.
#[derive(Clone, Copy, Debug)]
struct Step {
    parent: u32,
    choice: u16,
}

impl Front {
    /// Every undominated plan within `limits`; empty when no plan is.
    pub fn of(problem: &Problem, limits: &Limits) -> Front {
        let mut front = Front { is_exact: true, ..Front::default() };
        front.states.push(State { totals: problem.fixed, step: Step { parent: 0, choice: 0 } });
        for (index, choices) in problem.groups.iter().enumerate() {
            let rest = &problem.groups[index + 1..];
            let filter = Filter::new(limits, problem.objective, rest);
            let (mut kept, most) = if filter.is_plain() {
                (extended(&front.states, choices, &filter), MAX_STATES)
            } else {
                (extended_constrained(&front.states, choices, &filter), MAX_STATES_CONSTRAINED)
            };
            if kept.len() > most {
                front.is_exact = false;
                kept = thinned(&kept, most);
            }
            front.levels.push(kept.iter().map(|state| state.step).collect());
            front.states = kept;
        }
        // Limits have done their part: the front itself is cost against sensitivity.
        let mut best = f64::INFINITY;
        let mut last = Vec::with_capacity(front.states.len());
        for (index, state) in front.states.iter().enumerate() {
            let cost = problem.objective.of(&state.totals);
            if cost < best {
                best = cost;
                last.push(index);
            }
        }
        front.states = last.iter().map(|index| front.states[*index]).collect();
        if let Some(level) = front.levels.last_mut() {
            *level = last.iter().map(|index| level[*index]).collect();
        }
        front
    }

    /// Number of plans.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether no plan keeps to the limits.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// What the plans add up to, by rising sensitivity.
    pub fn totals(&self) -> impl ExactSizeIterator<Item = &Totals> {
        self.states.iter().map(|state| &state.totals)
    }

    /// The plan with this number.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn point(&self, index: usize) -> Point {
        let mut plan = vec![0; self.levels.len()];
        let mut state = index;
        for (group, level) in self.levels.iter().enumerate().rev() {
            plan[group] = usize::from(level[state].choice);
            state = level[state].parent as usize;
        }
        Point { totals: self.states[index].totals, plan }
    }

    /// The plan of least cost within a sensitivity budget.
    pub fn best_within(&self, sensitivity_nats: f64) -> Option<Point> {
        let limits = Limits { sensitivity_nats: Some(sensitivity_nats), ..Limits::default() };
        let within = self.states.partition_point(|state| limits.allow(&state.totals));
        within.checked_sub(1).map(|last| self.point(last))
    }
}

/// What the groups that are still to come can add, at least and at most.
struct Filter<'a> {
    limits: &'a Limits,
    objective: Objective,
    least: Totals,
    most: Totals,
}

impl<'a> Filter<'a> {
    fn new(limits: &'a Limits, objective: Objective, rest: &[Vec<Choice>]) -> Self {
        let (mut least, mut most) = (Totals::default(), Totals::default());
        for choices in rest {
            let extreme = |of: fn(&Totals) -> f64, fold: fn(f64, f64) -> f64, start| {
                choices.iter().map(|choice| of(&choice.totals)).fold(start, fold)
            };
            let all = |fold: fn(f64, f64) -> f64, start: f64| Totals {
                sensitivity_nats: extreme(|t| t.sensitivity_nats, fold, start),
                energy_j: extreme(|t| t.energy_j, fold, start),
                size_bytes: extreme(|t| t.size_bytes, fold, start),
                duration_s: extreme(|t| t.duration_s, fold, start),
            };
            least = least + all(f64::min, f64::INFINITY);
            most = most + all(f64::max, f64::NEG_INFINITY);
        }
        Filter { limits, objective, least, most }
    }

    fn can_keep_to_limits(&self, totals: &Totals) -> bool {
        self.limits.allow(&(*totals + self.least))
    }

    /// Size and time only where they can still break a limit.
    fn clipped(&self, totals: &Totals) -> (f64, f64) {
        let clip = |value: f64, most: f64, limit: Option<f64>| match limit {
            Some(limit) if value + most > limit => value,
            _ => 0.0,
        };
        (
            clip(totals.size_bytes, self.most.size_bytes, self.limits.size_bytes),
            clip(totals.duration_s, self.most.duration_s, self.limits.duration_s),
        )
    }

    fn is_plain(&self) -> bool {
        self.limits.size_bytes.is_none() && self.limits.duration_s.is_none()
    }
}

/// A list of states extended by one choice, walked through by rising sensitivity.
struct Cursor<'a> {
    states: &'a [State],
    choice: usize,
    extension: Totals,
    next: usize,
    sensitivity_nats: f64,
    cost: f64,
}

impl Cursor<'_> {
    /// Goes on to the first state from `next` on that costs less than `best`; false when there is none.
    fn seek(&mut self, best: f64, filter: &Filter<'_>) -> bool {
        while let Some(state) = self.states.get(self.next) {
            self.cost = filter.objective.of(&state.totals) + filter.objective.of(&self.extension);
            if self.cost < best {
                self.sensitivity_nats = state.totals.sensitivity_nats + self.extension.sensitivity_nats;
                return filter.can_keep_to_limits(&(state.totals + self.extension));
            }
            self.next += 1;
        }
        false
    }
}

/// Every undominated extension of states that are sorted by rising sensitivity and falling cost: the lists are
/// merged, and each skips what is no better than the last state that was kept. Few lists: looking at all beats a heap.
fn extended(states: &[State], choices: &[Choice], filter: &Filter<'_>) -> Vec<State> {
    let mut best = f64::INFINITY;
    let cursor = |(choice, extension): (usize, &Choice)| {
        let extension = extension.totals;
        Cursor { states, choice, extension, next: 0, sensitivity_nats: 0.0, cost: 0.0 }
    };
    let mut cursors: Vec<Cursor<'_>> = choices.iter().enumerate().map(cursor).collect();
    cursors.retain_mut(|cursor| cursor.seek(best, filter));
    let mut kept = Vec::with_capacity(2 * states.len());
    while !cursors.is_empty() {
        let mut first = 0;
        for (index, cursor) in cursors.iter().enumerate().skip(1) {
            let other = &cursors[first];
            let is_earlier = cursor.sensitivity_nats < other.sensitivity_nats
                || cursor.sensitivity_nats == other.sensitivity_nats && cursor.cost < other.cost;
            if is_earlier {
                first = index;
            }
        }
        let cursor = &mut cursors[first];
        if cursor.cost < best {
            best = cursor.cost;
            kept.push(State {
                totals: states[cursor.next].totals + cursor.extension,
                step: Step { parent: cursor.next as u32, choice: cursor.choice as u16 },
            });
        }
        cursor.next += 1;
        if !cursor.seek(best, filter) {
            cursors.swap_remove(first);
        }
    }
    kept
}

/// The same where less size or time is a merit besides.
fn extended_constrained(states: &[State], choices: &[Choice], filter: &Filter<'_>) -> Vec<State> {
    let mut all: Vec<State> = Vec::with_capacity(states.len() * choices.len());
    for (choice, extension) in choices.iter().enumerate() {
        all.extend(states.iter().enumerate().map(|(parent, state)| State {
            totals: state.totals + extension.totals,
            step: Step { parent: parent as u32, choice: choice as u16 },
        }));
    }
    all.retain(|state| filter.can_keep_to_limits(&state.totals));
    all.sort_by(|a, b| {
        let (a, b) = (&a.totals, &b.totals);
        a.sensitivity_nats
            .total_cmp(&b.sensitivity_nats)
            .then(filter.objective.of(a).total_cmp(&filter.objective.of(b)))
    });
    let mut kept: Vec<(State, (f64, f64))> = Vec::new();
    for state in all {
        let clipped = filter.clipped(&state.totals);
        let is_dominated = kept.iter().any(|(other, other_clipped)| {
            filter.objective.of(&other.totals) <= filter.objective.of(&state.totals)
                && other_clipped.0 <= clipped.0
                && other_clipped.1 <= clipped.1
        });
        if !is_dominated {
            kept.push((state, clipped));
        }
    }
    kept.into_iter().map(|(state, _)| state).collect()
}

/// At most `most` of the states, evenly spread, both ends among them.
fn thinned(states: &[State], most: usize) -> Vec<State> {
    let last = states.len() - 1;
    (0..most).map(|index| states[index * last / (most - 1)]).collect()
}
