//! A scenario's folder: which pipeline, which input, which model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use serde::Deserialize;

use crate::sanderling::{self, answer, root, shared};

/// `scenario.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    #[allow(dead_code)]
    about: String,
    /// The pipeline's folder, from the root of the repository.
    pub pipeline: String,
    /// Input to simulate.
    #[serde(default)]
    simulate: Option<Simulate>,
    /// How its model is trained.
    #[serde(default)]
    train: Option<Train>,
    /// The scenario whose model it runs instead.
    #[serde(default)]
    model_of: Option<String>,
    /// Further arguments of `replay`.
    #[serde(default)]
    pub replay: Vec<String>,
    /// Sizes of batches that must change nothing.
    pub batch_rows: Vec<u32>,
    #[serde(skip)]
    pub folder: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Simulate {
    seed: u64,
    days: u32,
    start: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Train {
    from: String,
    to: String,
    seed: u64,
    /// Settings that keep it quick.
    sets: Vec<String>,
}

impl Scenario {
    /// The scenario of that name.
    pub fn open(name: &str) -> Self {
        let folder = root().join("tests/scenarios").join(name);
        let file = folder.join("scenario.yaml");
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let scenario: Scenario =
            serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Scenario { folder, ..scenario }
    }

    fn name(&self) -> String {
        self.folder
            .file_name()
            .expect("a scenario has a name")
            .to_string_lossy()
            .into_owned()
    }

    /// The settings that keep its training quick, as arguments.
    pub fn quick(&self) -> Vec<&str> {
        let train = self
            .train
            .as_ref()
            .expect("a scenario that trains its model");
        train.sets.iter().flat_map(|set| ["--set", set]).collect()
    }

    /// Its simulated input, made once in a run of the tests.
    pub fn simulated(&self) -> PathBuf {
        let simulate = self
            .simulate
            .as_ref()
            .expect("a scenario that simulates its input");
        once(&format!("{}.parquet", self.name()), |out| {
            sanderling::simulate(out, simulate.seed, simulate.days, &simulate.start);
        })
    }

    /// The model it runs, trained once in a run of the tests on `input`.
    pub fn model(&self, input: &Path) -> PathBuf {
        if let Some(other) = &self.model_of {
            let other = Scenario::open(other);
            return other.model(&other.simulated());
        }
        once(&format!("{}-model", self.name()), |out| {
            answer(&self.training(input, out));
        })
    }

    /// The arguments that train its model on `input` into `out`.
    pub fn training(&self, input: &Path, out: &Path) -> Vec<String> {
        let train = self
            .train
            .as_ref()
            .expect("a scenario that trains its model");
        let [input, out] = [input, out].map(|path| path.to_str().expect("a plain path"));
        let seed = train.seed.to_string();
        let mut args = vec!["train", &self.pipeline, "--input", input, "--out", out];
        args.extend(["--from", &train.from, "--to", &train.to, "--seed", &seed]);
        args.extend(self.quick());
        args.into_iter().map(String::from).collect()
    }
}

/// Makes `name` in the shared folder, unless another test has made it or is about to.
fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static MADE: LazyLock<Mutex<BTreeMap<String, Arc<OnceLock<()>>>>> =
        LazyLock::new(Mutex::default);
    let path = shared().join(name);
    let cell = MADE
        .lock()
        .expect("no test panics here")
        .entry(name.into())
        .or_default()
        .clone();
    cell.get_or_init(|| make(&path));
    path
}
