//! State of other features over the same relation, taken over window by window.
//!
//! A ring keeps rows, and rows mean the same to whatever window reads them. So windows of the same key go on with
//! the rows that others kept, if those hold what they read and reach back as far. What nobody kept, the
//! engine may have folded itself from what the log still holds; and what neither has is said.

use sanderling_state::window::{Frame, RingShape};
use sanderling_state::{KeyIndex, Restored, StateError};

use crate::FeatureError;
use crate::clock::Clock;
use crate::engine::FeatureEngine;
use crate::groups::{GroupKey, WindowGroup};
use crate::parity::Call;

/// Which rows before the snapshot an engine has folded itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    /// None.
    Nothing,
    /// All from this event time on, microseconds.
    From(i64),
    /// All there ever were.
    All,
}

/// What became of an engine's windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Window functions that go on with the rows of others.
    pub shared: usize,
    /// Window functions that go on with rows that were folded again.
    pub folded: usize,
    /// Window functions that do not have all their rows yet.
    pub filling: Vec<Filling>,
}

/// A window function that lacks rows from before it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filling {
    /// As it is written.
    pub window: String,
    /// Features that read it.
    pub features: Vec<String>,
    /// The stream's time from which on nothing is missing, microseconds; `None` for a frame of rows, or
    /// without a beginning.
    pub full_at_us: Option<i64>,
}

/// What a snapshot tells of the windows of one key.
struct Kept {
    name: String,
    key: String,
    columns: Vec<String>,
    shape: RingShape,
}

impl FeatureEngine {
    /// Goes on from a snapshot of an engine with other SQL over the same relation, `folded` being what this
    /// one knows of what came before.
    ///
    /// # Errors
    /// [`FeatureError::State`] when it is damaged, of another relation, or of features whose keys are in other
    /// columns, so that labels could not be told whose they are.
    pub fn take_over(
        &mut self,
        restored: &Restored,
        folded: Folded,
    ) -> Result<TakenOver, FeatureError> {
        let mismatch = |what: &str| FeatureError::State(StateError::Mismatch(what.into()));
        if restored.section("relation")?.value::<String>()? != self.relation_shape() {
            return Err(mismatch("it is of another relation"));
        }
        if let Some(labels) = &mut self.labels {
            if restored.section("labels/keys")?.value::<Vec<u64>>()? != labels.key_columns() {
                return Err(mismatch(
                    "PARTITION BY reads other columns than before, which labels of earlier events do not have",
                ));
            }
            labels.restore("labels", restored)?;
        }
        self.clock = Clock::restore("clock", restored)?;
        self.accepted = restored.section("accepted")?.value()?;
        let mut slots = Vec::new();
        for (number, entity) in self.entities.iter_mut().enumerate() {
            let there = KeyIndex::restore(restored.section(&format!("entity-{number}"))?)?;
            let here = (0..there.len() as u32).map(|slot| entity.index.slot_of(there.key(slot)));
            slots.push(here.collect::<Vec<u32>>());
        }
        let kept = Kept::all(restored)?;
        let mut taken = TakenOver::default();
        let (now_us, newest_us) = (self.clock.now_us(), self.clock.newest_us());
        let lateness_us = self.relation.lateness_us;
        for number in 0..self.groups.len() {
            let group = &mut self.groups[number];
            let best = group.best_of(&kept, lateness_us);
            let calls = group.calls().clone();
            let has: Vec<bool> = match &best {
                None => vec![false; calls.len()],
                Some(best) => best.has.clone(),
            };
            let folded_too = |call: &Call| match (folded, call.frame) {
                (Folded::All, _) => true,
                (
                    Folded::From(from_us),
                    Frame::Range {
                        preceding_us: Some(preceding_us),
                        ..
                    },
                ) => {
                    from_us
                        .saturating_add(preceding_us)
                        .saturating_add(lateness_us)
                        <= now_us
                }
                _ => false,
            };
            let all_folded = calls.iter().all(folded_too);
            let is_shared =
                has.iter().all(|has| *has) || (!all_folded && has.iter().any(|has| *has));
            if let Some(best) = best.filter(|_| is_shared) {
                group.adopt(restored, &best, &slots)?;
            }
            for (call, has) in calls.iter().zip(has) {
                match (is_shared, has, folded_too(call)) {
                    (true, true, _) => taken.shared += 1,
                    (false, _, true) => taken.folded += 1,
                    _ => {
                        let since_us = match (is_shared, folded) {
                            (false, Folded::From(from_us)) => from_us,
                            _ => newest_us,
                        };
                        let features = self.parity.features_of(call.window);
                        taken
                            .filling
                            .push(Filling::of(call, features, since_us, lateness_us));
                    }
                }
            }
        }
        Ok(taken)
    }
}

impl Filling {
    fn of(call: &Call, features: Vec<String>, since_us: i64, lateness_us: i64) -> Self {
        Self {
            window: call.text.clone(),
            features,
            full_at_us: match call.frame {
                Frame::Range {
                    preceding_us: Some(preceding_us),
                    ..
                } => Some(
                    since_us
                        .saturating_add(preceding_us)
                        .saturating_add(lateness_us),
                ),
                _ => None,
            },
        }
    }
}

impl Kept {
    fn all(restored: &Restored) -> Result<Vec<Self>, FeatureError> {
        let mut all = Vec::new();
        for number in 0.. {
            let name = format!("window-{number}");
            let Ok(key) = restored.section(&format!("{name}/by")) else {
                break;
            };
            let columns: String = restored.section(&format!("{name}/columns"))?.value()?;
            let kept = Kept {
                key: key.value()?,
                columns: columns.split('\n').map(str::to_string).collect(),
                shape: restored.section(&format!("{name}/shape"))?.value()?,
                name,
            };
            if kept.columns.len() != kept.shape.columns() {
                return Err(StateError::Damaged("columns that no ring has".into()).into());
            }
            all.push(kept);
        }
        Ok(all)
    }
}

/// The rows of others that serve a group best.
pub(crate) struct Best {
    name: String,
    shape: RingShape,
    /// For each of the group's columns, the one there.
    columns: Vec<Option<usize>>,
    /// Which of the group's calls find all their rows.
    has: Vec<bool>,
}

impl WindowGroup {
    fn best_of(&self, kept: &[Kept], lateness_us: i64) -> Option<Best> {
        let of = |kept: &Kept| {
            let find = |column: &String| {
                let found = kept.columns.iter().position(|other| other == column);
                found.filter(|_| !column.is_empty())
            };
            // A column of which only whether it is there was kept is of no use as a value.
            let values = |(column, text): (usize, &String)| {
                find(text).filter(|there| self.state().can_read(column, &kept.shape, *there))
            };
            let texts = self.described_columns().iter().enumerate();
            let columns: Vec<Option<usize>> = texts.map(values).collect();
            let has = |call: &Call| {
                let reads = |column: &usize| {
                    columns[*column].is_some_and(|there| kept.shape.holds(there, call.function))
                };
                let only = call.only.is_none_or(|only| columns[only].is_some());
                only && call.columns.iter().all(reads)
                    && kept.shape.reaches(call.frame, lateness_us)
            };
            let has: Vec<bool> = self.calls().iter().map(has).collect();
            Best {
                name: kept.name.clone(),
                shape: kept.shape.clone(),
                columns,
                has,
            }
        };
        let same_key =
            (kept.iter()).filter(|kept| !kept.key.is_empty() && kept.key == self.described_key());
        same_key
            .map(of)
            .max_by_key(|best| best.has.iter().filter(|has| **has).count())
    }

    /// Replaces what the group knows by the rows of others; `slots` are those here of each entity's keys there.
    fn adopt(
        &mut self,
        restored: &Restored,
        best: &Best,
        slots: &[Vec<u32>],
    ) -> Result<(), FeatureError> {
        let Best {
            name,
            shape,
            columns,
            ..
        } = best;
        let (key, state) = self.key_and_state();
        match key {
            GroupKey::Entity(entity) => {
                let mut here = |slot: u32| slots[*entity].get(slot as usize).copied();
                state.adopt(name, restored, shape, columns, &mut here)?;
            }
            GroupKey::Own { index, .. } => {
                let there = KeyIndex::restore(restored.section(&format!("{name}/keys"))?)?;
                let mut fresh = KeyIndex::default();
                let mut here = |slot: u32| {
                    let known = (slot as usize) < there.len() && there.has_key(slot);
                    known.then(|| fresh.slot_of(there.key(slot)))
                };
                state.adopt(name, restored, shape, columns, &mut here)?;
                *index = fresh;
            }
        }
        Ok(())
    }
}
