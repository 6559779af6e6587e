//! A state as a checkpoint holds it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sanderling_scoring::Scorer;

use super::{About, Answer, LaneView, QueryOptions, lane_of, run};
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::failure::Failure;
use crate::folder::{PipelineFolder, short};
use crate::line::Lane;

/// Asks the checkpoint at `path`, or the newest under `state.url`.
pub fn ask(
    folder: &PipelineFolder,
    path: Option<&Path>,
    options: &QueryOptions,
) -> Result<Answer, Failure> {
    let mut about = About::of("checkpoint", &folder.name);
    let mut lanes = Vec::new();
    let mut oldest_s: Option<f64> = None;
    let found = match path {
        Some(path) => vec![at(path)?],
        None => newest(folder)?,
    };
    for (lane, place, checkpoint) in found {
        let manifest = place.join("manifest.json");
        let made = manifest.metadata().and_then(|file| file.modified()).ok();
        let age = made.and_then(|made| SystemTime::now().duration_since(made).ok());
        oldest_s = age
            .map(|age| age.as_secs_f64())
            .into_iter()
            .chain(oldest_s)
            .reduce(f64::max);
        let rows = checkpoint.manifest.sequence;
        lanes.push((view(folder, lane, &place, checkpoint)?, rows));
        about.folder.get_or_insert(place);
    }
    about.age_s = oldest_s;
    run(&options.sql, options.limit, &folder.relation, lanes, about)
}

/// The newest checkpoint of each lane.
fn newest(folder: &PipelineFolder) -> Result<Vec<(Lane, PathBuf, Checkpoint)>, Failure> {
    let url = &folder.settings.state.url;
    let root = PathBuf::from(url.strip_prefix("file://").unwrap_or(url)).join(&folder.name);
    let mut folders = vec![root.clone()];
    for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        if lane_of(&entry.file_name().to_string_lossy()) != Lane::WHOLE {
            folders.push(entry.path());
        }
    }
    folders.sort();
    let mut found = Vec::new();
    for place in folders {
        if let Some(checkpoint) = store(&place)?.newest()? {
            let sequence = checkpoint.manifest.sequence.to_string();
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            found.push((lane_of(&name), place.join(sequence), checkpoint));
        }
    }
    match found.is_empty() {
        true => Err(nothing(&root)),
        false => Ok(found),
    }
}

/// The checkpoint in a folder, or the newest one of those in it.
fn at(path: &Path) -> Result<(Lane, PathBuf, Checkpoint), Failure> {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let path = path.canonicalize().map_err(|_| nothing(path))?;
    let sequence = name(&path).parse::<u64>().ok();
    let place = match (sequence, path.parent()) {
        (Some(_), Some(parent)) => parent.to_path_buf(),
        _ => path.clone(),
    };
    let store = store(&place)?;
    let checkpoint = match sequence {
        Some(sequence) => Some(store.at(sequence).map_err(|why| {
            Failure::new(
                "checkpoint",
                format!("this checkpoint cannot be used: {why}"),
            )
            .in_file(&path)
            .cure("name another one, or the folder of them all: the newest good one is taken")
        })?),
        None => store.newest()?,
    };
    let checkpoint = checkpoint.ok_or_else(|| nothing(&path))?;
    let sequence = checkpoint.manifest.sequence.to_string();
    Ok((lane_of(&name(&place)), place.join(sequence), checkpoint))
}

fn nothing(place: &Path) -> Failure {
    Failure::new("checkpoint", "there is no checkpoint here")
        .in_file(place)
        .cure("name a folder with checkpoints: --checkpoint DIR, or --set state.url=file:///DIR; a replay keeps its own under --out/state")
}

/// The checkpoints in a folder.
fn store(place: &Path) -> Result<CheckpointStore, Failure> {
    let (Some(root), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(nothing(place));
    };
    CheckpointStore::local(root, &name.to_string_lossy()).map_err(|_| nothing(place))
}

fn view(
    folder: &PipelineFolder,
    lane: Lane,
    place: &Path,
    checkpoint: Checkpoint,
) -> Result<LaneView, Failure> {
    let other = |e: String| {
        Failure::new("checkpoint", e).in_file(place).cure(
            "read it with the pipeline's folder that it was made by: its pipeline.yaml and features.sql give it its meaning",
        )
    };
    let mut features = folder.features()?;
    features
        .restore(checkpoint.windows)
        .map_err(|e| other(e.to_string()))?;
    // A folder without a model can still be asked about its windows.
    let mut memories = Vec::new();
    if folder.model_path().join("manifest.json").is_file() {
        let model = folder.model(features.schema())?;
        let mut scorer = Scorer::new(model, features.schema(), &folder.relation, 1)
            .map_err(|e| folder.model_failure(&e))?;
        let state = checkpoint.models.get(scorer.hash()).ok_or_else(|| {
            other(format!(
                "it has no state of the model {}",
                short(scorer.hash())
            ))
        })?;
        scorer.restore(state).map_err(|e| other(e.to_string()))?;
        memories = scorer.memories();
    }
    Ok(LaneView {
        lane,
        windows: features.view().map_err(|e| other(e.to_string()))?,
        memories,
    })
}
