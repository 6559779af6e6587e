//! An engine's output over a stream that is cut into batches, with and without restarts between them.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{EventBatch, FeatureBatch, KnownLabel};
use sanderling_state::Restored;

/// The engine's output over all batches as one.
#[derive(Debug, PartialEq)]
pub struct Folded {
    pub features: RecordBatch,
    pub slots: Vec<Vec<u32>>,
    pub labels: Vec<KnownLabel>,
    pub late: Vec<bool>,
    pub too_late: Vec<u32>,
}

pub fn fold(engine: &mut FeatureEngine, whole: &EventBatch, ends: &[usize]) -> Vec<FeatureBatch> {
    let mut from = 0;
    (ends.iter().chain(std::iter::once(&whole.len())))
        .filter_map(|&end| {
            let len = end.min(whole.len()).saturating_sub(from);
            let part = whole.slice(from, len);
            from += len;
            (len > 0).then(|| engine.compute(&part).unwrap())
        })
        .collect()
}

pub fn joined(batches: Vec<FeatureBatch>) -> Folded {
    let schema = batches[0].features.schema();
    let features = concat_batches(&schema, batches.iter().map(|b| &b.features)).unwrap();
    let mut slots = vec![Vec::new(); batches[0].slots.len()];
    let mut labels = Vec::new();
    let mut late = Vec::new();
    let mut too_late = Vec::new();
    for batch in &batches {
        slots
            .iter_mut()
            .zip(&batch.slots)
            .for_each(|(all, some)| all.extend(some));
        let from = batch.events.sequence.0 as u32;
        labels.extend(batch.labels.iter().map(|l| KnownLabel {
            row: l.row + from,
            ..*l
        }));
        late.extend(&batch.late);
        too_late.extend(batch.too_late.iter().map(|late| late.row + from));
    }
    Folded {
        features,
        slots,
        labels,
        late,
        too_late,
    }
}

/// The output over batches that end at `ends`, with a restart from a snapshot after each.
pub fn restarted(engine: &dyn Fn() -> FeatureEngine, whole: &EventBatch, ends: &[usize]) -> Folded {
    let mut ends: Vec<usize> = ends.iter().map(|end| (*end).min(whole.len())).collect();
    ends.push(whole.len());
    ends.sort_unstable();
    let (mut batches, mut engine_now, mut from) = (Vec::new(), engine(), 0);
    for end in ends {
        if end > from {
            batches.push(engine_now.compute(&whole.slice(from, end - from)).unwrap());
        }
        let mut file = Vec::new();
        engine_now.snapshot().write_arrow(&mut file).unwrap();
        engine_now = engine();
        engine_now
            .restore(Restored::read_arrow(file.as_slice()).unwrap())
            .unwrap();
        from = end;
    }
    joined(batches)
}
