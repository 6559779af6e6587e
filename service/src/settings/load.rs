//! The file read, and what the environment and the command line lay over it.

use std::path::Path;

use serde_yaml_ng::Value;

use super::Settings;
use crate::failure::{Failure, io_failure};
use crate::overrides::{self, Override};

impl Settings {
    /// Reads `file`, then lays the environment and `sets` (`path=value`) over it.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, with its place; an override that names no key or
    /// gives it a value of the wrong kind.
    pub fn load(file: &Path, sets: &[String]) -> Result<(Self, String), Failure> {
        let text =
            std::fs::read_to_string(file).map_err(|e| io_failure(file, "read the pipeline", &e))?;
        let settings: Settings = serde_yaml_ng::from_str(&text).map_err(|e| {
            let (line, column) = match e.location() {
                Some(place) => (Some(place.line()), Some(place.column())),
                None => (None, None),
            };
            Failure::new("config", without_place(&e.to_string()))
                .in_file(file)
                .at(line, column)
                .cure("compare with pipelines/card-fraud/pipeline.yaml; the message names the keys that are known")
        })?;
        let overrides = overrides::all(sets)?;
        if overrides.is_empty() {
            return Ok((settings, text));
        }
        let mut value: Value = serde_yaml_ng::from_str(&text)
            .map_err(|e| Failure::new("config", e.to_string()).in_file(file))?;
        let mut settings = settings;
        for Override {
            origin,
            path,
            value: new,
            hidden,
        } in overrides
        {
            set(&mut value, &path, new).map_err(|at| {
                Failure::usage(format!(
                    "{origin}: `{at}` is not a section of {}",
                    file.display()
                ))
                .cure("write the path of the key with dots, for example --set state.interval=10s")
            })?;
            settings = serde_yaml_ng::from_value(value.clone()).map_err(|e| {
                let message = match hidden {
                    false => e.to_string(),
                    true => "there is no such key, or its value is of another kind".into(),
                };
                Failure::usage(format!("{origin}: {message}"))
                    .cure("give the key a value of its kind")
            })?;
        }
        Ok((settings, text))
    }
}

/// Sets a key, making sections on the way; the error names the part of the path that holds a value.
fn set(root: &mut Value, path: &[String], new: Value) -> Result<(), String> {
    let mut at = root;
    for (depth, key) in path.iter().enumerate() {
        if at.is_null() {
            *at = Value::Mapping(Default::default());
        }
        let Value::Mapping(section) = at else {
            return Err(path[..depth].join("."));
        };
        at = section
            .entry(Value::String(key.clone()))
            .or_insert(Value::Null);
    }
    *at = new;
    Ok(())
}

/// The message of a YAML error less the place, which is reported beside it.
fn without_place(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message[..at].to_string(),
        None => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_makes_sections_and_refuses_values() {
        let mut root: Value =
            serde_yaml_ng::from_str("{state: {interval: 30s}, version: 1}").unwrap();
        let path = |p: &str| p.split('.').map(str::to_string).collect::<Vec<_>>();
        set(&mut root, &path("state.interval"), "1s".into()).unwrap();
        set(&mut root, &path("model.seed"), 3.into()).unwrap();
        assert_eq!(root["state"]["interval"], "1s");
        assert_eq!(root["model"]["seed"], 3);
        assert_eq!(
            set(&mut root, &path("version.major"), 1.into()),
            Err("version".into())
        );
    }
}
