//! Keeping extra runs of a class as cold as the runs that they stand for.
//!
//! In the whole program a weight is read once and then not before everything else has been read. Swept by itself, a class
//! comes back to its weights as soon as it is through, and what fits into a cache is warm then: cheaper than in the
//! program. Company of another class is not enough where both together are not much larger than the cache; worse, the
//! company itself is then warmer in its own trials than in those of others, and costs do not add up. So all classes
//! that would be warm share one **ballast**: the largest classes, so many that even without the largest of them they
//! flood the cache, or all. A class of the ballast is measured by the ballast with and without it, any other by the
//! ballast with it beside; each trial then reads about as much before it comes back to where it began. Sets run in
//! program order, so that this holds where the extra runs follow the program, too.

use serde::{Deserialize, Serialize};

/// What is swept counts as cold when it is so many times the cache. On a processor with 2 MiB a core, a decode step of 11
/// MB was accounted for to 84 % by sweeps of 1.2 times the cache, to 94 % by 1.5 times, to 99 % by twice.
const MARGIN: f64 = 2.0;
/// What reads less than this share of all cold bytes runs by itself: however warm, it is out by no more.
const LIGHT: f64 = 0.01;

/// A cache of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// What it holds.
    pub size_bytes: u64,
    /// Whether others, whom nobody here sees, may hold part of it: the last cache of a virtual machine is its
    /// neighbours', too.
    pub is_shared: bool,
}

/// What the ballast is to a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ballast {
    /// The class is swept by itself: it is large enough to be cold, too small to matter, or warm in the program, too.
    #[default]
    None,
    /// Likewise, and it is the ballast of others if there are any.
    Sole,
    /// The class is part of it: the ballast is swept without the class.
    Part,
    /// The class is swept beside it.
    Beside,
}

/// The ballast of each class, by the bytes that a sweep of it reads and nobody has just written.
pub(crate) fn ballast_of(cold_bytes: &[f64], caches: &[Cache]) -> Vec<Ballast> {
    let mut roles = vec![Ballast::None; cold_bytes.len()];
    let all_bytes: f64 = cold_bytes.iter().sum();
    let mut by_size: Vec<usize> =
        (0..cold_bytes.len()).filter(|&class| cold_bytes[class] > LIGHT * all_bytes).collect();
    by_size.sort_by(|&a, &b| cold_bytes[b].total_cmp(&cold_bytes[a]));
    let needed_bytes = MARGIN * flooded_bytes(all_bytes, caches);
    if needed_bytes == 0.0 || by_size.len() < 2 {
        return roles;
    }
    let largest_bytes = cold_bytes[by_size[0]];
    let is_sole = largest_bytes >= needed_bytes;
    let mut sum_bytes = 0.0;
    for (place, &class) in by_size.iter().enumerate() {
        roles[class] = match place {
            0 if is_sole => Ballast::Sole,
            _ if cold_bytes[class] >= needed_bytes => Ballast::None,
            _ if !is_sole && sum_bytes - largest_bytes < needed_bytes => Ballast::Part,
            _ => Ballast::Beside,
        };
        sum_bytes += cold_bytes[class];
    }
    roles
}

/// The most that a cache may keep from one run of the program to the next of what the program does not keep in it; 0
/// where the program stays warm in a cache of its own.
fn flooded_bytes(all_bytes: f64, caches: &[Cache]) -> f64 {
    let mut caches = caches.to_vec();
    caches.sort_by_key(|cache| cache.size_bytes);
    let is_flooded = |cache: &&Cache| cache.is_shared || (cache.size_bytes as f64) < all_bytes;
    caches.iter().take_while(is_flooded).map(|cache| cache.size_bytes as f64).fold(0.0, f64::max)
}

/// What is swept to learn what classes cost: nothing, the ballast, and something for each class. A row holds the class
/// whose number of sweeps goes for all that it sweeps, and these in program order.
pub(crate) fn rows(roles: &[Ballast]) -> Vec<(Option<usize>, Vec<usize>)> {
    let ballast = ballast(roles);
    let mut rows = vec![(None, Vec::new())];
    if roles.contains(&Ballast::Part) {
        rows.push((ballast.first().copied(), ballast.clone()));
    }
    rows.extend(roles.iter().enumerate().map(|(class, role)| {
        let mut swept = match role {
            Ballast::None | Ballast::Sole => vec![class],
            Ballast::Part => ballast.iter().copied().filter(|&other| other != class).collect(),
            Ballast::Beside => [ballast.as_slice(), &[class]].concat(),
        };
        swept.sort_unstable();
        (Some(class), swept)
    }));
    rows
}

/// The classes of the ballast.
pub(crate) fn ballast(roles: &[Ballast]) -> Vec<usize> {
    let is_in = |&class: &usize| matches!(roles[class], Ballast::Sole | Ballast::Part);
    (0..roles.len()).filter(is_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regression::{Observation, Regression};

    fn own(size_bytes: u64) -> Cache {
        Cache { size_bytes, is_shared: false }
    }

    #[test]
    fn what_would_stay_in_the_cache_gets_ballast() {
        use Ballast::{Beside, None, Part, Sole};
        let bytes = [0.0, 300.0, 1000.0, 400.0, 5.0, 300.0];
        // 2005 bytes in all; the fifth class is too light to matter.
        assert_eq!(ballast_of(&bytes, &[]), [None; 6]);
        assert_eq!(ballast_of(&bytes, &[own(2005)]), [None; 6]);
        // 200 bytes have to go by, which each of four does by itself.
        assert_eq!(ballast_of(&bytes, &[own(100)]), [None, None, Sole, None, None, None]);
        // 500 bytes have to go by: the largest class does so alone.
        assert_eq!(ballast_of(&bytes, &[own(250)]), [None, Beside, Sole, Beside, None, Beside]);
        // 1100 have to: the others together are 1000, so all are needed.
        assert_eq!(ballast_of(&bytes, &[own(550)]), [None, Part, Part, Part, None, Part]);
        // Without the largest of the first three, 600 go by.
        let bytes = [400.0, 350.0, 300.0, 200.0];
        assert_eq!(ballast_of(&bytes, &[own(300)]), [Part, Part, Part, Beside]);
        // A larger cache holds all of it, unless others may have taken their part of that.
        assert_eq!(ballast_of(&bytes, &[own(10), own(5000)]), [Sole, None, None, None]);
        let shared = Cache { size_bytes: 5000, is_shared: true };
        assert_eq!(ballast_of(&bytes, &[own(10), shared]), [Part; 4]);
        assert_eq!(ballast_of(&bytes, &[own(2000), shared]), [None; 4]);
    }

    #[test]
    fn whatever_the_ballast_classes_are_told_apart() {
        // Sizes as in a model, all alike, and one large class among small ones; fewer classes, too.
        for sizes in
            [[90.0, 300.0, 100.0, 400.0, 400.0, 0.0], [100.0; 6], [10.0, 10.0, 1000.0, 10.0, 10.0, 10.0]]
        {
            for n in 1..=sizes.len() {
                for cache in (0..40).map(|step| 10 << (step / 4) | step) {
                    let roles = ballast_of(&sizes[..n], &[own(cache)]);
                    let observation = |block: usize, swept: &[usize]| Observation {
                        block,
                        counts: (0..n).map(|class| if swept.contains(&class) { 3.0 } else { 1.0 }).collect(),
                        response: n as f64 + 2.0 * swept.len() as f64,
                        sampling_sd: 0.0,
                    };
                    let observations: Vec<Observation> = (0..3)
                        .flat_map(|block| rows(&roles).into_iter().map(move |row| observation(block, &row.1)))
                        .collect();
                    let fit = Regression::fit(&observations, 0, 0);
                    assert!(fit.is_some(), "{n} of {sizes:?} with {cache} bytes of cache");
                }
            }
        }
    }
}
