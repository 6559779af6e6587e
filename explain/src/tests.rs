//! The explainer over small models whose answers are known.

use std::ops::Range;

use sanderling_schemas::attribution::EXACT_TOLERANCE;

use super::*;

/// A model that is a function of one row's features and context.
struct ByRow<F>(F);

impl<F: Fn(&[f32], &[f32]) -> f64 + Send + Sync> Model for ByRow<F> {
    fn forward(&self, inputs: &ModelInputs, _rung: Rung) -> Result<Vec<f64>, ScoringError> {
        let f = inputs.features.len() / inputs.rows.max(1);
        let c = inputs.context.len() / inputs.rows.max(1);
        (0..inputs.rows)
            .map(|r| {
                Ok((self.0)(
                    &inputs.features[r * f..][..f],
                    &inputs.context[r * c..][..c],
                ))
            })
            .collect()
    }
}

fn group(name: &str, features: &[usize], context: Option<Range<usize>>) -> Group {
    Group {
        name: name.to_string(),
        features: features.to_vec(),
        context: context.into_iter().collect(),
    }
}

fn three_groups() -> Vec<Group> {
    vec![
        group("event", &[0], None),
        group("card", &[1, 3], Some(0..2)),
        group("terminal", &[2], Some(2..3)),
    ]
}

fn rows_of(n: usize) -> (ModelInputs, Vec<f32>, Vec<Sequence>) {
    let wave = |i: usize| ((i * 37 + 11) % 19) as f32 / 7.0 - 1.0;
    let inputs = ModelInputs {
        rows: n,
        features: (0..n * 4).map(wave).collect(),
        context: (0..n * 3).map(|i| wave(i + 5)).collect(),
    };
    let cold = (0..n * 4)
        .map(|i| if i % 4 == 3 { f32::NAN } else { wave(i + 3) })
        .collect();
    (inputs, cold, (0..n as u64).map(Sequence).collect())
}

/// NULL counts as nothing; every input meets every other.
fn tangled(features: &[f32], context: &[f32]) -> f64 {
    let x = |v: f32| if v.is_nan() { -0.25 } else { f64::from(v) };
    let own: f64 = features.iter().map(|v| x(*v)).sum();
    let seen: f64 = context.iter().map(|v| x(*v)).product();
    own.sin() + seen * x(features[0]) + x(features[1]) * x(features[2])
}

#[test]
fn attributions_are_the_mean_gain_over_all_orders() {
    let model = ByRow(tangled);
    let medians = [0.5, 0.0, 0.0, 0.0];
    let cold_context = [0.0, 1.0, 0.25];
    let explainer = Explainer::new(&three_groups(), &medians, &cold_context, 0).unwrap();
    let (inputs, cold_features, sequences) = rows_of(5);
    let scores = model.forward(&inputs, Rung::Full).unwrap();
    let rows = Rows {
        inputs: &inputs,
        cold_features: &cold_features,
        scores: &scores,
        sequences: &sequences,
    };
    let attributions = explainer.explain(&model, &rows, Rung::Full).unwrap();

    for (row, attribution) in attributions.iter().enumerate() {
        let f = &inputs.features[row * 4..][..4];
        let cold = &cold_features[row * 4..][..4];
        let c = &inputs.context[row * 3..][..3];
        let value = |present: [bool; 3]| {
            let [event, card, terminal] = present;
            let features = [
                if event { f[0] } else { medians[0] },
                if card { f[1] } else { cold[1] },
                if terminal { f[2] } else { cold[2] },
                if card { f[3] } else { cold[3] },
            ];
            let pick = |on: bool, i: usize| if on { c[i] } else { cold_context[i] };
            tangled(
                &features,
                &[pick(card, 0), pick(card, 1), pick(terminal, 2)],
            )
        };
        let mut wanted = [0.0; 3];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut present = [false; 3];
            for player in order {
                let before = value(present);
                present[player] = true;
                wanted[player] += (value(present) - before) / 6.0;
            }
        }
        for (got, wanted) in attribution.values().iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
        }
        assert_eq!(attribution.base_value(), value([false; 3]));
        let sum: f64 = attribution.values().iter().sum();
        assert!((attribution.base_value() + sum - scores[row]).abs() <= EXACT_TOLERANCE);
    }

    // One row at a time: the same bytes.
    for row in 0..5 {
        let one = ModelInputs {
            rows: 1,
            features: inputs.features[row * 4..][..4].to_vec(),
            context: inputs.context[row * 3..][..3].to_vec(),
        };
        let rows = Rows {
            inputs: &one,
            cold_features: &cold_features[row * 4..][..4],
            scores: &scores[row..=row],
            sequences: &sequences[row..=row],
        };
        let alone = explainer.explain(&model, &rows, Rung::Full).unwrap();
        assert_eq!(alone, attributions[row..=row]);
    }
}

#[test]
fn many_groups_are_sampled_by_event_and_still_add_up() {
    let groups: Vec<Group> = (0..9)
        .map(|i| group(&format!("g{i}"), &[i], None))
        .collect();
    let model = ByRow(|f: &[f32], _: &[f32]| {
        let x: Vec<f64> = f.iter().map(|v| f64::from(*v)).collect();
        x[0] + x[1] * x[2] + (x[3] * x[4] * x[5]).tanh() + x[8] * 2.0
    });
    let explainer = Explainer::new(&groups, &[0.0; 9], &[], 42).unwrap();
    let inputs = ModelInputs {
        rows: 2,
        features: [[1.5, -1.0, 2.0, 0.5, 1.0, 1.5, 3.0, 3.0, -1.0]; 2].concat(),
        context: Vec::new(),
    };
    let scores = model.forward(&inputs, Rung::Full).unwrap();
    let rows = Rows {
        inputs: &inputs,
        cold_features: &[0.0; 18],
        scores: &scores,
        sequences: &[Sequence(7), Sequence(8)],
    };
    let attributions = explainer.explain(&model, &rows, Rung::Full).unwrap();
    assert_eq!(
        attributions,
        explainer.explain(&model, &rows, Rung::Full).unwrap()
    );
    for attribution in &attributions {
        let values = attribution.values();
        let triple = (0.5f64 * 1.0 * 1.5).tanh();
        let wanted = [
            1.5,
            -1.0,
            -1.0,
            triple / 3.0,
            triple / 3.0,
            triple / 3.0,
            0.0,
            0.0,
            -2.0,
        ];
        for (got, wanted) in values.iter().zip(wanted) {
            assert!((got - wanted).abs() < 0.15, "{values:?}");
        }
        // Alone or in pairs: antithetic orders are exact.
        assert!((values[0] - 1.5).abs() < 1e-9 && (values[1] + 1.0).abs() < 1e-9);
        assert_eq!(values[6], 0.0);
    }
}

#[test]
fn a_score_that_the_model_did_not_give_is_refused() {
    let model = ByRow(tangled);
    let explainer = Explainer::new(&three_groups(), &[0.0; 4], &[0.0; 3], 0).unwrap();
    let (inputs, cold_features, sequences) = rows_of(1);
    let explain = |scores: &[f64], cold_features: &[f32]| {
        let rows = Rows {
            inputs: &inputs,
            cold_features,
            scores,
            sequences: &sequences,
        };
        explainer.explain(&model, &rows, Rung::Full)
    };
    let score = model.forward(&inputs, Rung::Full).unwrap()[0];
    assert!(explain(&[score], &cold_features).is_ok());
    for other in [score + 1e-5, f64::NAN] {
        assert!(matches!(
            explain(&[other], &cold_features),
            Err(ExplainError::Attribution { .. })
        ));
    }
    assert!(matches!(
        explain(&[0.0, 0.0], &cold_features),
        Err(ExplainError::Shape { .. })
    ));
    assert!(matches!(
        explain(&[0.0], &[]),
        Err(ExplainError::Shape { .. })
    ));
}

#[test]
fn groups_must_not_share_inputs() {
    let new = |groups: &[Group]| Explainer::new(groups, &[0.0; 4], &[0.0; 3], 0);
    let shared = [group("event", &[0, 1], None), group("card", &[1], None)];
    assert!(matches!(new(&shared), Err(ExplainError::Group { .. })));
    let beyond = [group("card", &[1], Some(2..4))];
    assert!(matches!(new(&beyond), Err(ExplainError::Group { .. })));
}
