//! A trained model, ready to score.

use std::fs;
use std::path::Path;

use sanderling_schemas::{FeatureField, FeatureSchema, Output, Rung};

use crate::architecture::Architecture;
use crate::attention::{Attention, interleaved};
use crate::cells::Cell;
use crate::error::ScoringError;
use crate::first_stage::FirstStage;
use crate::front::{Embedding, Front, StandardisedRows};
use crate::inputs::{Group, Model, ModelInputs};
use crate::kernels::activation;
use crate::kernels::dense::{Dense, Rows};
use crate::manifest::{Calibration, Manifest, RungCalibrations};
use crate::weights::{Weights, sha256};

const WEIGHTS_FILE: &str = "model.safetensors";
const MANIFEST_FILE: &str = "manifest.json";
/// Rows that go through the network together: few enough for their numbers to stay in the cache.
const CHUNK_ROWS: usize = 60;

/// A model whose weights are fixed. Shared by every scorer, explainer and thread that needs it.
#[derive(Debug)]
pub struct ServedModel {
    manifest: Manifest,
    bytes: Vec<u8>,
    groups: Vec<Group>,
    cold_context: Vec<f32>,
    pub(crate) shape: Architecture,
    pub(crate) front: Front,
    pub(crate) calibrations: RungCalibrations,
    /// One a memory, where it has a cell: the first entity's LSTM, an endpoint's GRU.
    cells: Vec<Option<Cell>>,
    token: Dense,
    /// Mean and deviation of the labels; 0 and 1 for classes.
    label: [f32; 2],
    body: Body,
}

/// What makes a score of features and context.
#[derive(Debug)]
enum Body {
    Head(Box<Head>),
    /// The z-scores to expect, from the first entity's memory.
    Forecast(Dense),
}

#[derive(Debug)]
struct Head {
    first: FirstStage,
    linear: Dense,
    embedding: Embedding,
    /// One a memory, where attention looks over it.
    attention: Vec<Option<Attention>>,
    full: Layers,
    /// Absent where the full head reads no graph either.
    no_graph: Option<Layers>,
}

/// The layers of a head and how many memories it reads.
#[derive(Debug)]
struct Layers {
    memories: usize,
    dense: [Dense; 3],
}

impl Layers {
    fn load(
        shape: &Architecture,
        weights: &Weights,
        (name, memories, hidden): (&str, usize, [usize; 2]),
    ) -> Result<Self, ScoringError> {
        let inputs = shape.embedded(shape.inputs.len()) + shape.read_out_size(memories);
        let layer = |i: usize, outputs, inputs| {
            Dense::load(weights, &format!("{name}.{i}"), outputs, inputs)
        };
        let dense = [
            Self::first(shape, weights, name, memories, (hidden[0], inputs))?,
            layer(1, hidden[1], hidden[0])?,
            layer(2, 1, hidden[1])?,
        ];
        Ok(Self { memories, dense })
    }

    /// The first layer, its inputs in the order in which attention gives what it reads.
    fn first(
        shape: &Architecture,
        weights: &Weights,
        name: &str,
        memories: usize,
        (outputs, inputs): (usize, usize),
    ) -> Result<Dense, ScoringError> {
        let options = &shape.options;
        let mut order: Vec<usize> = (0..inputs).collect();
        let mut at = shape.embedded(shape.inputs.len());
        for layout in &shape.memories[..memories] {
            at += layout.carry.len() + layout.scalars.len();
            if !layout.attends() {
                continue;
            }
            for (i, from) in order[at..at + options.key_size()].iter_mut().enumerate() {
                *from = at + interleaved(i, options.heads, options.head_size);
            }
            at += options.key_size();
        }
        let weight = weights.get(&format!("{name}.0.weight"), &[outputs, inputs])?;
        let rows = weight.chunks_exact(inputs);
        let weight: Vec<f32> = rows
            .flat_map(|row| order.iter().map(|&from| row[from]))
            .collect();
        let bias = weights.get(&format!("{name}.0.bias"), &[outputs])?;
        Ok(Dense::new(&weight, bias, inputs))
    }
}

/// The token of the remembered inputs, as a layer over all inputs.
fn token(shape: &Architecture, weights: &Weights) -> Result<Dense, ScoringError> {
    let (all, some, size) = (shape.inputs.len(), shape.remembered.len(), shape.token);
    let weight = weights.get("token.weight", &[size, some])?;
    let mut wide = vec![0.0; size * all];
    for (wide, weight) in wide.chunks_exact_mut(all).zip(weight.chunks_exact(some)) {
        for (&input, &w) in shape.remembered.iter().zip(weight) {
            wide[input] = w;
        }
    }
    Ok(Dense::new(&wide, weights.get("token.bias", &[size])?, all))
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
        let (all, options) = (shape.inputs.len(), &shape.options);
        let body = if options.output == Output::Forecast {
            Body::Forecast(Dense::load(weights, "forecast", all, options.lstm)?)
        } else {
            let every: Vec<usize> = (0..all).collect();
            let mut heads = shape.heads().into_iter();
            let full = heads.next().expect("a shape has a full head");
            Body::Head(Box::new(Head {
                first: FirstStage::load(&shape, &front, weights)?,
                linear: Dense::load(weights, "linear", 1, 2 * all)?,
                embedding: Embedding::load(&front, &every, options.embedding, weights, "embed")?,
                attention: (0..shape.memories.len())
                    .map(|m| match shape.memories[m].attends() {
                        true => Attention::load(&shape, m, weights).map(Some),
                        false => Ok(None),
                    })
                    .collect::<Result<_, _>>()?,
                full: Layers::load(&shape, weights, full)?,
                no_graph: heads
                    .next()
                    .map(|head| Layers::load(&shape, weights, head))
                    .transpose()?,
            }))
        };
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
            cells: match options.output {
                Output::Forecast => vec![Cell::load(&shape, 0, weights)?],
                _ => (0..shape.memories.len())
                    .map(|m| Cell::load(&shape, m, weights))
                    .collect::<Result<_, _>>()?,
            },
            token: token(&shape, weights)?,
            label: [label[0], label[1]],
            body,
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

    /// The cell of memory `m`, if it has one.
    pub(crate) fn cell(&self, m: usize) -> Option<&Cell> {
        self.cells.get(m)?.as_ref()
    }

    /// A label on the scale of the other inputs.
    pub(crate) fn label_input(&self, value: f32) -> f32 {
        (value - self.label[0]) / self.label[1]
    }

    /// The first stage's output for each row; 0 where there is no first stage.
    pub(crate) fn first_stage(&self, rows: StandardisedRows<'_>) -> Vec<f32> {
        match &self.body {
            Body::Head(head) => head.first.outputs(rows),
            Body::Forecast(_) => vec![0.0; rows.z.len() / self.shape.inputs.len()],
        }
    }

    /// The token of each row, rows x token size.
    pub(crate) fn tokens(&self, rows: StandardisedRows<'_>) -> Vec<f32> {
        let inputs = self.shape.inputs.len();
        let mut out = vec![0.0; rows.z.len() / inputs * self.shape.token];
        self.token.forward(
            Rows {
                values: rows.z,
                stride: inputs,
            },
            &mut out,
        );
        out
    }

    /// Key and value of each event for memory `m`; `inputs` is rows x key inputs.
    pub(crate) fn keys(&self, m: usize, inputs: &[f32], out: &mut [f32]) {
        if let Body::Head(head) = &self.body
            && let Some(attention) = &head.attention[m]
        {
            let stride = self.shape.key_input_size();
            attention.event.forward(
                Rows {
                    values: inputs,
                    stride,
                },
                out,
            );
        }
    }

    /// The output of `rung` before calibration, for standardised rows and their contexts.
    pub(crate) fn raw(&self, rows: StandardisedRows<'_>, context: &[f32], rung: Rung) -> Vec<f32> {
        let inputs = self.shape.inputs.len();
        let n = rows.z.len() / inputs;
        let head = match (&self.body, rung) {
            (_, Rung::Rules) => return vec![0.0; n],
            (Body::Forecast(_), Rung::Linear) => {
                let nothing = vec![0.0; inputs];
                return (0..n).map(|r| distance(rows, r, &nothing)).collect();
            }
            (Body::Forecast(expected), _) => {
                let mut forecast = vec![0.0; n * inputs];
                let stride = self.shape.context_size();
                expected.forward(
                    Rows {
                        values: context,
                        stride,
                    },
                    &mut forecast,
                );
                let forecasts = forecast.chunks_exact(inputs).enumerate();
                return forecasts
                    .map(|(r, forecast)| distance(rows, r, forecast))
                    .collect();
            }
            (Body::Head(head), Rung::Linear) => {
                let mut x = Vec::with_capacity(2 * rows.z.len());
                let parts = rows
                    .z
                    .chunks_exact(inputs)
                    .zip(rows.missing.chunks_exact(inputs));
                for (z, missing) in parts {
                    x.extend_from_slice(z);
                    x.extend_from_slice(missing);
                }
                let mut out = vec![0.0; n];
                head.linear.forward(
                    Rows {
                        values: &x,
                        stride: 2 * inputs,
                    },
                    &mut out,
                );
                return out;
            }
            (Body::Head(head), Rung::Full | Rung::NoGraph) => head,
        };
        let layers = match (&head.no_graph, rung) {
            (Some(layers), Rung::NoGraph) => layers,
            _ => &head.full,
        };
        self.head(head, layers, rows, context)
    }

    fn head(
        &self,
        head: &Head,
        layers: &Layers,
        rows: StandardisedRows<'_>,
        context: &[f32],
    ) -> Vec<f32> {
        let embedded = head.embedding.embedded();
        let width = embedded + self.shape.read_out_size(layers.memories);
        let size = self.shape.options.key_size();
        let mut x = vec![0.0; CHUNK_ROWS * width];
        let mut query = vec![0.0; CHUNK_ROWS * size];
        let mut weights = Vec::new();
        let mut hidden = layers
            .dense
            .each_ref()
            .map(|dense| vec![0.0; CHUNK_ROWS * dense.outputs()]);
        let context_size = self.shape.context_size();
        let total = context.len() / context_size;
        let mut out = Vec::with_capacity(total);
        for from in (0..total).step_by(CHUNK_ROWS) {
            let n = CHUNK_ROWS.min(total - from);
            let context = &context[from * context_size..(from + n) * context_size];
            let x = &mut x[..n * width];
            head.embedding
                .fill(rows.slice(from, n, self.shape.inputs.len()), x, width);
            let mut at = embedded;
            for (attention, layout) in head
                .attention
                .iter()
                .zip(&self.shape.memories)
                .take(layers.memories)
            {
                let carried = layout.carry.start..layout.scalars.end;
                let contexts = context.chunks_exact(context_size);
                for (x, context) in x.chunks_exact_mut(width).zip(contexts.clone()) {
                    x[at..at + carried.len()].copy_from_slice(&context[carried.clone()]);
                }
                at += carried.len();
                let Some(attention) = attention else {
                    continue;
                };
                let query = &mut query[..n * size];
                attention.query.forward(
                    Rows {
                        values: x,
                        stride: width,
                    },
                    query,
                );
                let reads = x.chunks_exact_mut(width).zip(query.chunks_exact(size));
                for ((x, query), context) in reads.zip(contexts) {
                    attention.read(query, context, &mut weights, &mut x[at..at + size]);
                }
                at += size;
            }
            let [first, second, last] = &mut hidden;
            let (first, second) = (
                &mut first[..n * layers.dense[0].outputs()],
                &mut second[..n * layers.dense[1].outputs()],
            );
            layers.dense[0].forward(
                Rows {
                    values: x,
                    stride: width,
                },
                first,
            );
            activation::gelu(first);
            layers.dense[1].forward(
                Rows {
                    values: first,
                    stride: layers.dense[0].outputs(),
                },
                second,
            );
            activation::gelu(second);
            layers.dense[2].forward(
                Rows {
                    values: second,
                    stride: layers.dense[1].outputs(),
                },
                &mut last[..n],
            );
            out.extend_from_slice(&last[..n]);
        }
        out
    }

    /// Calibrated scores of standardised rows.
    pub(crate) fn scores(
        &self,
        rows: StandardisedRows<'_>,
        context: &[f32],
        rung: Rung,
    ) -> Vec<f64> {
        let calibration = self.calibration(rung);
        self.raw(rows, context, rung)
            .into_iter()
            .map(|raw| calibration.apply(raw))
            .collect()
    }
}

/// Root mean square of z-score minus forecast over the inputs that are there; 0 where none is.
fn distance(rows: StandardisedRows<'_>, row: usize, forecast: &[f32]) -> f32 {
    let from = row * forecast.len();
    let (mut sum, mut present) = (0.0f32, 0.0f32);
    for (i, expected) in forecast.iter().enumerate() {
        if rows.missing[from + i] == 0.0 {
            let gap = rows.z[from + i] - expected;
            sum += gap * gap;
            present += 1.0;
        }
    }
    if present == 0.0 {
        0.0
    } else {
        (sum / present).sqrt()
    }
}

impl Model for ServedModel {
    fn forward(&self, inputs: &ModelInputs, rung: Rung) -> Vec<f64> {
        let rows = self.front.standardise(&inputs.features);
        self.scores(rows.all(), &inputs.context, rung)
    }
}
