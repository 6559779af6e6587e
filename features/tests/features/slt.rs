//! The language, function by function: `slt/*.slt`, in the format of sqllogictest.
//!
//! A file makes the table `events`, whose rows come in the order of insertion, and reference tables, whose
//! first column is the key; and asks feature queries of them. Every answer is the same at once, row by row with a restart after each, and, where event time
//! ascends strictly, in plain DataFusion. A query that says `-- not in DataFusion` is not asked there; the
//! reason stands behind it. `SLT_COMPLETE=1` writes the answers into the files, to be read before they
//! are believed.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int8Array, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use sanderling_features::{Catalog, FeatureEngine, Table};
use sanderling_schemas::{
    EventBatch, EventId, LateRows, Offset, Partition, Relation, Sequence, Stream,
};
use sqllogictest::{ColumnType, DB, DBOutput, Runner};

use crate::folded::{fold, joined, restarted};
use crate::oracle::query;
use crate::stream::HOUR_US;

/// What an answer's columns hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Boolean,
    Decimal,
    Integer,
    Real,
    Text,
    Time,
}

impl Kind {
    fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Boolean => Kind::Boolean,
            DataType::Decimal128(..) => Kind::Decimal,
            DataType::Float32 | DataType::Float64 => Kind::Real,
            DataType::Timestamp(..) | DataType::Date32 | DataType::Interval(_) => Kind::Time,
            integer if integer.is_integer() => Kind::Integer,
            _ => Kind::Text,
        }
    }
}

impl ColumnType for Kind {
    fn from_char(value: char) -> Option<Self> {
        Some(match value {
            'B' => Kind::Boolean,
            'D' => Kind::Decimal,
            'I' => Kind::Integer,
            'R' => Kind::Real,
            'T' => Kind::Text,
            'P' => Kind::Time,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            Kind::Boolean => 'B',
            Kind::Decimal => 'D',
            Kind::Integer => 'I',
            Kind::Real => 'R',
            Kind::Text => 'T',
            Kind::Time => 'P',
        }
    }
}

/// What a query or a statement was refused with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// The tables of one file.
struct Tables {
    runtime: tokio::runtime::Runtime,
    context: SessionContext,
}

impl DB for Tables {
    type Error = Refused;
    type ColumnType = Kind;

    fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Refused> {
        let first = sql.split_whitespace().next().unwrap_or_default();
        if !["SELECT", "WITH", "--"].contains(&first.to_uppercase().as_str()) {
            let done = self.rows(sql)?;
            return Ok(DBOutput::StatementComplete(done.num_rows() as u64));
        }
        let events = self.rows("SELECT * FROM events")?;
        let catalog = self.catalog()?;
        let features = check(&relation(&events), &events, &catalog, sql)?;
        Ok(DBOutput::Rows {
            types: (features.schema().fields().iter())
                .map(|field| Kind::of(field.data_type()))
                .collect(),
            rows: texts(&features),
        })
    }
}

impl Tables {
    fn new() -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        Tables {
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            context: SessionContext::new_with_config(config),
        }
    }

    /// All tables but `events`.
    fn catalog(&self) -> Result<Catalog, Refused> {
        let schema = self
            .context
            .catalog("datafusion")
            .and_then(|c| c.schema("public"));
        let mut names = schema.unwrap().table_names();
        names.sort();
        names.retain(|name| name != "events");
        let table = |name: &String| {
            let rows = self.rows(&format!("SELECT * FROM {name}"))?;
            let key = rows.schema().field(0).name().clone();
            let table = Table::new(name, &key, rows, "1".into());
            table.map(Arc::new).map_err(|e| Refused(e.to_string()))
        };
        Ok(Catalog {
            tables: names.iter().map(table).collect::<Result<_, _>>()?,
            ..Catalog::default()
        })
    }

    fn rows(&self, sql: &str) -> Result<RecordBatch, Refused> {
        let rows = self.runtime.block_on(async {
            let frame = self.context.sql(sql).await?;
            let schema = frame.schema().as_arrow().clone();
            let batches = frame.collect().await?;
            Ok(arrow::compute::concat_batches(&Arc::new(schema), &batches)?)
        });
        rows.map_err(|e: datafusion::error::DataFusionError| Refused(e.to_string()))
    }
}

/// One stream of the table's columns; a day late is in time.
fn relation(events: &RecordBatch) -> Arc<Relation> {
    let columns: Vec<_> = (events.schema().fields().iter().skip(1))
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect();
    Arc::new(Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![Stream {
            name: "payments".into(),
            scored: true,
            key: None,
        }],
        id: None,
        entities: Vec::new(),
        labels: None,
        lateness_us: 24 * HOUR_US,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    })
}

/// The rows of a table as events.
fn batch(relation: &Relation, events: &RecordBatch) -> EventBatch {
    let rows = events.num_rows();
    let time_type = relation.schema.field(0).data_type();
    let stream = DictionaryArray::new(
        Int8Array::from(vec![0; rows]),
        Arc::new(StringArray::from(vec!["payments"])),
    );
    let mut columns: Vec<ArrayRef> = vec![
        cast(events.column(0), time_type).expect("the first column is a time"),
        Arc::new(stream),
    ];
    columns.extend(events.columns().iter().skip(1).cloned());
    let id = |offset| EventId {
        topic: "payments".into(),
        partition: Partition(0),
        offset: Offset(offset),
    };
    EventBatch {
        rows: RecordBatch::try_new(relation.schema.clone(), columns).unwrap(),
        ids: (0..rows as i64).map(id).collect(),
        sequence: Sequence(0),
        broker_time_us: Vec::new(),
    }
}

/// The features of all rows, however they come; and, where it can be asked, DataFusion's answer too.
fn check(
    relation: &Arc<Relation>,
    events: &RecordBatch,
    catalog: &Catalog,
    sql: &str,
) -> Result<RecordBatch, Refused> {
    let engine = || FeatureEngine::with_catalog(relation.clone(), sql, catalog);
    let mut whole = engine().map_err(|e| {
        let cure = e.cure().unwrap_or("none");
        Refused(format!("{e}; cure: {cure}; line {:?}", e.line()))
    })?;
    let batch = batch(relation, events);
    let ours = joined(fold(&mut whole, &batch, &[]));
    let ends: Vec<usize> = (1..batch.len()).collect();
    let row_by_row = restarted(&|| engine().unwrap(), &batch, &ends);
    assert_eq!(format!("{ours:?}"), format!("{row_by_row:?}"), "{sql}");

    let ascends = batch
        .event_times_us()
        .is_sorted_by(|one, other| one < other);
    if ascends && !sql.contains("-- not in DataFusion") {
        let sql = format!("SELECT * FROM ({}) ORDER BY _at", with_time(sql));
        let mut tables = vec![("events", batch.rows)];
        let known = catalog.tables.iter();
        tables.extend(known.map(|table| (table.name(), table.rows().clone())));
        let mut theirs = query(&tables, &sql);
        theirs.remove_column(theirs.num_columns() - 1);
        same(&sql, &ours.features, &theirs);
    }
    Ok(ours.features)
}

/// The query with the event time as its last item.
fn with_time(sql: &str) -> String {
    let mut statements = DFParser::parse_sql(sql).unwrap();
    let Some(Statement::Statement(mut statement)) = statements.pop_front() else {
        panic!("not a query: {sql}")
    };
    if let ast::Statement::Query(query) = statement.as_mut()
        && let ast::SetExpr::Select(select) = query.body.as_mut()
    {
        select.projection.push(ast::SelectItem::ExprWithAlias {
            expr: ast::Expr::Identifier(ast::Ident::new("event_time")),
            alias: ast::Ident::new("_at"),
        });
    }
    statement.to_string()
}

/// Types and values alike; doubles to 1e-12 of their size, and to 1e-9 where sums that cancel are left.
fn same(sql: &str, ours: &RecordBatch, theirs: &RecordBatch) {
    let types = |batch: &RecordBatch| -> Vec<(String, DataType)> {
        let schema: Arc<Schema> = batch.schema();
        (schema.fields().iter())
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect()
    };
    assert_eq!(types(ours), types(theirs), "{sql}");
    for (field, (one, other)) in
        (ours.schema().fields().iter()).zip(ours.columns().iter().zip(theirs.columns()))
    {
        let name = field.name();
        if *one.data_type() != DataType::Float64 {
            assert_eq!(one, other, "{name} of {sql}");
            continue;
        }
        let (one, other) = (
            one.as_primitive::<Float64Type>(),
            other.as_primitive::<Float64Type>(),
        );
        for (row, (one, other)) in one.iter().zip(other).enumerate() {
            let fits = match (one, other) {
                (Some(one), Some(other)) => {
                    one == other
                        || (one.is_nan() && other.is_nan())
                        || (one - other).abs() <= 1e-12 * one.abs().max(other.abs()) + 1e-9
                }
                (one, other) => one == other,
            };
            assert!(fits, "{name}, row {row} of {sql}: {one:?} {other:?}");
        }
    }
}

/// Values as text, doubles to ten digits.
fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<ArrayFormatter<'_>> = (batch.columns().iter())
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let text =
        |column: usize, row: usize| match batch.column(column).as_primitive_opt::<Float64Type>() {
            Some(values) if values.is_valid(row) => {
                let digits: f64 = format!("{:.9e}", values.value(row)).parse().unwrap();
                digits.to_string()
            }
            _ => columns[column].value(row).to_string(),
        };
    (0..batch.num_rows())
        .map(|row| (0..columns.len()).map(|column| text(column, row)).collect())
        .collect()
}

#[test]
fn every_function_answers_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(files.len() > 10, "the files of the language are there");
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Tables::new()) });
        runner.with_column_validator(sqllogictest::strict_column_validator);
        if std::env::var_os("SLT_COMPLETE").is_some() {
            let written = runner.update_test_file(
                &file,
                " ",
                sqllogictest::default_validator,
                sqllogictest::default_normalizer,
                sqllogictest::strict_column_validator,
            );
            // Nothing in it waits.
            let mut written = std::pin::pin!(written);
            let mut context = Context::from_waker(Waker::noop());
            assert!(written.as_mut().poll(&mut context).is_ready());
        } else if let Err(error) = runner.run_file(&file) {
            panic!("{}", error.display(false));
        }
    }
}
