//! Frames as they are planned, to frames that keyed state knows.

use arrow::datatypes::DataType;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::scalar::ScalarValue;
use sanderling_state::window::Frame;

use crate::FeatureError;

/// What to write for a frame, in cures.
pub(super) const FRAME: &str = "RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW";

/// The frame of a window function that is written as `text`.
pub(super) fn frame_of(frame: &WindowFrame, text: &str) -> Result<Frame, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(text, reason, cure));
    let bounds = [&frame.start_bound, &frame.end_bound];
    if bounds
        .iter()
        .any(|bound| matches!(bound, WindowFrameBound::Following(_)))
    {
        return refuse(
            "a frame must not look at what comes after the row",
            &format!("end the frame at the row: {FRAME}"),
        );
    }
    let ends_before = "the frame ends before it begins";
    match frame.units {
        WindowFrameUnits::Range => {
            let reach = |bound: &WindowFrameBound| match bound {
                WindowFrameBound::Preceding(value) => interval_us(value, text),
                _ => Ok(Some(0)),
            };
            let preceding_us = reach(&frame.start_bound)?;
            let Some(until_us) = reach(&frame.end_bound)? else {
                return refuse(
                    ends_before,
                    "end the frame at CURRENT ROW or an interval before it",
                );
            };
            if preceding_us.is_some_and(|from| from < until_us) {
                return refuse(ends_before, "put the longer interval first");
            }
            Ok(Frame::Range {
                preceding_us,
                until_us,
            })
        }
        WindowFrameUnits::Rows => {
            let reach = |bound: &WindowFrameBound| match bound {
                WindowFrameBound::Preceding(value) if value.is_null() => Ok(None),
                WindowFrameBound::Preceding(value) => match value.cast_to(&DataType::UInt64) {
                    Ok(ScalarValue::UInt64(rows)) => Ok(rows),
                    _ => refuse(
                        "a frame of rows is counted in whole rows",
                        "write ROWS BETWEEN 10 PRECEDING AND CURRENT ROW",
                    )
                    .map(|_: Frame| None),
                },
                _ => Ok(Some(0)),
            };
            let preceding = reach(&frame.start_bound)?;
            let Some(until) = reach(&frame.end_bound)? else {
                return refuse(
                    ends_before,
                    "end the frame at CURRENT ROW or some rows before it",
                );
            };
            if preceding.is_some_and(|from| from < until) {
                return refuse(ends_before, "put the larger number first");
            }
            Ok(Frame::Rows { preceding, until })
        }
        WindowFrameUnits::Groups => refuse(
            "GROUPS frames count times, and a late row would change how many",
            &format!("give a span of time: {FRAME}"),
        ),
    }
}

/// The microseconds of a bound; `None` for UNBOUNDED.
fn interval_us(value: &ScalarValue, text: &str) -> Result<Option<i64>, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(text, reason, cure));
    match value {
        value if value.is_null() => Ok(None),
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            if interval.months != 0 {
                return refuse("months differ in length", "give the frame in days");
            }
            if interval.nanoseconds % 1000 != 0 {
                return refuse("event times are in microseconds", "give whole microseconds");
            }
            let us = i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000;
            match us {
                0.. => Ok(Some(us)),
                _ => refuse("the interval is negative", "give a positive interval"),
            }
        }
        _ => refuse("the frame is not an interval", &format!("write {FRAME}")),
    }
}
