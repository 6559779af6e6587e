//! The scorer's promises: batches, threads and rungs change nothing; a restored fold goes on.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::Output;

use super::*;
use crate::fixtures::{Stream, model, payments, scorer, small, state, telemetry};
use crate::inputs::Model;
use crate::options::ModelOptions;

/// Scores and contexts of the rows `[from, to)`, in batches of at most `size` rows.
fn fold(
    scorer: &mut Scorer,
    stream: &Stream,
    (from, to): (usize, usize),
    mut next: impl FnMut() -> (usize, Rung),
) -> (Vec<u64>, Vec<u32>) {
    let (mut scores, mut contexts) = (Vec::new(), Vec::new());
    let mut at = from;
    while at < to {
        let (size, rung) = next();
        let end = (at + size).min(to);
        let scored = scorer.score(&stream.batch(at, end), rung).unwrap();
        scores.extend(scored.batch.scores.iter().map(|score| score.to_bits()));
        contexts.extend(scored.inputs.context.iter().map(|x| x.to_bits()));
        at = end;
    }
    (scores, contexts)
}

#[test]
fn batches_threads_and_rungs_change_nothing() {
    // Of few cards, so that there are many waves; and of so many that waves are split over threads.
    for stream in [payments(1500, 1), payments(2500, 1).in_turn(900, 700)] {
        batches_threads_and_rungs_change_nothing_of(&stream);
    }
}

fn batches_threads_and_rungs_change_nothing_of(stream: &Stream) {
    let model = Arc::new(model(&stream.recording(), &small(1), 0.7));
    let mut whole = scorer(stream, &model, 1);
    let all = (0, stream.len());
    let expected = fold(&mut whole, stream, all, || (stream.len(), Rung::Full));
    let expected_state = state(&whole);
    assert!(expected.1.iter().any(|&bits| bits != 0));
    for (seed, threads) in [(1, 1), (2, 2), (3, 2), (5, 3)] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut parts = scorer(stream, &model, threads);
        let found = fold(&mut parts, stream, all, || {
            (
                match rng.random_range(0..10) {
                    0..3 => 1,
                    3..8 => rng.random_range(1..400),
                    _ => rng.random_range(1400..2000),
                },
                Rung::Full,
            )
        });
        assert!(found == expected, "split {seed} over {threads} threads");
        assert!(state(&parts) == expected_state, "state of split {seed}");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut mixed = scorer(stream, &model, 1);
    let found = fold(&mut mixed, stream, all, || {
        (64, Rung::ALL[rng.random_range(0..4)])
    });
    assert!(found.1 == expected.1, "contexts on other rungs");
    assert!(state(&mixed) == expected_state, "state on other rungs");
}

#[test]
fn events_have_as_many_endpoints_as_the_pipeline_names() {
    for endpoints in [0, 1, 3] {
        let stream = payments(1200, 8).with_endpoints(endpoints);
        let model = Arc::new(model(&stream.recording(), &small(2), 0.7));
        let names: Vec<&str> = model.groups().iter().map(|g| g.name.as_str()).collect();
        let known = ["event", "card", "terminal", "device", "endpoint_3"];
        assert_eq!(names, known[..endpoints + 2]);
        let all = (0, stream.len());
        let mut whole = scorer(&stream, &model, 1);
        let expected = fold(&mut whole, &stream, all, || (stream.len(), Rung::Full));
        for (size, threads) in [(1, 1), (37, 1), (stream.len(), 2)] {
            let mut parts = scorer(&stream, &model, threads);
            let found = fold(&mut parts, &stream, all, || (size, Rung::Full));
            assert!(
                found == expected,
                "{endpoints} endpoints in batches of {size}"
            );
            assert!(state(&parts) == state(&whole), "{endpoints} endpoints");
        }
        // Every endpoint is remembered, and has a say in the score.
        let size = model.context_size();
        let last = expected.1.len() / size - 1;
        let context: Vec<f32> = expected.1[last * size..]
            .iter()
            .map(|&x| f32::from_bits(x))
            .collect();
        let features = vec![1.0; model.columns()];
        let score = |context: Vec<f32>| {
            let (rows, features) = (1, features.clone());
            let inputs = ModelInputs {
                rows,
                features,
                context,
            };
            model.forward(&inputs, Rung::Full).unwrap()[0]
        };
        for group in &model.groups()[1..] {
            let mut without = context.clone();
            for range in &group.context {
                without[range.clone()].fill(0.0);
            }
            assert_ne!(without, context, "{} was never seen", group.name);
            assert_ne!(score(without), score(context.clone()), "{}", group.name);
        }
    }
}

#[test]
fn members_are_averaged_and_remember_for_themselves() {
    let stream = payments(700, 5);
    let recording = stream.recording();
    let two = ModelOptions {
        members: 2,
        ..small(1)
    };
    let one = Arc::new(model(&recording, &small(1), 0.7));
    let two = Arc::new(model(&recording, &two, 0.7));
    assert_eq!(two.context_size(), 2 * one.context_size());
    let groups = two.groups();
    assert_eq!(groups[1].context.len(), 2 * one.groups()[1].context.len());
    // The first network of a seed is the same in both.
    let mut one = scorer(&stream, &one, 1);
    let mut two = scorer(&stream, &two, 1);
    let all = stream.batch(0, stream.len());
    let (one, two) = (
        one.score(&all, Rung::Full).unwrap(),
        two.score(&all, Rung::Full).unwrap(),
    );
    let sizes = (
        one.inputs.context.len() / one.inputs.rows,
        two.inputs.context.len() / two.inputs.rows,
    );
    for (row, context) in two.inputs.context.chunks_exact(sizes.1).enumerate() {
        let own = &one.inputs.context[row * sizes.0..][..sizes.0];
        assert_eq!(&context[..sizes.0], own, "row {row}");
    }
    assert_ne!(one.batch.scores, two.batch.scores, "the second has a say");
}

#[test]
fn a_restored_fold_goes_on() {
    let stream = payments(900, 2);
    let options = ModelOptions {
        members: 2,
        ..small(1)
    };
    let model = Arc::new(model(&stream.recording(), &options, 0.7));
    let mut unbroken = scorer(&stream, &model, 1);
    let half = stream.len() / 2;
    fold(&mut unbroken, &stream, (0, half), || (50, Rung::Full));
    let bytes = state(&unbroken);
    let expected = fold(&mut unbroken, &stream, (half, stream.len()), || {
        (50, Rung::Full)
    });
    let mut restored = scorer(&stream, &model, 1);
    restored
        .restore(&Restored::read_arrow(bytes.as_slice()).unwrap())
        .unwrap();
    let found = fold(&mut restored, &stream, (half, stream.len()), || {
        (33, Rung::Full)
    });
    assert!(found == expected);

    let other = Arc::new(self::model(&stream.recording(), &small(2), 0.7));
    let mut other = scorer(&stream, &other, 1);
    let refused = other.restore(&Restored::read_arrow(bytes.as_slice()).unwrap());
    assert!(matches!(
        refused,
        Err(ScoringError::State(StateError::Mismatch(_)))
    ));
}

#[test]
fn forward_is_the_pure_part_of_score() {
    let stream = payments(600, 3);
    let model = Arc::new(model(&stream.recording(), &small(1), 0.7));
    for rung in Rung::ALL {
        let mut scorer = scorer(&stream, &model, 1);
        scorer.score(&stream.batch(0, 500), rung).unwrap();
        let scored = scorer
            .score(&stream.batch(500, stream.len()), rung)
            .unwrap();
        assert_eq!(
            scored.batch.scores,
            model.forward(&scored.inputs, rung).unwrap()
        );
        assert_eq!(scored.inputs.rows, scored.batch.scores.len());
        let (columns, size) = (model.columns(), model.context_size());
        for row in 0..scored.inputs.rows {
            let one = ModelInputs {
                rows: 1,
                features: scored.inputs.features[row * columns..][..columns].to_vec(),
                context: scored.inputs.context[row * size..][..size].to_vec(),
            };
            assert_eq!(
                model.forward(&one, rung).unwrap()[0].to_bits(),
                scored.batch.scores[row].to_bits()
            );
        }
    }
}

#[test]
fn an_event_without_endpoints_has_the_cold_context() {
    let stream = payments(400, 4);
    let model = Arc::new(model(&stream.recording(), &small(1), 0.7));
    let mut scorer = scorer(&stream, &model, 1);
    let first = scorer.score(&stream.batch(0, 1), Rung::Full).unwrap();
    assert_eq!(first.inputs.context, model.cold_context());
    assert_eq!(
        scorer
            .score(&stream.batch(1, 2), Rung::Rules)
            .unwrap()
            .batch
            .scores,
        [model.base_score()]
    );
}

#[test]
fn other_features_and_entities_are_refused() {
    let stream = payments(400, 5);
    let model = Arc::new(model(&stream.recording(), &small(1), 0.7));
    let mut schema = stream.schema.clone();
    schema.hash = "other".into();
    let refused = Scorer::new(model.clone(), &schema, &stream.relation, 1);
    assert!(matches!(refused, Err(ScoringError::OtherFeatures { .. })));
    let mut relation = stream.relation.clone();
    relation.entities.pop();
    let refused = Scorer::new(model, &stream.schema, &relation, 1);
    assert!(matches!(refused, Err(ScoringError::OtherEntities { .. })));
}

#[test]
fn a_folder_is_read_back_and_checked() {
    let stream = payments(400, 6);
    let model = model(&stream.recording(), &small(1), 0.7);
    let dir = std::env::temp_dir().join(format!("sanderling-model-{}", std::process::id()));
    model.save(&dir).unwrap();
    let back = Arc::new(ServedModel::load(&dir).unwrap());
    assert_eq!(back.manifest(), model.manifest());
    let model = Arc::new(model);
    let all = (0, stream.len());
    let scores = |model: &Arc<ServedModel>| {
        fold(&mut scorer(&stream, model, 1), &stream, all, || {
            (90, Rung::Full)
        })
    };
    assert!(scores(&back) == scores(&model));
    let weights = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let refused = ServedModel::load(&dir);
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(matches!(refused, Err(ScoringError::WeightsHash { .. })));
}

#[test]
fn telemetry_goes_through_the_same_fold() {
    let stream = telemetry(3000, 1);
    let options = ModelOptions {
        output: Output::Forecast,
        lstm: 32,
        token: None,
        ..small(16)
    };
    let model = Arc::new(model(&stream.recording(), &options, 0.7));
    let mut scorer = scorer(&stream, &model, 2);
    let (mut full, mut linear) = (0.0, 0.0);
    for from in (0..stream.len()).step_by(250) {
        let batch = stream.batch(from, from + 250);
        let scored = scorer.score(&batch, Rung::Full).unwrap();
        if from >= 2250 {
            full += scored.batch.scores.iter().sum::<f64>();
            linear += model
                .forward(&scored.inputs, Rung::Linear)
                .unwrap()
                .iter()
                .sum::<f64>();
        }
    }
    assert!(
        full < 0.5 * linear,
        "forecast error {full} against {linear} without memory"
    );
}
