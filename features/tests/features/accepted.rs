//! The accepted order, written out row by row: what the oracle's self-join is over, and which rows are in time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use sanderling_schemas::{KnownLabel, Sequence};

use crate::stream::{HORIZON_US, HOUR_US, LATENESS_US, Row, batch, relation};
use crate::times::{Clock, Keys, Known};

/// What is known of cards and terminals: their longest frames are of 72 and of 60 hours.
fn keys() -> (Keys<Option<u8>>, Keys<Option<u8>>) {
    (Keys::new(Some(72 * HOUR_US)), Keys::new(Some(60 * HOUR_US)))
}

/// The accepted order as a table: labels joined to their payments the slow way, those that tell
/// nothing left out, and for each row the newest time of its card and terminal so far.
pub fn accepted(all: &[Row]) -> (RecordBatch, Vec<KnownLabel>) {
    let mut kept: Vec<(i64, Row)> = Vec::new();
    let mut labels = Vec::new();
    let mut said: HashMap<i64, i64> = HashMap::new();
    let mut newest: Option<i64> = None;
    let mut clock = Clock::default();
    let (mut cards, mut terminals) = keys();
    let mut times: Vec<[Known; 2]> = Vec::new();
    for (sequence, row) in all.iter().enumerate() {
        let step = |newest: i64| newest.max(row.time_us.min(newest + HOUR_US));
        newest = Some(newest.map_or(row.time_us, step));
        let credible_us = clock.observe(row.time_us);
        let mut row = row.clone();
        if row.label {
            let of = all[..sequence]
                .iter()
                .position(|other| !other.label && other.id == row.id);
            let Some(of) = of else { continue };
            let reach = (newest.unwrap() - HORIZON_US - LATENESS_US).max(row.time_us - HORIZON_US);
            if all[of].time_us < reach || said.get(&row.id) == row.is_fraud.as_ref() {
                continue;
            }
            let reversal = said.insert(row.id, row.is_fraud.unwrap()).is_some();
            labels.push(KnownLabel {
                row: sequence as u32,
                of: Sequence(of as u64),
                value: row.is_fraud.unwrap() as f32,
                reversal,
            });
            (row.card, row.terminal) = (all[of].card, all[of].terminal);
        }
        times.push([
            cards.take(row.card, &clock, credible_us),
            terminals.take(row.terminal, &clock, credible_us),
        ]);
        kept.push((sequence as i64, row));
    }
    let rows: Vec<Row> = kept.iter().map(|(_, row)| row.clone()).collect();
    let table = batch(&relation(true), &rows).rows;
    let known = |of: fn(&[Known; 2]) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(times.iter().map(of)))
    };
    let sequences: Int64Array = kept.iter().map(|(s, _)| Some(*s)).collect();
    let at: Int64Array = rows.iter().map(|row| Some(row.time_us)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("sequence", Arc::new(sequences)),
        ("t", Arc::new(at)),
        ("newest_card_id", known(|times| times[0].newest_us)),
        ("newest_terminal_id", known(|times| times[1].newest_us)),
        ("generation_card_id", known(|times| times[0].generation)),
        ("generation_terminal_id", known(|times| times[1].generation)),
    ];
    let mut fields = table.schema().fields().to_vec();
    let mut arrays = table.columns().to_vec();
    for (name, column) in columns {
        fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
        arrays.push(column);
    }
    let schema = Arc::new(Schema::new(fields));
    (RecordBatch::try_new(schema, arrays).unwrap(), labels)
}

/// The rows that are not too late, by their sequence: each is judged by those that were kept before it.
pub fn in_time(all: &[Row]) -> Vec<usize> {
    let (mut kept, mut rows): (Vec<usize>, Vec<Row>) = (Vec::new(), Vec::new());
    let mut clock = Clock::default();
    let (mut cards, mut terminals) = keys();
    for (sequence, row) in all.iter().enumerate() {
        let mut with = clock.clone();
        let credible_us = with.observe(row.time_us);
        let mut of = Some((row.card, row.terminal));
        if row.label {
            rows.push(row.clone());
            let known = accepted(&rows).1;
            of = (known
                .last()
                .filter(|label| label.row as usize + 1 == rows.len()))
            .map(|label| &rows[label.of.0 as usize])
            .map(|of| (of.card, of.terminal));
        } else {
            let newest = [
                cards.newest_us(&row.card, &with),
                terminals.newest_us(&row.terminal, &with),
            ];
            if newest
                .iter()
                .flatten()
                .any(|at| row.time_us < at - LATENESS_US)
            {
                continue;
            }
            rows.push(row.clone());
        }
        kept.push(sequence);
        clock = with;
        if let Some((card, terminal)) = of {
            cards.take(card, &clock, credible_us);
            terminals.take(terminal, &clock, credible_us);
        }
    }
    kept
}
