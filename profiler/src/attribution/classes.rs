//! Joules per class of modules, by regression over the trials that ran classes extra times.
//!
//! A trial ran the whole program and `s[k]` sweeps of class `k` in each iteration, so units of class `k` (modules, or
//! neighbours that are done at once) ran `n[k] (1 + s[k])` times. [`Regression`] of joules per iteration on these counts
//! gives joules per run, and of seconds likewise; its intercept is what an iteration costs beside its modules. Units of a
//! class share its cost: that is what makes a class.

use joulewise_engine::ModuleId;

use super::conditions::Conditions;
use super::{Resolved, Trials, attributed};
use crate::classes::Class;
use crate::energy::Energy;
use crate::experiment::{Protocol, Record, Target, Trial};
use crate::regression::{Observation, Regression};
use crate::report::json::{
    Additivity, ClassRow, ConditionEffect, EnergyClosure, RegressionSummary, Timing, Whole,
};
use crate::statistics::{Summary, Z95, t_quantile};

pub(super) struct Classes<'a> {
    trials: &'a Trials<'a>,
    record: &'a Record,
    conditions: Conditions,
    energy: Option<Regression>,
    time: Option<Regression>,
    /// Sensor, scope, provenance and systematic term of what the regression has seen.
    pattern: Energy,
}

impl<'a> Classes<'a> {
    pub(super) fn fit(trials: &'a Trials<'a>, record: &'a Record, n_draws: usize, seed: u64) -> Self {
        let repeated: Vec<&Resolved<'_>> = trials.of(Target::Repeated).collect();
        let conditions = Conditions::of(trials);
        let observations =
            |response: &dyn Fn(&Resolved<'_>) -> Option<(f64, f64)>| -> Option<Vec<Observation>> {
                let observation = |resolved: &&Resolved<'_>| {
                    let (response, sampling_sd) = response(resolved)?;
                    let per_iteration = 1.0 / resolved.trial.iterations as f64;
                    Some(Observation {
                        block: resolved.trial.round,
                        counts: counts(record, resolved.trial),
                        response: response * per_iteration,
                        sampling_sd: sampling_sd * per_iteration,
                        conditions: conditions.distances(resolved),
                    })
                };
                repeated.iter().map(observation).collect()
            };
        let fit = |observations: Option<Vec<Observation>>| Regression::fit(&observations?, n_draws, seed);
        let energy = fit(observations(&|resolved| {
            let energy = &resolved.seen.energy;
            Some((energy.energy_j?, energy.ci95_j.unwrap_or(0.0) / Z95))
        }));
        let time = fit(observations(&|resolved| Some((resolved.trial.run_s, 0.0))));
        let seen: Vec<Energy> = repeated.iter().map(|resolved| resolved.per_iteration()).collect();
        Classes { trials, record, conditions, energy, time, pattern: attributed(Energy::mean(&seen)) }
    }

    /// Runs of units of each class when these modules run once.
    fn weights(&self, modules: &[ModuleId]) -> Vec<f64> {
        let of_class = |class: &Class| -> f64 {
            let chosen = class.modules.iter().enumerate().filter(|(_, id)| modules.contains(id));
            chosen.map(|(place, _)| self.share_of_unit(class, place)).sum()
        };
        self.record.classes.iter().map(of_class).collect()
    }

    /// A module's share of its unit. What several do at once is told apart by no measurement: it counts for those whose
    /// weights it needs, by their bytes, and what is done on the way (a norm, an activation, a sum) counts nothing.
    fn share_of_unit(&self, class: &Class, place: usize) -> f64 {
        let bytes = |id: &ModuleId| {
            let part = self.trials.parts.iter().find(|part| part.module == *id);
            part.map_or(0.0, |part| part.weight_bytes as f64)
        };
        let first = place - place % class.unit;
        let unit = &class.modules[first..first + class.unit];
        let all_bytes: f64 = unit.iter().map(bytes).sum();
        if all_bytes > 0.0 { bytes(&class.modules[place]) / all_bytes } else { 1.0 / class.unit as f64 }
    }

    fn all_weights(&self) -> Vec<f64> {
        self.record.classes.iter().map(|class| class.n_units() as f64).collect()
    }

    /// Whether a module is done on the way by others, who bear its cost.
    pub(super) fn is_borne(&self, module: ModuleId) -> bool {
        self.energy.is_some() && self.weights(&[module]).iter().sum::<f64>() == 0.0
    }

    fn figure(&self, energy_j: f64, ci95_j: Option<f64>, n: usize) -> Energy {
        let relative = self.pattern.energy_j.map_or(0.0, |mean_j| self.pattern.systematic_j / mean_j);
        Energy {
            energy_j: Some(energy_j),
            ci95_j,
            n,
            systematic_j: relative * energy_j.abs(),
            ..self.pattern.clone()
        }
    }

    /// Energy of one run of each of these modules.
    pub(super) fn energy(&self, modules: &[ModuleId]) -> Option<Energy> {
        let regression = self.energy.as_ref()?;
        let weights = self.weights(modules);
        let ci95_j = regression.combined_ci95(&weights, 0.0);
        Some(self.figure(regression.combine(&weights, 0.0), ci95_j, regression.n_blocks))
    }

    /// Time of one run of each of these modules.
    pub(super) fn time(&self, modules: &[ModuleId]) -> Option<Timing> {
        let regression = self.time.as_ref()?;
        let weights = self.weights(modules);
        Some(Timing {
            duration_s: regression.combine(&weights, 0.0),
            ci95_s: regression.combined_ci95(&weights, 0.0),
            n: regression.n_blocks,
        })
    }

    /// Energy of a module in turns with its class, without the rest of the program.
    pub(super) fn rotation(&self, module: ModuleId) -> Option<Energy> {
        let weights = self.weights(&[module]);
        let has = |class: &Class| class.modules.contains(&module);
        let index = self.record.classes.iter().position(has)?;
        let share = weights[index] / self.record.classes[index].n_units() as f64;
        let trials: Vec<Energy> = self
            .trials
            .of(Target::Rotation(index))
            .map(|resolved| resolved.per_iteration().scaled(share))
            .collect();
        (!trials.is_empty()).then(|| Energy::mean(&trials))
    }

    /// The sum over all modules against whole programs that the regression has not seen.
    pub(super) fn closure(&self, whole: &Whole) -> Option<EnergyClosure> {
        let regression = self.energy.as_ref()?;
        let weights = self.all_weights();
        // Costs are stated for the mean of their conditions; what each was beside that by is no scatter.
        let stated = |resolved: &Resolved<'_>| {
            let factor = regression.factor(&self.conditions.distances(resolved));
            Some((resolved.trial.round, resolved.per_iteration().energy_j? / factor))
        };
        let wholes: Vec<(usize, f64)> = self.trials.of(Target::Whole).filter_map(stated).collect();
        let whole_j = wholes.iter().map(|(_, energy_j)| energy_j).sum::<f64>() / wholes.len() as f64;
        // Turned around together with the costs, since what a round was warmer or slower by is common to both.
        let n = wholes.len() as f64;
        let inflation = if n > 1.0 { (n / (n - 1.0)).sqrt() } else { 1.0 };
        let whole_of = |sign: &dyn Fn(usize) -> f64| -> Option<f64> {
            let residuals: f64 =
                wholes.iter().map(|(round, energy_j)| sign(*round) * (energy_j - whole_j)).sum();
            (!wholes.is_empty()).then(|| whole_j + inflation * residuals / n)
        };
        let sum_j = regression.combine(&weights, 0.0);
        let sum = self.figure(sum_j, regression.combined_ci95(&weights, 0.0), regression.n_blocks);
        let rest_ci95_j = regression.ci95_with(&weights, |sum_j, sign| Some(whole_of(sign)? - sum_j));
        let ratio_ci95 = regression.ci95_with(&weights, |sum_j, sign| Some(sum_j / whole_of(sign)?));
        let ratio = whole.energy.energy_j.map(|whole_j| sum_j / whole_j);
        let unattributed = match whole.energy.energy_j {
            Some(whole_j) => self.figure(whole_j - sum_j, rest_ci95_j, regression.n_blocks),
            None => whole.energy.minus(&sum),
        };
        Some(EnergyClosure { unattributed, ratio, ratio_ci95, sum })
    }

    /// Whether every class above the protocol's share of the whole is known as well as it asks for; the steadier
    /// intervals of the model decide, since those that decide when to stop must not themselves be down to luck.
    pub(super) fn are_precise(&self, protocol: &Protocol) -> bool {
        let Some(regression) = &self.energy else { return !protocol.regression };
        let weights = self.all_weights();
        let all_j = regression.combine(&weights, 1.0);
        let classes = regression.costs.iter().zip(&regression.model_sd).zip(&weights);
        // The interval that will be stated has the few rounds' quantile.
        let quantile = t_quantile(0.975, (regression.n_blocks as f64 - 1.0).max(1.0));
        classes
            .filter(|((cost_j, _), n)| *cost_j * *n >= protocol.target_share * all_j)
            .all(|((cost_j, sd_j), _)| quantile * sd_j <= protocol.target_relative_ci * cost_j)
    }

    pub(super) fn rows(&self, whole: &Whole) -> Vec<ClassRow> {
        (0..self.record.classes.len()).map(|index| self.class(index, whole)).collect()
    }

    pub(super) fn summary(&self) -> Option<RegressionSummary> {
        let regression = self.energy.as_ref()?;
        let outside_j = regression.intercept;
        let none = vec![0.0; regression.costs.len()];
        Some(RegressionSummary {
            outside: self.figure(outside_j, regression.combined_ci95(&none, 1.0), regression.n_blocks),
            condition_number: regression.condition_number,
            scatter_relative: regression.scatter_relative,
            scatter_of_equals_relative: regression.scatter_of_equals_relative,
            round_scatter_relative: regression.block_scatter_relative,
            n_rounds: regression.n_blocks,
            n_trials: regression.n_observations,
            additivity: self.additivity(regression),
            effects: self.effects(regression),
        })
    }

    fn class(&self, index: usize, whole: &Whole) -> ClassRow {
        let class = &self.record.classes[index];
        let one = &class.modules[..class.unit];
        let (energy, time) = (self.energy(one), self.time(one));
        let energy_j = energy.as_ref().and_then(|energy| energy.energy_j);
        let idle = self.trials.idle_power().zip(time).map(|(idle, time)| idle.scaled(time.duration_s));
        let rotations: Option<Vec<Energy>> = one.iter().map(|module| self.rotation(*module)).collect();
        let rotation_j = rotations.and_then(|rotations| Energy::sum(&rotations).energy_j);
        ClassRow {
            name: class.name.clone(),
            modules: class.modules.iter().map(|module| module.0).collect(),
            unit: class.unit,
            weight_bytes: class.weight_bytes,
            cold_bytes: class.cold_bytes,
            sweeps: self.record.sweeps.get(index).copied().unwrap_or(0),
            ballast: class.ballast,
            share: energy_j
                .zip(whole.energy.energy_j)
                .map(|(energy_j, whole_j)| energy_j * class.n_units() as f64 / whole_j),
            dynamic_energy: energy.as_ref().zip(idle).map(|(energy, idle)| energy.minus(&idle)),
            power_w: energy_j
                .zip(time)
                .filter(|(_, time)| time.duration_s > 0.0)
                .map(|(energy_j, time)| energy_j / time.duration_s),
            misfit_j: self.energy.as_ref().map(|regression| Z95 * regression.misfit_sd[index]),
            model_ci95_j: self.energy.as_ref().map(|regression| Z95 * regression.model_sd[index]),
            rotation_ratio: rotation_j
                .zip(energy_j.filter(|energy_j| *energy_j > 0.0))
                .map(|(rotation_j, energy_j)| rotation_j / energy_j),
            energy,
            time,
        }
    }

    fn effects(&self, regression: &Regression) -> Vec<ConditionEffect> {
        let effects = self.conditions.said().zip(&regression.effects).enumerate();
        let effect = |(index, ((name, said), effect)): (usize, ((&str, f64), &f64))| ConditionEffect {
            name: name.to_owned(),
            relative: said * effect,
            relative_ci95: regression.effect_ci95(index).map(|ci95| said * ci95),
        };
        effects.map(effect).collect()
    }

    /// How well mixtures that the fit has not seen are predicted.
    fn additivity(&self, regression: &Regression) -> Option<Additivity> {
        let errors: Vec<f64> = self
            .trials
            .of(Target::Mixture)
            .filter_map(|resolved| {
                let measured_j = resolved.per_iteration().energy_j?;
                let conditions = self.conditions.distances(resolved);
                Some(regression.predict(&counts(self.record, resolved.trial), &conditions) / measured_j - 1.0)
            })
            .collect();
        let summary = Summary::of(&errors);
        (!errors.is_empty()).then(|| Additivity {
            n: errors.len(),
            mean_error: summary.mean,
            mean_error_ci95: summary.ci95,
            mean_absolute_error: errors.iter().map(|error| error.abs()).sum::<f64>() / errors.len() as f64,
        })
    }
}

/// Runs of units of each class in one iteration of a trial.
fn counts(record: &Record, trial: &Trial) -> Vec<f64> {
    let sweeps = |class: usize| -> usize {
        trial.extra.iter().filter(|extra| extra.class == class).map(|extra| extra.sweeps).sum()
    };
    let classes = record.classes.iter().enumerate();
    classes.map(|(index, class)| (class.n_units() * (1 + sweeps(index))) as f64).collect()
}
