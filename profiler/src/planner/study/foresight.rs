//! What can be said of the limits before everything is measured: sizes are known at once, times once formats have costs.

use joulewise_engine::{Session, Strategy};

use super::{Settings, size_bytes};
use crate::error::{ProfilerError, Result};
use crate::planner::group::Group;
use crate::planner::problem::{Choice, Limits, Problem, Totals};

/// See [`Settings::check`].
pub(super) fn check(session: &Session, settings: &Settings<'_>) -> Result<()> {
    let (graph, strategies) = (session.graph(), settings.all_strategies());
    let mut least_bytes = session.weight_bytes() as f64;
    for group in Group::of_model(graph) {
        let pinned = settings.pin_of(&group);
        if let Some(strategy) = pinned.filter(|strategy| !strategies.contains(strategy)) {
            return Err(ProfilerError::Protocol(format!(
                "{} is pinned to {strategy}, which is not among the strategies to choose from",
                group.name
            )));
        }
        let may_be = |strategy: &&Strategy| pinned.is_none_or(|pinned| pinned == **strategy);
        let choices = strategies.iter().filter(may_be).filter(|strategy| group.may_be(**strategy));
        let reference_bytes = size_bytes(graph, &group, settings.reference);
        let sizes = choices.map(|strategy| size_bytes(graph, &group, *strategy));
        // What a group may not be is left to the measurement, which says why.
        least_bytes += sizes.reduce(f64::min).unwrap_or(0.0) - reference_bytes;
    }
    let least = Totals { size_bytes: least_bytes, ..Totals::default() };
    let limits = Limits { size_bytes: settings.limits.size_bytes, ..Limits::default() };
    match settings.limits.size_bytes {
        Some(limit) if !limits.allow(&least) => Err(ProfilerError::Protocol(format!(
            "no plan keeps to {limit:.0} bytes: with the narrowest of the strategies everywhere, weights take {least_bytes:.0}"
        ))),
        _ => Ok(()),
    }
}

/// Why no plan is left, with the least that each limited figure can come to.
pub(super) fn beyond_limits(problem: &Problem, limits: &Limits) -> ProfilerError {
    let least = |figure: &dyn Fn(&Totals) -> f64| {
        let of_group = |choices: &Vec<Choice>| {
            choices.iter().map(|choice| figure(&choice.totals)).fold(f64::INFINITY, f64::min)
        };
        figure(&problem.fixed) + problem.groups.iter().map(of_group).sum::<f64>()
    };
    let bytes = limits.size_bytes.map(|limit| {
        format!("{limit:.0} bytes (the smallest has {:.0})", least(&|totals| totals.size_bytes))
    });
    let seconds = limits.duration_s.map(|limit| {
        format!("{limit} s a request (the fastest takes {:.3e} s)", least(&|totals| totals.duration_s))
    });
    let limits: Vec<String> = [bytes, seconds].into_iter().flatten().collect();
    ProfilerError::Protocol(format!("no plan keeps to {}", limits.join(" and ")))
}
