//! `sanderling model`: which models a pipeline has, whether they are whole, and which one decides.
//!
//! The champion stands in the pipeline's `model/`. What was ever put there is kept beside it, in
//! `models/`, under the beginning of its hash, with the promotions in `models/promotions.jsonl`: so
//! the way back is always there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sanderling_scoring::{Manifest, ServedModel};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, io_failure};
use crate::folder::{PipelineFolder, short};

const PROMOTIONS: &str = "promotions.jsonl";

/// A model that became the champion, or became it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Promotion {
    /// When, RFC 3339.
    at: String,
    /// Hash of the champion before, if there was one.
    from: Option<String>,
    /// Hash of the champion since.
    to: String,
    /// It undid the last promotion.
    #[serde(default)]
    rollback: bool,
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {} decides from now on", short(&self.to))?;
        match &self.from {
            Some(from) => write!(f, ", instead of {}", short(from)),
            None => Ok(()),
        }
    }
}

/// What there is.
#[derive(Debug, Serialize)]
pub struct Listing {
    models: Vec<Listed>,
}

/// A model of a pipeline.
#[derive(Debug, Serialize)]
struct Listed {
    hash: String,
    role: Role,
    path: PathBuf,
    trained_from: String,
    trained_to: String,
    rows: usize,
    average_precision: Option<f64>,
    /// When it last became the champion.
    promoted: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Champion,
    Challenger,
    Kept,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<12}  {:<10}  {:<10}  {:<10}  {:>9}  {:>6}  {:<20}  path",
            "hash", "role", "from", "to", "rows", "AP", "promoted"
        )?;
        for model in &self.models {
            let role = match model.role {
                Role::Champion => "champion",
                Role::Challenger => "challenger",
                Role::Kept => "kept",
            };
            let precision = model.average_precision.map(|ap| format!("{ap:.3}"));
            write!(
                f,
                "\n{:<12}  {role:<10}  {:<10}  {:<10}  {:>9}  {:>6}  {:<20}  {}",
                short(&model.hash),
                model.trained_from,
                model.trained_to,
                model.rows,
                precision.unwrap_or_default(),
                model.promoted.as_deref().unwrap_or_default(),
                model.path.display()
            )?;
        }
        Ok(())
    }
}

/// A model that is whole and fits.
#[derive(Debug, Serialize)]
pub struct Verified {
    hash: String,
    path: PathBuf,
    weights: usize,
    features: String,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: model {} is whole: {} weights, of the features {}",
            self.path.display(),
            short(&self.hash),
            self.weights,
            short(&self.features)
        )
    }
}

/// The models of one pipeline.
pub struct Models<'a> {
    folder: &'a PipelineFolder,
    champion: PathBuf,
    kept: PathBuf,
}

impl<'a> Models<'a> {
    /// Of `folder`.
    pub fn new(folder: &'a PipelineFolder) -> Self {
        let champion = folder.model_path();
        let beside = champion.parent().unwrap_or(Path::new(""));
        Self {
            folder,
            kept: beside.join("models"),
            champion,
        }
    }

    /// All of them, the champion first.
    pub fn list(&self) -> Result<Listing, Failure> {
        let promotions = self.promotions()?;
        let mut places = Vec::new();
        if is_model(&self.champion) {
            places.push((Role::Champion, self.champion.clone()));
        }
        let challengers = self.folder.settings.challengers.iter();
        places.extend(challengers.map(|path| (Role::Challenger, self.folder.path.join(path))));
        places.extend(self.kept()?.into_iter().map(|path| (Role::Kept, path)));
        let mut models: Vec<Listed> = Vec::new();
        for (role, path) in places {
            let manifest = self.load(&path)?.manifest().clone();
            let hash = manifest.weights_sha256;
            if models.iter().any(|known| known.hash == hash) {
                continue;
            }
            let last = promotions.iter().rev().find(|p| p.to == hash);
            models.push(Listed {
                role,
                path,
                trained_from: date(manifest.training.from_us),
                trained_to: date(manifest.training.to_us),
                rows: manifest.training.rows,
                average_precision: manifest.metrics.average_precision,
                promoted: last.map(|p| p.at.clone()),
                hash,
            });
        }
        Ok(Listing { models })
    }

    /// The manifest of a model, the champion's without a name.
    pub fn show(&self, name: Option<&str>) -> Result<Manifest, Failure> {
        Ok(self.load(&self.find(name)?)?.manifest().clone())
    }

    /// Whether a model is whole and one of the pipeline's features.
    pub fn verify(&self, name: Option<&str>) -> Result<Verified, Failure> {
        let path = self.find(name)?;
        let model = self.fitting(&path)?;
        Ok(Verified {
            hash: model.hash().to_string(),
            weights: model.manifest().training.weights,
            features: model.manifest().features.clone(),
            path,
        })
    }

    /// Makes a model the champion. It must have beaten the present one; `untried`: it need not.
    ///
    /// # Errors
    /// One that is damaged or of other features; one that has not beaten the champion.
    pub fn promote(&self, name: &str, untried: bool) -> Result<Promotion, Failure> {
        let path = self.find(Some(name))?;
        let model = self.fitting(&path)?;
        let champion = self.present()?;
        if let Some(champion) = &champion {
            if champion.hash() == model.hash() {
                return Err(Failure::usage(format!(
                    "model {} is the champion already",
                    short(model.hash())
                )));
            }
            if !untried {
                has_won(&model, champion.hash()).map_err(|why| {
                    Failure::new("not_promoted", why).in_file(&path).cure(
                        "train it on from the present champion with --from-model, on days that it can be held against it; or say --untried",
                    )
                })?;
            }
        }
        self.exchange(&model, champion, false)
    }

    /// Undoes the last promotion that was not undone.
    pub fn rollback(&self) -> Result<Promotion, Failure> {
        let mut line: Vec<Option<String>> = Vec::new();
        for promotion in self.promotions()? {
            match promotion.rollback {
                true => _ = line.pop(),
                false => line.push(promotion.from),
            }
        }
        let Some(Some(before)) = line.pop() else {
            return Err(Failure::new("model", "there is no promotion to undo")
                .in_file(&self.kept.join(PROMOTIONS))
                .cure("`sanderling model list` shows what there is; promote one of them"));
        };
        let model = self.fitting(&self.find(Some(&before))?)?;
        self.exchange(&model, self.present()?, true)
    }

    /// Puts `model` in the champion's place, keeps both, and writes it down.
    fn exchange(
        &self,
        model: &Arc<ServedModel>,
        champion: Option<ServedModel>,
        rollback: bool,
    ) -> Result<Promotion, Failure> {
        let keep = |model: &ServedModel| {
            let place = self.kept.join(short(model.hash()));
            match is_model(&place) {
                true => Ok(()),
                false => save(model, &place),
            }
        };
        keep(model)?;
        champion.as_ref().map_or(Ok(()), keep)?;
        // A service that looks meanwhile finds one model, the other or none, and never half of one.
        let aside = |name: &str| self.champion.with_extension(name);
        let (next, before) = (aside("next"), aside("before"));
        for path in [&next, &before] {
            if path.exists() {
                fs::remove_dir_all(path).map_err(|e| io_failure(path, "clear the folder", &e))?;
            }
        }
        save(model, &next)?;
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|e| io_failure(to, "exchange the model", &e))
        };
        if self.champion.exists() {
            rename(&self.champion, &before)?;
        }
        rename(&next, &self.champion)?;
        if before.exists() {
            fs::remove_dir_all(&before).map_err(|e| io_failure(&before, "clear the folder", &e))?;
        }
        let promotion = Promotion {
            at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            from: champion.map(|champion| champion.hash().to_string()),
            to: model.hash().to_string(),
            rollback,
        };
        self.write_down(&promotion)?;
        Ok(promotion)
    }

    fn write_down(&self, promotion: &Promotion) -> Result<(), Failure> {
        use std::io::Write;
        let path = self.kept.join(PROMOTIONS);
        let failed = |e: std::io::Error| io_failure(&path, "write down the promotion", &e);
        let mut line =
            serde_json::to_string(promotion).map_err(|e| Failure::new("output", e.to_string()))?;
        line.push('\n');
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(failed)
    }

    /// All promotions, oldest first.
    fn promotions(&self) -> Result<Vec<Promotion>, Failure> {
        let path = self.kept.join(PROMOTIONS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text =
            fs::read_to_string(&path).map_err(|e| io_failure(&path, "read the promotions", &e))?;
        let lines = text.lines().enumerate();
        lines
            .map(|(number, line)| {
                serde_json::from_str(line).map_err(|e| {
                    Failure::new("model", format!("no promotion: {e}"))
                        .in_file(&path)
                        .at(Some(number + 1), None)
                        .cure("take the line out; `sanderling model list` shows the models that are there")
                })
            })
            .collect()
    }

    /// Folders of the models that were kept, by name.
    fn kept(&self) -> Result<Vec<PathBuf>, Failure> {
        if !self.kept.exists() {
            return Ok(Vec::new());
        }
        let listing =
            fs::read_dir(&self.kept).map_err(|e| io_failure(&self.kept, "list the models", &e))?;
        let mut kept: Vec<PathBuf> = listing
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_model(path))
            .collect();
        kept.sort();
        Ok(kept)
    }

    /// The folder that `name` names: a path, or the beginning of a hash.
    fn find(&self, name: Option<&str>) -> Result<PathBuf, Failure> {
        let Some(name) = name else {
            return Ok(self.champion.clone());
        };
        if is_model(Path::new(name)) {
            return Ok(PathBuf::from(name));
        }
        let Listing { models } = self.list()?;
        let mut named = models
            .into_iter()
            .filter(|model| name.len() >= 4 && model.hash.starts_with(name));
        match (named.next(), named.next()) {
            (Some(model), None) => Ok(model.path),
            _ => Err(
                Failure::usage(format!("`{name}` names no model of {}", self.folder.name))
                    .cure("name a model folder, or at least four digits of a hash that `sanderling model list` shows"),
            ),
        }
    }

    fn present(&self) -> Result<Option<ServedModel>, Failure> {
        match is_model(&self.champion) {
            true => self.load(&self.champion).map(Some),
            false => Ok(None),
        }
    }

    fn load(&self, path: &Path) -> Result<ServedModel, Failure> {
        ServedModel::load(path).map_err(|e| {
            Failure::new("model", e.to_string())
                .in_file(path)
                .cure("put the folder back as it was, or train the model again")
        })
    }

    fn fitting(&self, path: &Path) -> Result<Arc<ServedModel>, Failure> {
        let features = self.folder.features()?;
        self.folder.model_at(path, features.schema())
    }
}

/// Whether the successor's trial was against `champion`, and won.
fn has_won(model: &ServedModel, champion: &str) -> Result<(), String> {
    let Some(trial) = &model.manifest().trial else {
        return Err(
            "the model was trained from nothing and never held against the champion".into(),
        );
    };
    if trial.champion_hash != champion {
        return Err(format!(
            "the model was held against {}, and the champion is {}",
            short(&trial.champion_hash),
            short(champion)
        ));
    }
    match trial.won {
        true => Ok(()),
        false => Err(trial.to_string()),
    }
}

fn is_model(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

fn save(model: &ServedModel, path: &Path) -> Result<(), Failure> {
    model
        .save(path)
        .map_err(|e| Failure::new("model", e.to_string()).in_file(path))
}

fn date(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(String::new, |time| time.date_naive().to_string())
}
