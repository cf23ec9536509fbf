//! Which classes are weighed together in which trial.
//!
//! Classes that need company ([`Ballast::Part`]) are swept several at once, so many that they flood the cache or are most of
//! the program, in another choice each time, and the regression tells them apart, as one weighs coins in groups. A trial
//! leaves out one class for certain, each in turn within two rounds; the first round leaves out nothing else, which tells
//! any classes apart. Behind that, a trial sweeps half of the others, or as many as the cache asks for: a cost is known
//! best where it is in half of the trials (its variance goes with `1 / (p (1 - p))`).
//!
//! What a group costs is not quite the sum of what its classes cost: on a GPU, a class costs something else behind a stranger
//! than behind the neighbour that it follows in the program, and a group of DistilBERT's lies 1 % beside the sum, each time
//! by the same. So no group comes again before all have been run: until then each is out in its own way, and rounds scatter
//! by that, as intervals tell; then the costs are those that fit all groups there are best, whatever the order. With groups
//! by lot, some of which come seven times and others never, they would be more than twice as far from these.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use crate::ballast::Ballast;

/// Among so many others, groups are listed; among more there are so many that a lot hardly draws one twice.
const MOST_LISTED: usize = 10;
/// So many are drawn then.
const DRAWN: usize = 512;

/// The groups that are weighed.
pub(crate) struct Weighing {
    roles: Vec<Ballast>,
    cold_bytes: Vec<f64>,
    company_bytes: f64,
    /// For each class the groups without it, in the order in which they are run.
    without: Vec<Vec<Vec<usize>>>,
}

impl Weighing {
    /// For classes in these roles that read so many cold bytes, of which `company_bytes` have to be read at once.
    pub(crate) fn new(roles: Vec<Ballast>, cold_bytes: Vec<f64>, company_bytes: f64, seed: u64) -> Weighing {
        let mut weighing = Weighing { roles, cold_bytes, company_bytes, without: Vec::new() };
        let mut random = Pcg64::seed_from_u64(seed);
        weighing.without =
            (0..weighing.roles.len()).map(|class| weighing.groups_without(class, &mut random)).collect();
        weighing
    }

    fn with(&self, wanted: Ballast) -> impl Iterator<Item = usize> {
        (0..self.roles.len()).filter(move |&class| self.roles[class] == wanted)
    }

    /// All groups without a class that are just company enough and leave out another one, too, shuffled.
    fn groups_without(&self, class: usize, random: &mut Pcg64) -> Vec<Vec<usize>> {
        if self.roles[class] != Ballast::Part {
            return Vec::new();
        }
        let others: Vec<usize> = self.with(Ballast::Part).filter(|&other| other != class).collect();
        let mut groups: Vec<Vec<usize>> = if others.len() > MOST_LISTED {
            (0..DRAWN).map(|_| self.company(others.clone(), random)).collect()
        } else {
            let group = |bits: usize| -> Vec<usize> {
                others
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| bits >> bit & 1 == 1)
                    .map(|(_, &other)| other)
                    .collect()
            };
            let partial = (0..(1_usize << others.len()) - 1).map(group);
            partial.filter(|group| self.is_just_company(group, others.len())).collect()
        };
        groups.shuffle(random);
        if groups.is_empty() { vec![others] } else { groups }
    }

    /// Whether half of so many others are in a group, and it reads enough.
    fn is_company(&self, group: &[usize], of: usize) -> bool {
        let read_bytes: f64 = group.iter().map(|&class| self.cold_bytes[class]).sum();
        2 * group.len() > of && read_bytes >= self.company_bytes
    }

    /// Whether it is, and would not be without one of the group: the more is swept, the less a small class shows.
    fn is_just_company(&self, group: &[usize], of: usize) -> bool {
        let without = |&class: &usize| -> Vec<usize> {
            group.iter().copied().filter(|&other| other != class).collect()
        };
        self.is_company(group, of) && group.iter().any(|class| !self.is_company(&without(class), of))
    }

    /// Enough of these classes, by lot.
    fn company(&self, mut classes: Vec<usize>, random: &mut Pcg64) -> Vec<usize> {
        classes.shuffle(random);
        let is_enough = |&count: &usize| self.is_company(&classes[..count], classes.len());
        let count = (0..classes.len()).find(is_enough).unwrap_or(classes.len());
        classes.truncate(count);
        classes.sort_unstable();
        classes
    }

    /// Company for a mixture, by lot.
    pub(crate) fn any_company(&self, random: &mut Pcg64) -> Vec<usize> {
        self.company(self.with(Ballast::Part).collect(), random)
    }

    /// What is swept in a round to learn what classes cost: nothing, something for each class, and, from the second round
    /// on, half as many groups as there are classes in them, since each trial tells of most of them: shorter rounds are
    /// more rounds. A row holds the class whose number of sweeps goes for all that it sweeps, and these in program order.
    pub(crate) fn rows(&self, round: usize) -> Vec<(Option<usize>, Vec<usize>)> {
        let mut rows = vec![(None, Vec::new())];
        for (class, role) in self.roles.iter().enumerate() {
            let place = self.with(Ballast::Part).position(|other| other == class);
            if round > 0 && place.is_some_and(|place| place % 2 != round % 2) {
                continue;
            }
            let mut swept = match (role, round.checked_sub(1)) {
                (Ballast::None | Ballast::Sole, _) => vec![class],
                (Ballast::Beside, _) => self.with(Ballast::Sole).chain([class]).collect(),
                (Ballast::Part, None) => self.with(Ballast::Part).filter(|&other| other != class).collect(),
                (Ballast::Part, Some(earlier)) => {
                    let groups = &self.without[class];
                    groups[earlier / 2 % groups.len()].clone()
                }
            };
            swept.sort_unstable();
            rows.push((Some(class), swept));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ballast::{Cache, Traffic, ballast_of, company_bytes};
    use crate::regression::{Observation, Regression};
    use rand::Rng;
    use rand::seq::IndexedRandom;

    #[test]
    fn groups_leave_a_class_out_and_are_company_enough() {
        let bytes = vec![40.0, 15.0, 55.0, 55.0, 75.0, 5.0];
        let weighing = Weighing::new(vec![Ballast::Part; 6], bytes.clone(), 100.0, 1);
        for round in 0..100 {
            for (of, swept) in weighing.rows(round) {
                let Some(of) = of else { continue };
                let sum_bytes: f64 = swept.iter().map(|&class| bytes[class]).sum();
                assert!(!swept.contains(&of) && swept.len() >= 3 && sum_bytes >= 100.0, "{swept:?}");
                assert!(swept.is_sorted());
            }
        }
    }

    #[test]
    fn no_group_without_a_class_comes_again_before_all_have_been_run() {
        let groups_of = |n: usize, of: usize, rounds: usize| -> Vec<Vec<usize>> {
            let weighing = Weighing::new(vec![Ballast::Part; n], vec![1.0; n], 0.0, 7);
            let rows = (1..=rounds).flat_map(|round| weighing.rows(round));
            rows.filter(|(class, _)| *class == Some(of)).map(|(_, swept)| swept).collect()
        };
        // Three of five others, in ten choices, are twenty rounds.
        for of in 0..6 {
            let mut groups = groups_of(6, of, 40);
            assert_eq!(groups[..10], groups[10..]);
            groups.truncate(10);
            groups.sort();
            groups.dedup();
            assert_eq!(groups.len(), 10);
        }
        // Of many, a few come twice among a hundred, by lot.
        let mut groups = groups_of(16, 3, 200);
        groups.sort();
        groups.dedup();
        assert!(groups.len() > 95, "{}", groups.len());
    }

    #[test]
    fn whatever_the_company_classes_are_told_apart() {
        // Sizes as in a model, all alike, and one large class among small ones; fewer classes, too.
        for sizes in
            [[90.0, 300.0, 100.0, 400.0, 400.0, 0.0], [100.0; 6], [10.0, 10.0, 1000.0, 10.0, 10.0, 10.0]]
        {
            for n in 1..=sizes.len() {
                for size_bytes in (0..40).map(|step| 10 << (step / 4) | step) {
                    let (sizes, caches) = (&sizes[..n], [Cache { size_bytes, is_shared: false }]);
                    let traffic = |&cold_bytes: &f64| Traffic {
                        cold_bytes,
                        moved_bytes: cold_bytes,
                        needs_neighbours: false,
                    };
                    let roles = ballast_of(&sizes.iter().map(traffic).collect::<Vec<_>>(), &caches);
                    let weighing =
                        Weighing::new(roles, sizes.to_vec(), company_bytes(sizes, &caches), size_bytes);
                    let observations: Vec<Observation> = (0..3)
                        .flat_map(|round| {
                            observations(weighing.rows(round), round, n, |swept| swept.len() as f64)
                        })
                        .collect();
                    let fit = Regression::fit(&observations, 0, 0);
                    assert!(fit.is_some(), "{n} of {sizes:?} with {size_bytes} bytes of cache");
                }
            }
        }
    }

    type Rows = Vec<(Option<usize>, Vec<usize>)>;

    /// A round in which each class takes 1 in the program, and each group what is said twice.
    fn observations(rows: Rows, round: usize, n: usize, sweep: impl Fn(&[usize]) -> f64) -> Vec<Observation> {
        let observation = |(_, swept): (Option<usize>, Vec<usize>)| Observation {
            block: round,
            counts: (0..n).map(|class| if swept.contains(&class) { 3.0 } else { 1.0 }).collect(),
            response: n as f64 + 2.0 * sweep(&swept),
            sampling_sd: 0.0,
            conditions: Vec::new(),
        };
        rows.into_iter().map(observation).collect()
    }

    /// A group takes 2 % more or less than its classes, each group its own, always the same; a trial scatters by 0.4 %. The
    /// root mean square of how far costs are from those that fit all groups best, without scatter, and how many in a thousand
    /// intervals hold these.
    fn errors(rounds: usize, rows: impl Fn(&Weighing, usize, &mut Pcg64) -> Rows) -> (f64, usize) {
        const RUNS: u64 = 200;
        let weighing = |seed: u64| Weighing::new(vec![Ballast::Part; 6], vec![1.0; 6], 0.0, seed);
        let normal =
            |random: &mut Pcg64| -> f64 { (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0 };
        let group = |swept: &[usize], device: u64| -> f64 {
            let bits: u64 = swept.iter().map(|class| 1 << class).sum();
            let mut random = Pcg64::seed_from_u64(device << 6 | bits);
            swept.len() as f64 * (1.0 + 0.02 * normal(&mut random))
        };
        let (mut squares, mut held) = (0.0, 0);
        for seed in 0..RUNS {
            // Each class has ten groups, two rounds apart.
            let all = (0..=20).flat_map(|round| {
                observations(weighing(0).rows(round), round, 6, |swept| group(swept, seed))
            });
            let truth = Regression::fit(&all.collect::<Vec<_>>(), 0, 0).unwrap().costs;
            let (ours, mut random) = (weighing(seed), Pcg64::seed_from_u64(1000 + seed));
            let mut seen = Vec::new();
            for round in 0..rounds {
                let rows = rows(&ours, round, &mut random);
                seen.extend(observations(rows, round, 6, |swept| group(swept, seed)).into_iter().map(
                    |mut trial| {
                        trial.response *= 1.0 + 0.004 * normal(&mut random);
                        trial
                    },
                ));
            }
            let fit = Regression::fit(&seen, 200, seed).unwrap();
            for (class, truth) in truth.iter().enumerate() {
                let mut weights = [0.0; 6];
                weights[class] = 1.0;
                let ci95 = fit.combined_ci95(&weights, 0.0).unwrap();
                squares += (fit.costs[class] - truth).powi(2);
                held += usize::from((fit.costs[class] - truth).abs() <= ci95);
            }
        }
        ((squares / (6 * RUNS) as f64).sqrt(), 1000 * held / (6 * RUNS as usize))
    }

    #[test]
    fn costs_come_to_what_fits_all_groups() {
        let by_lot = |weighing: &Weighing, round: usize, random: &mut Pcg64| -> Rows {
            let group = |(of, swept): (Option<usize>, Vec<usize>)| match of {
                Some(class) if round > 0 => (of, weighing.without[class].choose(random).unwrap().clone()),
                _ => (of, swept),
            };
            weighing.rows(round).into_iter().map(group).collect()
        };
        let in_turn = |weighing: &Weighing, round: usize, _: &mut Pcg64| weighing.rows(round);
        // Before all have been run, intervals hold 95 %; the standard deviation of that is 6 in 1,000, and classes of a
        // device, whose groups are the same, may double it.
        let (_, held) = errors(8, in_turn);
        assert!(held >= 950 - 48, "{held} of 1000");
        // Behind all, what groups are out by has cancelled out, and intervals that still count it are too wide.
        let ((error, held), (error_by_lot, _)) = (errors(21, in_turn), errors(21, by_lot));
        assert!(error < 0.5 * error_by_lot && held > 990, "{error} and {error_by_lot}, {held} of 1000");
    }
}
