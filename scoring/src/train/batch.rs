//! Gradient rows as tensors: everything that the graph needs of some events and of their past.

use candle_core::{Device, Tensor};
use sanderling_schemas::{NO_SLOT, Output};

use super::carries::{Carries, Inputs};
use super::history::{History, NONE, unroll};
use crate::architecture::{Architecture, EVENT_EXTRAS};
use crate::error::ScoringError;
use crate::front::{Front, Place, Standardised};
use crate::memory::elapsed;
use crate::recording::Recording;

/// The present of some rows.
pub(crate) struct Present {
    /// rows x inputs.
    pub(crate) places: Vec<Place>,
    /// rows x inputs.
    pub(crate) z: Tensor,
    /// rows x inputs.
    pub(crate) missing: Tensor,
}

/// The unrolled steps of all rows, oldest first.
pub(crate) struct Steps {
    /// (steps x rows) x remembered inputs.
    pub(crate) z: Tensor,
    /// (steps x rows) x extras.
    pub(crate) extras: Tensor,
    /// steps x rows: 0 where the row has no such step.
    pub(crate) mask: Vec<f32>,
}

/// What attention looks over.
pub(crate) struct Ring {
    /// (rows x events) x remembered inputs.
    pub(crate) z: Tensor,
    /// (rows x events) x (1 + lstm): first stage's output, own memory then.
    pub(crate) extras: Tensor,
    /// rows x events.
    pub(crate) ages: Vec<f32>,
    /// rows x events: 0 where there is no event.
    pub(crate) mask: Vec<f32>,
}

/// A carry of some rows, and the steps that it takes from there.
pub(crate) struct Chain {
    /// rows x carry, where the unrolled steps begin.
    pub(crate) carry: Vec<f32>,
    pub(crate) steps: Steps,
}

/// One memory of some rows.
pub(crate) struct Past {
    /// Absent without a cell.
    pub(crate) chain: Option<Chain>,
    /// rows x scalars.
    pub(crate) scalars: Tensor,
    /// Absent in a forecast, and where attention does not look.
    pub(crate) ring: Option<Ring>,
}

/// Everything that rows are gathered from.
pub(crate) struct Source<'a> {
    pub(crate) device: &'a Device,
    pub(crate) shape: &'a Architecture,
    pub(crate) recording: &'a Recording,
    pub(crate) history: &'a History,
    pub(crate) inputs: &'a Inputs,
    pub(crate) carries: &'a Carries,
}

/// The present of `rows` for the inputs `used`, which are indices into the front's.
pub(crate) fn present(
    device: &Device,
    shape: &Architecture,
    recording: &Recording,
    front: &Front,
    rows: &[u32],
    used: &[usize],
) -> Result<Present, ScoringError> {
    let (all, n) = (shape.inputs.len(), rows.len());
    let mut features = Vec::with_capacity(n * shape.columns);
    for &row in rows {
        features.extend_from_slice(recording.features(row as usize));
    }
    let Standardised { logs, z, missing } = front.standardise(&features);
    let places = logs
        .chunks_exact(all)
        .flat_map(|logs| used.iter().map(|&input| front.place(input, logs[input])))
        .collect();
    Ok(Present {
        places,
        z: Tensor::from_vec(z, (n, all), device)?,
        missing: Tensor::from_vec(missing, (n, all), device)?,
    })
}

impl Source<'_> {
    fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ScoringError> {
        Ok(Tensor::from_vec(values, shape, self.device)?)
    }

    /// Place of an event in the window; `None` before it.
    fn place(&self, event: u32) -> Option<usize> {
        (event as usize).checked_sub(self.inputs.first)
    }

    fn z(&self, event: u32) -> Option<&[f32]> {
        let all = self.shape.remembered.len();
        self.place(event)
            .map(|place| &self.inputs.z[place * all..][..all])
    }

    /// The own entity's past of `rows`.
    pub(crate) fn own(&self, rows: &[u32]) -> Result<Past, ScoringError> {
        let size = self.shape.scalars();
        let scalars = rows
            .iter()
            .flat_map(|&row| self.history.own[row as usize].into_iter().take(size))
            .collect();
        Ok(Past {
            chain: match self.shape.memories[0].has_cell() {
                true => Some(self.own_chain(rows)?),
                false => None,
            },
            scalars: self.tensor(scalars, &[rows.len(), size])?,
            ring: self.ring(0, rows)?,
        })
    }

    fn own_chain(&self, rows: &[u32]) -> Result<Chain, ScoringError> {
        let (n, hidden) = (rows.len(), self.shape.options.lstm);
        let count = self.shape.options.training.own_steps;
        let previous = &self.history.previous[0];
        let mut chain = vec![NONE; n * count];
        for (chain, &row) in chain.chunks_exact_mut(count).zip(rows) {
            unroll(previous[row as usize], previous, chain);
        }
        let mut carry = vec![0.0; n * 2 * hidden];
        for (carry, chain) in carry
            .chunks_exact_mut(2 * hidden)
            .zip(chain.chunks_exact(count))
        {
            let oldest = chain
                .iter()
                .find(|&&event| event != NONE)
                .and_then(|&event| self.place(event));
            if let Some(known) = oldest.and_then(|place| self.carries.own(place)) {
                carry.copy_from_slice(known);
            }
        }
        let steps = self.steps(&chain, count, EVENT_EXTRAS, |event, extras| {
            extras[0] = self.inputs.first_stage[self.place(event)?];
            extras[1] = self.history.own[event as usize][1];
            Some(event)
        })?;
        Ok(Chain { carry, steps })
    }

    /// The past of `rows` at the endpoint of memory `m`.
    pub(crate) fn endpoint(&self, m: usize, rows: &[u32]) -> Result<Past, ScoringError> {
        let size = self.shape.scalars();
        let all = &self.history.endpoints[m - 1].scalars;
        let scalars = rows
            .iter()
            .flat_map(|&row| all[row as usize].into_iter().take(size))
            .collect();
        Ok(Past {
            chain: match self.shape.memories[m].has_cell() {
                true => Some(self.endpoint_chain(m, rows)?),
                false => None,
            },
            scalars: self.tensor(scalars, &[rows.len(), size])?,
            ring: self.ring(m, rows)?,
        })
    }

    fn endpoint_chain(&self, m: usize, rows: &[u32]) -> Result<Chain, ScoringError> {
        let (n, hidden) = (rows.len(), self.shape.options.gru);
        let count = self.shape.options.training.endpoint_steps;
        let endpoint = &self.history.endpoints[m - 1];
        let mut chain = vec![NONE; n * count];
        for (chain, &row) in chain.chunks_exact_mut(count).zip(rows) {
            unroll(endpoint.newest[row as usize], &endpoint.previous, chain);
            // What is older than the window is left out.
            for label in chain.iter_mut() {
                let of = self
                    .history
                    .labels
                    .get(*label as usize)
                    .map(|label| label.of);
                if of.and_then(|of| self.place(of)).is_none() {
                    *label = NONE;
                }
            }
        }
        let mut carry = vec![0.0; n * hidden];
        for (carry, chain) in carry
            .chunks_exact_mut(hidden)
            .zip(chain.chunks_exact(count))
        {
            let oldest = chain.iter().find(|&&label| label != NONE);
            if let Some(known) = oldest.and_then(|&label| self.carries.label(m - 1, label as usize))
            {
                carry.copy_from_slice(known);
            }
        }
        let width = self.shape.label_extras();
        let steps = self.steps(&chain, count, width, |number, extras| {
            let label = self.history.labels[number as usize];
            extras[0] = self.inputs.first_stage[self.place(label.of)?];
            extras[1] = label.value;
            let [seen, log, days] = endpoint.since[number as usize];
            extras[2..].copy_from_slice(&[log, label.age, seen, days][..width - 2]);
            Some(label.of)
        })?;
        Ok(Chain { carry, steps })
    }

    /// The steps of `chain` (rows x `count` links): `fill` writes what stands beside a link's token
    /// and gives its event, or nothing where that is older than the window.
    fn steps(
        &self,
        chain: &[u32],
        count: usize,
        width: usize,
        fill: impl Fn(u32, &mut [f32]) -> Option<u32>,
    ) -> Result<Steps, ScoringError> {
        let (all, n) = (self.shape.remembered.len(), chain.len() / count);
        let mut z = vec![0.0; chain.len() * all];
        let mut extras = vec![0.0; chain.len() * width];
        let mut mask = vec![0.0; chain.len()];
        for (i, &link) in chain.iter().enumerate() {
            let at = i % count * n + i / count;
            if link == NONE {
                continue;
            }
            let event = fill(link, &mut extras[at * width..][..width]);
            if let Some(own) = event.and_then(|event| self.z(event)) {
                z[at * all..][..all].copy_from_slice(own);
                mask[at] = 1.0;
            }
        }
        Ok(Steps {
            z: self.tensor(z, &[chain.len(), all])?,
            extras: self.tensor(extras, &[chain.len(), width])?,
            mask,
        })
    }

    /// The newest events of each row's slot in memory `m`.
    fn ring(&self, m: usize, rows: &[u32]) -> Result<Option<Ring>, ScoringError> {
        if self.shape.options.output == Output::Forecast || !self.shape.memories[m].attends() {
            return Ok(None);
        }
        let (all, hidden) = (self.shape.remembered.len(), self.shape.options.lstm);
        let (n, events) = (rows.len(), self.shape.memories[m].events());
        let width = 1 + hidden;
        let times = self.recording.times_us();
        let previous = &self.history.previous[m];
        let mut z = vec![0.0; n * events * all];
        let mut extras = vec![0.0; n * events * width];
        let mut ages = vec![0.0; n * events];
        let mut mask = vec![0.0; n * events];
        for (i, &row) in rows.iter().enumerate() {
            let mut event = previous[row as usize];
            for cell in i * events..(i + 1) * events {
                if event == NONE {
                    break;
                }
                let Some(place) = self.place(event) else {
                    break;
                };
                z[cell * all..][..all].copy_from_slice(&self.inputs.z[place * all..][..all]);
                let extras = &mut extras[cell * width..][..width];
                extras[0] = self.inputs.first_stage[place];
                let has_own = self.recording.slots(0)[event as usize] != NO_SLOT;
                if let Some(own) = self.carries.own(place).filter(|_| has_own) {
                    extras[1..].copy_from_slice(&own[..hidden]);
                }
                ages[cell] = elapsed(times[row as usize] - times[event as usize]);
                mask[cell] = 1.0;
                event = previous[event as usize];
            }
        }
        Ok(Some(Ring {
            z: self.tensor(z, &[n * events, all])?,
            extras: self.tensor(extras, &[n * events, width])?,
            ages,
            mask,
        }))
    }
}
