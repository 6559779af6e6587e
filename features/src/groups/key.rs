//! What tells a group's rows apart: an entity's keys, or keys of its own.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Expr;
use sanderling_schemas::{NO_SLOT, Relation};
use sanderling_state::window::WindowState;
use sanderling_state::{KeyIndex, Restored, Snapshot};

use super::GroupRows;
use crate::FeatureError;
use crate::entities::EntityKeys;
use crate::keys::{KeyEncoder, Keys};
use crate::plan::{Plan, type_of};
use crate::program::Program;

/// Where a group's slots come from.
pub(crate) enum GroupKey {
    /// The key is an entity's, and so are the slots.
    Entity(usize),
    Own {
        parts: Program,
        encoder: KeyEncoder,
        index: KeyIndex,
    },
}

impl GroupKey {
    /// That of windows with this PARTITION BY.
    pub(super) fn of(
        key: &[Expr],
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
    ) -> Result<Self, FeatureError> {
        let entity = match key {
            [Expr::Column(column)] => relation
                .entities
                .iter()
                .position(|entity| entity.key == column.name),
            _ => None,
        };
        match entity {
            Some(entity) => Ok(GroupKey::Entity(entity)),
            None => Self::own(plan, schema, key),
        }
    }

    fn own(plan: &Plan, schema: &SchemaRef, key: &[Expr]) -> Result<Self, FeatureError> {
        let exprs = key
            .iter()
            .map(|expr| plan.compile(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let types = exprs
            .iter()
            .map(|expr| type_of(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(GroupKey::Own {
            parts: Program::new(
                exprs.into_iter().map(|expr| (expr, "PARTITION BY".into())),
                schema,
            ),
            encoder: KeyEncoder::new(&types)?,
            index: KeyIndex::default(),
        })
    }

    /// The slot of each row; those that do not enter have none.
    pub(super) fn slots<'a>(
        &mut self,
        rows: &GroupRows<'a>,
    ) -> Result<Cow<'a, [u32]>, FeatureError> {
        match self {
            GroupKey::Entity(entity) => Ok(Cow::Borrowed(&rows.slots[*entity])),
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => {
                let keys = encoder.keys(&parts.run(rows.rows)?)?;
                Ok(Cow::Owned(index.slots_of(
                    rows.enters.len(),
                    &|row, take| {
                        if rows.enters[row] {
                            keys.with(row, take);
                        }
                    },
                )))
            }
        }
    }

    /// The slot of the only row, whose entities have these; `None` if its key was given back.
    pub(super) fn slot_of(
        &self,
        row: &RecordBatch,
        slots: &[u32],
    ) -> Result<Option<u32>, FeatureError> {
        match self {
            GroupKey::Entity(entity) => Ok(Some(slots[*entity])),
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => {
                let keys = encoder.keys(&parts.run(row)?)?;
                let find = |key: Option<&[u8]>| key.map_or(Some(NO_SLOT), |key| index.find(key));
                Ok(keys.with(0, find))
            }
        }
    }

    /// The keys of rows, and where they are known.
    pub(super) fn keys<'a>(
        &'a self,
        rows: &RecordBatch,
        entities: &'a [EntityKeys],
    ) -> Result<(Keys, &'a KeyIndex), FeatureError> {
        match self {
            GroupKey::Entity(entity) => {
                let entity = &entities[*entity];
                Ok((entity.keys(rows)?, &entity.index))
            }
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => Ok((encoder.keys(&parts.run(rows)?)?, index)),
        }
    }

    /// Gives slots back. An entity's slot is known to others too, who may remember it.
    pub(super) fn forget(&mut self, slots: Vec<u32>) {
        if let GroupKey::Own { index, .. } = self {
            slots.into_iter().for_each(|slot| index.forget(slot));
        }
    }

    /// What its own keys take.
    pub(super) fn bytes(&self) -> usize {
        match self {
            GroupKey::Entity(_) => 0,
            GroupKey::Own { index, .. } => index.bytes(),
        }
    }

    pub(super) fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        if let GroupKey::Own { index, .. } = self {
            index.snapshot(&format!("{name}/keys"), snapshot);
        }
    }

    /// Goes on from a snapshot, `state` being what the windows had then.
    pub(super) fn restore(
        &mut self,
        name: &str,
        restored: &Restored,
        state: &WindowState,
    ) -> Result<(), FeatureError> {
        if let GroupKey::Own { index, .. } = self {
            *index = KeyIndex::restore(restored.section(&format!("{name}/keys"))?)?;
            // Slots that were not given back when keys never were.
            for slot in 0..index.len() as u32 {
                if index.has_key(slot) && state.is_unknown(slot) {
                    index.forget(slot);
                }
            }
        }
        Ok(())
    }
}
