//! The keys of one entity, shared by all windows over it and by what models remember of it.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Field;
use sanderling_schemas::Relation;
use sanderling_state::KeyIndex;

use crate::FeatureError;
use crate::keys::{KeyEncoder, Keys};
use crate::view::KeyTable;

/// One entity's keys.
pub(crate) struct EntityKeys {
    column: usize,
    encoder: KeyEncoder,
    pub(crate) index: KeyIndex,
}

impl EntityKeys {
    /// Those of each entity of the relation; no key is known yet.
    pub(crate) fn all(relation: &Relation) -> Result<Vec<Self>, FeatureError> {
        (relation.entities.iter())
            .map(|entity| {
                let column =
                    relation
                        .schema
                        .index_of(&entity.key)
                        .map_err(|_| FeatureError::Relation {
                            column: entity.key.clone(),
                            role: format!("the key of the entity `{}`", entity.name),
                        })?;
                let data_type = relation.schema.field(column).data_type().clone();
                Ok(EntityKeys {
                    column,
                    encoder: KeyEncoder::new(&[data_type])?,
                    index: KeyIndex::default(),
                })
            })
            .collect()
    }

    /// The keys of rows.
    pub(crate) fn keys(&self, rows: &RecordBatch) -> Result<Keys, FeatureError> {
        self.encoder
            .keys(std::slice::from_ref(rows.column(self.column)))
    }

    /// The slots of the rows that enter and have the key.
    pub(crate) fn slots(
        &mut self,
        rows: &RecordBatch,
        enters: &[bool],
    ) -> Result<Vec<u32>, FeatureError> {
        let column = rows.column(self.column);
        let keys = self.encoder.keys(std::slice::from_ref(column))?;
        let nulls = column.logical_nulls();
        let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        Ok(self.index.slots_of(enters.len(), &|row, take| {
            if enters[row] && valid(row) {
                keys.with(row, take);
            }
        }))
    }

    /// What is known of them now.
    pub(crate) fn view(&self, relation: &Relation) -> Result<KeyTable, FeatureError> {
        let field = relation.schema.field(self.column);
        let field = Field::new(field.name(), field.data_type().clone(), true);
        KeyTable::new(vec![field], self.index.known())
    }
}
