//! What an engine knows at one moment, as columns: the keys, and what the windows keep of each.
//!
//! A view shares its memory with the engine, which goes on. Slots stand for keys: a reader picks slots
//! by their keys first, and asks for rows of those alone.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};
use sanderling_schemas::NO_SLOT;
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_state::KnownKeys;
use sanderling_state::window::WindowView;

use crate::FeatureError;
use crate::keys::KeyEncoder;

/// An engine's state at one moment.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// The stream's own time, microseconds; `None` before the third row.
    pub clock_us: Option<i64>,
    /// The keys of each entity, in the order of the relation's.
    pub entities: Vec<Arc<KeyTable>>,
    /// What is kept for each PARTITION BY; the names differ.
    pub windows: Vec<WindowTable>,
}

/// Keys by slot.
#[derive(Debug)]
pub struct KeyTable {
    fields: Vec<Field>,
    encoder: KeyEncoder,
    known: KnownKeys,
}

/// What the windows of one PARTITION BY keep.
#[derive(Debug, Clone)]
pub struct WindowTable {
    /// The entity's name, or one made of the PARTITION BY: a word of SQL without quotes.
    pub name: String,
    keys: Arc<KeyTable>,
    columns: Vec<Field>,
    windows: WindowView,
}

impl EngineView {
    pub(crate) fn new(
        clock_us: i64,
        entities: Vec<Arc<KeyTable>>,
        mut windows: Vec<WindowTable>,
    ) -> Self {
        let mut names: Vec<String> = Vec::new();
        for table in &mut windows {
            table.name = another(&table.name, &names);
            names.push(table.name.clone());
        }
        Self {
            clock_us: (clock_us != i64::MIN).then_some(clock_us),
            entities,
            windows,
        }
    }
}

impl KeyTable {
    pub(crate) fn new(fields: Vec<Field>, known: KnownKeys) -> Result<Self, FeatureError> {
        let types: Vec<DataType> = fields.iter().map(|f| f.data_type().clone()).collect();
        let plain = |field: Field| match field.data_type() {
            DataType::Dictionary(_, values) => {
                let values = values.as_ref().clone();
                field.with_data_type(values)
            }
            _ => field,
        };
        Ok(Self {
            encoder: KeyEncoder::new(&types)?,
            fields: fields.into_iter().map(plain).collect(),
            known,
        })
    }

    /// Name and type of each part of the key.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// No key was seen yet.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The keys of slots, one column for each field; [`NO_SLOT`] is the key NULL, and so is one that was
    /// forgotten, of which nothing else is told.
    ///
    /// # Errors
    /// [`FeatureError::State`] for a key that cannot be one of these.
    pub fn columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, FeatureError> {
        let key = |slot: &u32| match *slot {
            NO_SLOT => None,
            slot => self.known.key(slot),
        };
        let keys: Vec<Option<&[u8]>> = slots.iter().map(key).collect();
        let columns = self.encoder.columns(&keys)?;
        (columns.iter().zip(&self.fields))
            .map(|(column, field)| Ok(cast(column, field.data_type())?))
            .collect()
    }
}

impl WindowTable {
    pub(crate) fn new(
        name: String,
        keys: Arc<KeyTable>,
        arguments: &[String],
        windows: WindowView,
    ) -> Self {
        let mut names: Vec<String> = keys.fields.iter().map(|f| f.name().clone()).collect();
        names.push(EVENT_TIME.into());
        let mut columns = vec![Field::new(EVENT_TIME, time_type(), false)];
        let types = windows.types().into_iter().zip(windows.counted_only());
        for (text, (data_type, counted_only)) in arguments.iter().zip(types) {
            let name = match counted_only {
                true => format!("{text} is not null"),
                false => text.clone(),
            };
            let name = another(&name, &names);
            columns.push(Field::new(&name, data_type, true));
            names.push(name);
        }
        Self {
            name,
            keys,
            columns,
            windows,
        }
    }

    /// The keys.
    pub fn keys(&self) -> &KeyTable {
        &self.keys
    }

    /// Whether rows whose key is NULL were taken.
    pub fn has_null_key(&self) -> bool {
        self.windows.has_null_key()
    }

    /// The columns of [`WindowTable::rows`]: `event_time`, and each argument of a window function under
    /// its own text; of an argument that is only counted, whether it is there.
    pub fn row_fields(&self) -> &[Field] {
        &self.columns
    }

    /// The rows that windows can still reach, of keys by slot: for each row the index of its key in
    /// `slots`, and the columns.
    ///
    /// # Errors
    /// [`FeatureError::State`] for a type that no ring keeps.
    pub fn rows(&self, slots: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>), FeatureError> {
        Ok(self.windows.rows(slots)?)
    }

    /// The columns of [`WindowTable::summaries`].
    pub fn summary_fields() -> Vec<Field> {
        vec![
            Field::new("newest_event_time", time_type(), true),
            Field::new("last_event_time", time_type(), true),
            Field::new("rows", DataType::UInt64, false),
            Field::new("bytes", DataType::UInt64, false),
        ]
    }

    /// Of keys by slot, those that are not as new: for each its index in `slots`; then its newest
    /// credible event time, from which lateness is judged, its newest event time, the number of its rows
    /// and the bytes it takes.
    pub fn summaries(&self, slots: &[u32]) -> (Vec<u32>, Vec<ArrayRef>) {
        let known: Vec<_> = (0u32..)
            .zip(slots)
            .filter_map(|(at, slot)| Some((at, self.windows.summary(*slot)?)))
            .collect();
        let times = |of: fn(&sanderling_state::window::KeyTimes) -> i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                known.iter().map(|(_, summary)| of(&summary.times)),
            ))
        };
        let counts = |of: fn(&sanderling_state::window::KeySummary) -> usize| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(
                known.iter().map(|(_, summary)| of(summary) as u64),
            ))
        };
        let columns = vec![
            times(|times| times.newest_us),
            times(|times| times.last_us),
            counts(|summary| summary.rows),
            counts(|summary| summary.bytes),
        ];
        (known.iter().map(|(at, _)| *at).collect(), columns)
    }
}

/// A word of SQL for a PARTITION BY.
pub(crate) fn name_of(by: &str) -> String {
    let words = by
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_").to_lowercase();
    match name.chars().next() {
        None => "events".into(),
        Some(digit) if digit.is_ascii_digit() => format!("by_{name}"),
        Some(_) => name,
    }
}

/// A name, numbered where it is taken already.
fn another(name: &str, taken: &[String]) -> String {
    let is_free = |name: &String| !taken.contains(name);
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    (std::iter::once(name.to_string()).chain(numbered))
        .find(is_free)
        .expect("there are enough numbers")
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}
