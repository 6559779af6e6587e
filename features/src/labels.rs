//! Labels: rows that refer to an event, joined to it row by row.
//!
//! A label row takes over the event's key columns, and so enters the windows of its card and its
//! terminal at its own event time, which is when the label became known.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::Int64Type;
use arrow::row::{RowConverter, SortField};
use sanderling_schemas::{EventBatch, KnownLabel, Relation};
use sanderling_state::{Referents, Restored, Settled, Snapshot};

use crate::FeatureError;
use crate::keys::KeyEncoder;

/// What became of the label rows so far; each counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// First labels of an event.
    pub matched: u64,
    /// Refer to no event within the horizon, or lack a reference or a value.
    pub unmatched: u64,
    /// Say again what is known.
    pub repeated: u64,
    /// Replace another value.
    pub reversed: u64,
}

/// The join of labels to their events.
pub(crate) struct LabelJoin {
    stream: i8,
    scored: Vec<bool>,
    id: usize,
    reference: usize,
    value: usize,
    /// Columns that a label takes over.
    keys: Vec<usize>,
    encoder: KeyEncoder,
    converter: RowConverter,
    events: Referents,
    counts: LabelCounts,
}

/// A batch after the join.
pub(crate) struct Joined {
    pub rows: RecordBatch,
    /// Rows that enter windows: all but labels that tell nothing.
    pub enters: Vec<bool>,
    pub labels: Vec<KnownLabel>,
}

impl LabelJoin {
    /// The join for a relation that has labels; `None` for one that has none.
    pub(crate) fn of(relation: &Relation, keys: Vec<usize>) -> Result<Option<Self>, FeatureError> {
        let Some(labels) = &relation.labels else {
            return Ok(None);
        };
        let schema = &relation.schema;
        let column = |name: &str, role: &str| {
            schema.index_of(name).map_err(|_| FeatureError::Relation {
                column: name.to_string(),
                role: role.to_string(),
            })
        };
        let id = column(
            relation.id.as_deref().unwrap_or("id"),
            "the id that labels refer to",
        )?;
        let reference = column(&labels.reference, "the labels' reference")?;
        let value = column(&labels.value, "the labels' value")?;
        let wrong = |column: usize, role: &str| FeatureError::Relation {
            column: schema.field(column).name().clone(),
            role: role.to_string(),
        };
        if schema.field(id).data_type() != schema.field(reference).data_type() {
            return Err(wrong(reference, "a reference of the id's type"));
        }
        if *schema.field(value).data_type() != arrow::datatypes::DataType::Int64 {
            return Err(wrong(value, "a label value of type bigint"));
        }
        let fields = keys
            .iter()
            .map(|at| SortField::new(schema.field(*at).data_type().clone()))
            .collect();
        Ok(Some(LabelJoin {
            stream: labels.stream as i8,
            scored: relation
                .streams
                .iter()
                .map(|stream| stream.scored)
                .collect(),
            id,
            reference,
            value,
            keys,
            encoder: KeyEncoder::new(&[schema.field(id).data_type().clone()])?,
            converter: RowConverter::new(fields)?,
            events: Referents::new(labels.horizon_us, relation.lateness_us),
            counts: LabelCounts::default(),
        }))
    }

    /// Takes the rows in order: remembers events, gives labels the keys of theirs. Rows that are
    /// `refused` are passed over; of events that are not `kept`, labels find none.
    pub(crate) fn join(
        &mut self,
        batch: &EventBatch,
        refused: &HashSet<u32>,
        kept: impl Fn(usize) -> bool,
    ) -> Result<Joined, FeatureError> {
        let columns = batch.rows.columns();
        let ids = self.encoder.keys(&columns[self.id..=self.id])?;
        let references = self
            .encoder
            .keys(&columns[self.reference..=self.reference])?;
        let (id_column, reference_column) = (&columns[self.id], &columns[self.reference]);
        let values = columns[self.value].as_primitive::<Int64Type>();
        let key_columns: Vec<ArrayRef> = self.keys.iter().map(|at| columns[*at].clone()).collect();
        let keys = match key_columns.is_empty() {
            true => None,
            false => Some(self.converter.convert_columns(&key_columns)?),
        };

        let mut enters = vec![true; batch.len()];
        let mut labels = Vec::new();
        let mut taken: Vec<u8> = Vec::new();
        let mut ends = Vec::new();
        for (row, (&stream, &time_us)) in batch
            .streams()
            .iter()
            .zip(batch.event_times_us())
            .enumerate()
        {
            if refused.contains(&(row as u32)) {
                enters[row] = false;
                continue;
            }
            self.events.observe(time_us);
            if self.scored[stream as usize] {
                if id_column.is_valid(row) && kept(row) {
                    let sequence = batch.sequence.0 + row as u64;
                    let its = keys.as_ref().map(|keys| keys.row(row));
                    let its = its.as_ref().map_or(&[][..], |its| its.data());
                    ids.with(row, |id| {
                        self.events
                            .admit(id.unwrap_or_default(), sequence, time_us, its);
                    });
                }
            } else if stream == self.stream {
                let told = reference_column.is_valid(row) && values.is_valid(row);
                let settled = match told {
                    true => references.with(row, |reference| {
                        self.events.settle(
                            reference.unwrap_or_default(),
                            values.value(row),
                            time_us,
                        )
                    }),
                    false => Settled::Unmatched,
                };
                match settled {
                    Settled::Unmatched => self.counts.unmatched += 1,
                    Settled::Repeated => self.counts.repeated += 1,
                    Settled::Known { of, reversal, keys } => {
                        match reversal {
                            true => self.counts.reversed += 1,
                            false => self.counts.matched += 1,
                        }
                        taken.extend_from_slice(keys);
                        ends.push(taken.len());
                        labels.push(KnownLabel {
                            row: row as u32,
                            of: sanderling_schemas::Sequence(of),
                            value: values.value(row) as f32,
                            reversal,
                        });
                        continue;
                    }
                }
                enters[row] = false;
            }
        }
        let rows = self.filled(&batch.rows, &labels, &taken, &ends)?;
        Ok(Joined {
            rows,
            enters,
            labels,
        })
    }

    /// The rows, with the key columns of known labels replaced by what was taken.
    fn filled(
        &self,
        rows: &RecordBatch,
        labels: &[KnownLabel],
        taken: &[u8],
        ends: &[usize],
    ) -> Result<RecordBatch, FeatureError> {
        if labels.is_empty() || self.keys.is_empty() {
            return Ok(rows.clone());
        }
        let parser = self.converter.parser();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let spans = starts
            .zip(ends)
            .map(|(from, to)| parser.parse(&taken[from..*to]));
        let taken = self.converter.convert_rows(spans)?;
        let mut picks: Vec<(usize, usize)> = (0..rows.num_rows()).map(|row| (0, row)).collect();
        for (number, label) in labels.iter().enumerate() {
            picks[label.row as usize] = (1, number);
        }
        let mut columns = rows.columns().to_vec();
        for (at, taken) in self.keys.iter().zip(taken) {
            columns[*at] = interleave(&[columns[*at].as_ref(), taken.as_ref()], &picks)?;
        }
        Ok(RecordBatch::try_new(rows.schema(), columns)?)
    }

    /// Columns that a label takes over from its event, by number.
    pub(crate) fn key_columns(&self) -> Vec<u64> {
        self.keys.iter().map(|at| *at as u64).collect()
    }

    /// The same join over `relation`, which is this one's, before any row.
    pub(crate) fn fresh(&self, relation: &Relation) -> Result<Option<Self>, FeatureError> {
        Self::of(relation, self.keys.clone())
    }

    /// What joining has come to, to be put back by [`LabelJoin::back_to`]. Pages are shared.
    pub(crate) fn mark(&self) -> (Referents, LabelCounts) {
        (self.events.clone(), self.counts)
    }

    /// Undoes all joins after a mark.
    pub(crate) fn back_to(&mut self, mark: &(Referents, LabelCounts)) {
        (self.events, self.counts) = mark.clone();
    }

    pub(crate) fn counts(&self) -> LabelCounts {
        self.counts
    }

    pub(crate) fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.events.snapshot(&format!("{name}/events"), snapshot);
        snapshot.add_value(&format!("{name}/keys"), self.key_columns());
        let counts = self.counts;
        snapshot.add_value(
            &format!("{name}/counts"),
            vec![
                counts.matched,
                counts.unmatched,
                counts.repeated,
                counts.reversed,
            ],
        );
    }

    pub(crate) fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), FeatureError> {
        self.events.restore(&format!("{name}/events"), restored)?;
        let counts: Vec<u64> = restored.section(&format!("{name}/counts"))?.value()?;
        let [matched, unmatched, repeated, reversed] = counts[..] else {
            return Err(sanderling_state::StateError::Damaged("label counts".into()).into());
        };
        self.counts = LabelCounts {
            matched,
            unmatched,
            repeated,
            reversed,
        };
        Ok(())
    }
}
