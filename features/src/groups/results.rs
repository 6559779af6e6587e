//! What a group's windows say of rows: from the kernels of the state, or from a frame's rows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use sanderling_state::window::{WindowOutput, WindowRows, WindowState};
use sanderling_state::{StateError, Threads};

use crate::FeatureError;
use crate::accumulate::FrameAggregate;

/// A window's results, in the order of the windows, and whether rows are late.
pub(crate) struct GroupOutput {
    pub columns: Vec<ArrayRef>,
    pub late: Vec<bool>,
    pub capped: Vec<bool>,
}

/// Computes windows; those that no kernel computes, from the rows of their frames.
pub(super) fn run(
    state: &mut WindowState,
    results: &[(DataType, Option<FrameAggregate>)],
    rows: &WindowRows<'_>,
    threads: &Threads,
) -> Result<GroupOutput, FeatureError> {
    // Values of the windows that no kernel computes, each with its row; threads put them there as they come.
    let values: Vec<_> = results.iter().map(|_| Mutex::new(Vec::new())).collect();
    let failed = Mutex::new(None);
    let output = state.compute(rows, threads, &|window, row, columns| {
        let aggregate = results[window].1.as_ref();
        let aggregate = aggregate.expect("the plan gives one for each such window");
        match aggregate.value(columns) {
            Ok(value) => locked(&values[window]).push((row, value)),
            Err(error) => {
                let told = StateError::Unsupported(error.to_string());
                locked(&failed).get_or_insert(error);
                return Err(told);
            }
        }
        Ok(())
    });
    if let Some(error) = locked(&failed).take() {
        return Err(error);
    }
    let WindowOutput {
        columns,
        late,
        capped,
    } = output?;
    let columns = (columns.into_iter().zip(results).zip(&values))
        .map(|((column, (data_type, aggregate)), values)| {
            let column = match (column, aggregate) {
                (Some(column), _) => column,
                (None, Some(aggregate)) => {
                    let mut values = std::mem::take(&mut *locked(values));
                    values.sort_unstable_by_key(|(row, _)| *row);
                    aggregate.column(values.into_iter().map(|(_, value)| value).collect())?
                }
                (None, None) => unreachable!("the plan gives one for each such window"),
            };
            match column.data_type() == data_type {
                true => Ok(column),
                false => Ok(cast(&column, data_type)?),
            }
        })
        .collect::<Result<Vec<_>, FeatureError>>()?;
    Ok(GroupOutput {
        columns,
        late,
        capped,
    })
}

/// A thread that panics takes the others with it, so nobody sees what it left.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
