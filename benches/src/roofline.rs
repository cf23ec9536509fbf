//! One table: what was done, how long it took, and how close that is to what the machine can do.

use std::fmt::Write;

use crate::ceiling::Ceilings;
use crate::timing::Timing;

/// Counted work of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Floating-point operations, a multiply-add being two.
    pub flops: f64,
    /// Bytes that have to be read or written at least once.
    pub bytes: f64,
    /// Memory that consecutive runs touch before they come back to the same bytes; decides which cache they hit.
    pub working_set_bytes: f64,
}

impl Work {
    /// Work whose memory is the same in every run.
    pub fn repeated(flops: f64, bytes: f64) -> Self {
        Self { flops, bytes, working_set_bytes: bytes }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub op: String,
    /// On what.
    pub shape: String,
    /// On how many threads.
    pub threads: usize,
    /// How long it took.
    pub timing: Timing,
    /// How much it was.
    pub work: Work,
    /// What the ceilings make of it.
    pub bound: Bound,
}

/// What limits some work, and how fast it could be at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Neither the multiply-add units nor memory allow less.
    pub shortest_s: f64,
    /// Whether memory takes longer than arithmetic.
    pub is_memory: bool,
}

impl Bound {
    /// The roofline (Williams, Waterman and Patterson 2009): the slower one of arithmetic and memory.
    pub fn of(work: Work, ceilings: &Ceilings) -> Self {
        let arithmetic_s = work.flops / ceilings.flops_per_s;
        let memory_s = work.bytes / ceilings.read_rate(work.working_set_bytes);
        Self { shortest_s: arithmetic_s.max(memory_s), is_memory: memory_s > arithmetic_s }
    }
}

/// Rows and the ceilings they are held against.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row.
    pub fn push(
        &mut self,
        op: impl Into<String>,
        shape: impl Into<String>,
        timing: Timing,
        work: Work,
        ceilings: &Ceilings,
    ) {
        let bound = Bound::of(work, ceilings);
        let (op, shape, threads) = (op.into(), shape.into(), ceilings.threads);
        self.rows.push(Row { op, shape, threads, timing, work, bound });
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from(
            "| op | shape | threads | median | p10 - p90 | GFLOP/s | GB/s | bound by | % of ceiling |\n\
             |---|---|--:|--:|--:|--:|--:|---|--:|\n",
        );
        for Row { op, shape, threads, timing, work, bound } in &self.rows {
            let rate = |amount: f64| match amount {
                0.0 => "-".to_owned(),
                amount => format!("{:.1}", amount / timing.median_s * 1e-9),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {op} | {shape} | {threads} | {} | {} - {} | {} | {} | {} | {:.0} |",
                duration(timing.median_s),
                duration(timing.p10_s),
                duration(timing.p90_s),
                rate(work.flops),
                rate(work.bytes),
                if bound.is_memory { "memory" } else { "arithmetic" },
                100.0 * bound.shortest_s / timing.median_s,
            );
        }
        text
    }
}

/// The ceilings as Markdown, one column per number of threads.
pub fn ceilings_markdown(all: &[Ceilings]) -> String {
    let mut text = String::from("| ceiling |");
    let mut line = |label: &str, value: &dyn Fn(&Ceilings) -> String| {
        let values: String = all.iter().map(|ceilings| format!(" {} |", value(ceilings))).collect();
        let _ = writeln!(text, "{label}{values}");
    };
    line("", &|ceilings| crate::run::threads_label(ceilings.threads));
    line("|---|", &|_| "--:".to_owned());
    line("| f32 multiply-add, GFLOP/s |", &|ceilings| format!("{:.0}", ceilings.flops_per_s * 1e-9));
    let sizes = all.first().map_or(&[][..], |ceilings| &ceilings.read_bytes_per_s);
    for (index, (size, _)) in sizes.iter().enumerate() {
        line(&format!("| read {}, GB/s |", size_label(*size)), &|ceilings| {
            format!("{:.1}", ceilings.read_bytes_per_s[index].1 * 1e-9)
        });
    }
    text
}

/// `256 KiB`, `4 MiB`, `1 GiB`.
fn size_label(size_bytes: usize) -> String {
    match size_bytes {
        size if size >= 1 << 30 => format!("{} GiB", size >> 30),
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    }
}

/// Three digits and a unit.
fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings() -> Ceilings {
        Ceilings { threads: 2, flops_per_s: 1e9, read_bytes_per_s: vec![(1 << 20, 1e9), (1 << 30, 5e8)] }
    }

    #[test]
    fn the_slower_one_bounds() {
        let arithmetic = Bound::of(Work::repeated(2e9, 1e6), &ceilings());
        assert_eq!(arithmetic, Bound { shortest_s: 2.0, is_memory: false });
        let memory = Bound::of(Work { working_set_bytes: 1e9, ..Work::repeated(1.0, 1e6) }, &ceilings());
        assert_eq!(memory, Bound { shortest_s: 2e-3, is_memory: true });
    }

    #[test]
    fn a_row_shows_its_share_of_the_ceiling() {
        let mut table = Table::default();
        let timing = Timing { median_s: 4e-3, p10_s: 3.95e-3, p90_s: 4.2e-3, n: 9 };
        table.push("matmul f32", "m=1", timing, Work::repeated(2e6, 1e5), &ceilings());
        let text = table.to_markdown();
        let expected = "| matmul f32 | m=1 | 2 | 4.00 ms | 3.95 ms - 4.20 ms | 0.5 | 0.0 | arithmetic | 50 |";
        assert_eq!(text.lines().nth(2), Some(expected));
        let text = ceilings_markdown(&[ceilings()]);
        assert_eq!(text.lines().next(), Some("| ceiling | 2 threads |"));
        assert_eq!(text.lines().nth(4), Some("| read 1 GiB, GB/s | 0.5 |"));
    }
}
