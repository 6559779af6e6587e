//! What no frame can reach any more, let go a few rings at a time: old rows, and keys that have been silent for
//! so long that they are as new.

use super::ring::{NEVER_US, Ring};
use super::shard::forget;
use super::spec::WindowSpec;
use super::state::WindowState;
use crate::Paged;

/// One key's ring is looked at for old rows for so many rows taken.
pub(super) const ROWS_PER_LOOK: usize = 4;
/// So many times more rings are looked at while a quarter of them is old.
const MORE_LOOKS: usize = 7;
/// From one page that is looked at to the next, a prime: page by page a look would follow the newest keys
/// and never come back to what has died behind it.
const STRIDE_PAGES: usize = 7919;

impl WindowState {
    /// Looks at some rings, and gives back the memory of rows that no frame can reach any more.
    pub(super) fn tidy(&mut self, clock_us: i64, rings: usize) {
        let spec = self.spec.clone();
        let page_rings = Paged::<Ring>::PAGE_VALUES;
        let mut pages = rings.div_ceil(page_rings).min(self.rings.pages());
        // Keys that come once come faster than that. Where a part of a page was forgotten, so are others.
        let mut more = (pages * MORE_LOOKS).min(self.rings.pages() - pages);
        let stride = match self.rings.pages() % STRIDE_PAGES {
            0 => 1,
            _ => STRIDE_PAGES,
        };
        while pages > 0 {
            pages -= 1;
            self.look = (self.look + stride) % self.rings.pages();
            let before = self.forgotten.len();
            let idle = |ring: &Ring| {
                spec.is_forgotten(ring.times().last_us, clock_us) || ring.is_slack(spec.stride)
            };
            if !self.rings.page(self.look).iter().any(idle) {
                continue;
            }
            let first = self.look * page_rings;
            let page = self.rings.page_mut(self.look);
            for (at, ring) in (first..).zip(page.iter_mut()) {
                if spec.is_forgotten(ring.times().last_us, clock_us) {
                    *ring = Ring::default();
                    self.lost_us.remove(&at);
                    // Ring 0 is that of NULL, which has no slot to give back.
                    self.forgotten
                        .extend(at.checked_sub(1).map(|slot| slot as u32));
                } else if ring.is_slack(spec.stride) {
                    forget(ring, &spec);
                    ring.tighten(spec.stride);
                }
            }
            if page.iter().all(Ring::is_new) {
                self.rings.release(self.look);
            }
            if more > 0 && (self.forgotten.len() - before) * 4 >= page_rings {
                (pages, more) = (pages + 1, more - 1);
            }
        }
    }

    /// The slots of keys that have become as new and whose memory was given back since this was last asked.
    /// When that is done shows in no result.
    pub fn take_forgotten(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.forgotten)
    }
}

impl WindowSpec {
    /// No row of a key whose newest one is of `last_us` can be reached any more by one that is not late for the
    /// whole stream.
    pub(super) fn is_forgotten(&self, last_us: i64, clock_us: i64) -> bool {
        let reach_us = self.retention_us.saturating_add(self.lateness_us);
        self.forgets && last_us != NEVER_US && last_us < clock_us.saturating_sub(reach_us)
    }
}
