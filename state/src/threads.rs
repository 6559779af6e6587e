//! Threads that the rows of a batch are split over.
//!
//! They are started once, for the first batch that is long enough, and wait in between: to start one takes longer
//! than a short batch does. How many there are shows in no result; that is for who splits the work to see to.

use std::fmt;
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// [`Threads::part_rows_min`] of windows: a guess on the safe side (docs/adr/0017).
const PART_ROWS_MIN: usize = 256;

/// The thread that calls, and others beside it.
pub struct Threads {
    /// Begins the name of each.
    name: &'static str,
    count: usize,
    /// Rows of a part below which handing them over takes longer than taking them.
    part_rows_min: usize,
    /// All but the one that calls; `None` where the machine gave none.
    others: OnceLock<Option<ThreadPool>>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Threads").field(&self.count).finish()
    }
}

impl Threads {
    /// So many for the rows of windows, the one that calls among them; at least that one.
    pub fn new(count: usize) -> Self {
        Self::named("features", count, PART_ROWS_MIN)
    }

    /// So many, for work on rows of which `part_rows_min` are worth handing over.
    pub fn named(name: &'static str, count: usize, part_rows_min: usize) -> Self {
        Threads {
            name,
            count: count.max(1),
            part_rows_min,
            others: OnceLock::new(),
        }
    }

    /// The parts in which so many rows are worth taking.
    pub fn parts(&self, rows: usize) -> usize {
        self.count.min(rows / self.part_rows_min).max(1)
    }

    /// Does every job, and gives what came of each, in their order: side by side where they are of so many
    /// rows that it is worth it.
    pub fn run<T: Send>(&self, rows: usize, jobs: Vec<impl FnOnce() -> T + Send>) -> Vec<T> {
        let others = match jobs.len().min(self.parts(rows)) {
            0 | 1 => None,
            _ => self.others.get_or_init(|| self.started()).as_ref(),
        };
        let Some(others) = others else {
            return jobs.into_iter().map(|job| job()).collect();
        };
        let mut done: Vec<Option<T>> = jobs.iter().map(|_| None).collect();
        others.in_place_scope(|scope| {
            let mut jobs = jobs.into_iter().zip(&mut done);
            let own = jobs.next();
            for (job, done) in jobs {
                scope.spawn(|_| *done = Some(job()));
            }
            if let Some((job, done)) = own {
                *done = Some(job());
            }
        });
        done.into_iter().flatten().collect()
    }

    fn started(&self) -> Option<ThreadPool> {
        let name = self.name;
        let pool = ThreadPoolBuilder::new()
            .num_threads(self.count - 1)
            .thread_name(move |number| format!("{name}-{}", number + 2));
        pool.build().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_the_jobs_keeps_their_order() {
        for count in [0, 1, 2, 5] {
            let threads = Threads::new(count);
            let jobs: Vec<_> = (0..7).map(|n| move || n * n).collect();
            assert_eq!(threads.run(10_000, jobs), [0, 1, 4, 9, 16, 25, 36]);
            assert_eq!(threads.parts(PART_ROWS_MIN * 2 - 1), 1);
            assert_eq!(threads.parts(PART_ROWS_MIN * 100), count.max(1));
        }
    }
}
