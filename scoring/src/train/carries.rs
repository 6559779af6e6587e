//! Carries of all events and labels under the weights of the moment, by the serving kernels.
//!
//! Gradients run back a few steps only; where they stop, the carry comes from here.

use sanderling_schemas::NO_SLOT;
use sanderling_state::Threads;

use super::history::History;
use crate::architecture::Architecture;
use crate::cells::{Cell, CellRoom};
use crate::error::ScoringError;
use crate::kernels::dense::{Dense, Rows};
use crate::memory::FIRST_STAGE_SCALE;
use crate::recording::Recording;
use crate::weights::Weights;

/// Events or labels that go through a cell together.
const CHUNK: usize = 2048;

/// Inputs of the events from `first` on, standardised once: rows x remembered inputs, and the first
/// stage's scaled output.
pub(crate) struct Inputs {
    pub(crate) first: usize,
    pub(crate) z: Vec<f32>,
    pub(crate) first_stage: Vec<f32>,
}

/// Carries before each event and label of the window; empty before the first fold, when all are
/// zero.
#[derive(Default)]
pub(crate) struct Carries {
    /// (h, c) of the own entity before each event, from [`Inputs::first`] on.
    own: Vec<f32>,
    /// For each endpoint, the carry before each label, from `first_label` on.
    labels: Vec<Vec<f32>>,
    first_label: usize,
    own_width: usize,
    label_width: usize,
}

impl Carries {
    /// Folds the window.
    pub(crate) fn fold(
        shape: &Architecture,
        recording: &Recording,
        history: &History,
        inputs: &Inputs,
        weights: &Weights,
    ) -> Result<Self, ScoringError> {
        let (all, size) = (shape.remembered.len(), shape.token);
        let token = Dense::load(weights, "token", size, all)?;
        let events = inputs.first_stage.len();
        let mut tokens = vec![0.0; events * size];
        token.forward(
            Rows {
                values: &inputs.z,
                stride: all,
            },
            &mut tokens,
        );

        let cell = Cell::load(shape, 0, weights)?;
        let own_width = cell.as_ref().map_or(0, Cell::carry_size);
        let mut own = vec![0.0; events * own_width];
        let mut state = vec![0.0; recording.slot_count(0) * own_width];
        let mut steps = Steps::default();
        let moving = if cell.is_some() { events } else { 0 };
        for from in (0..moving).step_by(CHUNK) {
            steps.clear();
            for event in from..(from + CHUNK).min(events) {
                let slot = recording.slots(0)[inputs.first + event];
                if slot != NO_SLOT {
                    let extras = [
                        inputs.first_stage[event],
                        history.own[inputs.first + event][1],
                    ];
                    steps.add(event, slot, &tokens[event * size..][..size], &extras);
                }
            }
            steps.advance(cell.as_ref(), &mut state, &mut own);
        }

        // Labels of events before the window move nothing: the window is long.
        let first = inputs.first as u32;
        let inside = history.labels.iter().position(|label| label.of >= first);
        let first_label = inside.unwrap_or(history.labels.len());
        let end = history
            .labels
            .partition_point(|label| (label.at as usize) <= inputs.first + events);
        let count = end.saturating_sub(first_label);
        let mut carries = Self {
            own,
            labels: Vec::new(),
            first_label,
            own_width,
            label_width: shape.options.gru,
        };
        for (m, endpoint) in history.endpoints.iter().enumerate() {
            let Some(cell) = Cell::load(shape, m + 1, weights)? else {
                carries.labels.push(Vec::new());
                continue;
            };
            let width = cell.carry_size();
            let mut before = vec![0.0; count * width];
            let mut state = vec![0.0; recording.slot_count(m + 1) * width];
            for from in (0..count).step_by(CHUNK) {
                steps.clear();
                for number in from..(from + CHUNK).min(count) {
                    let label = history.labels[first_label + number];
                    let slot = endpoint.slot[first_label + number];
                    if slot == NO_SLOT || label.of < first {
                        continue;
                    }
                    let event = (label.of - first) as usize;
                    let [seen, log, days] = endpoint.since[first_label + number];
                    let first_stage = inputs.first_stage[event];
                    let extras = [first_stage, label.value, log, label.age, seen, days];
                    let extras = &extras[..shape.label_extras()];
                    steps.add(number, slot, &tokens[event * size..][..size], extras);
                }
                steps.advance(Some(&cell), &mut state, &mut before);
            }
            carries.labels.push(before);
        }
        Ok(carries)
    }

    /// The own entity's (h, c) before an event; `None` where it is zero.
    pub(crate) fn own(&self, place: usize) -> Option<&[f32]> {
        self.own
            .get(place * self.own_width..(place + 1) * self.own_width)
            .filter(|c| !c.is_empty())
    }

    /// An endpoint's carry before a label; `None` where it is zero.
    pub(crate) fn label(&self, endpoint: usize, label: usize) -> Option<&[f32]> {
        let at = label.checked_sub(self.first_label)? * self.label_width;
        let carry = self.labels.get(endpoint)?.get(at..at + self.label_width)?;
        (!carry.is_empty()).then_some(carry)
    }
}

/// Steps gathered for a cell.
#[derive(Default)]
struct Steps {
    rows: Vec<usize>,
    of: Vec<u32>,
    inputs: Vec<f32>,
    before: Vec<f32>,
    after: Vec<f32>,
    room: CellRoom,
}

impl Steps {
    fn clear(&mut self) {
        self.rows.clear();
        self.of.clear();
        self.inputs.clear();
    }

    fn add(&mut self, row: usize, slot: u32, token: &[f32], extras: &[f32]) {
        self.rows.push(row);
        self.of.push(slot);
        self.inputs.extend_from_slice(token);
        self.inputs.extend_from_slice(extras);
    }

    /// Runs the steps; the carry before each goes to its row of `out`.
    fn advance(&mut self, cell: Option<&Cell>, state: &mut [f32], out: &mut [f32]) {
        let Some(cell) = cell else {
            return;
        };
        let width = cell.carry_size();
        self.before.resize(self.of.len() * width, 0.0);
        self.after.resize(self.of.len() * width, 0.0);
        cell.advance(
            &Threads::new(1),
            &mut self.room,
            state,
            &self.of,
            &self.inputs,
            &mut self.before,
            &mut self.after,
        );
        for (&row, before) in self.rows.iter().zip(self.before.chunks_exact(width)) {
            out[row * width..][..width].copy_from_slice(before);
        }
    }
}

/// The first stage's output on the scale of the other inputs.
pub(crate) fn scaled(first_stage: &[f32]) -> Vec<f32> {
    first_stage.iter().map(|x| x * FIRST_STAGE_SCALE).collect()
}
