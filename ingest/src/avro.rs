//! Avro records, each behind the id of the schema that it was written by.
//!
//! A schema is fetched once and becomes a [`Plan`]; that an id has none is remembered for a short
//! while only, since a schema may be registered after its first record was written.

mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sanderling_schemas::RejectReason;

use crate::registry::{NoSchema, Registry, RegistryOptions};
use crate::values::Cell;
use crate::{IngestError, framing};
use plan::Plan;

/// How long an id without a usable schema is not asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Refused ids remembered.
const REFUSED_MAX: usize = 1024;

/// Reads the records of one stream.
#[derive(Debug)]
pub(crate) struct AvroReader {
    stream: String,
    options: RegistryOptions,
    /// Fields that are wanted, in the order of the cells.
    fields: Vec<String>,
    schemas: Mutex<Schemas>,
}

/// What is known of schemas.
#[derive(Debug, Default)]
struct Schemas {
    /// Made when first needed, so that files are read without one.
    registry: Option<Registry>,
    usable: HashMap<u32, Arc<Plan>>,
    refused: HashMap<u32, (Refused, Instant)>,
}

type Refused = (RejectReason, String);

/// The plans of records that are decoded together.
pub(crate) struct Plans(BTreeMap<u32, Result<Arc<Plan>, Refused>>);

impl AvroReader {
    pub(crate) fn new(stream: &str, options: RegistryOptions, fields: &[String]) -> Self {
        Self {
            stream: stream.into(),
            options,
            fields: fields.to_vec(),
            schemas: Mutex::default(),
        }
    }

    /// The plans of all schemas that `records` were written by.
    pub(crate) fn plans(&self, records: &[Option<&[u8]>]) -> Result<Plans, IngestError> {
        let mut plans = BTreeMap::new();
        let mut last = None;
        for record in records.iter().flatten() {
            let Ok((id, _)) = framing::split(record) else {
                continue;
            };
            if last == Some(id) || plans.contains_key(&id) {
                continue;
            }
            last = Some(id);
            plans.insert(id, self.plan(id)?);
        }
        Ok(Plans(plans))
    }

    fn plan(&self, id: u32) -> Result<Result<Arc<Plan>, Refused>, IngestError> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = schemas.usable.get(&id) {
            return Ok(Ok(plan.clone()));
        }
        match schemas.refused.get(&id) {
            Some((refused, at)) if at.elapsed() < REFUSED_FOR => return Ok(Err(refused.clone())),
            _ => {}
        }
        let registry = match &schemas.registry {
            Some(registry) => registry,
            None => schemas.registry.insert(Registry::new(&self.options)?),
        };
        let planned = match registry.schema(id)? {
            Ok(schema) => Plan::new(&schema.text, &schema.references, &self.fields)
                .map_err(NoSchema::Unusable),
            Err(refused) => Err(refused),
        };
        let refused = match planned {
            Ok(plan) => {
                if let Some(field) = plan.lacks(&self.fields) {
                    tracing::warn!(
                        stream = %self.stream, schema = id, field,
                        "records of this schema lack a field, which is NULL"
                    );
                }
                let plan = Arc::new(plan);
                schemas.usable.insert(id, plan.clone());
                return Ok(Ok(plan));
            }
            Err(NoSchema::Unknown) => {
                let detail = format!("the registry has no schema {id}");
                (RejectReason::UnknownSchema, detail)
            }
            Err(NoSchema::Unusable(why)) => (
                RejectReason::UnreadableSchema,
                format!("no row can be read by schema {id}: {why}"),
            ),
        };
        if schemas.refused.len() >= REFUSED_MAX {
            schemas.refused.clear();
        }
        schemas
            .refused
            .insert(id, (refused.clone(), Instant::now()));
        Ok(Err(refused))
    }
}

impl Plans {
    /// Reads a record into `cells`, which it first sets to NULL.
    pub(crate) fn read<'a>(
        &'a self,
        record: &'a [u8],
        cells: &mut [Cell<'a>],
    ) -> Result<(), (RejectReason, String)> {
        let (id, record) = framing::split(record)?;
        match self.0.get(&id).expect("plans were made of these records") {
            Ok(plan) => plan
                .read(record, cells)
                .map_err(|detail| (RejectReason::Malformed, detail)),
            Err(refused) => Err(refused.clone()),
        }
    }
}
