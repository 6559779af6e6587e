//! The shape of a model: which inputs it has, how a context row is laid out, which tensors there
//! are. Training and serving both read it, so they cannot drift apart.

use std::ops::Range;

use sanderling_schemas::{FeatureSchema, Output};

use crate::error::ScoringError;
use crate::inputs::Group;
use crate::options::ModelOptions;

/// Quantiles beside the even ones, where rare and large values live.
pub(crate) const TAIL_QUANTILES: [f64; 4] = [0.98, 0.99, 0.995, 0.999];
/// Numbers in a token, unless the options say otherwise: few, so that a memory of a handful of
/// training days learns kinds of events and not the events themselves.
const TOKEN: usize = 8;
/// A forecast has to see its inputs whole, up to this many numbers.
const FORECAST_TOKEN_MAX: usize = 64;
/// Numbers of an event beside its token: the first stage's score and the time since the last one.
pub(crate) const EVENT_EXTRAS: usize = 2;
/// Sizes and roles of everything in a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Architecture {
    pub(crate) options: ModelOptions,
    /// Columns of the feature schema.
    pub(crate) columns: usize,
    /// Columns that the model sees, ascending.
    pub(crate) inputs: Vec<usize>,
    /// Inputs of the first stage, as indices into `inputs`.
    pub(crate) first: Vec<usize>,
    /// Inputs by which an event is remembered, as indices into `inputs`.
    pub(crate) remembered: Vec<usize>,
    /// The input that tells a row's exposure, as an index into `inputs`.
    pub(crate) exposure: Option<usize>,
    /// Numbers in a token.
    pub(crate) token: usize,
    /// All entities of the pipeline, the events' own first.
    pub(crate) entities: Vec<String>,
    /// Where each remembered entity stands in a context row: the first entity, then the endpoints
    /// if there is a graph.
    pub(crate) memories: Vec<MemoryLayout>,
}

/// Where one entity's memory stands in a context row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MemoryLayout {
    /// Index into the pipeline's entities.
    pub(crate) entity: usize,
    /// Numbers of the carry that are read: LSTM h, or the GRU's carry. Empty without a cell.
    pub(crate) carry: Range<usize>,
    /// [`Architecture::scalars`] read-outs.
    pub(crate) scalars: Range<usize>,
    /// 1 for each remembered event, in the order of the memory's ring; 0 where there are fewer.
    pub(crate) mask: Range<usize>,
    /// Log age of each remembered event.
    pub(crate) ages: Range<usize>,
    /// Key, then value, of each remembered event. Empty without attention.
    pub(crate) ring: Range<usize>,
}

impl MemoryLayout {
    /// Events that attention looks over.
    pub(crate) fn events(&self) -> usize {
        self.mask.len()
    }

    /// Whether a cell advances its carry.
    pub(crate) fn has_cell(&self) -> bool {
        !self.carry.is_empty()
    }

    /// Whether attention looks over its events.
    pub(crate) fn attends(&self) -> bool {
        !self.ring.is_empty()
    }

    /// The whole of it.
    pub(crate) fn range(&self) -> Range<usize> {
        self.carry.start..self.ring.end
    }
}

/// How a tensor begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Zero,
    /// Uniform within 1 / sqrt(fan in).
    FanIn(usize),
    /// LSTM bias: the forget gate's quarter is 1.
    Forget,
}

/// A trained tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) init: Init,
    /// Trained before, and frozen in, the second stage.
    pub(crate) first_stage: bool,
}

impl Architecture {
    pub(crate) fn new(
        options: &ModelOptions,
        schema: &FeatureSchema,
        entities: &[String],
    ) -> Result<Self, ScoringError> {
        options.check()?;
        let inputs = options.inputs(schema);
        if inputs.is_empty() {
            return Err(ScoringError::Option {
                name: "exclude".to_string(),
                wanted: "globs that leave at least one feature".to_string(),
            });
        }
        if entities.is_empty() {
            return Err(ScoringError::TooFewRows(
                "the pipeline has no entities".to_string(),
            ));
        }
        let mut first: Vec<usize> = (0..inputs.len())
            .filter(|&i| !schema.fields[inputs[i]].from_label)
            .collect();
        if first.is_empty() {
            first = (0..inputs.len()).collect();
        }
        let mut remembered = options.remembered(schema, &inputs);
        if remembered.is_empty() {
            remembered = (0..inputs.len()).collect();
        }
        let exposure = options.training.exposure.as_ref().map(|name| {
            let found = (inputs.iter()).position(|&column| schema.fields[column].name == *name);
            found.ok_or_else(|| ScoringError::Option {
                name: "training.exposure".to_string(),
                wanted: format!("a feature that the model sees; there is no {name} among them"),
            })
        });
        let exposure = exposure.transpose()?;
        let mut at = 0;
        let mut take = |n: usize| {
            at += n;
            at - n..at
        };
        let scalars = if options.days { 3 } else { 2 };
        let memories = if options.graph { entities.len() } else { 1 };
        let memories = (0..memories)
            .map(|entity| {
                let (carry, events) = match entity {
                    0 => (options.lstm, options.own_events),
                    _ => (options.gru, options.endpoint_events),
                };
                MemoryLayout {
                    entity,
                    carry: take(carry),
                    scalars: take(scalars),
                    mask: take(events),
                    ages: take(events),
                    ring: take(events * 2 * options.key_size()),
                }
            })
            .collect();
        Ok(Self {
            options: options.clone(),
            columns: schema.fields.len(),
            inputs,
            first,
            token: options.token.unwrap_or(match options.output {
                Output::LogOdds | Output::Value => TOKEN,
                Output::Forecast => remembered.len().min(FORECAST_TOKEN_MAX),
            }),
            remembered,
            exposure,
            entities: entities.to_vec(),
            memories,
        })
    }

    /// Bins of a piecewise-linear embedding.
    pub(crate) fn bins(&self) -> usize {
        self.options.bins + TAIL_QUANTILES.len() + 2 * self.options.splits
    }

    /// Numbers of one network in a context row.
    pub(crate) fn member_context(&self) -> usize {
        self.memories.last().map_or(0, |m| m.ring.end)
    }

    /// Numbers in a context row: one network after the other.
    pub(crate) fn context_size(&self) -> usize {
        self.options.members * self.member_context()
    }

    /// Numbers that stand for `features` features after embedding: the embeddings, the z-scores
    /// and the missing flags.
    pub(crate) fn embedded(&self, features: usize) -> usize {
        features * (self.options.embedding + 2)
    }

    /// Numbers that go into an LSTM step beside the carry.
    pub(crate) fn event_size(&self) -> usize {
        self.token + EVENT_EXTRAS
    }

    /// Numbers that go into a GRU step beside the carry.
    pub(crate) fn label_size(&self) -> usize {
        self.token + self.label_extras()
    }

    /// Numbers of a known label beside the event's token: the first stage's score, the label, how
    /// long another had been known before it, the event's age; with days, whether there was another
    /// and for how many days.
    pub(crate) fn label_extras(&self) -> usize {
        if self.options.days { 6 } else { 4 }
    }

    /// Read-outs beside a carry: for the first entity whether it was seen, for an endpoint how many
    /// of its labels are known; and how long ago the last time was, with days by two numbers.
    pub(crate) fn scalars(&self) -> usize {
        self.memories[0].scalars.len()
    }

    /// Numbers that a key and a value are made of: token, first stage's score, the first entity's
    /// memory before the event.
    pub(crate) fn key_input_size(&self) -> usize {
        self.token + 1 + self.options.lstm
    }

    /// Numbers that the head reads of `memories` memories: carry, scalars and attention.
    pub(crate) fn read_out_size(&self, memories: usize) -> usize {
        self.memories[..memories]
            .iter()
            .map(|m| self.read_out_of(m))
            .sum()
    }

    /// Numbers that the head reads of one memory.
    pub(crate) fn read_out_of(&self, memory: &MemoryLayout) -> usize {
        let read = if memory.attends() {
            self.options.key_size()
        } else {
            0
        };
        memory.carry.len() + memory.scalars.len() + read
    }

    /// The attribution groups: `event`, then one an entity.
    pub(crate) fn groups(&self, schema: &FeatureSchema) -> Vec<Group> {
        let features = |entity: Option<usize>| {
            self.inputs
                .iter()
                .copied()
                .filter(|&i| schema.fields[i].entity == entity)
                .collect()
        };
        let mut groups = vec![Group {
            name: "event".to_string(),
            features: features(None),
            context: Vec::new(),
        }];
        for (entity, name) in self.entities.iter().enumerate() {
            let own = self.memories.iter().filter(|m| m.entity == entity);
            let context = own.flat_map(|m| {
                (0..self.options.members).map(|member| {
                    let from = member * self.member_context();
                    from + m.range().start..from + m.range().end
                })
            });
            groups.push(Group {
                name: name.clone(),
                features: features(Some(entity)),
                context: context.collect(),
            });
        }
        groups
    }

    /// The trained tensors, in a fixed order; matrices are outputs x inputs.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        let options = &self.options;
        let (all, first, bins) = (self.inputs.len(), self.first.len(), self.bins());
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[usize], init: Init, first_stage: bool| {
            specs.push(TensorSpec {
                name,
                shape: shape.to_vec(),
                init,
                first_stage,
            });
        };
        type Add<'a> = &'a mut dyn FnMut(String, &[usize], Init, bool);
        let token = |add: Add<'_>| {
            add(
                "token.weight".into(),
                &[self.token, self.remembered.len()],
                Init::FanIn(self.remembered.len()),
                false,
            );
            add("token.bias".into(), &[self.token], Init::Zero, false);
            let (inputs, hidden) = (self.event_size(), options.lstm);
            if hidden == 0 {
                return;
            }
            let fan = Init::FanIn(hidden);
            add("memory.0.input".into(), &[4 * hidden, inputs], fan, false);
            add("memory.0.hidden".into(), &[4 * hidden, hidden], fan, false);
            add("memory.0.bias".into(), &[4 * hidden], Init::Forget, false);
        };
        if options.output == Output::Forecast {
            token(&mut add);
            add(
                "forecast.weight".into(),
                &[all, options.lstm],
                Init::FanIn(options.lstm),
                false,
            );
            add("forecast.bias".into(), &[all], Init::Zero, false);
            return specs;
        }
        let mut layer = |name: &str, outputs: usize, inputs: usize, first_stage: bool| {
            add(
                format!("{name}.weight"),
                &[outputs, inputs],
                Init::FanIn(inputs),
                first_stage,
            );
            add(format!("{name}.bias"), &[outputs], Init::Zero, first_stage);
        };
        layer(
            "first.hidden",
            options.first_stage,
            self.embedded(first),
            true,
        );
        layer("first.out", 1, options.first_stage, true);
        layer("linear", 1, 2 * all, true);
        let embedded = self.embedded(all);
        let kv = 2 * options.key_size();
        for (m, _) in self.attending() {
            layer(
                &format!("attention.{m}.query"),
                options.key_size(),
                embedded,
                false,
            );
            layer(
                &format!("attention.{m}.event"),
                kv,
                self.key_input_size(),
                false,
            );
        }
        for (name, memories, hidden) in self.heads() {
            let inputs = embedded + self.read_out_size(memories);
            layer(&format!("{name}.0"), hidden[0], inputs, false);
            layer(&format!("{name}.1"), hidden[1], hidden[0], false);
            layer(&format!("{name}.2"), 1, hidden[1], false);
        }
        if options.embedding > 0 {
            for (name, inputs, stage) in [("first.embed", first, true), ("embed", all, false)] {
                add(
                    format!("{name}.weight"),
                    &[inputs, bins, options.embedding],
                    Init::FanIn(bins),
                    stage,
                );
                add(
                    format!("{name}.bias"),
                    &[inputs, options.embedding],
                    Init::Zero,
                    stage,
                );
            }
        }
        token(&mut add);
        for (m, _) in self.attending() {
            add(
                format!("attention.{m}.decay"),
                &[options.heads],
                Init::Zero,
                false,
            );
        }
        let endpoints = match options.gru {
            0 => 1..1,
            _ => 1..self.memories.len(),
        };
        for m in endpoints {
            let (inputs, hidden) = (self.label_size(), options.gru);
            let fan = Init::FanIn(hidden);
            add(
                format!("memory.{m}.input"),
                &[3 * hidden, inputs],
                fan,
                false,
            );
            add(
                format!("memory.{m}.hidden"),
                &[3 * hidden, hidden],
                fan,
                false,
            );
            add(
                format!("memory.{m}.bias_input"),
                &[3 * hidden],
                Init::Zero,
                false,
            );
            add(
                format!("memory.{m}.bias_hidden"),
                &[3 * hidden],
                Init::Zero,
                false,
            );
        }
        specs
    }

    /// The memories that attention looks over, and which they are.
    pub(crate) fn attending(&self) -> impl Iterator<Item = (usize, &MemoryLayout)> {
        let memories = self.memories.iter().enumerate();
        memories.filter(|(_, memory)| memory.attends())
    }

    /// Name, number of memories read and hidden sizes of each head. Without a graph the full
    /// head reads what the head without graph reads, and is the only one.
    pub(crate) fn heads(&self) -> Vec<(&'static str, usize, [usize; 2])> {
        let [a, b] = self.options.hidden;
        let mut heads = vec![("head.full", self.memories.len(), [a, b])];
        if self.memories.len() > 1 {
            heads.push(("head.no_graph", 1, [a.div_ceil(2), b.div_ceil(2)]));
        }
        heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::schema;

    #[test]
    fn groups_cover_the_context_once() {
        let schema = schema(&[
            ("amount", None, false),
            ("c", Some(0), false),
            ("t", Some(1), true),
        ]);
        let entities = ["card".to_string(), "terminal".to_string()];
        let shape = Architecture::new(&ModelOptions::default(), &schema, &entities).unwrap();
        let groups = shape.groups(&schema);
        let names: Vec<_> = groups.iter().map(|g| g.name.as_str()).collect();
        assert_eq!(names, ["event", "card", "terminal"]);
        assert_eq!(shape.first, [0, 1]);
        let ranges: Vec<_> = groups.iter().flat_map(|g| g.context.clone()).collect();
        assert_eq!(ranges[0].start, 0);
        assert_eq!(ranges[0].end, ranges[1].start);
        assert_eq!(ranges[1].end, shape.context_size());
        let blind = ModelOptions {
            graph: false,
            exclude: vec!["t*".into()],
            ..Default::default()
        };
        let shape = Architecture::new(&blind, &schema, &entities).unwrap();
        assert_eq!(shape.inputs, [0, 1]);
        assert!(shape.groups(&schema)[2].context.is_empty());
    }
}
