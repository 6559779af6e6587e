//! The log, read once more behind the live line, for the rows of the keys that the parity check follows.
//!
//! What was committed tells what was accepted, and in which order: the order topic is read as the recovery reads it,
//! and then what its records name. So nothing counts that the line has not taken, no record that was refused and none of
//! an aborted transaction. It reads outside the group, with large fetches, and rests after each piece for
//! as long as keeps it within its share of a core. Where lanes come or go, or the log has a gap, it begins anew,
//! and says of older rows nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sanderling_features::{FeatureEngine, KeySample, LogSample};
use sanderling_ingest::{FUTURE_US_MAX, IngestError, OrderLog, RunsReader};
use sanderling_schemas::{Offsets, OrderRecord, Run, Sequence};

use super::Service;
use super::parity::Checks;
use super::priority::cpu_time;
use super::recover::Stopped;
use crate::clock::now_us;
use crate::failure::Failure;
use crate::line::Lane;
use crate::replay::input_failure;
use crate::resolve::parse_duration_us;

/// Rows that are read at once.
const PIECE_ROWS: u64 = 4_096;
/// A consumer that is in no hurry, and so costs the broker and us little.
const FETCHES: [(&str, &str); 3] = [
    ("fetch.min.bytes", "262144"),
    ("fetch.wait.max.ms", "500"),
    ("queued.max.messages.kbytes", "1024"),
];

/// Reads the log for the parity check.
pub struct LogReader<'a> {
    order: OrderLog,
    next: Offsets,
    fold: Fold<'a>,
}

/// What is made of what is read.
struct Fold<'a> {
    service: &'a Service<'a>,
    keys: Arc<KeySample>,
    /// An engine without state, which knows what rows of the log are to windows.
    engine: FeatureEngine,
    runs: RunsReader,
    /// Of a lane whose first record is not known to be the first of all, rows from this event time on are
    /// held, microseconds.
    from_us: i64,
    lanes: BTreeMap<Lane, Following>,
}

/// A lane's log, as far as it was read.
struct Following {
    log: LogSample,
    /// Sequence of the next row, once there was one.
    next: Option<u64>,
    /// What comes after it and is not read yet.
    ahead: Vec<Run>,
    ahead_rows: u64,
}

impl<'a> LogReader<'a> {
    /// A reader of the pipeline's log; `None` where none is to be read, or where it would tell nothing.
    pub fn open(service: &'a Service<'a>, keys: &Arc<KeySample>) -> Result<Option<Self>, Failure> {
        let settings = &service.folder.settings;
        let Some(topic) = &settings.output.order else {
            return Ok(None);
        };
        let engine = service.folder.features()?;
        let tells = engine.log_sample(keys.clone(), 0, settings.parity.log_rows_max);
        if settings.parity.log_share == 0.0 || tells.map_err(fault)?.is_none() {
            return Ok(None);
        }
        let kafka = &settings.kafka;
        let mut properties = kafka.properties.clone();
        properties.extend(FETCHES.map(|(name, value)| (name.into(), value.into())));
        let order = OrderLog::new(&kafka.brokers, &properties, topic).map_err(input_failure)?;
        let runs = service.runs_reader(&properties);
        Ok(Some(Self {
            order,
            next: Offsets::default(),
            fold: Fold {
                service,
                keys: keys.clone(),
                engine,
                runs: runs.map_err(input_failure)?,
                from_us: i64::MAX,
                lanes: BTreeMap::new(),
            },
        }))
    }

    /// Reads what has come, and has samples checked as it comes by their rows.
    pub fn turn(&mut self, checks: &mut Checks<'_>) -> Result<(), Failure> {
        if !self.fold.has_all_lanes() {
            self.begin()?;
        }
        if self.fold.lanes.is_empty() {
            return Ok(());
        }
        let fold = &mut self.fold;
        let read = (self.order).read_from(&self.next, |record| fold.take(record, checks));
        let read = read.and_then(|next| {
            self.next = next;
            let lanes: Vec<Lane> = self.fold.lanes.keys().copied().collect();
            (lanes.into_iter()).try_for_each(|lane| self.fold.read_ahead(lane, checks))
        });
        let logs = self.fold.lanes.values();
        checks.kept(logs.map(|following| following.log.rows()).sum());
        match read {
            // What ends it, or has it begin anew, is found by the next look.
            Ok(()) | Err(Stopped::Over) => Ok(()),
            Err(Stopped::Failure(failure)) => Err(failure),
            Err(Stopped::Ingest(error)) => Err(input_failure(error)),
        }
    }

    /// Begins with the lanes that are owned now.
    fn begin(&mut self) -> Result<(), Failure> {
        let back_us = parse_duration_us(&self.fold.service.folder.settings.parity.log_from);
        let since_us = now_us().saturating_sub(back_us.unwrap_or_default());
        let (next, is_held) = (self.order.since(since_us / 1_000)).map_err(input_failure)?;
        self.next = next;
        // No row is accepted whose time is further ahead of the broker's.
        self.fold.from_us = match is_held {
            true => since_us.saturating_add(FUTURE_US_MAX),
            false => now_us().saturating_add(FUTURE_US_MAX),
        };
        self.fold.lanes.clear();
        for lane in self.fold.service.lanes.all() {
            let following = self.fold.following(self.fold.from_us)?;
            self.fold.lanes.insert(lane, following);
        }
        Ok(())
    }
}

impl Fold<'_> {
    fn has_all_lanes(&self) -> bool {
        (self.service.lanes.all().iter()).eq(self.lanes.keys())
    }

    /// A lane of which all rows from an event time on will come.
    fn following(&self, from_us: i64) -> Result<Following, Failure> {
        let rows_max = self.service.folder.settings.parity.log_rows_max;
        let rows_max = rows_max / self.service.lanes.all().len().max(1);
        let log = self.engine.log_sample(self.keys.clone(), from_us, rows_max);
        let log = log.map_err(fault)?;
        Ok(Following {
            log: log.expect("it was found to tell something"),
            next: None,
            ahead: Vec::new(),
            ahead_rows: 0,
        })
    }

    /// Takes the next order record.
    fn take(&mut self, record: OrderRecord, checks: &mut Checks<'_>) -> Result<(), Stopped> {
        let lane = Lane(record.lane);
        let Some(following) = self.lanes.get_mut(&lane) else {
            return Ok(());
        };
        let expected = following.next.map(|next| next + following.ahead_rows);
        match expected.map(|expected| record.sequence.0.cmp(&expected)) {
            Some(Ordering::Equal) => {}
            // At least once, a record may come again.
            Some(Ordering::Less) => return Ok(()),
            Some(Ordering::Greater) | None => {
                self.read_ahead(lane, checks)?;
                self.begin_lane(lane, record.sequence.0)?;
            }
        }
        let following = self.following_mut(lane);
        following.ahead_rows += (record.runs.iter())
            .map(|run| (run.range.next.0 - run.range.from.0) as u64)
            .sum::<u64>();
        following.ahead.extend(record.runs);
        match following.ahead_rows >= PIECE_ROWS {
            true => self.read_ahead(lane, checks),
            false => Ok(()),
        }
    }

    /// The log of a lane goes on at `sequence`, and not where it was.
    fn begin_lane(&mut self, lane: Lane, sequence: u64) -> Result<(), Stopped> {
        let from_us = match (sequence, self.following_mut(lane).next) {
            (0, _) => i64::MIN,
            (_, None) => self.from_us,
            (_, Some(_)) => now_us().saturating_add(FUTURE_US_MAX),
        };
        let following = self.following(from_us).map_err(Stopped::Failure)?;
        let next = Some(sequence);
        self.lanes.insert(lane, Following { next, ..following });
        Ok(())
    }

    /// Reads what a lane's records have named, and folds it up to each row that a sample is of.
    fn read_ahead(&mut self, lane: Lane, checks: &mut Checks<'_>) -> Result<(), Stopped> {
        // A sample comes before its row is committed.
        if !checks.wait(Duration::ZERO) || !self.has_all_lanes() {
            return Err(Stopped::Over);
        }
        let began = cpu_time();
        let following = self.following_mut(lane);
        let Some(first) = following.next.filter(|_| following.ahead_rows > 0) else {
            return Ok(());
        };
        let (runs, rows) = (std::mem::take(&mut following.ahead), following.ahead_rows);
        (following.next, following.ahead_rows) = (Some(first + rows), 0);
        let events = match self.runs.read(&runs) {
            Ok((events, _)) => events.filter(|events| events.len() as u64 == rows),
            Err(IngestError::NotHeld { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(mut events) = events else {
            return self.begin_lane(lane, first + rows);
        };
        events.sequence = Sequence(first);
        let log = &mut self.following_mut(lane).log;
        let fault = |error| Stopped::Failure(fault(error));
        let mut folded = 0;
        while let Some(sample) = checks.take(lane, &(first + folded..first + rows)) {
            let upto = sample.sequence + 1 - first;
            let piece = events.slice(folded as usize, (upto - folded) as usize);
            log.fold(&piece).map_err(fault)?;
            folded = upto;
            // A lane that was given up before it committed may stand elsewhere now.
            let is_its = events.ids[upto as usize - 1] == sample.event;
            checks.check(&sample, is_its.then_some(&*log));
        }
        let rest = events.slice(folded as usize, (rows - folded) as usize);
        log.fold(&rest).map_err(fault)?;
        let share = self.service.folder.settings.parity.log_share;
        let worked = cpu_time().saturating_sub(began);
        match checks.wait(worked.mul_f64(1.0 / share - 1.0)) {
            true => Ok(()),
            false => Err(Stopped::Over),
        }
    }

    fn following_mut(&mut self, lane: Lane) -> &mut Following {
        (self.lanes.get_mut(&lane)).expect("only lanes that are followed are read")
    }
}

fn fault(error: sanderling_features::FeatureError) -> Failure {
    Failure::new("pipeline", error.to_string())
}
