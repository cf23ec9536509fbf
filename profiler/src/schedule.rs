//! What is measured in which round, and for how long.
//!
//! A round holds: the whole program in one piece and cut at modules, side by side; the whole program with each class of
//! modules run extra times, the whole program by itself in the same way, and two random mixtures of classes, from
//! which regression learns and on which it is tested; in the first rounds also each class by itself, going round its
//! layers, and each module by itself. Any round can be told without those before it, so an interrupted experiment
//! continues as if nothing had happened.

use joulewise_engine::ModuleId;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::ballast::{self, Ballast};
use crate::classes::{Class, sample_of_equals};
use crate::clock::Clock;
use crate::error::Result;
use crate::experiment::{Extra, Target};
use crate::observer::ModuleTimes;
use crate::protocol::Protocol;
use crate::workload::Workload;

/// Ballast adds so many times the whole program. Less, and the program itself stands in the way of telling apart what was
/// added; more, and weights come round sooner than in the program most of the time.
const BALLAST_PROGRAMS: f64 = 2.0;
/// Trials with ballast are so many times as long as others: what a class costs is then a small difference between them.
const BALLAST_WINDOWS: f64 = 2.0;
/// No class is swept more often than this per iteration: by then its caches are as warm as they get.
const MOST_SWEEPS: f64 = 64.0;
/// Mixtures of classes in each round.
const MIXTURES: usize = 2;

/// A target with the length of its trials.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) target: Target,
    /// Sweeps behind each run of the whole program, or alone.
    pub(crate) extra: Vec<Extra>,
    pub(crate) length: Length,
    /// What a trial will take, preparation included.
    pub(crate) trial_s: f64,
}

/// How long a trial goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// So many iterations, as the user said.
    Iterations(usize),
    /// Until a window is filled; the expected iterations are run first.
    Window { window_s: f64, expected: usize },
}

impl Length {
    /// Runs iterations until the trial is long enough: how many there were, and the seconds they took.
    pub(crate) fn fill(
        self,
        clock: &dyn Clock,
        run: &mut dyn FnMut(usize) -> Result<f64>,
    ) -> Result<(usize, f64)> {
        let (window_s, expected) = match self {
            Length::Iterations(iterations) => return Ok((iterations, run(iterations)?)),
            Length::Window { window_s, expected } => (window_s, expected),
        };
        let start_s = clock.now_s();
        let (mut iterations, mut run_s) = (expected, run(expected)?);
        loop {
            // What was expected rests on one look, at a machine that may have been busy just then.
            let elapsed_s = clock.now_s() - start_s;
            if elapsed_s >= window_s {
                return Ok((iterations, run_s));
            }
            let missing = ((window_s - elapsed_s) * iterations as f64 / elapsed_s.max(1e-9)).ceil();
            let more = (missing.max(1.0) as usize).min(iterations * 10);
            run_s += run(more)?;
            iterations += more;
        }
    }

    /// Iterations that let the sensor forget what was before: one at least where an iteration is short, and as many
    /// as fill an update period.
    pub(crate) fn lead_in(self, update_period_s: f64) -> usize {
        match self {
            Length::Iterations(_) | Length::Window { expected: 1, .. } => 0,
            Length::Window { window_s, expected } => {
                let share = (update_period_s / window_s).clamp(0.0, 1.0);
                ((share * expected as f64).ceil() as usize).max(1)
            }
        }
    }
}

/// The plan of an experiment.
pub(crate) struct Schedule {
    wholes: [Planned; 2],
    rows: Vec<Planned>,
    rotations: Vec<Planned>,
    replays: Vec<Planned>,
    /// Seconds of one sweep of each class, and how often it is swept.
    sweeps: Vec<(f64, usize)>,
    roles: Vec<Ballast>,
    whole_s: f64,
    row_window_s: f64,
    iterations: Option<usize>,
    replay_rounds: usize,
    pub(crate) regression_rounds: usize,
    seed: u64,
}

/// What a schedule is made from besides the protocol.
pub(crate) struct Basis<'a> {
    pub(crate) classes: &'a [Class],
    /// How often each class is swept, where an interrupted experiment has settled that.
    pub(crate) sweeps: Option<Vec<usize>>,
    pub(crate) update_period_s: f64,
}

impl Schedule {
    /// Looks at the workload for long enough to know how long its parts take.
    pub(crate) fn new(
        workload: &mut dyn Workload,
        times: &mut ModuleTimes,
        protocol: &Protocol,
        basis: &Basis<'_>,
    ) -> Result<(Schedule, Vec<ModuleId>)> {
        let window_s = |least_s: f64, updates: f64| least_s.max(updates * basis.update_period_s);
        times.clear();
        let whole_s = workload.repeat(ModuleId::ROOT)?.run(1)?.max(1e-9);
        workload.observe(times)?;
        let observed_s: f64 = workload.parts().iter().map(|part| times.mean_s(part.module)).sum();
        let whole_window_s = window_s(protocol.min_window_s, protocol.min_updates);
        let plan = |target, extra, single_s: f64, window_s: f64, overhead_s: f64| {
            planned(protocol.iterations, target, extra, single_s, window_s, overhead_s)
        };
        let wholes = [
            plan(Target::Whole, Vec::new(), whole_s, whole_window_s, 0.0),
            plan(Target::Observed, Vec::new(), observed_s.max(whole_s), whole_window_s, 0.0),
        ];

        let class_s: Vec<f64> = basis
            .classes
            .iter()
            .map(|class| class.modules.iter().map(|module| times.mean_s(*module)).sum::<f64>().max(1e-9))
            .collect();
        let row_window_s = window_s(protocol.regression_min_window_s, protocol.regression_min_updates);
        let roles: Vec<Ballast> = basis.classes.iter().map(|class| class.ballast).collect();
        let ballast_s: f64 = ballast::ballast(&roles).into_iter().map(|class| class_s[class]).sum();
        let wanted = |index: usize| {
            let (programs, of_s) = match roles[index] {
                Ballast::None | Ballast::Sole => (protocol.regression_extra, class_s[index]),
                Ballast::Part | Ballast::Beside => (BALLAST_PROGRAMS, ballast_s),
            };
            (programs * whole_s / of_s).round().clamp(1.0, MOST_SWEEPS) as usize
        };
        let counts = match &basis.sweeps {
            Some(counts) if counts.len() == class_s.len() => counts.clone(),
            _ => (0..class_s.len()).map(wanted).collect(),
        };
        let sweeps: Vec<(f64, usize)> = class_s.into_iter().zip(counts).collect();
        let extra_s =
            |extra: &[Extra]| -> f64 { extra.iter().map(|e| e.sweeps as f64 * sweeps[e.class].0).sum() };
        let row = |(of, swept): (Option<usize>, Vec<usize>)| {
            let count = of.map_or(0, |class| sweeps[class].1);
            let extra: Vec<Extra> = swept.into_iter().map(|class| Extra { class, sweeps: count }).collect();
            let single_s = whole_s + extra_s(&extra);
            // Every preparation of a repetition runs the program once.
            let has_ballast = of.is_some_and(|class| matches!(roles[class], Ballast::Part | Ballast::Beside));
            let windows = if has_ballast { BALLAST_WINDOWS } else { 1.0 };
            plan(Target::Repeated, extra, single_s, windows * row_window_s, whole_s)
        };
        let rows: Vec<Planned> = ballast::rows(&roles).into_iter().map(row).collect();
        let rows_s: f64 = rows.iter().map(|row| row.trial_s).sum::<f64>()
            + MIXTURES as f64 * (2.0 * whole_s).max(row_window_s);
        let affordable = (protocol.regression_limit_s / rows_s.max(1e-9)) as usize;
        let is_wanted = protocol.regression && sweeps.len() > 1;
        let regression_rounds = match affordable {
            _ if !is_wanted => 0,
            0 | 1 => 0,
            rounds if rounds >= protocol.trials => usize::MAX,
            rounds => rounds,
        };

        let replay_window_s = window_s(protocol.replay_min_window_s, protocol.replay_min_updates);
        let replay_rounds = protocol.replay_trials.min(protocol.trials);
        let rotations = (0..sweeps.len()).filter(|_| regression_rounds > 0).map(|class| {
            let extra = vec![Extra { class, sweeps: 1 }];
            plan(Target::Rotation(class), extra, sweeps[class].0, replay_window_s, whole_s)
        });
        let rotations = rotations.collect();
        // Before a replay, everything that feeds the module is run once: half the program on average.
        let cost_s = |n: usize| n as f64 * replay_rounds as f64 * (replay_window_s + whole_s / 2.0);
        let mut replayed: Vec<ModuleId> = workload.parts().iter().map(|part| part.module).collect();
        if cost_s(replayed.len()) > protocol.replay_limit_s {
            replayed = sample_of_equals(workload.parts());
        }
        if replay_rounds == 0 {
            replayed.clear();
        }
        let mut replays = Vec::with_capacity(replayed.len());
        for &module in &replayed {
            // An observed module carries two time marks; the first replays tell its own time.
            let observed_s = times.mean_s(module).max(1e-7);
            let probe = (1e-3 / observed_s).ceil().min(1000.0) as usize;
            let single_s = workload.repeat(module)?.run(probe)? / probe as f64;
            replays.push(plan(Target::Replay(module), Vec::new(), single_s, replay_window_s, whole_s / 2.0));
        }
        let schedule = Schedule {
            wholes,
            rows,
            rotations,
            replays,
            sweeps,
            roles,
            whole_s,
            row_window_s,
            iterations: protocol.iterations,
            replay_rounds,
            regression_rounds,
            seed: protocol.seed,
        };
        Ok((schedule, replayed))
    }

    /// How often each class is swept.
    pub(crate) fn sweeps(&self) -> Vec<usize> {
        self.sweeps.iter().map(|(_, count)| *count).collect()
    }

    /// The trials of a round, in shuffled order.
    pub(crate) fn round(&self, round: usize) -> Vec<Planned> {
        let mut random =
            Pcg64::seed_from_u64(self.seed.wrapping_add((round as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        // The whole in one piece and the whole cut stand side by side: their ratio is the closure in time, and the less
        // time between them, the less can change.
        let mut pair = self.wholes.to_vec();
        pair.shuffle(&mut random);
        let mut blocks = vec![pair];
        if round < self.regression_rounds {
            blocks.extend(self.rows.iter().map(|row| vec![row.clone()]));
            blocks.extend((0..MIXTURES).map(|_| vec![self.mixture(&mut random)]));
        }
        if round < self.replay_rounds {
            blocks.extend(self.rotations.iter().chain(&self.replays).map(|trial| vec![trial.clone()]));
        }
        blocks.shuffle(&mut random);
        blocks.concat()
    }

    /// A random half of the classes that are swept by themselves, each up to half as often; of those that need ballast,
    /// half beside it, or all but two of the ballast.
    fn mixture(&self, random: &mut Pcg64) -> Planned {
        let with = |wanted: &dyn Fn(Ballast) -> bool| -> Vec<usize> {
            (0..self.roles.len()).filter(|&class| wanted(self.roles[class])).collect()
        };
        let half = |classes: Vec<usize>, random: &mut Pcg64| -> Vec<usize> {
            classes.choose_multiple(random, classes.len().div_ceil(2)).copied().collect()
        };
        let alone = half(with(&|role| matches!(role, Ballast::None | Ballast::Sole)), random);
        let mut extra: Vec<Extra> = alone
            .into_iter()
            .map(|class| {
                let most = self.sweeps[class].1.div_ceil(2).max(1);
                Extra { class, sweeps: random.random_range(1..=most) }
            })
            .collect();
        let parts = with(&|role| role == Ballast::Part);
        let kept: Vec<usize> =
            parts.choose_multiple(random, parts.len().saturating_sub(2).max(1)).copied().collect();
        let beside = half(with(&|role| role == Ballast::Beside), random);
        if let Some(&class) = kept.iter().chain(&beside).next() {
            let sweeps = random.random_range(1..=self.sweeps[class].1);
            let sole = with(&|role| role == Ballast::Sole);
            let swept = kept.into_iter().chain(beside).chain(sole);
            extra.retain(|extra| self.roles[extra.class] != Ballast::Sole);
            extra.extend(swept.map(|class| Extra { class, sweeps }));
        }
        extra.sort_by_key(|extra| extra.class);
        let extra_s: f64 = extra.iter().map(|e| e.sweeps as f64 * self.sweeps[e.class].0).sum();
        let single_s = self.whole_s + extra_s;
        planned(self.iterations, Target::Mixture, extra, single_s, self.row_window_s, self.whole_s)
    }
}

fn planned(
    iterations: Option<usize>,
    target: Target,
    extra: Vec<Extra>,
    single_s: f64,
    window_s: f64,
    overhead_s: f64,
) -> Planned {
    let expected = (window_s / single_s.max(1e-9)).ceil().max(1.0) as usize;
    let (length, iterations) = match iterations {
        Some(iterations) => (Length::Iterations(iterations.max(1)), iterations.max(1)),
        None => (Length::Window { window_s, expected }, expected),
    };
    Planned { target, extra, length, trial_s: overhead_s + iterations as f64 * single_s }
}
