//! Rows of several batches in a given order as one batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::Int8Type;
use sanderling_schemas::Relation;

use crate::IngestError;
use crate::decode::stream_column;

/// The rows `picks` (batch, row) of `batches`, all of the relation's schema.
pub(crate) fn assemble(
    relation: &Relation,
    batches: &[RecordBatch],
    picks: &[(usize, usize)],
) -> Result<RecordBatch, IngestError> {
    if let Some(slice) = contiguous(picks) {
        return Ok(batches[slice.0].slice(slice.1, picks.len()));
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(relation.schema.fields().len());
    for index in 0..relation.schema.fields().len() {
        // The dictionary of `stream` is the same everywhere and must keep its order.
        if index == 1 {
            let keys: Vec<&[i8]> = batches
                .iter()
                .map(|b| &**b.column(1).as_dictionary::<Int8Type>().keys().values())
                .collect();
            let keys: Int8Array = picks.iter().map(|(b, row)| Some(keys[*b][*row])).collect();
            columns.push(stream_column(relation, keys));
            continue;
        }
        let arrays: Vec<&dyn Array> = batches.iter().map(|b| &**b.column(index)).collect();
        columns.push(interleave(&arrays, picks)?);
    }
    Ok(RecordBatch::try_new(Arc::clone(&relation.schema), columns)?)
}

/// The first pick, if the others follow it in the same batch.
fn contiguous(picks: &[(usize, usize)]) -> Option<(usize, usize)> {
    let first = *picks.first()?;
    let follows = |(i, pick): (usize, &(usize, usize))| *pick == (first.0, first.1 + i);
    picks.iter().enumerate().all(follows).then_some(first)
}
