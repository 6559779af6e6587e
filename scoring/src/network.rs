//! One network of a model: from standardised rows and contexts to raw outputs.

use std::ops::Range;

use sanderling_schemas::{Output, Rung};

use crate::architecture::Architecture;
use crate::attention::{Attention, interleaved};
use crate::cells::Cell;
use crate::error::ScoringError;
use crate::first_stage::FirstStage;
use crate::front::{Embedding, Front, StandardisedRows};
use crate::kernels::activation;
use crate::kernels::dense::{Dense, Rows};
use crate::weights::Weights;

/// Rows that go through the network together: few enough for their numbers to stay in the cache.
pub(crate) const CHUNK_ROWS: usize = 60;

/// One member of a model: what its tensors make.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// One a memory, where it has a cell: the first entity's LSTM, an endpoint's GRU.
    pub(crate) cells: Vec<Option<Cell>>,
    pub(crate) token: Dense,
    body: Body,
}

/// What makes a score of features and context.
#[derive(Debug, Clone)]
enum Body {
    Head(Box<Head>),
    /// The z-scores to expect, from the first entity's memory.
    Forecast(Dense),
}

#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
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

impl Network {
    /// From the network's own tensors.
    pub(crate) fn load(
        shape: &Architecture,
        front: &Front,
        weights: &Weights,
    ) -> Result<Self, ScoringError> {
        let (all, options) = (shape.inputs.len(), &shape.options);
        let body = if options.output == Output::Forecast {
            Body::Forecast(Dense::load(weights, "forecast", all, options.lstm)?)
        } else {
            let every: Vec<usize> = (0..all).collect();
            let mut heads = shape.heads().into_iter();
            let full = heads.next().expect("a shape has a full head");
            Body::Head(Box::new(Head {
                first: FirstStage::load(shape, front, weights)?,
                linear: Dense::load(weights, "linear", 1, 2 * all)?,
                embedding: Embedding::load(front, &every, options.embedding, weights, "embed")?,
                attention: (0..shape.memories.len())
                    .map(|m| match shape.memories[m].attends() {
                        true => Attention::load(shape, m, weights).map(Some),
                        false => Ok(None),
                    })
                    .collect::<Result<_, _>>()?,
                full: Layers::load(shape, weights, full)?,
                no_graph: heads
                    .next()
                    .map(|head| Layers::load(shape, weights, head))
                    .transpose()?,
            }))
        };
        Ok(Self {
            cells: match options.output {
                Output::Forecast => vec![Cell::load(shape, 0, weights)?],
                _ => (0..shape.memories.len())
                    .map(|m| Cell::load(shape, m, weights))
                    .collect::<Result<_, _>>()?,
            },
            token: token(shape, weights)?,
            body,
        })
    }

    /// The first stage's output for each row; 0 where there is no first stage.
    pub(crate) fn first_stage(&self, shape: &Architecture, rows: StandardisedRows<'_>) -> Vec<f32> {
        match &self.body {
            Body::Head(head) => head.first.outputs(rows),
            Body::Forecast(_) => vec![0.0; rows.z.len() / shape.inputs.len()],
        }
    }

    /// The attention over memory `m`, if there is one.
    pub(crate) fn attention(&self, m: usize) -> Option<&Attention> {
        match &self.body {
            Body::Head(head) => head.attention[m].as_ref(),
            Body::Forecast(_) => None,
        }
    }

    /// The output of `rung`, for standardised rows and their contexts.
    pub(crate) fn raw(
        &self,
        shape: &Architecture,
        rows: StandardisedRows<'_>,
        contexts: Contexts<'_>,
        rung: Rung,
    ) -> Vec<f32> {
        let inputs = shape.inputs.len();
        let n = rows.z.len() / inputs;
        let head = match (&self.body, rung) {
            (_, Rung::Rules) => return vec![0.0; n],
            (Body::Forecast(_), Rung::Linear) => {
                let nothing = vec![0.0; inputs];
                return (0..n).map(|r| distance(rows, r, &nothing)).collect();
            }
            (Body::Forecast(expected), _) => {
                let mut forecast = vec![0.0; n * inputs];
                expected.forward(
                    Rows {
                        values: &contexts.values[contexts.own.start..],
                        stride: contexts.stride,
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
        head.outputs(shape, layers, rows, contexts)
    }
}

impl Head {
    fn outputs(
        &self,
        shape: &Architecture,
        layers: &Layers,
        rows: StandardisedRows<'_>,
        contexts: Contexts<'_>,
    ) -> Vec<f32> {
        let embedded = self.embedding.embedded();
        let width = embedded + shape.read_out_size(layers.memories);
        let size = shape.options.key_size();
        let mut x = vec![0.0; CHUNK_ROWS * width];
        let mut query = vec![0.0; CHUNK_ROWS * size];
        let mut weights = Vec::new();
        let mut hidden = layers
            .dense
            .each_ref()
            .map(|dense| vec![0.0; CHUNK_ROWS * dense.outputs()]);
        let total = rows.z.len() / shape.inputs.len();
        let mut out = Vec::with_capacity(total);
        for from in (0..total).step_by(CHUNK_ROWS) {
            let n = CHUNK_ROWS.min(total - from);
            let contexts = (from..from + n).map(|row| contexts.row(row));
            let x = &mut x[..n * width];
            self.embedding
                .fill(rows.slice(from, n, shape.inputs.len()), x, width);
            let mut at = embedded;
            for (attention, layout) in self
                .attention
                .iter()
                .zip(&shape.memories)
                .take(layers.memories)
            {
                let carried = layout.carry.start..layout.scalars.end;
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
                for ((x, query), context) in reads.zip(contexts.clone()) {
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
}

/// The part of one network in some context rows.
#[derive(Clone)]
pub(crate) struct Contexts<'a> {
    pub(crate) values: &'a [f32],
    /// Numbers in a whole row.
    pub(crate) stride: usize,
    /// Those of the network.
    pub(crate) own: Range<usize>,
}

impl<'a> Contexts<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][self.own.clone()]
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
