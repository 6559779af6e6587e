//! What a person or a script is told when a command fails: what happened, where, and the cure.
//!
//! Rooms have typed errors of their own; they become a [`Failure`] here, at the edge, and nowhere
//! else. With `--json` it is one line of JSON on stderr.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A command that did not do what it was asked.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// What kind of thing failed, stable for scripts.
    pub code: &'static str,
    /// File at fault, if one is.
    pub file: Option<PathBuf>,
    /// Line in it, from 1.
    pub line: Option<usize>,
    /// Column in it, from 1.
    pub column: Option<usize>,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub cure: Option<String>,
    /// The command was used wrongly: exit status 2 instead of 1.
    #[serde(skip)]
    pub usage: bool,
}

impl Failure {
    /// A failure of kind `code`.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            file: None,
            line: None,
            column: None,
            message: message.into(),
            cure: None,
            usage: false,
        }
    }

    /// A command or a setting that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            ..Self::new("usage", message)
        }
    }

    /// Names the file at fault.
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_path_buf());
        self
    }

    /// Names the place in the file.
    pub fn at(mut self, line: Option<usize>, column: Option<usize>) -> Self {
        self.line = line;
        self.column = column;
        self
    }

    /// Says what to do.
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// 2 for a command used wrongly, else 1.
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
                if let Some(column) = self.column {
                    write!(f, ":{column}")?;
                }
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What stops at its first failure, asked by what tells all of them.
impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}

/// IO on a path that the user named.
pub fn io_failure(path: &Path, doing: &str, error: &std::io::Error) -> Failure {
    let cure = match error.kind() {
        std::io::ErrorKind::NotFound if path.is_absolute() => "check the path",
        std::io::ErrorKind::NotFound => "check the path; it is read from the current directory",
        std::io::ErrorKind::PermissionDenied => {
            "give this user the right to it, or name another path"
        }
        std::io::ErrorKind::StorageFull => "free some space and go on with --resume",
        _ => "check the disk and the path",
    };
    Failure::new("io", format!("cannot {doing}: {error}"))
        .in_file(path)
        .cure(cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_says_from_where_a_path_is_read_if_that_matters() {
        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
        let cure = |path: &str| io_failure(Path::new(path), "read", &gone).cure;
        assert_eq!(cure("/etc/gone"), Some("check the path".into()));
        let relative = cure("gone").expect("there is a cure");
        assert!(relative.contains("current directory"), "{relative}");
    }
}
