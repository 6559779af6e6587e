//! The beginning of the live line: partitions come and go, lanes are brought back, and what the
//! topics hold is put on the line in time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use sanderling_ingest::{
    Committer, EventSource, IngestError, KafkaSource, SourceEvent, TopicPartition,
};
use sanderling_schemas::{EventBatch, Rung, Sequence};

use super::Service;
use super::champion::Champion;
use super::lanes::Lanes;
use super::pace::Permit;
use crate::clock::now_us;
use crate::failure::Failure;
use crate::line::{Feeder, Input, Lane, Work};

/// How long to wait for a record, or for a place on the line.
const POLL: Duration = Duration::from_millis(50);
/// Time between two looks at the lag, and at what is ready of tables.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a checkpoint of what is being given up.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(60);
/// How long an instance that must own every partition waits for them.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);

/// Feeds the line from the topics until the service is asked to stop.
pub struct Feed<'a> {
    service: &'a Service<'a>,
    source: KafkaSource,
    committer: Committer,
    feeder: &'a Feeder,
    /// Every partition of every topic.
    all: Vec<TopicPartition>,
    owned: Vec<TopicPartition>,
    /// Since when partitions are missing of those that one lane must own.
    incomplete_since: Option<Instant>,
    checkpoint_at: Instant,
    lag_at: Instant,
    champion: Champion,
}

impl<'a> Feed<'a> {
    /// A feed from `source`, whose topics have the partitions `all`.
    pub fn new(
        service: &'a Service<'a>,
        source: KafkaSource,
        feeder: &'a Feeder,
        all: Vec<TopicPartition>,
    ) -> Self {
        Self {
            service,
            committer: source.committer(),
            source,
            feeder,
            all,
            owned: Vec::new(),
            incomplete_since: (!service.by_partition).then(Instant::now),
            checkpoint_at: Instant::now(),
            lag_at: Instant::now(),
            champion: Champion::new(service.folder, &service.models),
        }
    }

    /// Feeds until asked to stop; then everything read is decided, committed and checkpointed.
    pub fn run(mut self) -> Result<(), Failure> {
        while !self.service.is_stopping() {
            self.service.health.heartbeat();
            if self.feeder.is_over() {
                return Ok(());
            }
            let Some(permit) = self.service.pace.permit(POLL) else {
                continue;
            };
            if !self.turn(permit)? {
                return Ok(());
            }
        }
        self.service.health.draining();
        give_up(&self.service.lanes, &self.service.lanes.all(), self.feeder);
        Ok(())
    }

    /// Takes what there is and puts it on the line; `false` once the line has ended.
    fn turn(&mut self, permit: Arc<Permit>) -> Result<bool, Failure> {
        let rows_max = self.service.pace.rows_max();
        let on_line = match (self.source.next(rows_max, POLL)).map_err(|e| self.failure(e))? {
            SourceEvent::Batch(batch) => self.dispatch(batch, permit),
            SourceEvent::Rejected(letters) => {
                self.service.metrics.rejected(&letters);
                self.feeder.send(Input::Rejected(letters)) && self.mark()
            }
            SourceEvent::Assigned(partitions) => self.assigned(partitions)?,
            SourceEvent::Revoked(partitions) => self.revoked(&partitions),
            SourceEvent::Idle => true,
            SourceEvent::End => false,
        };
        if self.lag_at.elapsed() >= LAG_EVERY {
            self.lag_at = Instant::now();
            self.service.metrics.lag(&self.source.lag());
            self.champion.look();
            if !self.renew_tables() {
                return Ok(false);
            }
            if let Some(since) = self.incomplete_since
                && since.elapsed() > WHOLE_WITHIN
            {
                return Err(self.not_whole());
            }
        }
        if on_line && self.checkpoint_at.elapsed() >= self.service.folder.checkpoint_every {
            self.checkpoint_at = Instant::now();
            return Ok(self.checkpoint());
        }
        Ok(on_line)
    }

    /// Tells every lane of tables whose files have changed; `false` once the line has ended.
    fn renew_tables(&self) -> bool {
        let Some(tables) = self.service.tables.renewed() else {
            return true;
        };
        (self.service.lanes.all().into_iter())
            .all(|lane| self.feeder.send(Input::Tables(lane, tables.clone())))
    }

    /// Puts a batch on the line, split where its rows stop being a backlog.
    fn dispatch(&mut self, mut batch: EventBatch, permit: Arc<Permit>) -> bool {
        let pace = &self.service.pace;
        let lane = self.lane_of(&batch);
        let Some(sequence) = self.service.lanes.advance(lane, batch.len()) else {
            // Read before the lane was given up, and not committed: its next owner reads it again.
            return true;
        };
        batch.sequence = Sequence(sequence);
        self.service
            .metrics
            .taken(&self.service.folder.relation, &batch);
        let now_us = now_us();
        let behind = self.source.is_behind();
        let mut mark = Some(self.service.lanes.mark(self.source.offsets()));
        let (mut from, rows) = (0, batch.len());
        while from < rows {
            // What waited for us is late, and no backlog: the ladder is there to catch up with it.
            let is_past = |row: usize| behind && pace.is_past(now_us - batch.broker_time_us[row]);
            let backlog = is_past(from);
            let until = (from..rows)
                .find(|row| is_past(*row) != backlog)
                .unwrap_or(rows);
            let last = until == rows;
            let work = Work {
                lane,
                events: match (from, last) {
                    (0, true) => batch.clone(),
                    _ => batch.slice(from, until - from),
                },
                rung: backlog.then_some(Rung::Full),
                champion: Some(self.champion.hash().clone()),
                backlog,
                quiet: false,
                mark: mark.take_if(|_| last),
                permit: Some(permit.clone()),
            };
            if !self.feeder.send(Input::Batch(work)) {
                return false;
            }
            from = until;
        }
        true
    }

    fn lane_of(&self, batch: &EventBatch) -> Lane {
        match self.service.by_partition {
            true => Lane(batch.ids.first().map(|id| id.partition.0)),
            false => Lane::WHOLE,
        }
    }

    /// Says where the source stands, unless rows are still to come of what was read.
    fn mark(&self) -> bool {
        if !self.source.has_given_all() {
            return true;
        }
        let mark = self.service.lanes.mark(self.source.offsets());
        self.feeder.send(Input::Mark(mark))
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<bool, Failure> {
        self.owned.extend(partitions);
        self.owned.sort();
        self.owned.dedup();
        if !self.service.by_partition {
            let whole = self.all.iter().all(|p| self.owned.contains(p));
            if !whole {
                self.service
                    .health
                    .starting("waiting for all partitions: another instance holds some");
                self.incomplete_since.get_or_insert_with(Instant::now);
                return Ok(true);
            }
        }
        self.incomplete_since = None;
        let known = self.service.lanes.all();
        let mut fresh: Vec<Lane> = self.owned.iter().map(|p| self.lane(p)).collect();
        fresh.sort();
        fresh.dedup();
        fresh.retain(|lane| !known.contains(lane));
        for lane in fresh {
            self.service.health.starting("restoring state");
            let mine: Vec<TopicPartition> = self
                .owned
                .iter()
                .filter(|p| self.lane(p) == lane)
                .cloned()
                .collect();
            let progress = (self.committer.progress(&mine)).map_err(|e| self.failure(e))?;
            let recovered = self.service.recover(lane, &mine, &progress, self.feeder)?;
            let Some(recovered) = recovered else {
                return Ok(self.service.is_stopping());
            };
            let (sequence, next) = (recovered.sequence, &recovered.next);
            if self.service.folder.settings.output.order.is_none() && sequence == 0 {
                self.service.lanes.hold(lane);
            }
            let mark = self.service.lanes.open(lane, sequence, next);
            // At least once, the order log may have led beyond what was committed.
            if !self.service.exactly_once() && !self.feeder.send(Input::Mark(mark)) {
                return Ok(self.service.is_stopping());
            }
            self.source
                .begin(&mine, &recovered.next)
                .map_err(|e| self.service.folder.input_failure(e))?;
        }
        self.service.metrics.lanes(self.service.lanes.all().len());
        self.service.health.live();
        tracing::info!(partitions = self.owned.len(), "live");
        Ok(true)
    }

    /// Partitions are gone; the hook has brought what was read of them to an end.
    fn revoked(&mut self, partitions: &[TopicPartition]) -> bool {
        self.owned.retain(|p| !partitions.contains(p));
        let mut gone: Vec<Lane> = partitions.iter().map(|p| self.lane(p)).collect();
        gone.sort();
        gone.dedup();
        if !self.service.by_partition && !partitions.is_empty() {
            self.incomplete_since = Some(Instant::now());
            self.service.health.starting("partitions were taken away");
        }
        let mut on_line = true;
        for lane in gone {
            if self.service.lanes.close(lane) {
                on_line &= self.feeder.send(Input::Close(lane));
            }
        }
        self.service.metrics.lanes(self.service.lanes.all().len());
        on_line
    }

    fn lane(&self, (_, partition): &TopicPartition) -> Lane {
        match self.service.by_partition {
            true => Lane(Some(partition.0)),
            false => Lane::WHOLE,
        }
    }

    /// Asks for a checkpoint of every lane that has moved, unless the last is still being written.
    fn checkpoint(&self) -> bool {
        if self.service.writing.swap(true, Ordering::AcqRel) {
            return true;
        }
        let lanes = self.service.lanes.moved();
        if lanes.is_empty() {
            self.service.writing.store(false, Ordering::Release);
        }
        lanes
            .into_iter()
            .filter_map(|lane| self.service.lanes.barrier(lane, None))
            .all(|barrier| self.feeder.send(Input::Barrier(barrier)))
    }

    fn failure(&self, e: IngestError) -> Failure {
        self.service.folder.input_failure(e)
    }

    fn not_whole(&self) -> Failure {
        Failure::new(
            "instance",
            format!(
                "{} of {} partitions are held by another instance, and an entity with `state: memory` needs one instance to own them all",
                self.all.len() - self.owned.len(),
                self.all.len()
            ),
        )
        .in_file(&self.service.folder.path.join("pipeline.yaml"))
        .cure("stop the other instance; or key the topic by the entity and write state: partition")
    }
}

/// Brings what was put on the line of `lanes` to its end: decided, committed, and in a checkpoint.
pub fn give_up(lanes: &Lanes, gone: &[Lane], feeder: &Feeder) {
    let (tell, told) = bounded(gone.len().max(1));
    let barriers: Vec<_> = gone
        .iter()
        .filter_map(|lane| lanes.barrier(*lane, Some(tell.clone())))
        .collect();
    drop(tell);
    for barrier in barriers {
        if !feeder.send(Input::Barrier(barrier)) {
            return;
        }
    }
    let until = Instant::now() + GIVE_UP_WITHIN;
    // Every barrier tells once and lets go; the last one to do so ends the wait.
    while told.recv_deadline(until).is_ok() {}
}

/// What a source calls before partitions are given up. It does not keep the line open: whoever
/// commits keeps the client, and with it this, until the line has ended.
pub fn before_revoke(
    lanes: Arc<Lanes>,
    feeder: Weak<Feeder>,
    by_partition: bool,
) -> impl Fn(&[TopicPartition]) + Send + Sync {
    move |partitions| {
        let Some(feeder) = feeder.upgrade() else {
            return;
        };
        let mut gone: Vec<Lane> = match by_partition {
            true => partitions.iter().map(|(_, p)| Lane(Some(p.0))).collect(),
            false => vec![Lane::WHOLE],
        };
        gone.sort();
        gone.dedup();
        give_up(&lanes, &gone, &feeder);
    }
}
