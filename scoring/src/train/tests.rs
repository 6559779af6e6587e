//! What training must manage on streams small enough for a test.

use sanderling_schemas::{OperatingPoint, Rung};

use super::*;
use crate::device::Placement;
use crate::evaluation::{EvaluationPlan, evaluate};
use crate::fixtures::{MINUTE_US, model, payments, small};
use crate::inputs::{Model, ModelInputs};
use crate::metrics::auc;
use crate::options::{Precision, TrainingDevice, TrainingOptions};

/// AUC over the last 30 % of the recording, of a model of the first 70 %.
fn auc_after(recording: &Recording, options: &ModelOptions) -> f64 {
    let model = Arc::new(model(recording, options, 0.7));
    let truth = recording.known_labels(i64::MAX);
    let from = (recording.len() as f64 * 0.7) as usize;
    let mut scorer = Scorer::of_recording(model, recording, 1).unwrap();
    let (mut scores, mut positive) = (Vec::new(), Vec::new());
    scorer
        .fold_recording(
            recording,
            (0, recording.len()),
            &[Rung::Full],
            |event, raw| {
                if event >= from && !truth[event].is_nan() {
                    scores.push(f64::from(raw[0]));
                    positive.push(truth[event] > 0.5);
                }
            },
        )
        .unwrap();
    auc(&scores, &positive)
}

#[test]
fn what_endpoints_remember_is_learnt() {
    let recording = payments(6000, 21).recording();
    let with = auc_after(&recording, &small(8));
    let without = auc_after(
        &recording,
        &ModelOptions {
            graph: false,
            ..small(8)
        },
    );
    assert!(with > 0.8, "AUC {with} with the graph");
    assert!(
        with > without + 0.1,
        "AUC {with} with the graph, {without} without"
    );
}

#[test]
fn gradients_of_products_in_16_bits_teach_as_much() {
    let recording = payments(6000, 21).recording();
    let of = |device, precision| {
        let mut options = small(8);
        (options.training.device, options.training.precision) = (device, precision);
        auc_after(&recording, &options)
    };
    let fused = of(TrainingDevice::Cpu, Precision::F32);
    let [full, half] =
        [Precision::F32, Precision::F16].map(|precision| of(TrainingDevice::Graph, precision));
    assert!((full - fused).abs() < 0.02, "AUC {full}, fused {fused}");
    assert!((half - full).abs() < 0.02, "AUC {half} in f16, {full}");
    assert_ne!(half, full, "nothing was multiplied in f16");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let recording = payments(500, 22).recording();
    let first = model(&recording, &small(2), 0.8);
    assert_eq!(first.hash(), model(&recording, &small(2), 0.8).hash());
    let calibration = first.manifest().calibration;
    for rung in [calibration.full, calibration.no_graph, calibration.linear] {
        assert!(rung.slope > 0.0);
    }
}

#[test]
fn labels_of_the_future_give_no_gradient() {
    let recording = payments(600, 23).recording();
    let to_us = 300 * MINUTE_US;
    let plan = |known_by_us| TrainingPlan {
        from_us: 0,
        to_us,
        known_by_us,
        seed: 1,
    };
    let rows = |known_by_us| {
        let (rows, _) = gradient_rows(&recording, Output::LogOdds, &plan(known_by_us)).unwrap();
        rows.rows.len()
    };
    // Labels come 120 minutes after their event, one event a minute.
    assert!((175..=190).contains(&rows(to_us)), "{}", rows(to_us));
    assert!((295..=305).contains(&rows(to_us + 130 * MINUTE_US)));
    let none = gradient_rows(&recording, Output::LogOdds, &plan(0));
    assert!(matches!(none, Err(ScoringError::TooFewRows(_))));
}

#[test]
fn the_last_rows_are_held_out_where_both_classes_are_in_them() {
    let rows = |positives: &[u32]| GradientRows {
        rows: (0..200).collect(),
        targets: (0..200)
            .map(|row| if positives.contains(&row) { 1.0 } else { 0.0 })
            .collect(),
    };
    let many: Vec<u32> = (0..200).step_by(5).collect();
    let (early, late) = rows(&many).hold_out(Output::LogOdds, 0.3).unwrap();
    assert_eq!(early.rows, (0..140).collect::<Vec<u32>>());
    assert_eq!(late.rows, (140..200).collect::<Vec<u32>>());
    assert_eq!(late.targets[..6], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let early_only: Vec<u32> = (0..50).collect();
    assert!(rows(&early_only).hold_out(Output::LogOdds, 0.3).is_none());
    assert!(rows(&many).hold_out(Output::LogOdds, 0.0).is_none());
    assert!(rows(&many).hold_out(Output::Forecast, 0.3).is_none());
}

#[test]
fn the_manifest_tells_what_each_score_meant_on_held_out_rows() {
    let recording = payments(3000, 29).recording();
    let trained = model(&recording, &small(3), 0.8);
    let manifest = trained.manifest();
    let held_out = manifest.held_out.as_ref().unwrap();
    assert_eq!(held_out.rows, manifest.metrics.calibration_rows);
    assert!(held_out.rows < manifest.training.rows / 2);
    // One event a minute.
    assert!((held_out.events_per_day - 1440.0).abs() < 5.0);
    let (first, last) = (
        held_out.points[0],
        held_out.points[held_out.points.len() - 1],
    );
    assert_eq!(
        (last.rows, last.positives),
        (held_out.rows, held_out.positives)
    );
    let share = |point: OperatingPoint| point.positives as f64 / point.rows as f64;
    assert!(
        share(first) > share(last),
        "the highest scores hold more fraud than all"
    );
    let reliability = manifest.metrics.reliability.as_ref().unwrap();
    let events = reliability.bins.iter().map(|bin| bin.events);
    assert_eq!(events.sum::<usize>(), held_out.rows);
    let positives = reliability
        .bins
        .iter()
        .map(|bin| bin.positive * bin.events as f64);
    assert!((positives.sum::<f64>() - held_out.positives as f64).abs() < 1e-6);
    let base = held_out.positives as f64 / held_out.rows as f64;
    assert!(reliability.brier < base * (1.0 - base), "{reliability}");
    let mut none = small(1);
    none.training.hold_out = Some(0.0);
    let none = model(&recording, &none, 0.8);
    assert_eq!(none.manifest().held_out, None);
    assert_eq!(none.manifest().metrics.reliability, None);
}

#[test]
fn the_calibration_of_several_networks_is_of_their_mean() {
    let recording = payments(3000, 29).recording();
    let of = |members| {
        let options = ModelOptions {
            members,
            ..small(3)
        };
        model(&recording, &options, 0.8)
    };
    let (one, three) = (of(1), of(3));
    let slope = |model: &ServedModel| model.manifest().calibration.full.slope;
    // A mean has less spread than one of its parts, and so needs more slope.
    assert!(
        slope(&three) > slope(&one),
        "{} {}",
        slope(&three),
        slope(&one)
    );
    let held_out = |model: &ServedModel| model.manifest().held_out.clone().unwrap();
    assert_eq!(held_out(&three).rows, held_out(&one).rows);
    assert_ne!(held_out(&three).points, held_out(&one).points);
}

#[test]
fn values_are_learnt_in_their_own_units() {
    // The value to foretell is the amount's, shifted.
    let stream = payments(1500, 24);
    let source = stream.recording();
    let mut recording = Recording::new(&stream.schema, &stream.relation);
    for event in 0..source.len() {
        let slots: Vec<u32> = (0..3).map(|entity| source.slots(entity)[event]).collect();
        recording.push_event(source.features(event), &slots, event as i64 * MINUTE_US);
        let value = source.features(event)[0] + 1000.0;
        recording.push_label(event, value, event as i64 * MINUTE_US + 1);
    }
    let options = ModelOptions {
        output: Output::Value,
        ..small(8)
    };
    let model = Arc::new(model(&recording, &options, 0.7));
    let from = (recording.len() as f64 * 0.7) as usize;
    let full = model.calibrations.full;
    let mut scorer = Scorer::of_recording(model.clone(), &recording, 1).unwrap();
    let (mut own, mut constant) = (0.0, 0.0);
    scorer
        .fold_recording(
            &recording,
            (0, recording.len()),
            &[Rung::Full],
            |event, raw| {
                if event >= from {
                    let value = f64::from(recording.features(event)[0]) + 1000.0;
                    own += (full.apply(raw[0]) - value).powi(2);
                    constant += (model.base_score() - value).powi(2);
                }
            },
        )
        .unwrap();
    assert!(
        own < 0.2 * constant,
        "squared error {own}, of the mean {constant}"
    );
}

#[test]
fn training_that_diverges_stops() {
    let stream = payments(500, 25);
    let source = stream.recording();
    // All rows are in every step, and one of them stands out by its noise.
    let (odd, value) = (123, -1e30);
    let mut recording = Recording::new(&stream.schema, &stream.relation);
    for event in 0..source.len() {
        let slots: Vec<u32> = (0..3).map(|entity| source.slots(entity)[event]).collect();
        let mut features = source.features(event).to_vec();
        if event == odd {
            features[1] = value;
        }
        let time_us = event as i64 * MINUTE_US;
        recording.push_event(&features, &slots, time_us);
        let label = if features[0] > 100.0 { 1.0 } else { 0.0 };
        recording.push_label(event, label, time_us + 1);
    }
    let mut options = small(3);
    options.training.rate = 1e30;
    options.training.batch = Some(source.len());
    options.training.hold_out = Some(0.0);
    let plan = TrainingPlan {
        from_us: 0,
        to_us: i64::MAX,
        known_by_us: i64::MAX,
        seed: 1,
    };
    let stopped = train(&recording, &options, &plan, None, &mut |_| {});
    let Err(ScoringError::NotFinite { what, .. }) = stopped else {
        panic!("{:?}", stopped.err());
    };
    assert!(what.contains("tensor "), "{what}");
    let sequence = recording.sequences()[odd];
    assert!(what.contains(&format!("event {sequence} ")), "{what}");
    assert!(what.contains(&format!("its noise being {value}")), "{what}");
}

/// Trains with `keep` and copies what is kept after every epoch; then goes on from each copy and wants
/// the same model.
fn assert_goes_on(
    epochs: usize,
    trained: impl Fn(&TrainingCheckpoints, &mut dyn FnMut(TrainingProgress)) -> ServedModel,
) {
    let root = tempfile::tempdir().unwrap();
    let (kept, copies) = (root.path().join("kept"), root.path().join("copies"));
    let mut cut = Vec::new();
    let whole = trained(
        &TrainingCheckpoints::new(&kept, false).unwrap(),
        &mut |progress| {
            let copy = copies.join(progress.epochs.to_string());
            std::fs::create_dir_all(&copy).unwrap();
            for file in std::fs::read_dir(&kept).into_iter().flatten() {
                let file = file.unwrap();
                std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
            cut.push(copy);
        },
    );
    assert_eq!(cut.len(), epochs);
    for copy in cut {
        let mut heard = 0;
        let again = trained(
            &TrainingCheckpoints::new(&copy, true).unwrap(),
            &mut |progress| {
                heard += 1;
                assert_eq!(progress.epochs, heard);
            },
        );
        assert_eq!(again.hash(), whole.hash(), "cut off at {}", copy.display());
        assert_eq!(again.manifest(), whole.manifest());
        assert_eq!(heard, epochs);
    }
}

#[test]
fn training_that_was_cut_off_goes_on_to_the_same_model() {
    let recording = payments(2500, 27).recording();
    let options = ModelOptions {
        members: 2,
        ..small(4)
    };
    let plan = TrainingPlan {
        from_us: 0,
        to_us: 2400 * MINUTE_US,
        known_by_us: 2400 * MINUTE_US,
        seed: 5,
    };
    // The trial and the networks, two epochs of the first stage and four of the second each.
    assert_goes_on(12, |kept, progress| {
        train(&recording, &options, &plan, Some(kept), progress).unwrap()
    });
    let champion = Arc::new(model(&recording, &small(1), 0.4));
    assert_goes_on(3, |kept, progress| {
        let training = TrainingOptions {
            update_epochs: Some(2),
            ..small(1).training
        };
        let champion = champion.clone();
        update(&recording, champion, &training, &plan, Some(kept), progress).unwrap()
    });

    let folder = tempfile::tempdir().unwrap();
    let kept = TrainingCheckpoints::new(folder.path(), true).unwrap();
    train(&recording, &options, &plan, Some(&kept), &mut |_| {}).unwrap();
    let plan = TrainingPlan { seed: 6, ..plan };
    let other = train(&recording, &options, &plan, Some(&kept), &mut |_| {});
    assert!(matches!(other, Err(ScoringError::OtherTraining { .. })));
}

#[test]
fn folds_are_the_same_on_one_thread_and_two() {
    let day = 1440 * MINUTE_US;
    let recording = payments(6 * 1440, 26).recording();
    let truth = recording.known_labels(i64::MAX);
    let plan = EvaluationPlan {
        start_us: 0,
        folds: 2,
        step_days: 1,
        train_days: 2,
        delay_days: 1,
        test_days: 1,
        train_from_us: None,
        exclude_known: false,
        seed: 3,
        placement: Placement::default(),
    };
    let run = |threads| {
        let mut options = small(2);
        options.graph = false;
        evaluate(&recording, &truth, &options, &plan, threads, &|_, _| {}).unwrap()
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one.scores, two.scores);
    assert_eq!(one.folds.len(), 2);
    for (fold, report) in one.folds.iter().enumerate() {
        assert_eq!(report.start_us, fold as i64 * day);
        assert!((1300..=1500).contains(&report.rows), "{} rows", report.rows);
        assert!(report.auc > 0.5 && report.average_precision > 0.0);
    }
    let (mean, deviation) = one.spread(|fold| fold.auc);
    assert!(mean > 0.5 && deviation >= 0.0);
}

#[test]
fn a_successor_goes_on_and_is_held_against_the_champion() {
    let recording = payments(6000, 26).recording();
    let champion = Arc::new(model(&recording, &small(4), 0.4));
    let end = recording.times_us()[recording.len() - 1] + 1;
    let plan = TrainingPlan {
        from_us: 2400 * MINUTE_US,
        to_us: end,
        known_by_us: end,
        seed: 3,
    };
    let trained_on = |rate| {
        let training = TrainingOptions {
            update_epochs: Some(4),
            update_rate: rate,
            ..small(4).training
        };
        update(
            &recording,
            champion.clone(),
            &training,
            &plan,
            None,
            &mut |_| {},
        )
        .unwrap()
    };
    let (better, worse) = (trained_on(1e-3), trained_on(0.5));
    let trial = |model: &ServedModel| model.manifest().trial.clone().unwrap();
    let (won, lost) = (trial(&better), trial(&worse));
    assert_eq!(won.champion_hash, champion.hash());
    assert_eq!(won.champion, lost.champion);
    assert!(won.rows > 400 && won.positives > 10, "{won:?}");
    assert!(won.from_us > plan.from_us && won.until_us < end, "{won:?}");
    assert!(won.won && won.successor > won.champion, "{won:?}");
    assert!(!lost.won && lost.successor <= lost.champion, "{lost:?}");
    assert_ne!(better.hash(), champion.hash());
    assert_eq!(better.front, champion.front);
    assert_eq!(better.hash(), trained_on(1e-3).hash());
    assert_eq!(
        better.manifest().metrics.average_precision,
        Some(won.successor)
    );
}

#[test]
fn scores_hold_to_what_no_input_tells() {
    let recording = payments(1500, 27).recording();
    let mut options = small(2);
    options.training.unexplained = 0.3;
    options.training.exposure = Some("nowhere".to_string());
    let plan = TrainingPlan {
        from_us: 0,
        to_us: i64::MAX,
        known_by_us: i64::MAX,
        seed: 1,
    };
    let refused = train(&recording, &options, &plan, None, &mut |_| {}).unwrap_err();
    assert!(
        refused.to_string().contains("there is no nowhere"),
        "{refused}"
    );

    options.training.exposure = Some("amount".to_string());
    let model = model(&recording, &options, 0.8);
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let model = ServedModel::load(folder.path()).unwrap();
    let background = Background::load(&model.shape, &model.weights().unwrap());
    let background = background.unwrap().unwrap();
    let rows = 40;
    let inputs = ModelInputs {
        rows,
        features: recording.steps(0, rows).features.to_vec(),
        context: model.cold_context().repeat(rows),
    };
    let standard = model.front.standardise(&inputs.features);
    let mut moved = 0;
    for rung in [Rung::Full, Rung::NoGraph, Rung::Linear, Rung::Rules] {
        let raw = model.raw(standard.all(), &inputs.context, rung);
        let scores = model.forward(&inputs, rung).unwrap();
        let uncompleted = model.calibrated(raw.clone(), rung);
        for (row, features) in inputs.features.chunks_exact(model.columns()).enumerate() {
            let b = f64::from(background.of(&model.shape, features));
            let f = f64::from(raw[row]);
            let both = ((b + f.exp()).ln() - (1.0 - b).ln()) as f32;
            let wanted = match rung {
                Rung::Rules => uncompleted[row],
                _ => model.calibrated(vec![both], rung)[0],
            };
            assert!((scores[row] - wanted).abs() < 1e-5, "row {row}, {rung:?}");
            moved += usize::from((scores[row] - uncompleted[row]).abs() > 1e-3);
        }
    }
    assert!(
        moved > 60,
        "of 120 rows on rungs with a network {moved} have a background"
    );
}
