//! A trained model, ready to score.

use std::fs;
use std::path::Path;

use sanderling_schemas::{FeatureField, FeatureSchema, Output, Rung};
use sanderling_state::Threads;

use crate::architecture::Architecture;
use crate::background::Background;
use crate::cells::Cell;
use crate::device::{DeviceHeads, Placement};
use crate::error::ScoringError;
use crate::front::{Front, StandardisedRows};
use crate::inputs::{Group, Model, ModelInputs};
use crate::kernels::dense::Rows;
use crate::manifest::{Calibration, Manifest, RungCalibrations};
use crate::network::{Contexts, Network};
use crate::weights::{Weights, sha256};

const WEIGHTS_FILE: &str = "model.safetensors";
const MANIFEST_FILE: &str = "manifest.json";
/// A model whose weights are fixed. Shared by every scorer, explainer and thread that needs it.
#[derive(Debug, Clone)]
pub struct ServedModel {
    manifest: Manifest,
    bytes: Vec<u8>,
    groups: Vec<Group>,
    cold_context: Vec<f32>,
    pub(crate) shape: Architecture,
    pub(crate) front: Front,
    pub(crate) calibrations: RungCalibrations,
    /// What no input tells of a class, where rows differ in it.
    background: Option<Background>,
    /// Mean and deviation of the labels; 0 and 1 for classes.
    label: [f32; 2],
    networks: Vec<Network>,
    placement: Placement,
    /// Where the heads are, unless the networks' own kernels score.
    heads: Option<DeviceHeads>,
}

/// The schema that a manifest's inputs make.
fn schema_of(manifest: &Manifest) -> FeatureSchema {
    let fields = manifest
        .inputs
        .iter()
        .map(|input| FeatureField {
            name: input.name.clone(),
            data_type: arrow::datatypes::DataType::Float64,
            entity: input.entity,
            from_label: input.from_label,
        })
        .collect();
    FeatureSchema {
        fields,
        hash: manifest.features.as_str().into(),
    }
}

impl ServedModel {
    /// Reads a model folder.
    ///
    /// # Errors
    /// [`ScoringError::Folder`] for a file that is missing or no model, [`ScoringError::WeightsHash`]
    /// for weights that the manifest does not name, [`ScoringError::Tensor`] for a tensor that
    /// does not fit the manifest's sizes.
    pub fn load(dir: &Path) -> Result<Self, ScoringError> {
        let at = |file: &str| dir.join(file).display().to_string();
        let failed = |file: &str, message: String| ScoringError::Folder {
            path: at(file),
            message,
        };
        let text = fs::read_to_string(dir.join(MANIFEST_FILE)).map_err(|e| {
            failed(
                MANIFEST_FILE,
                format!("{e}; `sanderling train` makes a model folder"),
            )
        })?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|e| failed(MANIFEST_FILE, e.to_string()))?;
        let bytes =
            fs::read(dir.join(WEIGHTS_FILE)).map_err(|e| failed(WEIGHTS_FILE, e.to_string()))?;
        let found = sha256(&bytes);
        if found != manifest.weights_sha256 {
            let (path, expected) = (at(WEIGHTS_FILE), manifest.weights_sha256);
            return Err(ScoringError::WeightsHash {
                path,
                expected,
                found,
            });
        }
        let weights =
            Weights::from_bytes(&bytes).map_err(|message| failed(WEIGHTS_FILE, message))?;
        Self::new(manifest, &weights, bytes)
    }

    /// The same model, with its heads where `placement` says. A forecast has none: it stays on the CPU.
    ///
    /// # Errors
    /// [`ScoringError::Candle`] where the device does not take them.
    pub fn placed(&self, placement: &Placement) -> Result<Self, ScoringError> {
        let (placement, heads) = match placement.device() {
            // Why a device was not to be had stays with it.
            None => (placement.clone(), None),
            Some(_) if self.output() == Output::Forecast => (Placement::default(), None),
            Some(device) => {
                let weights = self.weights()?;
                let heads = DeviceHeads::load(&self.shape, &self.front, &weights, device)?;
                (placement.clone(), Some(heads))
            }
        };
        Ok(Self {
            placement,
            heads,
            ..self.clone()
        })
    }

    /// Where it scores.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What fixes the rounding of its scores.
    pub fn numerics(&self) -> &str {
        self.placement.numerics()
    }

    /// Writes the model folder, making it if need be. The manifest comes last, so that a folder
    /// with one is whole.
    pub fn save(&self, dir: &Path) -> Result<(), ScoringError> {
        let failed = |file: &str, message: String| ScoringError::Folder {
            path: dir.join(file).display().to_string(),
            message,
        };
        fs::create_dir_all(dir).map_err(|e| failed("", e.to_string()))?;
        fs::write(dir.join(WEIGHTS_FILE), &self.bytes)
            .map_err(|e| failed(WEIGHTS_FILE, e.to_string()))?;
        let mut text = serde_json::to_string_pretty(&self.manifest)
            .map_err(|e| failed(MANIFEST_FILE, e.to_string()))?;
        text.push('\n');
        fs::write(dir.join(MANIFEST_FILE), text).map_err(|e| failed(MANIFEST_FILE, e.to_string()))
    }

    /// A model of a manifest and the weights that it names; `bytes` are the weights' file.
    pub(crate) fn new(
        manifest: Manifest,
        weights: &Weights,
        bytes: Vec<u8>,
    ) -> Result<Self, ScoringError> {
        let schema = schema_of(&manifest);
        let shape = Architecture::new(&manifest.sizes, &schema, &manifest.entities)?;
        let front = Front::load(&shape, weights)?;
        let networks = (0..shape.options.members)
            .map(|member| Network::load(&shape, &front, &weights.of_member(member)))
            .collect::<Result<_, _>>()?;
        let affine = weights.get("calibration", &[4, 2])?;
        let label = weights.get("label", &[2])?;
        let rung = |i: usize| Calibration {
            slope: f64::from(affine[2 * i]),
            intercept: f64::from(affine[2 * i + 1]),
        };
        Ok(Self {
            groups: shape.groups(&schema),
            cold_context: vec![0.0; shape.context_size()],
            calibrations: RungCalibrations {
                full: rung(0),
                no_graph: rung(1),
                linear: rung(2),
                rules: rung(3),
            },
            background: Background::load(&shape, weights)?,
            label: [label[0], label[1]],
            networks,
            placement: Placement::default(),
            heads: None,
            front,
            shape,
            manifest,
            bytes,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the weights, hex: the model's version, and what its state is keyed by.
    pub fn hash(&self) -> &str {
        &self.manifest.weights_sha256
    }

    /// What the score means.
    pub fn output(&self) -> Output {
        self.shape.options.output
    }

    /// The attribution groups: `event`, then one an entity.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The context row of entities that were never seen.
    pub fn cold_context(&self) -> &[f32] {
        &self.cold_context
    }

    /// Training median of each column of the feature schema; NaN where most were NULL.
    pub fn medians(&self) -> &[f32] {
        self.front.medians()
    }

    /// Columns of a feature row.
    pub fn columns(&self) -> usize {
        self.shape.columns
    }

    /// Numbers in a context row.
    pub fn context_size(&self) -> usize {
        self.shape.context_size()
    }

    /// The score that every row gets on the last rung: the training rows' base rate.
    pub fn base_score(&self) -> f64 {
        self.calibrations.rules.intercept
    }

    /// The calibration of a rung.
    fn calibration(&self, rung: Rung) -> Calibration {
        match rung {
            Rung::Full => self.calibrations.full,
            Rung::NoGraph => self.calibrations.no_graph,
            Rung::Linear => self.calibrations.linear,
            Rung::Rules => self.calibrations.rules,
        }
    }

    /// Number of networks.
    pub(crate) fn members(&self) -> usize {
        self.networks.len()
    }

    /// The cell of a network's memory `m`, if it has one.
    pub(crate) fn cell(&self, member: usize, m: usize) -> Option<&Cell> {
        self.networks[member].cells.get(m)?.as_ref()
    }

    /// Mean and deviation of the labels that it was trained on; 0 and 1 for classes.
    pub(crate) fn label(&self) -> [f32; 2] {
        self.label
    }

    /// All its tensors.
    pub(crate) fn weights(&self) -> Result<Weights, ScoringError> {
        Weights::from_bytes(&self.bytes).map_err(|message| ScoringError::Folder {
            path: WEIGHTS_FILE.to_string(),
            message,
        })
    }

    /// A label on the scale of the other inputs.
    pub(crate) fn label_input(&self, value: f32) -> f32 {
        (value - self.label[0]) / self.label[1]
    }

    /// A network's first stage for each row; 0 where there is no first stage.
    pub(crate) fn first_stage(&self, member: usize, rows: StandardisedRows<'_>) -> Vec<f32> {
        self.networks[member].first_stage(&self.shape, rows)
    }

    /// A network's token of each row, rows x token size.
    pub(crate) fn tokens(&self, member: usize, rows: StandardisedRows<'_>) -> Vec<f32> {
        let inputs = self.shape.inputs.len();
        let mut out = vec![0.0; rows.z.len() / inputs * self.shape.token];
        self.networks[member].token.forward(
            Rows {
                values: rows.z,
                stride: inputs,
            },
            &mut out,
        );
        out
    }

    /// A network's key and value of each event for memory `m`; `inputs` is rows x key inputs.
    pub(crate) fn keys(
        &self,
        threads: &Threads,
        member: usize,
        m: usize,
        inputs: &[f32],
        out: &mut [f32],
    ) {
        if let Some(attention) = self.networks[member].attention(m) {
            let rows = Rows {
                values: inputs,
                stride: self.shape.key_input_size(),
            };
            attention.event.forward_on(threads, rows, out);
        }
    }

    /// The heads that `rung` is computed by, if they are on a device.
    pub(crate) fn heads(&self, rung: Rung) -> Option<&DeviceHeads> {
        let has_head = matches!(rung, Rung::Full | Rung::NoGraph);
        self.heads.as_ref().filter(|_| has_head)
    }

    /// The output of `rung` before calibration by the CPU's kernels, for standardised rows and their
    /// contexts: the mean over the networks.
    pub(crate) fn raw(&self, rows: StandardisedRows<'_>, context: &[f32], rung: Rung) -> Vec<f32> {
        let mut networks = self.networks.iter().enumerate().map(|(member, network)| {
            let size = self.shape.member_context();
            let contexts = Contexts {
                values: context,
                stride: self.shape.context_size(),
                own: member * size..(member + 1) * size,
            };
            network.raw(&self.shape, rows, contexts, rung)
        });
        let mut sum = networks.next().expect("a model has a network");
        if self.networks.len() > 1 {
            for raw in networks {
                sum.iter_mut().zip(raw).for_each(|(sum, raw)| *sum += raw);
            }
            let share = 1.0 / self.networks.len() as f32;
            sum.iter_mut().for_each(|sum| *sum *= share);
        }
        sum
    }

    /// Turns the networks' outputs for some rows into those of the rung, in place: with what no input tells.
    pub(crate) fn complete(&self, raw: &mut [f32], rows: StandardisedRows<'_>, rung: Rung) {
        if let Some(background) = self.background.filter(|_| rung != Rung::Rules) {
            background.add_to(raw, rows);
        }
    }

    /// The scores of some outputs.
    pub(crate) fn calibrated(&self, raw: Vec<f32>, rung: Rung) -> Vec<f64> {
        let calibration = self.calibration(rung);
        raw.into_iter().map(|raw| calibration.apply(raw)).collect()
    }
}

impl Model for ServedModel {
    fn forward(&self, inputs: &ModelInputs, rung: Rung) -> Result<Vec<f64>, ScoringError> {
        let rows = self.front.standardise(&inputs.features);
        let mut raw = match self.heads(rung) {
            Some(heads) => heads.raw(rows.all(), &inputs.context, rung)?,
            None => self.raw(rows.all(), &inputs.context, rung),
        };
        self.complete(&mut raw, rows.all(), rung);
        Ok(self.calibrated(raw, rung))
    }
}
