//! The stages: features, then scores, then decisions; and what each does with all else that travels the line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sanderling_features::FeatureEngine;
use sanderling_schemas::{EventBatch, FeatureBatch, Flag, OrderRecord, Rung};

use super::flow::{Decided, Lane};
use super::{Carried, Cut, Flow};
use crate::clock::now_us;
use crate::pipeline::{Drill, Judge, Pipeline, PipelineError, source_ids};
use crate::roster::{Rated, Roster};
use crate::run::Sampler;
use crate::tables::Tables;

/// A stage, with a state `S` for each lane.
pub(super) struct Stage<S, Split, Make, Renew, See> {
    pub(super) lanes: BTreeMap<Lane, S>,
    /// What a stage keeps of a lane's pipeline, and what it leaves to the next ones.
    pub(super) split: Split,
    pub(super) work: Make,
    pub(super) renew: Renew,
    pub(super) cut: See,
}

impl<S, Split, Make, Renew, See> Stage<S, Split, Make, Renew, See> {
    /// Does its part of what comes, in order.
    pub(super) fn pass<P, R, I, O>(&mut self, flow: Flow<P, I>) -> Result<Flow<R, O>, PipelineError>
    where
        Split: Fn(P) -> (S, R),
        Make: Fn(Carried<I>, &mut S) -> Result<Carried<O>, PipelineError>,
        Renew: Fn(&mut S, &Tables) -> Result<(), PipelineError>,
        See: Fn(&S, Cut<'_>),
    {
        Ok(match flow {
            Flow::Open(lane, pipeline) => {
                let (own, rest) = (self.split)(pipeline);
                self.lanes.insert(lane, own);
                Flow::Open(lane, rest)
            }
            Flow::Close(lane) => {
                self.lanes.remove(&lane);
                Flow::Close(lane)
            }
            Flow::Batch(carried) => {
                let state = (self.lanes)
                    .get_mut(&carried.lane)
                    .expect("a batch comes after its lane was opened");
                Flow::Batch(Box::new((self.work)(*carried, state)?))
            }
            Flow::Rejected(letters) => Flow::Rejected(letters),
            Flow::Mark(offsets) => Flow::Mark(offsets),
            Flow::Tables(lane, tables) => {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    (self.renew)(state, &tables)?;
                }
                Flow::Tables(lane, tables)
            }
            Flow::Barrier(mut barrier) => {
                if let Some(state) = self.lanes.get(&barrier.lane) {
                    (self.cut)(state, Cut::Checkpoint(&mut barrier));
                }
                Flow::Barrier(barrier)
            }
            Flow::Look(mut look) => {
                if let Some(state) = self.lanes.get(&look.lane) {
                    (self.cut)(state, Cut::Look(&mut look));
                }
                Flow::Look(look)
            }
        })
    }
}

/// The models and the slowness added to them.
pub(super) type SlowModels = (Roster, Drill);

/// An engine and who samples what it makes.
pub(super) type SampledEngine = (FeatureEngine, Option<Arc<Sampler>>);

pub(super) fn split_pipeline(pipeline: Pipeline) -> (SampledEngine, (SlowModels, Judge)) {
    let Pipeline {
        features,
        models,
        judge,
        drill,
        sampler,
    } = pipeline;
    ((features, sampler), ((models, drill), judge))
}

pub(super) fn featurise(
    carried: Carried<EventBatch>,
    (features, sampler): &mut SampledEngine,
) -> Result<Carried<FeatureBatch>, PipelineError> {
    let quiet = carried.quiet;
    let due = sampler
        .as_ref()
        .filter(|sampler| !quiet && sampler.is_due());
    carried.with(|events, timing| {
        let start = Instant::now();
        let batch = match due {
            None => features.compute(&events)?,
            Some(sampler) => {
                let (batch, sample) = features.compute_sampled(&events)?;
                sample.into_iter().for_each(|sample| sampler.take(sample));
                batch
            }
        };
        timing.features_us = micros(start.elapsed());
        Ok(batch)
    })
}

pub(super) fn score(
    carried: Carried<FeatureBatch>,
    (models, drill): &mut SlowModels,
) -> Result<Carried<(FeatureBatch, Rated)>, PipelineError> {
    let in_time = || {
        let age_us = age_us(&carried.made.events.broker_time_us, now_us());
        let permit = carried.permit.as_ref()?;
        Some(permit.rung(carried.made.scored.len(), age_us as i64))
    };
    let rung = carried.rung.or_else(in_time).unwrap_or(Rung::Full);
    if let Some(champion) = &carried.champion {
        models.appoint(champion);
    }
    carried.with(|batch, timing| {
        let start = Instant::now();
        let rated = models.score(&batch, rung)?;
        drill.wait(rung, batch.scored.len());
        timing.score_us = micros(start.elapsed());
        Ok((batch, rated))
    })
}

pub(super) fn judge(
    carried: Carried<(FeatureBatch, Rated)>,
    judge: &mut Judge,
) -> Result<Carried<Box<Decided>>, PipelineError> {
    let Carried {
        lane,
        backlog,
        quiet,
        entered_us,
        ..
    } = carried;
    let mut carried = carried.with(|(batch, rated), timing| {
        let start = Instant::now();
        let mut decisions = match quiet {
            true => Vec::new(),
            false => judge.judge(&batch, &rated)?,
        };
        if backlog {
            decisions
                .iter_mut()
                .for_each(|decision| decision.flags.push(Flag::Backlog));
        }
        timing.explain_us = micros(start.elapsed());
        let source_ids = source_ids(judge.relation(), &batch, &decisions)?;
        let first = batch.events.sequence.0;
        let broker_time_us = match batch.events.broker_time_us.as_slice() {
            [] => Vec::new(),
            times => decisions
                .iter()
                .map(|d| times[(d.sequence.0 - first) as usize])
                .collect(),
        };
        Ok(Box::new(Decided {
            lane,
            source_ids,
            dead_letters: match quiet {
                true => Vec::new(),
                false => judge.too_late(&batch),
            },
            rows: batch.events.len(),
            quiet,
            order: OrderRecord {
                lane: lane.0,
                backlog,
                ..judge.order(&batch, &rated)
            },
            labels: batch.labels,
            decisions,
            broker_time_us,
            entered_us,
            timing: *timing,
            mark: None,
        }))
    })?;
    carried.made.mark = carried.mark.take();
    // What comes after the decision has its own bounds.
    drop(carried.permit.take());
    Ok(carried)
}

/// How long before `now_us` the broker took the oldest of a batch's records, microseconds; 0 without a broker.
pub(super) fn age_us(broker_time_us: &[i64], now_us: i64) -> u64 {
    let oldest_us = broker_time_us.iter().min();
    oldest_us.map_or(0, |oldest_us| (now_us - oldest_us).max(0) as u64)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
