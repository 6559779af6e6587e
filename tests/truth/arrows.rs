//! The arrows between the rooms, as `docs/ARCHITECTURE.md` draws them, held against the manifests
//! and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::sanderling::root;

/// A room's package is called this and the room's name.
const PREFIX: &str = "sanderling-";
/// What a room must not depend on, and what no source of it may name.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("schemas", &["candle-core", "candle-nn", "tokio", "rdkafka"]),
    ("decide", &["tokio", "rdkafka", "candle-core"]),
    ("explain", &["tokio", "rdkafka"]),
    ("state", &["tokio", "rdkafka", "candle-core", "datafusion"]),
];
/// The rooms that may talk to a broker.
const BROKER: [&str; 2] = ["ingest", "service"];

#[test]
fn no_room_depends_on_another_but_as_drawn() {
    let drawn = drawn();
    for (room, dependencies) in manifests() {
        for other in dependencies
            .iter()
            .filter_map(|name| name.strip_prefix(PREFIX))
        {
            assert!(
                drawn[&room].contains(other),
                "{room}/Cargo.toml: {room} -> {other} is not drawn"
            );
        }
        for (file, line, text) in lines_of(&room) {
            for other in drawn.keys().filter(|other| **other != room) {
                let names_it = words(&text).any(|word| word == format!("sanderling_{other}"));
                assert!(
                    !names_it || drawn[&room].contains(other),
                    "{}:{line}: {room} -> {other} is not drawn",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn rooms_stay_free_of_what_they_must_not_know() {
    let manifests = manifests();
    for (room, forbidden) in FORBIDDEN {
        for name in forbidden {
            assert!(
                !manifests[room].contains(*name),
                "{room}/Cargo.toml depends on {name}"
            );
            let module = name.replace('-', "_");
            for (file, line, text) in lines_of(room) {
                let names_it = words(&text).any(|word| word == module);
                assert!(!names_it, "{}:{line} names {name}", file.display());
            }
        }
    }
    for (room, dependencies) in &manifests {
        let may = BROKER.contains(&room.as_str());
        assert!(
            may || !dependencies.contains("rdkafka"),
            "{room}/Cargo.toml depends on rdkafka"
        );
    }
    for (file, line, text) in lines_of("service") {
        let names_it = words(&text).any(|word| word == "rdkafka");
        let of_kafka = file
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("kafka"));
        assert!(
            !names_it || of_kafka,
            "{}:{line}: only the module `kafka` talks to a broker",
            file.display()
        );
    }
}

/// `room -> rooms it may know`, from the indented lines with an arrow in the section on the rooms.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let file = root().join("docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(&file).expect("docs/ARCHITECTURE.md");
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with("The rooms"))
        .expect("The rooms");
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let list = |text: &str| {
        text.split(',')
            .map(|room| room.trim().to_string())
            .collect::<Vec<_>>()
    };
    let arrows = section
        .lines()
        .filter(|line| line.starts_with("    "))
        .filter_map(|l| l.split_once("->"));
    for (from, to) in arrows {
        for room in list(from) {
            drawn.entry(room).or_default().extend(list(to));
        }
    }
    drawn.entry("schemas".into()).or_default();
    let rooms: BTreeSet<String> = drawn
        .keys()
        .filter(|room| *room != "tests")
        .cloned()
        .collect();
    for known in drawn
        .values_mut()
        .filter(|known| known.contains("every room"))
    {
        *known = rooms.clone();
    }
    drawn
}

/// `room -> names of its dependencies`, those of its tests included.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata answers JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let rooms: BTreeMap<String, BTreeSet<String>> = packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a name");
            let room = name
                .strip_prefix(PREFIX)
                .expect("a package is called after its room");
            let folder = Path::new(package["manifest_path"].as_str().expect("a path"));
            assert_eq!(
                folder.parent().and_then(Path::file_name),
                Some(room.as_ref()),
                "{name}"
            );
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter();
            (
                room.into(),
                dependencies
                    .filter_map(|d| Some(d["name"].as_str()?.to_string()))
                    .collect(),
            )
        })
        .collect();
    let drawn = drawn();
    assert!(
        rooms.keys().eq(drawn.keys()),
        "rooms {:?}, drawn {:?}",
        rooms.keys(),
        drawn.keys()
    );
    rooms
}

/// Lines of a room's sources, less comments: file, number from 1, text.
fn lines_of(room: &str) -> Vec<(PathBuf, usize, String)> {
    let mut folders = vec![root().join(room).join("src")];
    let mut lines = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("a source folder")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let code = text
                    .lines()
                    .map(|line| line.split("//").next().unwrap_or_default());
                lines.extend(
                    code.enumerate()
                        .map(|(i, line)| (path.clone(), i + 1, line.to_string())),
                );
            }
        }
    }
    lines
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}
