//! What holds for a command, whichever it is.

use std::fmt::Display;
use std::io::Write;

use sanderling_features::Function;
use serde::Serialize;

use crate::failure::Failure;

/// How the program was called.
pub(super) struct Invocation<'a> {
    /// Functions that every `features.sql` may call.
    pub functions: &'a [Function],
    /// Results and errors are for machines.
    pub json: bool,
}

impl Invocation<'_> {
    /// Prints a result: one line of JSON, or text for people.
    pub(super) fn show<T: Serialize + Display>(&self, result: &T) -> Result<(), Failure> {
        let line = match self.json {
            true => {
                serde_json::to_string(result).map_err(|e| Failure::new("output", e.to_string()))?
            }
            false => result.to_string(),
        };
        let mut stdout = std::io::stdout().lock();
        // A reader that has gone away wants no more output; that is not a failure of the command.
        let _ = writeln!(stdout, "{line}");
        Ok(())
    }
}
