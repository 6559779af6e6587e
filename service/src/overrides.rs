//! What lies over the file: `SANDERLING__SECTION__KEY` in the environment, then `--set path=value`.
//!
//! `SANDERLING__SECTION__KEY_FILE=path` reads the value from a file, as secrets are mounted. Under
//! `kafka.properties` a name is one property of librdkafka: `SASL_PASSWORD` is `sasl.password`, and
//! its value is taken as text, whatever it looks like. What came from a file, or is a property, is
//! never repeated in a message.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_yaml_ng::Value;

use crate::failure::{Failure, io_failure};

/// Begins the name of every variable that is a setting.
const PREFIX: &str = "SANDERLING__";
/// Where properties of librdkafka stand.
const PROPERTIES: [&str; 2] = ["kafka", "properties"];
/// Ends the name of a variable whose value is in a file.
const FILE_SUFFIX: &str = "_file";
/// Settings that are themselves the path of a file, so that their variables are no exception.
const FILE_KEYS: [&str; 4] = [
    "password_file",
    "ca_file",
    "hash_key_file",
    "dead_letter_key_file",
];
/// A value is no longer than this.
const VALUE_BYTES_MAX: u64 = 1 << 20;

/// One key that is given another value.
pub struct Override {
    /// The variable or the flag, for messages.
    pub origin: String,
    /// The key's path.
    pub path: Vec<String>,
    /// The value.
    pub value: Value,
    /// The value must not be shown.
    pub hidden: bool,
}

/// The overrides of the environment, then of `sets`, each a `path=value`.
///
/// # Errors
/// A set without `=`, a file that cannot be read, and a key that is given both ways.
pub fn all(sets: &[String]) -> Result<Vec<Override>, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut all = of_environment(environment)?;
    for set in sets {
        all.push(of_set(set)?);
    }
    Ok(all)
}

fn of_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Vec<Override>, Failure> {
    let mut variables: Vec<(String, String)> = variables
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    let mut all: Vec<Override> = Vec::with_capacity(variables.len());
    for (name, value) in variables {
        let mut path: Vec<String> = name[PREFIX.len()..]
            .split("__")
            .map(str::to_lowercase)
            .collect();
        let from_file = value_is_in_a_file(&mut path);
        let value = match from_file {
            true => read(&name, Path::new(&value))?,
            false => value,
        };
        let property = is_property(&path);
        if property {
            let name = path[2..].join("__").replace('_', ".");
            path.truncate(2);
            path.push(name);
        }
        if let Some(other) = all.iter().find(|known| known.path == path) {
            return Err(Failure::usage(format!(
                "{} and {name} both set `{}`",
                other.origin,
                path.join(".")
            ))
            .cure("unset one of them"));
        }
        all.push(Override {
            value: match property {
                true => Value::String(value),
                false => scalar(value),
            },
            origin: name,
            path,
            hidden: property || from_file,
        });
    }
    Ok(all)
}

fn of_set(set: &str) -> Result<Override, Failure> {
    let Some((path, value)) = set.split_once('=') else {
        // What stands there may be a secret with its `=` forgotten.
        return Err(Failure::usage("--set: there is no `=`")
            .cure("write --set path=value, for example --set state.interval=10s"));
    };
    let mut keys: Vec<String> = path.split('.').map(str::to_string).collect();
    let property = is_property(&keys);
    if property {
        let name = keys.split_off(2).join(".");
        keys.push(name);
    }
    Ok(Override {
        origin: format!("--set {path}"),
        path: keys,
        value: match property {
            true => Value::String(value.into()),
            false => scalar(value.into()),
        },
        hidden: property,
    })
}

/// Takes `_file` off the last name of the path, unless the setting itself is called so.
fn value_is_in_a_file(path: &mut [String]) -> bool {
    let Some(last) = path.last_mut() else {
        return false;
    };
    if FILE_KEYS.contains(&last.as_str()) {
        return false;
    }
    match last.strip_suffix(FILE_SUFFIX) {
        Some(key) if !key.is_empty() => {
            *last = key.to_string();
            true
        }
        _ => false,
    }
}

fn is_property(path: &[String]) -> bool {
    path.len() > 2 && path[..2] == PROPERTIES
}

fn scalar(text: String) -> Value {
    serde_yaml_ng::from_str(&text).unwrap_or(Value::String(text))
}

/// The content of the file that the variable `name` points to, less the newline at its end.
fn read(name: &str, path: &Path) -> Result<String, Failure> {
    let doing = format!("read the file of {name}");
    let file = File::open(path).map_err(|e| io_failure(path, &doing, &e))?;
    let mut text = String::new();
    file.take(VALUE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| io_failure(path, &doing, &e))?;
    if let Some(cut) = text.strip_suffix('\n') {
        text.truncate(cut.strip_suffix('\r').unwrap_or(cut).len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Vec<Override>, Failure> {
        let owned = variables
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()));
        of_environment(owned)
    }

    fn only(variables: &[(&str, &str)]) -> (String, Value) {
        let mut all = environment(variables).unwrap();
        assert_eq!(all.len(), 1);
        let one = all.remove(0);
        (one.path.join("/"), one.value)
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_string();
        (folder, path)
    }

    #[test]
    fn a_variable_is_a_path_and_a_value_of_its_kind() {
        assert_eq!(
            only(&[("SANDERLING__STATE__INTERVAL", "10s"), ("HOME", "/")]),
            ("state/interval".into(), "10s".into())
        );
        assert_eq!(
            only(&[("SANDERLING__DEADLINE_MS", "20")]),
            ("deadline_ms".into(), 20.into())
        );
    }

    #[test]
    fn a_property_keeps_its_text_and_gets_its_dots() {
        for text in ["hunter2", "0123", "yes", "{a: b}", "a: #b", ""] {
            assert_eq!(
                only(&[("SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD", text)]),
                ("kafka/properties/sasl.password".into(), text.into())
            );
            let set = of_set(&format!("kafka.properties.sasl.password={text}")).unwrap();
            assert_eq!(set.path, ["kafka", "properties", "sasl.password"]);
            assert_eq!(set.value, Value::from(text));
            assert!(set.hidden && !set.origin.contains("hunter2"));
        }
    }

    #[test]
    fn a_secret_is_read_from_its_file_less_the_newline() {
        for (content, value) in [
            ("hunter2", "hunter2"),
            ("hunter2\n", "hunter2"),
            ("hunter2\r\n", "hunter2"),
            ("hunter2\n\n", "hunter2\n"),
            (" 0123 \n", " 0123 "),
        ] {
            let (_folder, path) = file(content);
            assert_eq!(
                only(&[("SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", &path)]),
                ("kafka/properties/sasl.password".into(), value.into())
            );
        }
        let (_folder, path) = file("20\n");
        assert_eq!(
            only(&[("SANDERLING__DEADLINE_MS_FILE", &path)]),
            ("deadline_ms".into(), 20.into())
        );
        // A setting that is the path of a file stays one.
        assert_eq!(
            only(&[("SANDERLING__DEAD_LETTER_KEY_FILE", "/run/secrets/key")]),
            ("dead_letter_key_file".into(), "/run/secrets/key".into())
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_its_value() {
        let (_folder, path) = file("hunter2\n");
        let plain = ("SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter3");
        let twice = [
            plain,
            ("SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", &path),
        ];
        let gone = [(
            "SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD_FILE",
            "/gone/secret",
        )];
        for (refused, named) in [
            (environment(&twice).err(), "SASL_PASSWORD_FILE"),
            (environment(&gone).err(), "SASL_PASSWORD_FILE"),
            (
                of_set("kafka.properties.sasl.password:hunter2").err(),
                "--set",
            ),
        ] {
            let refused = refused.unwrap();
            let text = format!("{refused:?}");
            assert!(text.contains(named) && refused.cure.is_some(), "{text}");
            assert!(!text.contains("hunter"), "{text}");
        }
    }
}
