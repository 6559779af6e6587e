//! What a model remembers at one moment, for whoever looks: by reference, while the fold goes on.

use sanderling_state::Paged;

use super::Scorer;
use crate::memory::Memory;

/// What one network of a model remembers of the entities of one kind.
#[derive(Debug, Clone)]
pub struct MemoryView {
    /// Index into the pipeline's entities.
    pub entity: usize,
    /// Which network of the model.
    pub member: usize,
    memories: Paged<Memory>,
}

/// How much is remembered of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySummary {
    /// Event time of the first entity's newest event, or when an endpoint's newest label became known,
    /// microseconds; nothing before the carry's first step.
    pub last_us: Option<i64>,
    /// Steps that the carry has taken.
    pub steps: u32,
    /// Events that attention looks over.
    pub events: usize,
    /// Bytes that it takes.
    pub bytes: usize,
}

impl MemoryView {
    /// What is remembered of the entity in a slot; `None` if nothing is.
    pub fn summary(&self, slot: u32) -> Option<MemorySummary> {
        let slot = slot as usize;
        let memory = (slot < self.memories.len()).then(|| self.memories.get(slot))?;
        if memory.steps == 0 && memory.times.is_empty() {
            return None;
        }
        let floats = memory.carry.capacity() + memory.ring.capacity();
        Some(MemorySummary {
            last_us: (memory.steps > 0).then_some(memory.last_us),
            steps: memory.steps,
            events: memory.times.len(),
            bytes: size_of::<Memory>()
                + floats * size_of::<f32>()
                + memory.times.capacity() * size_of::<i64>(),
        })
    }
}

impl Scorer {
    /// What is remembered of each kind of entity by each network, by reference.
    pub fn memories(&self) -> Vec<MemoryView> {
        let layouts = &self.model.shape.memories;
        let of_member = |(member, state): (usize, &super::MemberState)| {
            let each = layouts.iter().zip(&state.memories);
            let views = each.map(|(layout, memories)| MemoryView {
                entity: layout.entity,
                member,
                memories: memories.clone(),
            });
            views.collect::<Vec<_>>()
        };
        self.members
            .iter()
            .enumerate()
            .flat_map(of_member)
            .collect()
    }
}
