//! From a schema to the nodes of a plan.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{FixedSchema, InnerDecimalSchema, UuidSchema};

use super::{Bytes, Long, Node};

/// Makes nodes of schemas.
#[derive(Default)]
pub(super) struct Planner<'s> {
    named: HashMap<String, &'s Schema>,
    /// Nodes of the names met so far.
    planned: HashMap<String, usize>,
    pub(super) nodes: Vec<Node>,
}

impl<'s> Planner<'s> {
    /// Notes what every name within `schema` stands for.
    pub(super) fn note_names(&mut self, schema: &'s Schema, namespace: Option<&str>) {
        match schema {
            Schema::Ref { .. } => return,
            Schema::Array(array) => self.note_names(&array.items, namespace),
            Schema::Map(map) => self.note_names(&map.types, namespace),
            Schema::Union(union) => {
                for branch in union.variants() {
                    self.note_names(branch, namespace);
                }
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace).into_owned();
                for field in &record.fields {
                    self.note_names(&field.schema, name.namespace());
                }
            }
            _ => {}
        }
        if let Some(name) = schema.name() {
            self.named.entry(name.fullname(namespace)).or_insert(schema);
        }
    }

    /// The node of a schema, whose names lie in `namespace` where they say nothing else.
    pub(super) fn node(
        &mut self,
        schema: &'s Schema,
        namespace: Option<&str>,
    ) -> Result<usize, String> {
        let name = schema.name().map(|name| name.fullname(namespace));
        if let Some(node) = name.as_ref().and_then(|name| self.planned.get(name)) {
            return Ok(*node);
        }
        if let (Schema::Ref { .. }, Some(name)) = (schema, &name) {
            let Some(named) = self.named.get(name).copied() else {
                return Err(format!("it names {name}, which is nowhere defined"));
            };
            // The definition's own name is whole, so no namespace is needed.
            let of_name = name.rsplit_once('.').map(|(namespace, _)| namespace);
            return self.node(named, of_name);
        }
        let at = self.nodes.len();
        self.nodes.push(Node::Open);
        if let Some(name) = name {
            self.planned.insert(name, at);
        }
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Long => Node::Long(Long::Number),
            Schema::Date => Node::Long(Long::Days),
            Schema::TimeMillis | Schema::TimeMicros => Node::Long(Long::TimeOfDay),
            Schema::TimestampMillis | Schema::LocalTimestampMillis => {
                Node::Long(Long::Milliseconds)
            }
            Schema::TimestampMicros | Schema::LocalTimestampMicros => {
                Node::Long(Long::Microseconds)
            }
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Node::Long(Long::Nanoseconds),
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes => Node::Bytes(Bytes::Any),
            Schema::String => Node::Bytes(Bytes::Text),
            Schema::Fixed(fixed) => Node::Fixed(fixed.size, Bytes::Any),
            Schema::Duration(fixed) => Node::Fixed(fixed.size, Bytes::Other("a duration")),
            Schema::BigDecimal => Node::Bytes(Bytes::Other("a decimal with a scale of its own")),
            Schema::Uuid(UuidSchema::String) => Node::Bytes(Bytes::Text),
            Schema::Uuid(UuidSchema::Bytes) => Node::Bytes(Bytes::Uuid),
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Node::Fixed(fixed.size, Bytes::Uuid),
            Schema::Decimal(decimal) => {
                let scale = i8::try_from(decimal.scale).map_err(|_| {
                    format!("a decimal has {} places behind the point", decimal.scale)
                })?;
                match &decimal.inner {
                    InnerDecimalSchema::Bytes => Node::Bytes(Bytes::Decimal(scale)),
                    InnerDecimalSchema::Fixed(FixedSchema { size, .. }) => {
                        Node::Fixed(*size, Bytes::Decimal(scale))
                    }
                }
            }
            Schema::Enum(symbols) => Node::Enum(symbols.symbols.clone()),
            Schema::Array(array) => Node::Array(self.node(&array.items, namespace)?),
            Schema::Map(map) => Node::Map(self.node(&map.types, namespace)?),
            Schema::Union(union) => {
                let branches = union.variants().iter();
                let branches = branches.map(|branch| self.node(branch, namespace));
                Node::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace).into_owned();
                let fields = record.fields.iter();
                let fields = fields.map(|field| self.node(&field.schema, name.namespace()));
                Node::Record(fields.collect::<Result<_, _>>()?)
            }
            Schema::Ref { name } => return Err(format!("it names {name}, which is not known")),
        };
        self.nodes[at] = node;
        Ok(at)
    }
}
