//! What can be wrong with `features.sql`, and with the rows it runs on.

use datafusion::error::DataFusionError;
use sanderling_state::StateError;

use crate::places::Written;

/// Errors of the feature engine.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// The SQL cannot be parsed or planned.
    #[error("{message}")]
    Sql {
        /// What DataFusion says.
        message: String,
        /// Line in the SQL, from 1, where known.
        line: Option<u64>,
        /// Column in the line, from 1, where known.
        column: Option<u64>,
    },
    /// The SQL is valid, but has no meaning for one event at a time.
    #[error("`{expression}` is refused: {reason}")]
    Refused {
        /// The part of the query.
        expression: String,
        /// Why.
        reason: String,
        /// What to write instead.
        cure: String,
        /// Line in the SQL, from 1, where known.
        line: Option<u64>,
        /// Column in the line, from 1, where known.
        column: Option<u64>,
    },
    /// The relation lacks what its own roles name.
    #[error("the relation has no usable column `{column}` for {role}")]
    Relation {
        /// The column.
        column: String,
        /// What it is for.
        role: String,
    },
    /// A reference table has no row, or more than one, for a key; or lacks its key.
    #[error("table `{table}`: {message}")]
    Table {
        /// The table.
        table: String,
        /// What is wrong with it.
        message: String,
        /// What to do about it.
        cure: String,
    },
    /// An expression failed on a batch.
    #[error("feature `{feature}`: {source}")]
    Evaluate {
        /// Output column, or the window's argument.
        feature: String,
        /// What DataFusion says.
        source: Box<DataFusionError>,
    },
    /// A batch is not of the relation.
    #[error("the batch does not have the relation's columns")]
    Batch,
    /// Arrow failed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Keyed state failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl FeatureError {
    /// Line in the SQL, from 1.
    pub fn line(&self) -> Option<u64> {
        match self {
            FeatureError::Sql { line, .. } | FeatureError::Refused { line, .. } => *line,
            _ => None,
        }
    }

    /// Column in the line, from 1.
    pub fn column(&self) -> Option<u64> {
        match self {
            FeatureError::Sql { column, .. } | FeatureError::Refused { column, .. } => *column,
            _ => None,
        }
    }

    /// What to write instead.
    pub fn cure(&self) -> Option<&str> {
        match self {
            FeatureError::Refused { cure, .. } | FeatureError::Table { cure, .. } => Some(cure),
            _ => None,
        }
    }

    pub(crate) fn refused(
        expression: impl ToString,
        reason: impl ToString,
        cure: impl ToString,
    ) -> Self {
        FeatureError::Refused {
            expression: expression.to_string(),
            reason: reason.to_string(),
            cure: cure.to_string(),
            line: None,
            column: None,
        }
    }

    /// Names the refused part as it is written, and where, if that is known.
    pub(crate) fn of(mut self, written: Option<Written>) -> Self {
        let Some(written) = written else { return self };
        if let FeatureError::Refused { expression, .. } = &mut self {
            *expression = written.text;
        }
        self.at(Some(written.place))
    }

    /// Says where a refused part stands, unless that is known.
    pub(crate) fn at(mut self, place: Option<(u64, u64)>) -> Self {
        if let (FeatureError::Refused { line, column, .. }, Some(place)) = (&mut self, place)
            && line.is_none()
        {
            (*line, *column) = (Some(place.0), Some(place.1));
        }
        self
    }

    /// An error of parsing or planning, with the place that DataFusion tells of it.
    pub(crate) fn sql(error: &DataFusionError) -> Self {
        let place = error
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| (span.start.line, span.start.column))
            .filter(|(line, _)| *line > 0);
        let message = error.strip_backtrace();
        let place = place.or_else(|| {
            // The parser tells it in words: "... at Line: 3, Column: 14".
            let after = |text: &str, word: &str| -> Option<u64> {
                let from = text.rfind(word)? + word.len();
                let digits: String = text[from..]
                    .trim_start()
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                digits.parse().ok()
            };
            Some((after(&message, "Line:")?, after(&message, "Column:")?))
        });
        FeatureError::Sql {
            line: place.map(|p| p.0),
            column: place.map(|p| p.1),
            message,
        }
    }

    /// The place of a window that is used but not defined, of which DataFusion tells the name alone.
    pub(crate) fn placed_in(mut self, sql: &str) -> Self {
        if let FeatureError::Sql {
            message,
            line: line @ None,
            column,
        } = &mut self
            && let Some((_, rest)) = message.split_once("The window ")
            && let Some((name, _)) = rest.split_once(" is not defined")
        {
            let name = name.to_lowercase();
            let word = |c: char| c.is_alphanumeric() || c == '_';
            for (number, text) in sql.to_lowercase().lines().enumerate() {
                let code = text.split("--").next().unwrap_or_default();
                let found = code.match_indices(&name).find(|(at, _)| {
                    !code[..*at].ends_with(word) && !code[at + name.len()..].starts_with(word)
                });
                if let Some((at, _)) = found {
                    (*line, *column) = (Some(number as u64 + 1), Some(at as u64 + 1));
                    break;
                }
            }
        }
        self
    }
}
