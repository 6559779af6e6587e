//! One decision in both forms, and tables of many.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, UInt64Type};

use super::*;
use crate::attribution::{Attribution, EXACT_TOLERANCE};
use crate::decision::{Action, Decision, Flag, Reason, Timing, Versions};
use crate::event::EventTime;
use crate::feature::{FeatureField, FeatureRow, FeatureSchema};
use crate::progress::{EventId, Offset, Partition, Sequence};
use crate::score::{Output, Rung};

fn features(rows: i64) -> RecordBatch {
    let cents = (0..rows).map(|i| Some(i128::from(i) * 100 + 5));
    let amount = Decimal128Array::from_iter(cents)
        .with_precision_and_scale(12, 2)
        .unwrap();
    let count = Int64Array::from_iter((0..rows).map(|i| (i != 1).then_some(i)));
    let ratio = Float64Array::from_iter((0..rows).map(|i| Some(i as f64 / 4.0)));
    let night = BooleanArray::from_iter((0..rows).map(|i| Some(i % 2 == 0)));
    let seen = TimestampMicrosecondArray::from_iter((0..rows).map(|i| Some(i * 1_000_000)));
    let columns: [(&str, ArrayRef); 5] = [
        ("amount", Arc::new(amount)),
        ("count", Arc::new(count)),
        ("ratio", Arc::new(ratio)),
        ("night", Arc::new(night)),
        ("seen", Arc::new(seen)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn schema() -> FeatureSchema {
    let field = |f: &Arc<arrow::datatypes::Field>| FeatureField {
        name: f.name().clone(),
        data_type: f.data_type().clone(),
        entity: None,
        from_label: false,
    };
    FeatureSchema {
        fields: features(0).schema().fields().iter().map(field).collect(),
        hash: "".into(),
    }
}

fn versions(model: &str) -> Arc<Versions> {
    Arc::new(Versions {
        engine: "0.1.0".into(),
        numerics: "x86-64".into(),
        pipeline: "p".into(),
        features: "f".into(),
        model: model.into(),
        policy: "q".into(),
    })
}

fn groups() -> Arc<[String]> {
    vec!["event".to_string(), "card".to_string()].into()
}

fn alert(batch: &RecordBatch, row: usize) -> Decision {
    Decision {
        event: EventId {
            topic: "pay\"ments".into(),
            partition: Partition(2),
            offset: Offset(41),
        },
        key: Some("card 7".into()),
        event_time: EventTime(1_700_000_000_000_000),
        sequence: Sequence(9),
        stream: "transactions".into(),
        action: Action::Decline,
        output: Output::LogOdds,
        score: 0.0,
        rung: Rung::NoGraph,
        reasons: vec![Reason {
            code: "C03".into(),
            text: "The amount is high".into(),
            group: "card".into(),
            contribution: 1.5,
        }],
        features: FeatureRow {
            batch: batch.clone(),
            row,
        },
        attribution: Some(
            Attribution::new(-2.0, groups(), vec![0.5, 1.5], 0.0, EXACT_TOLERANCE).unwrap(),
        ),
        shadow: BTreeMap::from([("abc".into(), 0.25)]),
        flags: vec![Flag::Late, Flag::Backlog],
        versions: versions("m"),
    }
}

fn pass(batch: &RecordBatch, row: usize, versions: &Arc<Versions>) -> Decision {
    Decision {
        key: None,
        sequence: Sequence(row as u64),
        action: Action::Approve,
        output: Output::Value,
        score: 3.5,
        reasons: Vec::new(),
        attribution: None,
        shadow: BTreeMap::new(),
        flags: Vec::new(),
        versions: versions.clone(),
        ..alert(batch, row)
    }
}

#[test]
fn a_decision_s_json_is_this() {
    let mut out = b"before".to_vec();
    write_decision(&alert(&features(3), 2), &mut out).unwrap();
    let golden = concat!(
        r#"before{"id":"pay\"ments/2/41","event":{"topic":"pay\"ments","partition":2,"offset":41},"#,
        r#""key":"card 7","event_time_us":1700000000000000,"sequence":9,"stream":"transactions","#,
        r#""action":"decline","logit":0.0,"probability":0.5,"value":null,"rung":"no_graph","#,
        r#""reasons":[{"code":"C03","text":"The amount is high","group":"card","contribution":1.5}],"#,
        r#""features":{"amount":2.05,"count":2,"ratio":0.5,"night":true,"seen":2000000},"#,
        r#""attribution":{"base":-2.0,"values":{"event":0.5,"card":1.5}},"shadow":{"abc":0.25},"#,
        r#""flags":["late","backlog"],"versions":{"engine":"0.1.0","numerics":"x86-64","#,
        r#""pipeline":"p","features":"f","model":"m","policy":"q"}}"#,
    );
    assert_eq!(String::from_utf8(out).unwrap(), golden);
}

#[test]
fn what_is_not_there_is_null() {
    let json = decision_to_json(&pass(&features(2), 1, &versions("m"))).unwrap();
    for name in ["key", "logit", "probability", "attribution"] {
        assert!(json[name].is_null(), "{name}");
    }
    assert_eq!(json["value"], 3.5);
    assert!(json["features"]["count"].is_null());
    assert_eq!(json["features"]["night"], false);
    assert_eq!(json["reasons"], serde_json::json!([]));
    assert_eq!(json["shadow"], serde_json::json!({}));
}

#[test]
fn a_feature_without_a_json_form_is_refused_and_nothing_is_written() {
    let list = arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)])]);
    let batch = RecordBatch::try_from_iter([("bins", Arc::new(list) as ArrayRef)]).unwrap();
    let mut out = b"before".to_vec();
    let error = write_decision(&alert(&batch, 0), &mut out).unwrap_err();
    assert!(matches!(error, WireError::FeatureType { name, .. } if name == "bins"));
    assert_eq!(out, b"before");
}

fn table(source_id: Option<SourceId>) -> DecisionTable {
    DecisionTable::new(&schema(), &groups(), source_id, true).unwrap()
}

/// A table's row says what the decision's JSON says.
#[test]
fn rows_and_json_agree() {
    let (one, two) = (features(4), features(3));
    let (old, new) = (versions("m"), versions("n"));
    let decisions = vec![
        pass(&one, 0, &old),
        pass(&one, 2, &old),
        alert(&one, 3),
        pass(&two, 0, &new),
        pass(&two, 1, &versions("m")),
    ];
    let table = table(Some(SourceId {
        name: "TRANSACTION_ID".to_string(),
        data_type: DataType::Int64,
    }));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![10, 12, 13, 20, 21]));
    let timings = vec![
        Timing {
            score_us: 5,
            ..Timing::default()
        };
        5
    ];
    let batch = table.to_batch(&decisions, Some(ids), &timings).unwrap();
    assert_eq!(batch.schema(), *table.schema());

    let column = |name: &str| {
        batch
            .column_by_name(name)
            .unwrap_or_else(|| panic!("{name}"))
            .clone()
    };
    for (row, decision) in decisions.iter().enumerate() {
        let json = decision_to_json(decision).unwrap();
        for name in ["id", "stream", "action", "rung"] {
            assert_eq!(json[name], column(name).as_string::<i32>().value(row));
        }
        assert_eq!(
            json["event"]["offset"],
            column("_offset").as_primitive::<Int64Type>().value(row)
        );
        assert_eq!(
            json["sequence"],
            column("sequence").as_primitive::<UInt64Type>().value(row)
        );
        let number = |name: &str| {
            let column = column(name);
            let column = column.as_primitive::<Float64Type>();
            serde_json::json!(column.is_valid(row).then(|| column.value(row)))
        };
        for name in ["logit", "probability", "value"] {
            assert_eq!(json[name], number(name));
        }
        assert_eq!(json["features"]["ratio"], number("f_ratio"));
        assert_eq!(json["attribution"]["base"], number("a_base"));
        assert_eq!(json["attribution"]["values"]["card"], number("a_card"));
        assert_eq!(
            json["features"]["count"].is_null(),
            column("f_count").is_null(row)
        );
        let reasons = column("reasons");
        let reasons = reasons.as_list::<i32>().value(row);
        assert_eq!(json["reasons"].as_array().unwrap().len(), reasons.len());
        let flags = column("flags");
        let flags = flags.as_list::<i32>().value(row);
        assert_eq!(json["flags"].as_array().unwrap().len(), flags.len());
        let model = column("version_model");
        let model = model.as_dictionary::<Int32Type>();
        let model = model
            .downcast_dict::<StringArray>()
            .unwrap()
            .into_iter()
            .nth(row)
            .unwrap();
        assert_eq!(json["versions"]["model"], model.unwrap());
        let shadow = column("shadow");
        let shadow = shadow.as_string::<i32>();
        assert_eq!(shadow.is_null(row), decision.shadow.is_empty());
    }
    assert_eq!(
        column("TRANSACTION_ID")
            .as_primitive::<Int64Type>()
            .value(3),
        20
    );
    assert_eq!(
        column("timing_score_us")
            .as_primitive::<UInt64Type>()
            .value(0),
        5
    );
    assert_eq!(
        column("version_model")
            .as_dictionary::<Int32Type>()
            .values()
            .len(),
        2
    );

    // Cut anywhere, the rows are the same.
    let again = table.to_batch(
        &decisions[2..4],
        Some(column("TRANSACTION_ID").slice(2, 2)),
        &timings[..2],
    );
    let again = again.unwrap();
    assert_eq!(
        again.column_by_name("f_amount").unwrap(),
        &column("f_amount").slice(2, 2)
    );
    assert_eq!(
        again.column_by_name("reasons").unwrap(),
        &column("reasons").slice(2, 2)
    );
    assert_eq!(
        table
            .to_batch(&[], Some(column("TRANSACTION_ID").slice(0, 0)), &[])
            .unwrap()
            .num_rows(),
        0
    );
}

#[test]
fn a_table_refuses_what_does_not_fit_it() {
    let batch = features(1);
    let decisions = [pass(&batch, 0, &versions("m"))];
    let plain = table(None);
    assert!(
        plain
            .to_batch(&decisions, None, &[Timing::default()])
            .is_ok()
    );
    assert!(plain.to_batch(&decisions, None, &[]).is_err());
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert!(
        plain
            .to_batch(&decisions, Some(ids), &[Timing::default()])
            .is_err()
    );
    let fewer = batch.project(&[0, 1]).unwrap();
    assert!(
        plain
            .to_batch(
                &[pass(&fewer, 0, &versions("m"))],
                None,
                &[Timing::default()]
            )
            .is_err()
    );
    let taken = SourceId {
        name: "id".to_string(),
        data_type: DataType::Int64,
    };
    let taken = DecisionTable::new(&schema(), &groups(), Some(taken), false);
    assert!(matches!(taken, Err(WireError::NameTaken { .. })));
}
