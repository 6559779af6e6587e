//! Policies over a few features.

use arrow::array::Int64Array;
use sanderling_schemas::{FeatureField, Rung};

use super::*;

const CODES: &str = "\
version: 3
codes:
  - code: C01
    group: card
    when: \"card_count_1h >= 4\"
    text: The card was used unusually often
  - code: C02
    group: card
    text: The payment does not fit the card
  - {code: T01, group: terminal, text: The terminal is unusual}
  - {code: D01, group: device, text: The device is unusual}
  - {code: E01, group: event, text: The amount and the time of the payment}
  - {code: X01, group: line, text: The line is unusual}
";

fn features() -> FeatureSchema {
    let field = |name: &str, data_type| FeatureField {
        name: name.to_string(),
        data_type,
        entity: None,
        from_label: false,
    };
    FeatureSchema {
        fields: vec![
            field("card_count_1h", DataType::Int64),
            field("ratio", DataType::Float64),
        ],
        hash: "".into(),
    }
}

fn rows() -> RecordBatch {
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(9), None, Some(4)]));
    let ratios: ArrayRef = Arc::new(Float64Array::from(vec![
        Some(0.5),
        None,
        Some(3.0),
        Some(2.0),
    ]));
    RecordBatch::try_from_iter([("card_count_1h", counts), ("ratio", ratios)]).unwrap()
}

fn scores(output: Output, rung: Rung) -> ScoreBatch {
    ScoreBatch {
        output,
        rung,
        scores: vec![-3.0, -1.0, 0.0, 2.0],
    }
}

fn policy(yaml: &str) -> Result<Policy, PolicyError> {
    Policy::parse(yaml, CODES, &features())
}

fn act(yaml: &str, output: Output, rung: Rung) -> String {
    let policy = policy(yaml).unwrap();
    let actions = policy
        .act(
            &policy.settle(None).unwrap(),
            &scores(output, rung),
            &rows(),
        )
        .unwrap();
    actions
        .iter()
        .map(|a| a.as_str()[..1].to_string())
        .collect()
}

#[test]
fn the_strictest_action_wins() {
    // Probabilities .05 .27 .5 .88
    let yaml = "\
version: 1
thresholds: {review: 0.5, decline: 0.8}
conditions:
  - {when: \"card_count_1h >= 4\", action: review}
  - {when: \"ratio > 2.5 and probability > 0.1 and score < 1\", action: decline}
";
    assert_eq!(act(yaml, Output::LogOdds, Rung::Full), "ardd");
    // The thresholds are silent where the score knows nothing.
    assert_eq!(act(yaml, Output::LogOdds, Rung::Rules), "ardr");
}

#[test]
fn the_first_condition_that_holds_wins() {
    let yaml = "\
version: 1
thresholds: {review: 0.5, decline: 0.8}
combine: first
conditions:
  - {when: \"card_count_1h = 4\", action: approve}
  - {when: \"card_count_1h >= 4\", action: decline}
";
    assert_eq!(act(yaml, Output::LogOdds, Rung::Full), "adra");
}

#[test]
fn a_condition_that_cannot_be_computed_does_not_hold_in_its_row_alone() {
    // Fails on the row of count 1, and would on the row of count 9 if the ratio were looked at first.
    let yaml = "\
version: 1
thresholds: {review: 0.8}
conditions:
  - {when: \"card_count_1h < 9 and 12 / (card_count_1h - 1) >= 4\", action: decline}
  - {when: \"cast(ratio * 1e300 as bigint) > 0\", action: decline}
";
    assert_eq!(act(yaml, Output::LogOdds, Rung::Full), "aaad");
    // Every row alone is what it is in the batch.
    let policy = policy(yaml).unwrap();
    let whole = scores(Output::LogOdds, Rung::Full);
    let alone = |row: usize| {
        let scores = ScoreBatch {
            scores: vec![whole.scores[row]],
            ..whole.clone()
        };
        let settled = policy.settle(None).unwrap();
        policy
            .act(&settled, &scores, &rows().slice(row, 1))
            .unwrap()[0]
    };
    let actions: String = (0..4).map(|row| &alone(row).as_str()[..1]).collect();
    assert_eq!(actions, "aaad");
}

#[test]
fn a_reason_s_condition_that_cannot_be_computed_does_not_hold() {
    let codes = CODES.replace("card_count_1h >= 4", "8 / (card_count_1h - 1) >= 1");
    let policy = Policy::parse("version: 1\n", &codes, &features()).unwrap();
    let groups: Arc<[String]> = vec!["card".to_string()].into();
    let attribution = Attribution::new(0.0, groups, vec![1.0], 1.0, 1e-6).unwrap();
    for (row, code) in [(0, "C02"), (1, "C01"), (3, "C01")] {
        let features = FeatureRow { batch: rows(), row };
        let reasons = policy.reasons(&attribution, &features).unwrap();
        assert_eq!(&*reasons[0].code, code, "row {row}");
    }
}

#[test]
fn a_value_has_thresholds_of_its_own() {
    let yaml = "version: 1\nscore_thresholds: {review: -1.0, decline: 2.0}\n";
    assert_eq!(act(yaml, Output::Forecast, Rung::Full), "arrd");
    let probabilities = "version: 1\nthresholds: {review: 0.5}\n";
    let policy = policy(probabilities).unwrap();
    let settled = policy.settle(None).unwrap();
    assert!(
        policy
            .act(&settled, &scores(Output::Value, Rung::Full), &rows())
            .is_err()
    );
    let misfit = policy.validate(Output::Value, &[]).unwrap_err();
    assert_eq!((misfit.file, misfit.line), (POLICY_FILE, Some(2)));
    assert_eq!(policy.validate(Output::LogOdds, &[]), Ok(()));
    assert!(
        policy
            .act(
                &settled,
                &scores(Output::LogOdds, Rung::Full),
                &rows().slice(0, 1)
            )
            .is_err()
    );
}

#[test]
fn a_score_that_is_no_number_is_never_approved() {
    let policy = policy("version: 1\nthresholds: {review: 0.5}\n").unwrap();
    let scores = ScoreBatch {
        output: Output::LogOdds,
        rung: Rung::Full,
        scores: vec![f64::NAN],
    };
    let settled = policy.settle(None).unwrap();
    assert!(policy.act(&settled, &scores, &rows().slice(0, 1)).is_err());
}

#[test]
fn faults_are_shown_where_they_stand() {
    let place = |error: PolicyError| (error.file, error.line, error.column);
    let fault = |yaml: &str| place(policy(yaml).unwrap_err());
    let conditions = "\
version: 1
# - {when: \"a comment\"}
conditions:
  - {when: \"ratio > 1\", action: review}
  - when: \"ratoi > 1\"
    action: review
";
    assert_eq!(fault(conditions), (POLICY_FILE, Some(5), Some(12)));
    let error = policy(conditions).unwrap_err();
    assert!(error.message.contains("ratoi"), "{error}");
    assert!(
        error.to_string().starts_with("policy.yaml:5:12: "),
        "{error}"
    );
    assert_eq!(fault("version: 1\nthreshold: {}\n").1, Some(2));
    assert_eq!(fault("version: 1\nthresholds: {review: 2}\n").1, Some(2));
    assert_eq!(
        fault("version: 1\nthresholds: {review: 0.9, decline: 0.5}\n").1,
        Some(2)
    );
    for when in [
        "ratio",
        "now() > '2020-01-01'",
        "random() > ratio",
        "sum(ratio) > 1",
        "ratio >",
        "ratio > 1 x",
    ] {
        let yaml = format!("version: 1\nconditions:\n  - {{when: \"{when}\", action: review}}\n");
        assert_eq!(fault(&yaml), (POLICY_FILE, Some(3), Some(13)), "{when}");
    }

    let codes = |yaml: &str| place(Policy::parse("version: 1\n", yaml, &features()).unwrap_err());
    let twice = "version: 1\ncodes:\n- {code: A, group: card, text: a}\n- {code: A, group: event, text: b}\n";
    assert_eq!(codes(twice), (REASON_CODES_FILE, Some(4), Some(10)));
    let unreached = "version: 1\ncodes:\n- {code: A, group: card, text: a}\n- {code: B, group: card, text: b}\n";
    assert_eq!(codes(unreached).1, Some(4));
    assert_eq!(
        codes("version: 1\ncodes: [{code: A, group: card, text: Other}]\n").0,
        REASON_CODES_FILE
    );
}

#[test]
fn every_group_needs_words() {
    let policy = policy("version: 1\n").unwrap();
    let groups = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let known = groups(&["event", "card"]);
    assert_eq!(policy.validate(Output::LogOdds, &known), Ok(()));
    let error = policy
        .validate(Output::LogOdds, &groups(&["event", "merchant"]))
        .unwrap_err();
    assert!(error.message.contains("merchant"));
}

#[test]
fn reasons_are_what_raised_the_score_strongest_first() {
    let policy = policy("version: 1\n").unwrap();
    let groups: Arc<[String]> = ["event", "card", "terminal", "device", "line"]
        .map(String::from)
        .to_vec()
        .into();
    let codes = |values: [f64; 5], row: usize| {
        let score = values.iter().sum();
        let attribution =
            Attribution::new(0.0, groups.clone(), values.to_vec(), score, 1e-6).unwrap();
        let features = FeatureRow { batch: rows(), row };
        let reasons = policy.reasons(&attribution, &features).unwrap();
        assert!(
            reasons
                .windows(2)
                .all(|r| r[0].contribution >= r[1].contribution)
        );
        reasons
            .iter()
            .map(|r| r.code.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(codes([0.1, 0.5, -1.0, 0.0, 0.0], 0), "C02 E01");
    assert_eq!(codes([0.1, 0.5, -1.0, 0.0, 0.0], 1), "C01 E01");
    // NULL does not hold.
    assert_eq!(codes([0.1, 0.5, -1.0, 0.0, 0.0], 2), "C02 E01");
    assert_eq!(codes([0.1, 0.2, 0.3, 0.2, 0.4], 0), "X01 T01 C02 D01");
    assert_eq!(codes([-0.1; 5], 0), "");
}

#[test]
fn the_version_is_that_of_both_files() {
    let version = |p: &str, c: &str| {
        Policy::parse(p, c, &features())
            .unwrap()
            .version()
            .to_string()
    };
    let other = CODES.replace("often", "much");
    assert_eq!(
        version("version: 1\n", CODES),
        version("version: 1\n", CODES)
    );
    assert_ne!(
        version("version: 1\n", CODES),
        version("version: 2\n", CODES)
    );
    assert_ne!(
        version("version: 1\n", CODES),
        version("version: 1\n", &other)
    );
    assert_eq!(policy("version: 7\n").unwrap().declared_versions(), (7, 3));
}

/// A thousand rows at 2,000 events a day, of which the upper hundred scores hold the hundred positives but ten,
/// and the lowest scores the ten.
fn held_out() -> HeldOut {
    let scores: Vec<f64> = (0..1000).map(|i| f64::from(i) * 0.01 - 8.0).collect();
    let positive: Vec<bool> = (0..1000).map(|i| !(10..910).contains(&i)).collect();
    HeldOut::new(&scores, &positive, 2000.0)
}

#[test]
fn reviews_a_day_find_the_threshold_that_gives_them() {
    let yaml = "version: 1\nthresholds: {decline: 0.87}\nreviews_per_day: 100\n";
    let settled = policy(yaml).unwrap().settle(Some(&held_out())).unwrap();
    let Thresholds { review, decline } = settled.by_probability;
    assert_eq!(decline, Some(0.87));
    // Nine scores have a probability of at least .87, and 50 rows make 100 events a day.
    let expected = settled.expected.unwrap();
    assert_eq!(expected.declined_per_day, 18.0);
    assert!(
        (90.0..=100.0).contains(&expected.reviews_per_day),
        "{expected:?}"
    );
    let reviewed = (0..1000)
        .map(|i| probability(f64::from(i) * 0.01 - 8.0))
        .filter(|&p| p >= review.unwrap() && p < 0.87);
    assert_eq!(reviewed.count() as f64 * 2.0, expected.reviews_per_day);
    assert!(expected.caught > 0.5 && expected.caught < 0.6);

    // No room for a review, and all the room there is.
    let settle = |yaml: &str| policy(yaml).unwrap().settle(Some(&held_out())).unwrap();
    let none = settle("version: 1\nreviews_per_day: 1\n");
    assert_eq!(none.by_probability, Thresholds::default());
    let all = settle("version: 1\nreviews_per_day: 1e9\n");
    assert_eq!(all.by_probability.review, Some(probability(-8.0)));
    assert_eq!(all.expected.unwrap().caught, 1.0);
}

#[test]
fn costs_find_the_cheapest_thresholds() {
    let settle = |costs: &str| {
        let yaml = format!("version: 1\ncosts: {costs}\n");
        policy(&yaml).unwrap().settle(Some(&held_out())).unwrap()
    };
    // The upper ninety are all positive: declining them costs nothing; the ten below all others are
    // not worth nine hundred reviews.
    let declines = settle("{missed: 100, review: 2, declined: 50}");
    let expected = declines.expected.unwrap();
    assert_eq!(expected.caught, 0.9);
    // Two days' worth of rows a day; no two points cost less.
    let cost = expected.cost_per_day.unwrap() / 2.0;
    let held_out = held_out();
    for reached in &held_out.points {
        for declined in held_out.points.iter().filter(|d| d.rows <= reached.rows) {
            let missed = 100.0 * (100 - reached.positives) as f64;
            let reviewed = 2.0 * (reached.rows - declined.rows) as f64;
            let wronged = 50.0 * (declined.rows - declined.positives) as f64;
            assert!(
                cost <= missed + reviewed + wronged,
                "{cost} {reached:?} {declined:?}"
            );
        }
    }
    // Where a miss costs nothing, nothing is done.
    let nothing = settle("{missed: 0, review: 2, declined: 50}");
    assert_eq!(nothing.by_probability, Thresholds::default());
    // Where it costs all the world, all is looked at.
    let all = settle("{missed: 1e9, review: 2, declined: 50}");
    assert_eq!(all.expected.unwrap().caught, 1.0);
    assert_eq!(all.by_probability.review, Some(probability(-8.0)));
}

#[test]
fn what_is_chosen_needs_held_out_rows_and_no_second_choice() {
    let yaml = "version: 1\nreviews_per_day: 5\n";
    let fault = policy(yaml).unwrap().settle(None).unwrap_err();
    assert!(fault.message.contains("reviews_per_day"), "{fault}");
    assert!(policy(yaml).unwrap().validate(Output::Value, &[]).is_err());
    for (yaml, line) in [
        ("version: 1\nreviews_per_day: -1\n", 2),
        (
            "version: 1\nthresholds: {review: 0.1}\nreviews_per_day: 5\n",
            3,
        ),
        (
            "version: 1\nreviews_per_day: 5\ncosts: {missed: 9, review: 1, declined: 2}\n",
            3,
        ),
        (
            "version: 1\ncosts: {missed: 9, review: -1, declined: 2}\n",
            2,
        ),
    ] {
        let fault = policy(yaml).unwrap_err();
        assert_eq!(
            (fault.file, fault.line),
            (POLICY_FILE, Some(line)),
            "{fault}"
        );
    }
}
