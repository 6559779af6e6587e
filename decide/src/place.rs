//! Where in a YAML file something stands, for a message that points at it.

use serde::de::DeserializeOwned;

use crate::PolicyError;

/// One of the policy's files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'static str,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The file's contents; keys that are not known are refused.
    pub(crate) fn parse<T: DeserializeOwned>(self, cure: &str) -> Result<T, PolicyError> {
        serde_yaml_ng::from_str(self.text).map_err(|error| {
            let place = error.location().map(|l| (l.line(), l.column()));
            let message = error.to_string();
            // The place stands in fields of its own.
            let message = match message.find(" at line ") {
                Some(end) => message[..end].to_string(),
                None => message,
            };
            self.error(place, message, cure)
        })
    }

    /// A fault where `words` first stand after the first `skip` entries of a list whose entries
    /// have the key `entry`.
    pub(crate) fn fault(
        self,
        entry: &str,
        skip: usize,
        words: &str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> PolicyError {
        self.error(self.find(entry, skip, words), message, cure)
    }

    /// A fault of the line that begins with `key`.
    pub(crate) fn fault_of_key(
        self,
        key: &str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> PolicyError {
        let place = self.text.lines().enumerate().find_map(|(i, line)| {
            line.strip_prefix(key)?
                .starts_with(':')
                .then_some((i + 1, 1))
        });
        self.error(place, message, cure)
    }

    fn error(
        self,
        place: Option<(usize, usize)>,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> PolicyError {
        PolicyError {
            file: self.file,
            line: place.map(|p| p.0),
            column: place.map(|p| p.1),
            message: message.into(),
            cure: cure.into(),
        }
    }

    fn find(self, entry: &str, skip: usize, words: &str) -> Option<(usize, usize)> {
        let key = format!("{entry}:");
        let mut seen = 0;
        let mut begun = None;
        for (i, line) in self.text.lines().enumerate() {
            let code = line.split(" #").next().unwrap_or(line);
            if code.trim_start().starts_with('#') {
                continue;
            }
            // An entry begins with its dash, whichever of its keys comes first.
            if code.trim_start().starts_with("- ") {
                seen += 1;
                begun = None;
            }
            if seen == skip + 1 {
                if let Some(column) = code.find(words) {
                    return Some((i + 1, column + 1));
                }
                if begun.is_none() {
                    begun = code.find(&key).map(|column| (i + 1, column + 1));
                }
            } else if seen > skip + 1 {
                break;
            }
        }
        begun
    }
}

/// `:line:column`, or nothing.
pub(crate) fn display(line: Option<usize>, column: Option<usize>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(":{line}:{column}"),
        _ => String::new(),
    }
}
