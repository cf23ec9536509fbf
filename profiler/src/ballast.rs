//! Keeping extra runs of a class as cold as the runs that they stand for.
//!
//! In the whole program a weight is read once and then not before everything else has been read. Swept by itself, a class
//! comes back to its weights as soon as it is through, and what fits into a cache is warm then: cheaper than in the
//! program. So a class that would be warm is swept in company. Where one class floods the cache by itself, the smallest
//! such is the company of all who need it. Where none does, classes are *weighed together*: each trial sweeps several at
//! once, so many that they flood the cache or are most of the program, in another choice each time
//! (`profiler/src/weighing.rs`). Company of one fixed class that is not much larger than the cache will not do: it would
//! itself be warmer in its own trials than in those of others, and costs would not add up.
//!
//! On a GPU a launch overlaps its start with the end of the one before it, and how much depends on which that is: behind
//! its like a class runs faster than in the program. Where a power limit is reached, the clock follows the power of what
//! is swept. So classes of layers are weighed together there, too, unless their weights flood the cache, which takes
//! longer than any start: what is swept together runs layer by layer in program order, each class behind another, and is
//! a mixture of as much power as the program.

use serde::{Deserialize, Serialize};

/// What is swept counts as cold when it is so many times the cache. On a processor with 2 MiB a core, a decode step of 11
/// MB was accounted for to 84 % by sweeps of 1.2 times the cache, to 94 % by 1.5 times, to 99 % by twice.
const MARGIN: f64 = 2.0;
/// Or when it is this much of all that the program reads: then weights come round about as late as they do in it,
/// whatever the cache holds. In the same measurement, four of six classes sufficed.
const MOST: f64 = 2.0 / 3.0;
/// What reads less than this share of all cold bytes runs by itself: however warm, it is out by no more.
const LIGHT: f64 = 0.003;
/// In company that is kept for other reasons, this is so below a larger share: what is small in its company is not known
/// well.
const LIGHT_IN_COMPANY: f64 = 0.03;
/// So does what reads less than this share of all that it moves itself: with thousands of rows, products are bound by
/// arithmetic, and reading their weights is a few hundredths of their energy.
const SHARE_MOVED: f64 = 0.15;

/// A cache of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// What it holds.
    pub size_bytes: u64,
    /// Whether others, whom nobody here sees, may hold part of it: the last cache of a virtual machine is its
    /// neighbours', too.
    pub is_shared: bool,
}

/// In what company a class is swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ballast {
    /// None: it is large enough to be cold, too small to matter, or warm in the program, too.
    #[default]
    None,
    /// None, and it is the company of others.
    Sole,
    /// That of the sole one.
    Beside,
    /// Others that are weighed together with it.
    Part,
}

/// What a sweep of a class reads and writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Traffic {
    /// Bytes that it reads and nobody has just written.
    pub(crate) cold_bytes: f64,
    /// All bytes that it reads or writes.
    pub(crate) moved_bytes: f64,
    /// Whether it costs something else behind its like than in the program, whatever is warm.
    pub(crate) needs_neighbours: bool,
}

/// The company of each class.
pub(crate) fn ballast_of(traffic: &[Traffic], caches: &[Cache]) -> Vec<Ballast> {
    let mut roles = vec![Ballast::None; traffic.len()];
    let all_bytes: f64 = traffic.iter().map(|class| class.cold_bytes).sum();
    let needed_bytes = MARGIN * flooded_bytes(all_bytes, caches);
    let is_heavy = |class: &Traffic| {
        class.cold_bytes > LIGHT * all_bytes && class.cold_bytes >= SHARE_MOVED * class.moved_bytes
    };
    let by_itself = |class: &&Traffic| class.cold_bytes >= needed_bytes;
    let heavy = || (0..traffic.len()).filter(|&class| is_heavy(&traffic[class]));
    let would_be_warm: Vec<usize> = heavy().filter(|&class| !by_itself(&&traffic[class])).collect();
    let floods = |class: &Traffic| needed_bytes > 0.0 && is_heavy(class) && by_itself(&class);
    let is_lonely = |class: &Traffic| class.needs_neighbours && !floods(class);
    let lonely: Vec<usize> = (0..traffic.len()).filter(|&class| is_lonely(&traffic[class])).collect();
    if lonely.len() > 1 {
        let is_notable =
            |class: &usize| needed_bytes > 0.0 && traffic[*class].cold_bytes > LIGHT_IN_COMPANY * all_bytes;
        let notable = would_be_warm.into_iter().filter(is_notable);
        lonely.into_iter().chain(notable).for_each(|class| roles[class] = Ballast::Part);
        return roles;
    }
    if needed_bytes == 0.0 || would_be_warm.is_empty() || heavy().count() < 2 {
        return roles;
    }
    let flooding = (0..traffic.len()).filter(|&class| by_itself(&&traffic[class]));
    let sole = flooding.min_by(|&a, &b| traffic[a].cold_bytes.total_cmp(&traffic[b].cold_bytes));
    for class in would_be_warm {
        roles[class] = if sole.is_some() { Ballast::Beside } else { Ballast::Part };
    }
    if let Some(sole) = sole {
        roles[sole] = Ballast::Sole;
    }
    roles
}

/// Bytes that have to be swept at once for classes that are weighed together to be cold.
pub(crate) fn company_bytes(cold_bytes: &[f64], caches: &[Cache]) -> f64 {
    let all_bytes: f64 = cold_bytes.iter().sum();
    (MARGIN * flooded_bytes(all_bytes, caches)).min(MOST * all_bytes)
}

/// The most that a cache may keep from one run of the program to the next of what the program does not keep in it; 0
/// where the program stays warm in a cache of its own.
fn flooded_bytes(all_bytes: f64, caches: &[Cache]) -> f64 {
    let mut caches = caches.to_vec();
    caches.sort_by_key(|cache| cache.size_bytes);
    let is_flooded = |cache: &&Cache| cache.is_shared || (cache.size_bytes as f64) < all_bytes;
    caches.iter().take_while(is_flooded).map(|cache| cache.size_bytes as f64).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(size_bytes: u64) -> Cache {
        Cache { size_bytes, is_shared: false }
    }

    /// Classes that move nothing but weights.
    fn ballast(bytes: &[f64], caches: &[Cache]) -> Vec<Ballast> {
        let traffic =
            |&cold_bytes: &f64| Traffic { cold_bytes, moved_bytes: cold_bytes, needs_neighbours: false };
        ballast_of(&bytes.iter().map(traffic).collect::<Vec<_>>(), caches)
    }

    #[test]
    fn what_would_stay_in_the_cache_gets_company() {
        use Ballast::{Beside, None, Part, Sole};
        let bytes = [0.0, 300.0, 1000.0, 400.0, 5.0, 300.0];
        // 2005 bytes in all; the fifth class is too light to matter.
        assert_eq!(ballast(&bytes, &[]), [None; 6]);
        assert_eq!(ballast(&bytes, &[own(2005)]), [None; 6]);
        // 200 bytes have to go by, which each of four does by itself.
        assert_eq!(ballast(&bytes, &[own(100)]), [None; 6]);
        // 350 bytes have to go by: two classes do so alone, and the smaller is company enough.
        assert_eq!(ballast(&bytes, &[own(175)]), [None, Beside, None, Sole, None, Beside]);
        // 1100 have to, more than any class has.
        assert_eq!(ballast(&bytes, &[own(550)]), [None, Part, Part, Part, None, Part]);
        // A larger cache holds all of it, unless others may have taken their part of that.
        let bytes = [400.0, 350.0, 300.0, 200.0];
        assert_eq!(ballast(&bytes, &[own(10), own(5000)]), [None; 4]);
        let shared = Cache { size_bytes: 5000, is_shared: true };
        assert_eq!(ballast(&bytes, &[own(10), shared]), [Part; 4]);
        assert_eq!(ballast(&bytes, &[own(2000), shared]), [None; 4]);
    }

    #[test]
    fn what_moves_much_else_runs_by_itself() {
        let traffic = |cold_bytes, moved_bytes| Traffic { cold_bytes, moved_bytes, needs_neighbours: false };
        let classes = [traffic(300.0, 350.0), traffic(300.0, 3000.0), traffic(300.0, 1000.0)];
        assert_eq!(ballast_of(&classes, &[own(400)]), [Ballast::Part, Ballast::None, Ballast::Part]);
    }

    #[test]
    fn company_floods_the_cache_or_is_most_of_the_program() {
        let bytes = [40.0, 15.0, 55.0, 55.0, 75.0, 5.0];
        // Twice the cache, or two thirds of 245.
        assert_eq!(company_bytes(&bytes, &[own(50)]), 100.0);
        assert!((company_bytes(&bytes, &[own(200)]) - 245.0 * 2.0 / 3.0).abs() < 1e-9);
    }
}
