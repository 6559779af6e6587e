//! Reason codes: the words for what moved a score.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use sanderling_schemas::{Attribution, FeatureRow, Reason};
use serde::Deserialize;

use crate::condition::{Compiler, Condition};
use crate::place::Source;
use crate::{PolicyError, REASON_CODES_FILE, REASONS_MAX};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodesFile {
    version: u32,
    codes: Vec<CodeEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeEntry {
    code: String,
    group: String,
    text: String,
    when: Option<String>,
}

/// One code.
#[derive(Debug)]
struct Code {
    code: Arc<str>,
    group: Arc<str>,
    text: Arc<str>,
    when: Option<Condition>,
}

/// All codes, in the order in which a group's are tried.
#[derive(Debug)]
pub(crate) struct ReasonCodes(Vec<Code>);

impl ReasonCodes {
    /// The codes and the version their file gives itself. `features` are what conditions may name.
    pub(crate) fn parse(
        source: Source<'_>,
        features: SchemaRef,
    ) -> Result<(Self, u32), PolicyError> {
        let file: CodesFile = source
            .parse("each code has code, group, text and perhaps when; see the documentation")?;
        let compiler = Compiler::new(features).map_err(|message| {
            source.fault_of_key("codes", message, "name each feature once in features.sql")
        })?;
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        let mut unconditional: BTreeSet<&str> = BTreeSet::new();
        let mut codes = Vec::with_capacity(file.codes.len());
        for (i, entry) in file.codes.iter().enumerate() {
            let fault = |words: &str, message: String, cure: &str| {
                Err(source.fault("code", i, words, message, cure))
            };
            if !taken.insert(&entry.code) {
                let message = format!("the code {} is there twice", entry.code);
                return fault(&entry.code, message, "give each code once");
            }
            if unconditional.contains(entry.group.as_str()) {
                let message = format!(
                    "the code {} is never reached: an earlier one of its group has no condition",
                    entry.code
                );
                return fault(
                    &entry.code,
                    message,
                    "put the code without `when` last in its group",
                );
            }
            let words = entry.text.trim();
            if words.is_empty() || words.eq_ignore_ascii_case("other") {
                let message = format!("the code {} does not say a reason", entry.code);
                return fault(&entry.code, message, "say in plain words what was seen");
            }
            let when = match &entry.when {
                None => {
                    unconditional.insert(&entry.group);
                    None
                }
                Some(sql) => match compiler.compile(sql) {
                    Ok(condition) => Some(condition),
                    Err(message) => {
                        return fault(sql, message, "write a SQL condition over the features");
                    }
                },
            };
            codes.push(Code {
                code: entry.code.as_str().into(),
                group: entry.group.as_str().into(),
                text: words.into(),
                when,
            });
        }
        Ok((Self(codes), file.version))
    }

    /// The first group that could raise a score without a word for it.
    pub(crate) fn group_without_words<'a>(&self, groups: &'a [String]) -> Option<&'a String> {
        groups.iter().find(|group| {
            !self
                .0
                .iter()
                .any(|c| *c.group == ***group && c.when.is_none())
        })
    }

    /// At most [`REASONS_MAX`] reasons, strongest first; equal ones in the order of the groups.
    pub(crate) fn reasons(
        &self,
        attribution: &Attribution,
        features: &FeatureRow,
    ) -> Result<Vec<Reason>, PolicyError> {
        let mut raised: Vec<(&str, f64)> = attribution.iter().filter(|(_, v)| *v > 0.0).collect();
        raised.sort_by(|a, b| b.1.total_cmp(&a.1));
        raised.truncate(REASONS_MAX);
        let row = features.batch.slice(features.row, 1);
        let mut reasons = Vec::with_capacity(raised.len());
        for (group, contribution) in raised {
            for code in self.0.iter().filter(|c| *c.group == *group) {
                let holds = match &code.when {
                    None => true,
                    Some(condition) => condition.holds(&row).map_err(|message| PolicyError {
                        file: REASON_CODES_FILE,
                        line: None,
                        column: None,
                        message: format!("{}: {message}", code.code),
                        cure: "guard a division in the code's condition with nullif".to_string(),
                    })?,
                };
                if holds {
                    reasons.push(Reason {
                        code: code.code.clone(),
                        text: code.text.clone(),
                        group: code.group.clone(),
                        contribution,
                    });
                    break;
                }
            }
        }
        Ok(reasons)
    }
}
