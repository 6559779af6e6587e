//! The heads of a model as candle's tensors, on a device and in a precision.
//!
//! A row's bits must not depend on its batch, but a library of products picks its order of adding by
//! their shape. So all products here are over [`ROWS`] rows, of which the last may be nobody's. What a batch
//! needs goes to the device in one copy, and its outputs come back in one.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::softmax;
use sanderling_schemas::Rung;

use crate::architecture::{Architecture, MemoryLayout};
use crate::attention::softplus;
use crate::error::ScoringError;
use crate::front::{Front, StandardisedRows};
use crate::weights::Weights;

/// Rows of every product.
const ROWS: usize = 256;
/// What a missing value's logarithm is on the device: below every bin.
const BELOW_ALL: f32 = -1e30;

/// The full head and the one without graph of all networks of a model.
#[derive(Debug, Clone)]
pub(crate) struct DeviceHeads {
    device: Device,
    members: Vec<MemberHeads>,
    inputs: usize,
    context: usize,
}

/// The heads of one network.
#[derive(Debug, Clone)]
struct MemberHeads {
    dtype: DType,
    /// Where the network's part of a context row begins.
    from: usize,
    embedding: Option<Embedding>,
    memories: Vec<(MemoryLayout, Option<Attention>)>,
    heads: Vec<Head>,
}

/// Piecewise-linear embeddings.
#[derive(Debug, Clone)]
struct Embedding {
    /// 1 x inputs x bins, f32: lower edges, and 1 / width; 0 and 0 where there is no such bin.
    edges: Tensor,
    inverse: Tensor,
    /// inputs x bins x size.
    weight: Tensor,
    /// inputs x 1 x size.
    bias: Tensor,
}

#[derive(Debug, Clone)]
struct Attention {
    query: Layer,
    /// 1 x 1 x heads, f32.
    decay: Tensor,
    heads: usize,
    head_size: usize,
}

#[derive(Debug, Clone)]
struct Head {
    /// Memories that it reads.
    memories: usize,
    layers: [Layer; 3],
}

/// `x W + b`.
#[derive(Debug, Clone)]
struct Layer {
    /// inputs x outputs.
    weight: Tensor,
    bias: Tensor,
}

/// Makes tensors of a network's weights.
struct Loader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    dtype: DType,
}

impl Loader<'_> {
    fn tensor(&self, values: &[f32], shape: &[usize]) -> Result<Tensor, ScoringError> {
        Ok(Tensor::from_slice(values, shape, self.device)?.to_dtype(self.dtype)?)
    }

    fn layer(&self, name: &str, outputs: usize, inputs: usize) -> Result<Layer, ScoringError> {
        let shape = [outputs, inputs];
        let weight = self.weights.get(&format!("{name}.weight"), &shape)?;
        let bias = self.weights.get(&format!("{name}.bias"), &[outputs])?;
        Ok(Layer {
            weight: self.tensor(weight, &shape)?.t()?.contiguous()?,
            bias: self.tensor(bias, &[outputs])?,
        })
    }

    fn embedding(
        &self,
        inputs: usize,
        size: usize,
        front: &Front,
    ) -> Result<Embedding, ScoringError> {
        let bins = front.bins();
        let (mut edges, mut inverse) = (Vec::new(), Vec::new());
        for input in 0..inputs {
            for bounds in front.edges_of(input).windows(2) {
                let real = bounds[1].is_finite();
                edges.push(if real { bounds[0] } else { 0.0 });
                inverse.push(if real {
                    1.0 / (bounds[1] - bounds[0])
                } else {
                    0.0
                });
            }
        }
        let (shape, table) = ([inputs, bins, size], (1, inputs, bins));
        let weight = self.weights.get("embed.weight", &shape)?;
        let bias = self.weights.get("embed.bias", &[inputs, size])?;
        Ok(Embedding {
            edges: Tensor::from_vec(edges, table, self.device)?,
            inverse: Tensor::from_vec(inverse, table, self.device)?,
            weight: self.tensor(weight, &shape)?,
            bias: self.tensor(bias, &[inputs, 1, size])?,
        })
    }

    fn attention(&self, shape: &Architecture, m: usize) -> Result<Attention, ScoringError> {
        let options = &shape.options;
        let name = |part: &str| format!("attention.{m}.{part}");
        let decay = self.weights.get(&name("decay"), &[options.heads])?;
        let decay = decay.iter().map(|&x| softplus(x)).collect();
        Ok(Attention {
            query: self.layer(
                &name("query"),
                options.key_size(),
                shape.embedded(shape.inputs.len()),
            )?,
            decay: Tensor::from_vec(decay, (1, 1, options.heads), self.device)?,
            heads: options.heads,
            head_size: options.head_size,
        })
    }

    fn heads(
        &self,
        shape: &Architecture,
        front: &Front,
        from: usize,
    ) -> Result<MemberHeads, ScoringError> {
        let (inputs, size) = (shape.inputs.len(), shape.options.embedding);
        let embedding = match size {
            0 => None,
            size => Some(self.embedding(inputs, size, front)?),
        };
        let memories = shape.memories.iter().enumerate();
        let memories = memories.map(|(m, layout)| {
            let attention = layout.attends().then(|| self.attention(shape, m));
            Ok((layout.clone(), attention.transpose()?))
        });
        let heads = shape.heads().into_iter().map(|(name, memories, hidden)| {
            let width = shape.embedded(inputs) + shape.read_out_size(memories);
            let layer =
                |i: usize, outputs, inputs| self.layer(&format!("{name}.{i}"), outputs, inputs);
            Ok(Head {
                memories,
                layers: [
                    layer(0, hidden[0], width)?,
                    layer(1, hidden[1], hidden[0])?,
                    layer(2, 1, hidden[1])?,
                ],
            })
        });
        Ok(MemberHeads {
            dtype: self.dtype,
            from,
            embedding,
            memories: memories.collect::<Result<_, ScoringError>>()?,
            heads: heads.collect::<Result<_, ScoringError>>()?,
        })
    }
}

impl DeviceHeads {
    /// The heads of a model with these weights.
    pub(crate) fn load(
        shape: &Architecture,
        front: &Front,
        weights: &Weights,
        (device, dtype): (&Device, DType),
    ) -> Result<Self, ScoringError> {
        let members = (0..shape.options.members).map(|member| {
            let loader = Loader {
                weights: &weights.of_member(member),
                device,
                dtype,
            };
            loader.heads(shape, front, member * shape.member_context())
        });
        Ok(Self {
            members: members.collect::<Result<_, _>>()?,
            device: device.clone(),
            inputs: shape.inputs.len(),
            context: shape.context_size(),
        })
    }

    /// What a rung with a head puts out before calibration, for standardised rows and their contexts: the
    /// mean over the networks.
    pub(crate) fn raw(
        &self,
        rows: StandardisedRows<'_>,
        contexts: &[f32],
        rung: Rung,
    ) -> Result<Vec<f32>, ScoringError> {
        let n = rows.z.len() / self.inputs;
        if n == 0 {
            return Ok(Vec::new());
        }
        let padded = n.next_multiple_of(ROWS);
        let width = 3 * self.inputs + self.context;
        let mut cells = Vec::with_capacity(padded * width);
        let logs = rows.logs.chunks_exact(self.inputs);
        let standard =
            (rows.z.chunks_exact(self.inputs)).zip(rows.missing.chunks_exact(self.inputs));
        let all = logs.zip(standard).zip(contexts.chunks_exact(self.context));
        for ((logs, (z, missing)), context) in all {
            let finite = |log: &f32| match log.is_nan() {
                true => BELOW_ALL,
                false => log.clamp(BELOW_ALL, -BELOW_ALL),
            };
            cells.extend(logs.iter().map(finite));
            cells.extend_from_slice(z);
            cells.extend_from_slice(missing);
            cells.extend_from_slice(context);
        }
        cells.resize(padded * width, 0.0);
        let cells = Tensor::from_vec(cells, (padded, width), &self.device)?;
        let mut outputs = Vec::with_capacity(padded / ROWS);
        for from in (0..padded).step_by(ROWS) {
            let rows = cells.narrow(0, from, ROWS)?;
            let mut members = self.members.iter();
            let first = members.next().expect("a model has a network");
            let mut sum = first.raw(&rows, self.inputs, rung)?;
            for member in members {
                sum = (sum + member.raw(&rows, self.inputs, rung)?)?;
            }
            outputs.push(sum);
        }
        let mut raw: Vec<f32> = Tensor::cat(&outputs, 0)?.flatten_all()?.to_vec1()?;
        raw.truncate(n);
        if self.members.len() > 1 {
            let share = 1.0 / self.members.len() as f32;
            raw.iter_mut().for_each(|raw| *raw *= share);
        }
        Ok(raw)
    }
}

impl MemberHeads {
    /// Of packed rows, ROWS x 1, f32.
    fn raw(&self, rows: &Tensor, inputs: usize, rung: Rung) -> Result<Tensor, ScoringError> {
        let part = |from: usize, size: usize| rows.narrow(1, from, size)?.contiguous();
        let standard = part(inputs, 2 * inputs)?.to_dtype(self.dtype)?;
        let present = match &self.embedding {
            None => standard,
            Some(embedding) => {
                let embedded = embedding.of(&part(0, inputs)?, self.dtype)?;
                Tensor::cat(&[&embedded, &standard], 1)?
            }
        };
        let head = match (rung, self.heads.get(1)) {
            (Rung::NoGraph, Some(head)) => head,
            _ => &self.heads[0],
        };
        let from = 3 * inputs + self.from;
        let mut read = vec![present.clone()];
        for (layout, attention) in &self.memories[..head.memories] {
            let carried = layout.carry.start..layout.scalars.end;
            read.push(part(from + carried.start, carried.len())?.to_dtype(self.dtype)?);
            if let Some(attention) = attention {
                let events = layout.events();
                let mask = part(from + layout.mask.start, events)?;
                let ages = part(from + layout.ages.start, events)?;
                let ring = part(from + layout.ring.start, layout.ring.len())?;
                read.push(attention.of(&present, &mask, &ages, &ring.to_dtype(self.dtype)?)?);
            }
        }
        let [first, second, last] = &head.layers;
        let hidden = first.of(&Tensor::cat(&read, 1)?)?.gelu()?;
        let hidden = second.of(&hidden)?.gelu()?;
        Ok(last.of(&hidden)?.to_dtype(DType::F32)?)
    }
}

impl Layer {
    fn of(&self, x: &Tensor) -> Result<Tensor, ScoringError> {
        Ok(x.matmul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

impl Embedding {
    /// ROWS x (inputs x size), of the logarithms, ROWS x inputs.
    fn of(&self, logs: &Tensor, dtype: DType) -> Result<Tensor, ScoringError> {
        let above = logs.unsqueeze(2)?.broadcast_sub(&self.edges)?;
        let code = above.broadcast_mul(&self.inverse)?.clamp(0f32, 1f32)?;
        let code = code.permute((1, 0, 2))?.contiguous()?.to_dtype(dtype)?;
        let embedded = code.matmul(&self.weight)?.broadcast_add(&self.bias)?;
        let embedded = embedded.relu()?.permute((1, 0, 2))?.contiguous()?;
        Ok(embedded.flatten_from(1)?)
    }
}

impl Attention {
    /// What the queries of rows find among their remembered events, ROWS x key size. Keys and values stand
    /// in `ring` with the heads innermost.
    fn of(
        &self,
        present: &Tensor,
        mask: &Tensor,
        ages: &Tensor,
        ring: &Tensor,
    ) -> Result<Tensor, ScoringError> {
        let (rows, events) = mask.dims2()?;
        let (heads, head) = (self.heads, self.head_size);
        let query = self.query.of(present)?.reshape((rows, 1, heads, head))?;
        let query = query.transpose(2, 3)?.contiguous()?;
        let ring = ring.reshape((rows, events, 2, head, heads))?;
        let part = |at: usize| ring.narrow(2, at, 1)?.squeeze(2)?.contiguous();
        let dots = part(0)?
            .broadcast_mul(&query)?
            .sum(2)?
            .to_dtype(DType::F32)?;
        let faded = ages.unsqueeze(D::Minus1)?.broadcast_mul(&self.decay)?;
        // An event that is not there counts for nothing, and where none is all values are 0.
        let shut = mask.affine(1e9, -1e9)?.unsqueeze(D::Minus1)?;
        let logits = (dots.affine(1.0 / (head as f64).sqrt(), 0.0)? - faded)?;
        let weights = softmax(&logits.broadcast_add(&shut)?, 1)?;
        let weights = weights.to_dtype(ring.dtype())?.unsqueeze(2)?;
        let read = part(1)?.broadcast_mul(&weights)?.sum(1)?;
        Ok(read.transpose(1, 2)?.contiguous()?.flatten_from(1)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::Placement;
    use crate::fixtures::{model, payments, scorer, small, state, telemetry};
    use crate::inputs::{Model, ModelInputs};
    use crate::options::{ModelOptions, Precision, ScoringDevice, ScoringOptions};
    use crate::scorer::Scored;

    fn graph(precision: Precision) -> Placement {
        let device = ScoringDevice::Graph;
        Placement::of(&ScoringOptions { device, precision }).unwrap()
    }

    /// A stream scored by the kernels and by tensors, in batches of 300; the state of both is the same.
    fn both(options: &ModelOptions, rung: Rung, precision: Precision) -> Vec<(Scored, Scored)> {
        let stream = payments(900, 8);
        let model = Arc::new(model(&stream.recording(), options, 0.7));
        let mut kernels = scorer(&stream, &model, 1);
        let placed = scorer(&stream, &model, 1).placed(&graph(precision));
        let mut placed = placed.unwrap();
        assert_ne!(placed.model().numerics(), model.numerics());
        let mut scored = Vec::new();
        for from in (0..stream.len()).step_by(300) {
            let batch = stream.batch(from, (from + 300).min(stream.len()));
            let wanted = kernels.score(&batch, rung).unwrap();
            scored.push((wanted, placed.score(&batch, rung).unwrap()));
        }
        assert_eq!(state(&kernels), state(&placed));
        scored
    }

    /// The largest difference of a score, which is in log-odds.
    fn apart(scored: &[(Scored, Scored)]) -> f64 {
        let pairs = scored.iter().flat_map(|(wanted, found)| {
            let wanted = wanted.batch.scores.iter();
            wanted.zip(&found.batch.scores)
        });
        let mut most = 0.0f64;
        for (wanted, found) in pairs {
            assert!(found.is_finite());
            most = most.max((wanted - found).abs());
        }
        most
    }

    #[test]
    fn tensors_agree_with_the_kernels_for_every_part_of_the_model() {
        let with = |change: fn(&mut ModelOptions)| {
            let mut options = small(1);
            change(&mut options);
            for rung in [Rung::Full, Rung::NoGraph] {
                let apart = apart(&both(&options, rung, Precision::F32));
                assert!(apart < 1e-4, "{rung:?}: {apart} apart");
            }
        };
        with(|_| {});
        with(|o| o.embedding = 0);
        with(|o| o.own_events = 0);
        with(|o| (o.lstm, o.gru) = (0, 0));
        with(|o| o.endpoint_events = 0);
        with(|o| (o.days, o.members) = (true, 2));
        with(|o| o.graph = false);
    }

    #[test]
    fn sixteen_bits_move_a_score_by_little() {
        let apart = apart(&both(&small(4), Rung::Full, Precision::F16));
        assert!(apart > 1e-6 && apart < 0.05, "{apart}");
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_its_batch() {
        let scored = both(&small(1), Rung::Full, Precision::F32);
        let stream = payments(900, 8);
        let model = model(&stream.recording(), &small(1), 0.7);
        let model = model.placed(&graph(Precision::F32)).unwrap();
        let (columns, size) = (model.columns(), model.context_size());
        for (_, scored) in &scored {
            for row in (0..scored.inputs.rows).step_by(29) {
                let one = ModelInputs {
                    rows: 1,
                    features: scored.inputs.features[row * columns..][..columns].to_vec(),
                    context: scored.inputs.context[row * size..][..size].to_vec(),
                };
                let alone = model.forward(&one, Rung::Full).unwrap()[0];
                assert_eq!(alone.to_bits(), scored.batch.scores[row].to_bits());
            }
        }
    }

    #[test]
    fn rungs_without_a_head_and_forecasts_stay_on_the_cpu() {
        for rung in [Rung::Linear, Rung::Rules] {
            assert_eq!(apart(&both(&small(1), rung, Precision::F32)), 0.0);
        }
        let stream = telemetry(300, 2);
        let options = ModelOptions {
            output: sanderling_schemas::Output::Forecast,
            ..small(1)
        };
        let model = model(&stream.recording(), &options, 0.7);
        let placed = model.placed(&graph(Precision::F32)).unwrap();
        assert_eq!(placed.numerics(), model.numerics());
        // Where there is no device, a model says why.
        let auto = Placement::of(&ScoringOptions::default()).unwrap();
        let said = model.placed(&auto).unwrap().placement().to_string();
        assert!(
            auto.device().is_some() || said == auto.to_string(),
            "{said}"
        );
    }
}
