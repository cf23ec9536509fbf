//! Which classes are weighed together in which trial.
//!
//! Classes that need company ([`Ballast::Part`]) are swept several at once, so many that they flood the cache or are most of
//! the program, in another choice each time, and the regression tells them apart, as one weighs coins in groups. In the first
//! round each trial leaves out one class, which tells any classes apart. Behind that, a trial sweeps about half of them, or
//! as many as the cache asks for: a cost is known best where it is in half of the trials (its variance goes with
//! `1 / (p (1 - p))`).
//!
//! What a group costs is not quite the sum of what its classes cost: on a GPU, a class costs something else behind a stranger
//! than behind the neighbour that it follows in the program, and a group of DistilBERT's lies 1 % beside the sum, each time
//! by the same. So no group comes again before all have been run: then each counts as often as any other, and costs are
//! those that fit all groups there are best, whatever the order. By lot, some of them would come seven times and others
//! never, and costs would be more than twice as far from these.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use crate::ballast::Ballast;

/// Of so many classes, all groups are listed; of more there are so many that a lot hardly draws one twice.
const MOST_LISTED: usize = 10;
/// So many are drawn then.
const DRAWN: usize = 1024;

/// The groups that are weighed.
pub(crate) struct Weighing {
    roles: Vec<Ballast>,
    cold_bytes: Vec<f64>,
    company_bytes: f64,
    /// In the order in which they are run.
    groups: Vec<Vec<usize>>,
}

impl Weighing {
    /// For classes in these roles that read so many cold bytes, of which `company_bytes` have to be read at once.
    pub(crate) fn new(roles: Vec<Ballast>, cold_bytes: Vec<f64>, company_bytes: f64, seed: u64) -> Weighing {
        let mut weighing = Weighing { roles, cold_bytes, company_bytes, groups: Vec::new() };
        let mut random = Pcg64::seed_from_u64(seed);
        weighing.groups = weighing.listed(&mut random);
        weighing.groups.shuffle(&mut random);
        follow_by_others(&mut weighing.groups);
        weighing
    }

    fn with(&self, wanted: Ballast) -> impl Iterator<Item = usize> {
        (0..self.roles.len()).filter(move |&class| self.roles[class] == wanted)
    }

    /// All groups that are just company enough, and for a class that none of these does without, all others.
    fn listed(&self, random: &mut Pcg64) -> Vec<Vec<usize>> {
        let parts: Vec<usize> = self.with(Ballast::Part).collect();
        let mut groups: Vec<Vec<usize>> = if parts.len() > MOST_LISTED {
            (0..DRAWN).map(|_| self.company(parts.clone(), random)).collect()
        } else {
            let group = |bits: usize| -> Vec<usize> {
                let members = parts.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
                members.map(|(_, &class)| class).collect()
            };
            let partial = (0..(1_usize << parts.len()) - 1).map(group);
            partial.filter(|group| self.is_just_company(group)).collect()
        };
        for class in &parts {
            if !groups.iter().any(|group| !group.contains(class)) {
                groups.push(self.all_but(*class));
            }
        }
        groups
    }

    fn all_but(&self, class: usize) -> Vec<usize> {
        self.with(Ballast::Part).filter(|&other| other != class).collect()
    }

    /// Whether a group is half of what is left without one class, and reads enough.
    fn is_company(&self, group: &[usize]) -> bool {
        let read_bytes: f64 = group.iter().map(|&class| self.cold_bytes[class]).sum();
        2 * group.len() >= self.with(Ballast::Part).count() && read_bytes >= self.company_bytes
    }

    /// Whether it is, and would not be without one of the group: the more is swept, the less a small class shows.
    fn is_just_company(&self, group: &[usize]) -> bool {
        let without = |&class: &usize| -> Vec<usize> {
            group.iter().copied().filter(|&other| other != class).collect()
        };
        self.is_company(group) && group.iter().any(|class| !self.is_company(&without(class)))
    }

    /// Enough of these classes, by lot.
    fn company(&self, mut classes: Vec<usize>, random: &mut Pcg64) -> Vec<usize> {
        classes.shuffle(random);
        let is_enough = |&count: &usize| self.is_company(&classes[..count]);
        let count = (0..classes.len()).find(is_enough).unwrap_or(classes.len());
        classes.truncate(count);
        classes.sort_unstable();
        classes
    }

    /// Company for a mixture, by lot.
    pub(crate) fn any_company(&self, random: &mut Pcg64) -> Vec<usize> {
        self.company(self.with(Ballast::Part).collect(), random)
    }

    /// What is swept in a round to learn what classes cost: nothing, each class that needs no company, and groups. A row holds
    /// the class whose number of sweeps goes for all that it sweeps, and these in program order.
    pub(crate) fn rows(&self, round: usize) -> Vec<(Option<usize>, Vec<usize>)> {
        let mut rows = vec![(None, Vec::new())];
        for (class, role) in self.roles.iter().enumerate() {
            match role {
                Ballast::None | Ballast::Sole => rows.push((Some(class), vec![class])),
                Ballast::Beside => {
                    let mut swept: Vec<usize> = self.with(Ballast::Sole).chain([class]).collect();
                    swept.sort_unstable();
                    rows.push((Some(class), swept));
                }
                Ballast::Part => {}
            }
        }
        let groups: Vec<Vec<usize>> = match round.checked_sub(1) {
            None => self.with(Ballast::Part).map(|class| self.all_but(class)).collect(),
            Some(earlier) => {
                let (first, count) = self.turn(earlier);
                let in_turn = self.groups.iter().cycle().skip(first % self.groups.len().max(1));
                in_turn.take(count).cloned().collect()
            }
        };
        // All of them are swept as often.
        rows.extend(groups.into_iter().map(|group| (group.first().copied(), group)));
        rows
    }

    /// How many groups were run in so many rounds behind the first, and how many are run in the next: half as many as there
    /// are classes in them, since each trial tells of all of them and shorter rounds are more rounds. Once all have been run,
    /// intervals hardly gain by more rounds, and what else is in one is known by then: four times as many, but none twice.
    fn turn(&self, rounds: usize) -> (usize, usize) {
        let parts = self.with(Ballast::Part).count();
        let all = self.groups.len();
        let (few, many) = (parts.div_ceil(2), (2 * parts).min(all));
        let of_few = all.div_ceil(few.max(1));
        let first = (rounds * few).min(all) + rounds.saturating_sub(of_few) * many;
        (first, if rounds < of_few { few.min(all - first) } else { many })
    }
}

/// Puts behind each group the one that shares the least with it: what a round is slower or warmer by then tells little of a
/// class, which is in some trials of the round and not in others.
fn follow_by_others(groups: &mut [Vec<usize>]) {
    for next in 1..groups.len() {
        let (earlier, left) = groups.split_at_mut(next);
        let shared =
            |group: &Vec<usize>| group.iter().filter(|class| earlier[next - 1].contains(class)).count();
        if let Some(least) = (0..left.len()).min_by_key(|&index| shared(&left[index])) {
            left.swap(0, least);
        }
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
    fn groups_are_company_enough_and_no_more() {
        let bytes = vec![40.0, 15.0, 55.0, 55.0, 75.0, 5.0];
        let weighing = Weighing::new(vec![Ballast::Part; 6], bytes.clone(), 100.0, 1);
        for round in 1..100 {
            for (_, swept) in weighing.rows(round).into_iter().filter(|(of, _)| of.is_some()) {
                let bytes = || swept.iter().map(|&class| bytes[class]);
                let sum_bytes: f64 = bytes().sum();
                assert!(swept.is_sorted() && swept.len() >= 3 && sum_bytes >= 100.0, "{swept:?}");
                let is_less = swept.len() == 3 || bytes().any(|bytes| sum_bytes - bytes < 100.0);
                assert!(is_less, "{swept:?}");
            }
        }
    }

    /// The groups of so many rounds, the first left out.
    fn groups_of(weighing: &Weighing, rounds: usize) -> Vec<Vec<usize>> {
        let rows = (1..=rounds).flat_map(|round| weighing.rows(round));
        rows.filter(|(class, _)| class.is_some()).map(|(_, swept)| swept).collect()
    }

    #[test]
    fn no_group_comes_again_before_all_have_been_run() {
        // Three of six, in twenty choices, three in a round.
        let weighing = Weighing::new(vec![Ballast::Part; 6], vec![1.0; 6], 0.0, 7);
        let mut groups = groups_of(&weighing, 10);
        assert_eq!(groups[..20], groups[20..40]);
        // Three in each round, two in the seventh, and then twelve.
        assert_eq!((groups_of(&weighing, 7).len(), groups.len()), (20, 20 + 3 * 12));
        groups.truncate(20);
        groups.sort();
        groups.dedup();
        assert_eq!(groups.len(), 20);
        // Three pairs of three, two and one, and then all of them: none twice in a round.
        let weighing = Weighing::new(vec![Ballast::Part; 3], vec![1.0; 3], 0.0, 7);
        assert_eq!([2, 3, 4].map(|rounds| groups_of(&weighing, rounds).len()), [3, 6, 9]);
        // Of many, a few come twice among eight hundred, by lot.
        let mut groups = groups_of(&Weighing::new(vec![Ballast::Part; 16], vec![1.0; 16], 0.0, 7), 100);
        groups.sort();
        groups.dedup();
        assert!(groups.len() > 700, "{}", groups.len());
    }

    #[test]
    fn each_class_is_left_out_by_some_group() {
        // Without the first there is no company but all others.
        let mut bytes = vec![10.0; 7];
        bytes[0] = 1000.0;
        let weighing = Weighing::new(vec![Ballast::Part; 7], bytes, 500.0, 3);
        let groups = groups_of(&weighing, weighing.groups.len());
        for class in 0..7 {
            assert!(groups.iter().any(|group| !group.contains(&class)), "{class}");
        }
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

    /// Rounds in which all groups of six classes are run four times.
    const PASSES: usize = 12;

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
            // Twenty groups, seven rounds until all have been run, five more until they have been three times again.
            let all = (0..=PASSES).flat_map(|round| {
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
                Some(_) if round > 0 => (of, weighing.groups.choose(random).unwrap().clone()),
                _ => (of, swept),
            };
            weighing.rows(round).into_iter().map(group).collect()
        };
        let in_turn = |weighing: &Weighing, round: usize, _: &mut Pcg64| weighing.rows(round);
        // Seven rounds are a pass. Intervals hold 95 %; the standard deviation of that is 6 in 1,000, and classes of a device,
        // whose groups are the same, may double it. What has been run once counts as by chance, and holds more.
        for rounds in [4, 6, 9, 11, 15] {
            let (_, held) = errors(rounds, in_turn);
            assert!(held >= 950 - 48, "{held} of 1000 after {rounds} rounds");
        }
        // Behind all, what groups are out by has cancelled out, and intervals tell of the scatter alone.
        let (error, held) = errors(1 + PASSES, in_turn);
        let (error_by_lot, held_by_lot) = errors(1 + PASSES, by_lot);
        assert!((950 - 48..=950 + 36).contains(&held), "{held} of 1000");
        // By lot it has not, and they would not know.
        assert!(
            error < 0.5 * error_by_lot && held_by_lot < 850,
            "{error} and {error_by_lot}, {held_by_lot} of 1000"
        );
    }
}
