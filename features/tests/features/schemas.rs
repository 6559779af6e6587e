//! Parity over random schemas: the same rows in columns of other names, types, nullability and order.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt8Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{Entity, EventBatch, Relation};

use crate::folded::{fold, joined, restarted};
use crate::frames::{RowKeys, expected, numbered, row_keys, same, with_column};
use crate::grammar::{EVENT, Feature, payments};
use crate::stream::{Row, batch, relation};

/// Names as nobody would wish them, each to be quoted.
const NAMES: [&str; 12] = [
    "order",
    "Amount EUR",
    "größe",
    "a.b",
    "CamelCase",
    "x\"y",
    "1st",
    "count",
    "select",
    "events",
    "SUM",
    "window",
];

/// A key column of any type, made of the card.
const SHOP: &str = "shop";

/// Types that the base's columns may have as well, the base's own first.
fn types_of(column: &str) -> Vec<DataType> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    match column {
        "tx_id" => vec![DataType::Int64, DataType::Int32, DataType::UInt32],
        "amount" => [(12, 2), (9, 2), (18, 4), (30, 2)]
            .map(|(p, s)| DataType::Decimal128(p, s))
            .into(),
        "units" => vec![DataType::Int64, DataType::Int32],
        "speed" => vec![DataType::Float64, DataType::Float32],
        SHOP => vec![
            DataType::Int64,
            DataType::Utf8,
            DataType::Boolean,
            DataType::UInt8,
            DataType::Int16,
            DataType::Date32,
            micros,
            DataType::Float64,
            DataType::Decimal128(6, 1),
        ],
        "card_id" | "terminal_id" => vec![DataType::Utf8],
        _ => vec![DataType::Int64],
    }
}

/// A column of a schema that was drawn.
#[derive(Debug, Clone)]
struct Drawn {
    /// The name that the rows are written with.
    base: String,
    name: String,
    data_type: DataType,
    nullable: bool,
}

/// The base's columns behind event time and stream, and the key column.
fn bases() -> Vec<String> {
    let relation = relation(false);
    let fields = relation.schema.fields().iter().skip(2);
    fields
        .map(|field| field.name().clone())
        .chain([SHOP.to_string()])
        .collect()
}

fn schemas() -> impl Strategy<Value = Vec<Drawn>> {
    let names = Just(NAMES.map(String::from).to_vec()).prop_shuffle();
    let drawn = prop::collection::vec((any::<Index>(), any::<bool>()), bases().len());
    (Just(bases()).prop_shuffle(), names, drawn).prop_map(|(bases, names, drawn)| {
        (bases.into_iter().zip(names).zip(drawn))
            .map(|((base, name), (data_type, nullable))| Drawn {
                data_type: data_type.get(&types_of(&base)).clone(),
                nullable: nullable || base == "reference" || base == "is_fraud",
                base,
                name,
            })
            .collect()
    })
}

/// The rows without NULL in the columns that may have none.
fn filled(mut rows: Vec<Row>, drawn: &[Drawn]) -> Vec<Row> {
    let full = |base: &str| {
        drawn
            .iter()
            .any(|column| column.base == base && !column.nullable)
    };
    for row in &mut rows {
        if full("card_id") || full(SHOP) {
            row.card.get_or_insert(3);
        }
        if full("terminal_id") {
            row.terminal.get_or_insert(2);
        }
        if full("amount") {
            row.amount.get_or_insert(1);
        }
        if full("units") {
            row.units.get_or_insert(0);
        }
        if full("speed") {
            row.speed.get_or_insert(0.25);
        }
    }
    rows
}

/// The rows under the base's names, in the types that were drawn.
fn typed(rows: &[Row], drawn: &[Drawn]) -> RecordBatch {
    let base = batch(&relation(false), rows).rows;
    let shop: UInt8Array = rows.iter().map(|row| row.card).collect();
    let base = with_column(&base, SHOP, Arc::new(shop));
    let mut fields: Vec<Field> = base.schema().fields()[..2]
        .iter()
        .map(|f| (**f).clone())
        .collect();
    let mut columns: Vec<ArrayRef> = base.columns()[..2].to_vec();
    for Drawn {
        base: name,
        data_type,
        nullable,
        ..
    } in drawn
    {
        let column = base.column_by_name(name).unwrap();
        let column = match data_type {
            DataType::Date32 => cast(&cast(column, &DataType::Int32).unwrap(), data_type),
            DataType::Timestamp(..) => cast(&cast(column, &DataType::Int64).unwrap(), data_type),
            other => cast(column, other),
        };
        fields.push(Field::new(name, data_type.clone(), *nullable));
        columns.push(column.unwrap());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The relation that was drawn, and the rows as its events.
fn events(rows: &[Row], typed: &RecordBatch, drawn: &[Drawn]) -> (Arc<Relation>, EventBatch) {
    let base = relation(false);
    let name = |of: &str| {
        drawn
            .iter()
            .find(|column| column.base == of)
            .unwrap()
            .name
            .clone()
    };
    let fields = typed
        .schema()
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| match at {
            0 | 1 => (**field).clone(),
            at => (**field).clone().with_name(&drawn[at - 2].name),
        })
        .collect::<Vec<_>>();
    let entity = |entity: &Entity| Entity {
        key: name(&entity.key),
        ..entity.clone()
    };
    let relation = Arc::new(Relation {
        schema: Arc::new(Schema::new(fields)),
        id: Some(name("tx_id")),
        entities: base.entities.iter().map(entity).collect(),
        ..(*base).clone()
    });
    let events = EventBatch {
        rows: RecordBatch::try_new(relation.schema.clone(), typed.columns().to_vec()).unwrap(),
        ..batch(&base, rows)
    };
    (relation, events)
}

/// SQL over the base's names, over those that were drawn.
fn renamed(sql: &str, drawn: &[Drawn]) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = sql;
    while let Some(start) = rest.find(is_of_name) {
        let end = rest[start..]
            .find(|c| !is_of_name(c))
            .map_or(rest.len(), |end| start + end);
        out.push_str(&rest[..start]);
        let word = &rest[start..end];
        match drawn.iter().find(|column| column.base == word) {
            Some(column) => out.push_str(&format!("\"{}\"", column.name.replace('"', "\"\""))),
            None => out.push_str(word),
        }
        rest = &rest[end..];
    }
    out + rest
}

fn keys(rows: &[Row], feature: &Feature, drawn: &[Drawn]) -> RowKeys {
    let shop = drawn.iter().find(|column| column.base == SHOP).unwrap();
    let of = |card: u8| match shop.data_type {
        DataType::Boolean => i64::from(card != 0),
        _ => i64::from(card),
    };
    match feature.by {
        Some(_) => rows.iter().map(|row| vec![row.card.map(of)]).collect(),
        None => row_keys(rows, feature.key),
    }
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn any_feature_equals_its_frame_over_any_schema(
        rows in payments(100, false),
        drawn in schemas(),
        features in prop::collection::vec((prop::array::uniform6(0usize..1000), prop::bool::weighted(0.2)), 1..9),
        ends in prop::collection::vec(1usize..100, 0..3),
    ) {
        prop_assume!(!rows.is_empty());
        let rows = filled(rows, &drawn);
        let features: Vec<Feature> = (features.into_iter())
            .map(|(drawn, by_shop)| {
                let mut feature = Feature::of(drawn, &EVENT, false);
                feature.by = by_shop.then_some(SHOP);
                feature
            })
            .collect();
        let items: Vec<String> = (features.iter().enumerate())
            .map(|(n, feature)| format!("{} AS f{n}", renamed(&feature.sql(), &drawn)))
            .collect();
        let sql = format!("SELECT {} FROM events", items.join(", "));
        let typed = typed(&rows, &drawn);
        let (relation, whole) = events(&rows, &typed, &drawn);
        let engine = || FeatureEngine::new(relation.clone(), &sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let ours = joined(fold(&mut engine(), &whole, &[]));
        let table = numbered(typed, &rows);
        for (n, feature) in features.iter().enumerate() {
            let group: Vec<&Feature> = features.iter().filter(|f| f.by() == feature.by()).collect();
            let of = keys(&rows, feature, &drawn);
            let theirs = expected(&table, &rows, &of, &group, feature);
            same(&feature.sql(), ours.features.column(n), &theirs, 1e-7);
        }
        prop_assert_eq!(format!("{:?}", restarted(&engine, &whole, &ends)), format!("{:?}", ours));
    }
}
