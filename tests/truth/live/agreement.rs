//! Decisions as a consumer read them from their topic, held against the table of a replay, and what
//! must hold of a topic's decisions and order records whatever became of those who wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::array_value_to_string;
use serde_json::{Value, json};

use super::foreign::Record;

/// Fails unless `decisions` are of exactly these events, once each.
pub fn each_once<'a>(events: impl IntoIterator<Item = &'a Record>, decisions: &[Record]) {
    let mut wanted: BTreeMap<String, usize> = events.into_iter().map(|e| (e.id(), 0)).collect();
    for decision in decisions {
        let id = decision
            .key
            .as_deref()
            .expect("a decision has its id as key");
        *wanted
            .get_mut(id)
            .unwrap_or_else(|| panic!("a decision about {id}, which is no event")) += 1;
    }
    let with = |fault: fn(usize) -> bool| -> Vec<&String> {
        wanted
            .iter()
            .filter(|(_, times)| fault(**times))
            .map(|(id, _)| id)
            .collect()
    };
    let (never, again) = (with(|times| times == 0), with(|times| times > 1));
    assert!(
        never.is_empty() && again.is_empty(),
        "of {} events {} were not decided, the first {:?}, and {} more than once, the first {:?}",
        wanted.len(),
        never.len(),
        never.first(),
        again.len(),
        again.first()
    );
}

/// Fails unless the order records of each lane are without gap or overlap, and their runs hold
/// every one of `rows` once. Returns the number of records.
pub fn order_is_whole<'a>(orders: &[Record], rows: impl IntoIterator<Item = &'a Record>) -> usize {
    let mut wanted: BTreeSet<(String, i64, i64)> = rows
        .into_iter()
        .map(|r| (r.topic.clone(), r.partition.into(), r.offset))
        .collect();
    let mut lanes: BTreeMap<Option<i64>, u64> = BTreeMap::new();
    for record in orders {
        let order = record.json();
        let next = lanes.entry(order["lane"].as_i64()).or_default();
        assert_eq!(
            order["sequence"].as_u64(),
            Some(*next),
            "the order goes on where it ended: {order}"
        );
        for run in order["runs"].as_array().expect("runs") {
            let part = |name: &str| {
                run[name]
                    .as_i64()
                    .unwrap_or_else(|| panic!("no {name}: {order}"))
            };
            let topic = run["topic"].as_str().expect("a topic");
            for offset in part("from")..part("next") {
                let row = (topic.to_string(), part("partition"), offset);
                assert!(
                    wanted.remove(&row),
                    "{row:?} is no accepted event, or was folded before: {order}"
                );
                *next += 1;
            }
        }
    }
    assert!(
        wanted.is_empty(),
        "{} events are in no order record: {:?}",
        wanted.len(),
        wanted.first()
    );
    orders.len()
}

/// Fails at the first value in which a decision of the topic differs from the row of the table with
/// its id. Both must have the same ids.
pub fn bit_equal(decisions: &[Record], table: &RecordBatch) {
    assert_eq!(
        decisions.len(),
        table.num_rows(),
        "decisions of the topic, and of the replay"
    );
    let columns: Vec<(String, Cells)> = (table.schema().fields().iter().zip(table.columns()))
        .filter(|(field, _)| !field.name().starts_with("timing_"))
        .map(|(field, column)| {
            let cells = Cells::new(column.as_ref());
            let cells = if field.name() == "shadow" {
                cells.objects()
            } else {
                cells
            };
            (field.name().clone(), cells)
        })
        .collect();
    let id_of = |row| columns[0].1.text(row).expect("an id").to_string();
    assert_eq!(columns[0].0, "id");
    let rows: BTreeMap<String, usize> =
        (0..table.num_rows()).map(|row| (id_of(row), row)).collect();
    for record in decisions {
        let decision = record.json();
        let id = decision["id"].as_str().expect("an id");
        let row = *rows
            .get(id)
            .unwrap_or_else(|| panic!("{id} was not replayed"));
        for (name, cells) in &columns {
            let Some(told) = part(&decision, name) else {
                continue;
            };
            cells.must_be(row, told, &|| format!("{name} of {id}"));
        }
    }
}

/// The value of a decision that a column of the table holds. The source's own id is not told.
fn part<'a>(decision: &'a Value, column: &str) -> Option<&'a Value> {
    let attribution = &decision["attribution"];
    Some(match column {
        "_topic" => &decision["event"]["topic"],
        "_partition" => &decision["event"]["partition"],
        "_offset" => &decision["event"]["offset"],
        "a_base" => &attribution["base"],
        _ => match column.split_once('_') {
            Some(("f", feature)) => decision["features"].get(feature).expect("a feature"),
            Some(("a", group)) => &attribution["values"][group],
            Some(("version", of)) => &decision["versions"][of],
            _ => return decision.get(column),
        },
    })
}

/// A column in a form that a value of JSON can be held against.
enum Cells {
    Doubles(Vec<Option<f64>>),
    Integers(Vec<Option<String>>),
    Texts(Vec<Option<String>>),
    /// Lists: of each row the range of its items, and the items' fields; of what is no struct, one without a name.
    Lists(Vec<Range<usize>>, Vec<(String, Cells)>),
    /// Text of JSON, NULL for an empty object.
    Objects(Vec<Value>),
}

impl Cells {
    fn new(column: &dyn Array) -> Self {
        let texts = |column: &dyn Array| -> Vec<Option<String>> {
            (0..column.len())
                .map(|row| {
                    column
                        .is_valid(row)
                        .then(|| array_value_to_string(column, row).expect("a value"))
                })
                .collect()
        };
        match column.data_type() {
            DataType::Float64 | DataType::Float32 | DataType::Decimal128(..) => {
                let doubles = cast(column, &DataType::Float64).expect("a number");
                Self::Doubles(doubles.as_primitive::<Float64Type>().iter().collect())
            }
            kind if kind.is_integer() => Self::Integers(texts(column)),
            DataType::List(_) => {
                let lists = column.as_list::<i32>();
                assert_eq!(lists.null_count(), 0, "no list is NULL");
                let ranges = lists.value_offsets().windows(2);
                let ranges = ranges.map(|ends| ends[0] as usize..ends[1] as usize);
                let fields = match lists.values().as_struct_opt() {
                    Some(items) => (items.fields().iter().zip(items.columns()))
                        .map(|(field, of)| (field.name().clone(), Self::new(of)))
                        .collect(),
                    None => vec![(String::new(), Self::new(lists.values()))],
                };
                Self::Lists(ranges.collect(), fields)
            }
            _ => Self::Texts(texts(column)),
        }
    }

    /// Text that is JSON, as what it says.
    fn objects(self) -> Self {
        let Self::Texts(all) = self else {
            panic!("a column of text");
        };
        let object = |text: Option<String>| match text {
            Some(text) => serde_json::from_str(&text).expect("JSON"),
            None => json!({}),
        };
        Self::Objects(all.into_iter().map(object).collect())
    }

    fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Integers(all) | Self::Texts(all) => all[row].as_deref(),
            Self::Doubles(_) | Self::Lists(..) | Self::Objects(_) => None,
        }
    }

    fn must_be(&self, row: usize, told: &Value, what: &dyn Fn() -> String) {
        match self {
            Self::Doubles(all) => {
                let (here, there) = (all[row].map(f64::to_bits), told.as_f64().map(f64::to_bits));
                assert_eq!(
                    here,
                    there,
                    "{}: replayed {:?}, told {told}",
                    what(),
                    all[row]
                );
            }
            Self::Integers(all) => {
                let told = (!told.is_null()).then(|| told.to_string());
                assert_eq!(all[row], told, "{}", what());
            }
            Self::Texts(all) => assert_eq!(all[row].as_deref(), told.as_str(), "{}", what()),
            Self::Objects(all) => assert_eq!(all[row], *told, "{}", what()),
            Self::Lists(ranges, fields) => {
                let items = told.as_array().into_iter().flatten();
                let range = ranges[row].clone();
                assert_eq!(range.len(), items.clone().count(), "{}: {told}", what());
                for (at, item) in range.zip(items) {
                    let parts = item.as_object().map_or(1, |item| item.len());
                    assert_eq!(fields.len(), parts, "{}: {item}", what());
                    for (name, cells) in fields {
                        let part = item.get(name).unwrap_or(item);
                        cells.must_be(at, part, &|| format!("{name} of {item} in {}", what()));
                    }
                }
            }
        }
    }
}
