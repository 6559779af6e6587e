//! The scorer against PyTorch: a model and a stream that `torch/referee.py` wrote, with what PyTorch makes
//! of them in double precision.

use std::path::Path;

use safetensors::tensor::SafeTensors;
use sanderling_schemas::NO_SLOT;

use super::*;
use crate::fixtures::{relation, schema};
use crate::options::{ScoringDevice, ScoringOptions};

/// Numbers of 4 or 8 bytes, little-endian.
fn numbers<const BYTES: usize, T>(bytes: &[u8], number: fn([u8; BYTES]) -> T) -> Vec<T> {
    let cells = bytes.chunks_exact(BYTES);
    cells
        .map(|cell| number(cell.try_into().expect("a cell is whole")))
        .collect()
}

/// The stream, and the outputs of the rungs full, without graph and linear of each event.
fn stream(folder: &Path, model: &ServedModel) -> (Recording, Vec<f64>) {
    let bytes = std::fs::read(folder.join("stream.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| tensors.tensor(name).unwrap().data();
    let integers = |name: &str| numbers(data(name), i64::from_le_bytes);
    let inputs = &model.manifest().inputs;
    let fields: Vec<_> = inputs
        .iter()
        .map(|input| (input.name.as_str(), input.entity, input.from_label))
        .collect();
    let mut schema = schema(&fields);
    schema.hash = model.manifest().features.as_str().into();
    let entities = &model.manifest().entities;
    let names: Vec<&str> = entities.iter().map(String::as_str).collect();
    let mut recording = Recording::new(&schema, &relation(&names, i64::MAX));

    let features = numbers(data("features"), f32::from_le_bytes);
    let slots: Vec<u32> = integers("slots")
        .into_iter()
        .map(|slot| u32::try_from(slot).unwrap_or(NO_SLOT))
        .collect();
    let values = numbers(data("labels.value"), f32::from_le_bytes);
    let (at, of, times) = (
        integers("labels.at"),
        integers("labels.of"),
        integers("labels.time"),
    );
    let mut label = 0;
    let events = features.chunks_exact(fields.len());
    let events = events.zip(slots.chunks_exact(names.len()));
    for (event, ((features, slots), time)) in events.zip(integers("times")).enumerate() {
        while at.get(label).is_some_and(|&at| at as usize <= event) {
            recording.push_label(of[label] as usize, values[label], times[label]);
            label += 1;
        }
        recording.push_event(features, slots, time);
    }
    assert!(label > 200, "labels come among the events");
    (recording, numbers(data("outputs"), f64::from_le_bytes))
}

#[test]
fn pytorch_gives_the_same_outputs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("torch/referee");
    let model = Arc::new(ServedModel::load(&folder).unwrap());
    let (recording, wanted) = stream(&folder, &model);
    let rungs = [Rung::Full, Rung::NoGraph, Rung::Linear];
    let on_tensors = ScoringOptions {
        device: ScoringDevice::Graph,
        ..ScoringOptions::default()
    };
    let on_tensors = Placement::of(&on_tensors).unwrap();
    let kernels = Placement::default();
    let whole = recording.len();
    for (rows, placement) in [
        (1, &kernels),
        (37, &kernels),
        (whole, &kernels),
        (37, &on_tensors),
        (whole, &on_tensors),
    ] {
        let scorer = Scorer::of_recording(model.clone(), &recording, 1).unwrap();
        let mut scorer = scorer.placed(placement).unwrap();
        let mut seen = 0;
        for from in (0..recording.len()).step_by(rows) {
            let part = (from, (from + rows).min(recording.len()));
            scorer
                .fold_recording(&recording, part, &rungs, |event, found| {
                    let wanted = &wanted[event * rungs.len()..][..rungs.len()];
                    for (rung, (&found, wanted)) in rungs.iter().zip(found.iter().zip(wanted)) {
                        let apart = (f64::from(found) - wanted).abs();
                        assert!(
                            apart < 1e-5,
                            "event {event}, {rung:?}: {found}, PyTorch {wanted}"
                        );
                    }
                    seen += 1;
                })
                .unwrap();
        }
        assert_eq!(seen, recording.len());
    }
}
