//! What is measured in which round, and for how long.
//!
//! A round holds: the whole program in one piece and, in the first rounds, cut at modules, side by side; the whole program
//! with each class of modules run extra times (small classes more rarely after the first rounds), the whole program by itself
//! in the same way, and a random mixture of classes, from which regression learns and on which it is tested; in the first
//! rounds also each class by itself, going round its layers, and each module by itself. Any round can be told without those
//! before it, so an interrupted experiment continues as if nothing had happened.

use joulewise_engine::{ModuleId, Sweeps};
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
use crate::weighing::Weighing;
use crate::workload::Workload;

/// What runs in company adds so many times the whole program, or the part of that which is chosen. Less, and the program
/// itself stands in the way of telling apart what was added; more adds little.
const COMPANY_PROGRAMS: f64 = 6.0;
/// Those of a class that takes less than the share from which on it has to be known well are so much shorter.
const SMALL_WINDOWS: f64 = 0.5;
/// No class is swept more often than this per iteration: by then its caches are as warm as they get.
const MOST_SWEEPS: f64 = 64.0;
/// After so many rounds, it is swept in every so many'th only: what matters less takes less of the time.
const EVERY_ROUND: usize = 5;
const SMALL_ROUNDS: usize = 4;
/// With regression, the cut program is measured in so many rounds: it tells shares of time, which vary little.
const CUT_ROUNDS: usize = 3;
/// Mixtures of classes in each round.
const MIXTURES: usize = 1;

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
    rotations: Vec<Planned>,
    replays: Vec<Planned>,
    classes: Vec<Swept>,
    weighing: Weighing,
    whole_s: f64,
    row_window_s: f64,
    update_period_s: f64,
    iterations: Option<usize>,
    replay_rounds: usize,
    is_cut: bool,
    pub(crate) regression_rounds: usize,
    seed: u64,
}

/// How a class is swept.
struct Swept {
    /// Seconds of a sweep.
    sweep_s: f64,
    /// How often, in its own trials.
    count: usize,
    role: Ballast,
    /// Whether it is too small to be known well.
    is_small: bool,
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
        if protocol.cut {
            workload.observe(times)?;
        }
        let observed_s: f64 = workload.parts().iter().map(|part| times.mean_s(part.module)).sum();
        let whole_window_s = window_s(protocol.min_window_s, protocol.min_updates);
        let update_period_s = basis.update_period_s;
        let plan = |target, extra, single_s: f64, window_s: f64, overhead_s: f64| {
            planned(protocol.iterations, target, extra, single_s, window_s, overhead_s, update_period_s)
        };
        let wholes = [
            plan(Target::Whole, Vec::new(), whole_s, whole_window_s, 0.0),
            plan(Target::Observed, Vec::new(), observed_s.max(whole_s), whole_window_s, 0.0),
        ];

        let sweep_s = match protocol.regression {
            true => sweep_s(workload, basis.classes)?,
            false => vec![whole_s; basis.classes.len()],
        };
        let roles = basis.classes.iter().map(|class| class.ballast).collect();
        let cold_bytes: Vec<f64> = basis.classes.iter().map(|class| class.cold_bytes).collect();
        let company_bytes = ballast::company_bytes(&cold_bytes, workload.caches());
        let weighing = Weighing::new(roles, cold_bytes, company_bytes, protocol.seed);
        let mut schedule = Schedule {
            wholes,
            rotations: Vec::new(),
            replays: Vec::new(),
            classes: swept(&sweep_s, protocol, basis, whole_s),
            weighing,
            whole_s,
            row_window_s: window_s(protocol.regression_min_window_s, protocol.regression_min_updates),
            update_period_s,
            iterations: protocol.iterations,
            replay_rounds: protocol.replay_trials.min(protocol.trials),
            is_cut: protocol.cut,
            regression_rounds: 0,
            seed: protocol.seed,
        };
        let round_s = |round: usize| -> f64 {
            let rows = schedule.regression_round(round, &mut schedule.random(round));
            rows.iter().map(|row| row.trial_s).sum()
        };
        let rounds = protocol.trials.max(1);
        let mean_s = (0..rounds).map(round_s).sum::<f64>() / rounds as f64;
        let affordable = (protocol.regression_limit_s / mean_s.max(1e-9)) as usize;
        let is_wanted = protocol.regression && schedule.classes.len() > 1;
        schedule.regression_rounds = match affordable {
            _ if !is_wanted => 0,
            0 | 1 => 0,
            rounds if rounds >= protocol.trials => usize::MAX,
            rounds => rounds,
        };

        let replay_window_s = window_s(protocol.replay_min_window_s, protocol.replay_min_updates);
        let replay_rounds = schedule.replay_rounds;
        let rotated = schedule.classes.iter().enumerate().filter(|_| schedule.regression_rounds > 0);
        let rotation = |(class, swept): (usize, &Swept)| {
            let extra = vec![Extra { class, sweeps: 1 }];
            plan(Target::Rotation(class), extra, swept.sweep_s, replay_window_s, whole_s)
        };
        schedule.rotations = rotated.map(rotation).collect();
        // Before a replay, everything that feeds the module is run once: half the program on average.
        let cost_s = |n: usize| n as f64 * replay_rounds as f64 * (replay_window_s + whole_s / 2.0);
        let mut replayed: Vec<ModuleId> = workload.parts().iter().map(|part| part.module).collect();
        if cost_s(replayed.len()) > protocol.replay_limit_s {
            replayed = sample_of_equals(workload.parts());
        }
        if replay_rounds == 0 {
            replayed.clear();
        }
        for &module in &replayed {
            // An observed module carries two time marks; the first replays tell its own time.
            let observed_s = times.mean_s(module).max(1e-7);
            let probe = (1e-3 / observed_s).ceil().min(1000.0) as usize;
            let single_s = workload.repeat(module)?.run(probe)? / probe as f64;
            let target = Target::Replay(module);
            schedule.replays.push(plan(target, Vec::new(), single_s, replay_window_s, whole_s / 2.0));
        }
        Ok((schedule, replayed))
    }

    /// How often each class is swept.
    pub(crate) fn sweeps(&self) -> Vec<usize> {
        self.classes.iter().map(|class| class.count).collect()
    }

    /// The trials of a round, in shuffled order.
    pub(crate) fn round(&self, round: usize) -> Vec<Planned> {
        let mut random = self.random(round);
        // The whole in one piece and the whole cut stand side by side: their ratio is the closure in time, and the less
        // time between them, the less can change.
        let is_cut = self.is_cut && (self.regression_rounds == 0 || round < CUT_ROUNDS);
        let mut pair = self.wholes[..if is_cut { 2 } else { 1 }].to_vec();
        pair.shuffle(&mut random);
        let mut blocks = vec![pair];
        if round < self.regression_rounds {
            blocks.extend(self.regression_round(round, &mut random).into_iter().map(|trial| vec![trial]));
        }
        if round < self.replay_rounds {
            blocks.extend(self.rotations.iter().chain(&self.replays).map(|trial| vec![trial.clone()]));
        }
        blocks.shuffle(&mut random);
        blocks.concat()
    }

    fn random(&self, round: usize) -> Pcg64 {
        Pcg64::seed_from_u64(self.seed.wrapping_add((round as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// What regression learns from in a round, and is tested on.
    fn regression_round(&self, round: usize, random: &mut Pcg64) -> Vec<Planned> {
        let rows = self.weighing.rows(round);
        let is_due = |class: usize| {
            let Swept { is_small, role, .. } = self.classes[class];
            let is_rare = is_small && role == Ballast::None && round >= EVERY_ROUND;
            !is_rare || (round + class).is_multiple_of(SMALL_ROUNDS)
        };
        let due = rows.into_iter().filter(|(of, _)| of.is_none_or(is_due));
        let mut trials: Vec<Planned> = due.map(|(of, swept)| self.row(of, swept)).collect();
        trials.extend((0..MIXTURES).map(|_| self.mixture(random)));
        trials
    }

    fn row(&self, of: Option<usize>, swept: Vec<usize>) -> Planned {
        let of = of.map(|class| &self.classes[class]);
        let sweeps = of.map_or(0, |class| class.count);
        let extra = swept.into_iter().map(|class| Extra { class, sweeps }).collect();
        let windows = match of {
            Some(Swept { is_small: true, role, .. }) if *role != Ballast::Part => SMALL_WINDOWS,
            _ => 1.0,
        };
        self.behind_whole(Target::Repeated, extra, windows * self.row_window_s)
    }

    /// A random half of the classes that are swept by themselves, each up to half as often; of those that need company, a
    /// choice that is company enough, or half beside the one that is.
    fn mixture(&self, random: &mut Pcg64) -> Planned {
        let with = |wanted: &[Ballast]| -> Vec<usize> {
            let classes = self.classes.iter().enumerate();
            classes.filter(|(_, class)| wanted.contains(&class.role)).map(|(index, _)| index).collect()
        };
        let half = |classes: Vec<usize>, random: &mut Pcg64| -> Vec<usize> {
            classes.choose_multiple(random, classes.len().div_ceil(2)).copied().collect()
        };
        let alone = half(with(&[Ballast::None, Ballast::Sole]), random);
        let mut extra: Vec<Extra> = alone
            .into_iter()
            .map(|class| {
                let most = self.classes[class].count.div_ceil(2).max(1);
                Extra { class, sweeps: random.random_range(1..=most) }
            })
            .collect();
        let parts = self.weighing.any_company(random);
        let beside = half(with(&[Ballast::Beside]), random);
        if let Some(&class) = parts.iter().chain(&beside).next() {
            let sweeps = random.random_range(1..=self.classes[class].count);
            let sole = if beside.is_empty() { Vec::new() } else { with(&[Ballast::Sole]) };
            extra.retain(|extra| !sole.contains(&extra.class));
            extra.extend(parts.into_iter().chain(beside).chain(sole).map(|class| Extra { class, sweeps }));
        }
        extra.sort_by_key(|extra| extra.class);
        self.behind_whole(Target::Mixture, extra, self.row_window_s)
    }

    /// The whole program with extra sweeps.
    fn behind_whole(&self, target: Target, extra: Vec<Extra>, window_s: f64) -> Planned {
        let extra_s: f64 = extra.iter().map(|e| e.sweeps as f64 * self.classes[e.class].sweep_s).sum();
        let single_s = self.whole_s + extra_s;
        // Every preparation of a repetition runs the program once.
        planned(self.iterations, target, extra, single_s, window_s, self.whole_s, self.update_period_s)
    }
}

/// Seconds of a sweep of each class.
fn sweep_s(workload: &mut dyn Workload, classes: &[Class]) -> Result<Vec<f64>> {
    /// A sweep that is shorter is looked at again: devices submit piece by piece what they have not run before.
    const SHORT_S: f64 = 0.01;
    let sets: Vec<Vec<ModuleId>> = classes.iter().map(|class| class.modules.clone()).collect();
    let mut repetition = workload.repetition(&sets)?;
    let mut measured = |set: usize| -> Result<f64> {
        let sweeps = [Sweeps { set, count: 1 }];
        let first_s = repetition.rotate(1, &sweeps)?;
        if first_s >= SHORT_S {
            return Ok(first_s);
        }
        repetition.rotate(2, &sweeps)?;
        Ok((repetition.rotate(4, &sweeps)? / 4.0).max(1e-9))
    };
    (0..classes.len()).map(&mut measured).collect()
}

/// How each class is swept: so often that it adds what is wanted to the whole program.
fn swept(sweep_s: &[f64], protocol: &Protocol, basis: &Basis<'_>, whole_s: f64) -> Vec<Swept> {
    let pairs = || basis.classes.iter().zip(sweep_s);
    let sum_s = |role: Ballast| -> f64 {
        pairs().filter(|(class, _)| class.ballast == role).map(|(_, sweep_s)| sweep_s).sum()
    };
    let all_s: f64 = sweep_s.iter().sum();
    let wanted = |class: &Class, sweep_s: f64| {
        let (programs, of_s) = match class.ballast {
            Ballast::None | Ballast::Sole => (protocol.regression_extra, sweep_s),
            Ballast::Beside => (COMPANY_PROGRAMS, sweep_s + sum_s(Ballast::Sole)),
            Ballast::Part => (COMPANY_PROGRAMS, sum_s(Ballast::Part)),
        };
        (programs * whole_s / of_s).round().clamp(1.0, MOST_SWEEPS) as usize
    };
    let settled = basis.sweeps.as_ref().filter(|counts| counts.len() == basis.classes.len());
    let of = |(index, (class, &sweep_s)): (usize, (&Class, &f64))| Swept {
        sweep_s,
        count: settled.map_or_else(|| wanted(class, sweep_s), |counts| counts[index]),
        role: class.ballast,
        is_small: sweep_s < protocol.target_share * all_s,
    };
    pairs().enumerate().map(of).collect()
}

fn planned(
    iterations: Option<usize>,
    target: Target,
    extra: Vec<Extra>,
    single_s: f64,
    window_s: f64,
    overhead_s: f64,
    update_period_s: f64,
) -> Planned {
    let expected = (window_s / single_s.max(1e-9)).ceil().max(1.0) as usize;
    let (length, iterations) = match iterations {
        Some(iterations) => (Length::Iterations(iterations.max(1)), iterations.max(1)),
        None => (Length::Window { window_s, expected }, expected),
    };
    let iterations = iterations + length.lead_in(update_period_s);
    Planned { target, extra, length, trial_s: overhead_s + iterations as f64 * single_s }
}
