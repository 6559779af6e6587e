//! Protobuf messages, read along the wire by a schema that is compiled once.
//!
//! The schema is the pipeline's own, a `.proto` file or a descriptor set: a field that a producer
//! added is passed over by its number. A field that is not on the wire is NULL where the schema
//! can tell (`optional`, messages, `oneof`); elsewhere it has Protobuf's default, since a producer
//! does not write zeros, except that the stream's id, key and event time are missing then: an
//! event at 1970 of nobody is none.

mod wire;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, Value};
use protox::Compiler;
use sanderling_schemas::RejectReason;

use crate::stream::Framing;
use crate::values::Cell;
use crate::{IngestError, framing};
use wire::{Broken, Fields, Wire};

/// A message of a compiled schema.
#[derive(Debug, Clone)]
pub struct ProtobufSchema {
    path: PathBuf,
    message: MessageDescriptor,
}

impl ProtobufSchema {
    /// The message of this full name in `path`: a descriptor set if its name ends in `.pb`, else a
    /// .proto file, which may import files of its folder.
    pub fn read(path: &Path, message: &str) -> Result<Self, IngestError> {
        let wrong = |message: String| IngestError::Protobuf {
            path: path.into(),
            message,
        };
        let pool = if path.extension().is_some_and(|extension| extension == "pb") {
            let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            DescriptorPool::decode(bytes.as_slice()).map_err(|error| wrong(error.to_string()))?
        } else {
            compile(path).map_err(|error| wrong(error.to_string()))?
        };
        let Some(descriptor) = pool.get_message_by_name(message) else {
            let known: Vec<String> = pool
                .all_messages()
                .filter(|known| known.package_name() != "google.protobuf")
                .map(|known| known.full_name().to_string())
                .collect();
            let known = known.join(", ");
            return Err(wrong(format!("no message {message} (it has: {known})")));
        };
        Ok(Self {
            path: path.into(),
            message: descriptor,
        })
    }

    /// Where the message stands in its file: the indexes of the messages that it lies in, then its
    /// own.
    fn place(&self) -> Vec<i64> {
        let path = self.message.path().iter();
        path.skip(1)
            .step_by(2)
            .map(|index| i64::from(*index))
            .collect()
    }
}

fn compile(path: &Path) -> Result<DescriptorPool, String> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let compiler = Compiler::new([folder.unwrap_or(Path::new("."))]);
    let compiled = compiler.and_then(|mut compiler| {
        compiler.include_imports(true).open_file(path)?;
        Ok(compiler.descriptor_pool())
    });
    // Only the debug form names the line.
    compiled.map_err(|error| format!("{error:?}"))
}

/// A field that the pipeline reads.
pub(crate) struct WantedField<'a> {
    pub name: &'a str,
    /// Column that it becomes, for messages.
    pub column: &'a str,
    /// Nothing stands for it where it is not on the wire.
    pub essential: bool,
}

/// Reads the records of one stream.
#[derive(Debug)]
pub(crate) struct ProtobufReader {
    message: String,
    framing: Framing,
    place: Vec<i64>,
    fields: Vec<Field>,
}

/// A field of the message, for one cell.
#[derive(Debug)]
struct Field {
    number: u32,
    name: String,
    column: String,
    cell: usize,
    reads: Reads,
    /// The type as the schema names it.
    declared: String,
    absent: Cell<'static>,
}

/// How a field becomes a cell.
#[derive(Debug, Clone)]
enum Reads {
    Double,
    Float,
    Int32,
    Int64,
    UInt32,
    UInt64,
    SInt32,
    SInt64,
    Fixed32,
    Fixed64,
    SFixed32,
    SFixed64,
    Boolean,
    Text,
    Bytes,
    /// Names by number, ascending.
    Enum(Vec<(i32, String)>),
    Timestamp,
    /// A message whose field 1 holds the value.
    Wrapper(Box<Reads>),
    /// Something with no scalar value, in words.
    Other(&'static str),
}

impl ProtobufReader {
    /// A reader of the `wanted` fields, in the order of the cells. Fails if the message lacks one.
    pub(crate) fn new(
        schema: &ProtobufSchema,
        framing: Framing,
        wanted: &[WantedField<'_>],
    ) -> Result<Self, IngestError> {
        let message = &schema.message;
        let mut fields = Vec::with_capacity(wanted.len());
        for (cell, field) in wanted.iter().enumerate() {
            let Some(descriptor) = message.get_field_by_name(field.name) else {
                let known: Vec<_> = message.fields().map(|f| f.name().to_string()).collect();
                return Err(IngestError::Protobuf {
                    path: schema.path.clone(),
                    message: format!(
                        "{} has no field {}, which the pipeline reads as {} (it has: {})",
                        message.full_name(),
                        field.name,
                        field.column,
                        known.join(", ")
                    ),
                });
            };
            fields.push(Field {
                number: descriptor.number(),
                name: field.name.into(),
                column: field.column.into(),
                cell,
                reads: Reads::of(&descriptor),
                declared: format!("{:?}", descriptor.kind()),
                absent: match field.essential {
                    true => Cell::Null,
                    false => absent(&descriptor),
                },
            });
        }
        Ok(Self {
            message: message.full_name().into(),
            framing,
            place: schema.place(),
            fields,
        })
    }

    /// Reads a record into `cells`.
    pub(crate) fn read<'a>(
        &'a self,
        record: &'a [u8],
        cells: &mut [Cell<'a>],
    ) -> Result<(), (RejectReason, String)> {
        for field in &self.fields {
            cells[field.cell] = field.absent.clone();
        }
        let mut rest = Fields(match self.framing {
            Framing::None => record,
            Framing::Confluent => self.unframed(record)?,
        });
        let malformed = |what: Broken| {
            let detail = format!("not a message {}: {what}", self.message);
            (RejectReason::Malformed, detail)
        };
        while let Some((number, value)) = rest.next().map_err(malformed)? {
            let Some(field) = self.fields.iter().find(|field| field.number == number) else {
                continue;
            };
            match field.reads.cell(value) {
                Ok(Some(cell)) => cells[field.cell] = cell,
                Ok(None) => {
                    let Field {
                        column, declared, ..
                    } = field;
                    let found = value.name();
                    let detail = format!("column {column}: {found} cannot be read as {declared}");
                    return Err((RejectReason::WrongType, detail));
                }
                Err(what) => {
                    let (_, detail) = malformed(what);
                    let name = &field.name;
                    return Err((RejectReason::Malformed, format!("{detail} (field {name})")));
                }
            }
        }
        Ok(())
    }

    /// What follows the schema's id and the message's place in its file. The schema itself is not
    /// asked for: the pipeline has its own.
    fn unframed<'a>(&self, record: &'a [u8]) -> Result<&'a [u8], (RejectReason, String)> {
        let (_, rest) = framing::split(record)?;
        let mut rest = Fields(rest);
        let broken = |_: Broken| {
            let detail = "the record does not say which message of its file it is";
            (RejectReason::BrokenFraming, detail.to_string())
        };
        let count = rest.zigzag().map_err(broken)?;
        // The first message of a file has a short form.
        if count == 0 {
            return self.placed(&[0], rest.0);
        }
        let mut place = Vec::new();
        for _ in 0..count {
            place.push(rest.zigzag().map_err(broken)?);
        }
        self.placed(&place, rest.0)
    }

    fn placed<'a>(
        &self,
        place: &[i64],
        rest: &'a [u8],
    ) -> Result<&'a [u8], (RejectReason, String)> {
        if place == self.place {
            return Ok(rest);
        }
        let detail = format!(
            "the record is message {place:?} of its file, and {} is {:?}",
            self.message, self.place
        );
        Err((RejectReason::UnreadableSchema, detail))
    }
}

/// What stands for a field that is not on the wire.
fn absent(field: &FieldDescriptor) -> Cell<'static> {
    let declared = field.field_descriptor_proto().default_value.is_some();
    if field.is_list() || field.is_map() || (field.supports_presence() && !declared) {
        return Cell::Null;
    }
    match (field.default_value(), Reads::of(field)) {
        (Value::Bool(value), _) => Cell::Bool(value),
        (Value::I32(value), _) => Cell::Int(value.into()),
        (Value::I64(value), _) => Cell::Int(value.into()),
        (Value::U32(value), _) => Cell::Int(value.into()),
        (Value::U64(value), _) => Cell::Int(value.into()),
        (Value::F32(value), _) => Cell::Float(value.into()),
        (Value::F64(value), _) => Cell::Float(value),
        (Value::String(value), _) => Cell::Text(Cow::Owned(value)),
        (Value::EnumNumber(number), Reads::Enum(names)) => match name_of(&names, number) {
            Some(name) => Cell::Text(Cow::Owned(name.into())),
            None => Cell::Int(number.into()),
        },
        (Value::Bytes(value), _) => match String::from_utf8(value.to_vec()) {
            Ok(text) => Cell::Text(Cow::Owned(text)),
            Err(_) => Cell::Other("bytes that are not text"),
        },
        _ => Cell::Null,
    }
}

fn name_of(names: &[(i32, String)], number: i32) -> Option<&str> {
    let at = names.binary_search_by_key(&number, |(number, _)| *number);
    at.ok().map(|at| names[at].1.as_str())
}

impl Reads {
    fn of(field: &FieldDescriptor) -> Self {
        if field.is_map() {
            return Reads::Other("a map");
        }
        if field.is_list() {
            return Reads::Other("a list");
        }
        match field.kind() {
            Kind::Double => Reads::Double,
            Kind::Float => Reads::Float,
            Kind::Int32 => Reads::Int32,
            Kind::Int64 => Reads::Int64,
            Kind::Uint32 => Reads::UInt32,
            Kind::Uint64 => Reads::UInt64,
            Kind::Sint32 => Reads::SInt32,
            Kind::Sint64 => Reads::SInt64,
            Kind::Fixed32 => Reads::Fixed32,
            Kind::Fixed64 => Reads::Fixed64,
            Kind::Sfixed32 => Reads::SFixed32,
            Kind::Sfixed64 => Reads::SFixed64,
            Kind::Bool => Reads::Boolean,
            Kind::String => Reads::Text,
            Kind::Bytes => Reads::Bytes,
            Kind::Enum(names) => {
                let mut names: Vec<(i32, String)> = names
                    .values()
                    .map(|value| (value.number(), value.name().to_string()))
                    .collect();
                // Of two names for a number the first is the one that is written.
                names.sort_by_key(|(number, _)| *number);
                names.dedup_by_key(|(number, _)| *number);
                Reads::Enum(names)
            }
            Kind::Message(message) => Self::of_message(&message),
        }
    }

    fn of_message(message: &MessageDescriptor) -> Self {
        match message.full_name() {
            "google.protobuf.Timestamp" => Reads::Timestamp,
            "google.protobuf.Duration" => Reads::Other("a duration"),
            "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => match message.get_field(1) {
                Some(value) => Reads::Wrapper(Box::new(Reads::of(&value))),
                None => Reads::Other("a message"),
            },
            _ => Reads::Other("a message"),
        }
    }

    /// The cell of a value on the wire; `None` if the wire holds another type.
    fn cell<'a>(&'a self, value: Wire<'a>) -> Result<Option<Cell<'a>>, Broken> {
        let int = |value: i128| Cell::Int(value);
        Ok(Some(match (self, value) {
            (Reads::Double, Wire::Fixed64(bytes)) => Cell::Float(f64::from_le_bytes(bytes)),
            (Reads::Float, Wire::Fixed32(bytes)) => Cell::Float(f32::from_le_bytes(bytes).into()),
            // Narrow types are cut from what stands there, as every reader does it.
            (Reads::Int32, Wire::Varint(bits)) => int((bits as i32).into()),
            (Reads::Int64, Wire::Varint(bits)) => int((bits as i64).into()),
            (Reads::UInt32, Wire::Varint(bits)) => int((bits as u32).into()),
            (Reads::UInt64, Wire::Varint(bits)) => int(bits.into()),
            (Reads::SInt32, Wire::Varint(bits)) => {
                int(wire::unzigzag(u64::from(bits as u32)).into())
            }
            (Reads::SInt64, Wire::Varint(bits)) => int(wire::unzigzag(bits).into()),
            (Reads::Fixed32, Wire::Fixed32(bytes)) => int(u32::from_le_bytes(bytes).into()),
            (Reads::Fixed64, Wire::Fixed64(bytes)) => int(u64::from_le_bytes(bytes).into()),
            (Reads::SFixed32, Wire::Fixed32(bytes)) => int(i32::from_le_bytes(bytes).into()),
            (Reads::SFixed64, Wire::Fixed64(bytes)) => int(i64::from_le_bytes(bytes).into()),
            (Reads::Boolean, Wire::Varint(bits)) => Cell::Bool(bits != 0),
            (Reads::Text, Wire::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| "text is not UTF-8")?;
                Cell::Text(Cow::Borrowed(text))
            }
            (Reads::Bytes, Wire::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Cell::Text(Cow::Borrowed(text)),
                Err(_) => Cell::Other("bytes that are not text"),
            },
            (Reads::Enum(names), Wire::Varint(bits)) => match name_of(names, bits as i32) {
                Some(name) => Cell::Text(Cow::Borrowed(name)),
                None => int((bits as i32).into()),
            },
            (Reads::Timestamp, Wire::Bytes(bytes)) => timestamp(bytes)?,
            (Reads::Wrapper(inner), Wire::Bytes(bytes)) => {
                let mut cell = inner.zero();
                let mut fields = Fields(bytes);
                while let Some((number, value)) = fields.next()? {
                    if number == 1 {
                        match inner.cell(value)? {
                            Some(read) => cell = read,
                            None => return Ok(None),
                        }
                    }
                }
                cell
            }
            (Reads::Other(what), _) => Cell::Other(what),
            _ => return Ok(None),
        }))
    }

    /// The value of a field that is not written because it is zero.
    fn zero(&self) -> Cell<'static> {
        match self {
            Reads::Double | Reads::Float => Cell::Float(0.0),
            Reads::Boolean => Cell::Bool(false),
            Reads::Text | Reads::Bytes => Cell::Text(Cow::Borrowed("")),
            _ => Cell::Int(0),
        }
    }
}

/// Seconds are field 1, nanoseconds field 2.
fn timestamp(bytes: &[u8]) -> Result<Cell<'static>, Broken> {
    let (mut seconds, mut nanoseconds) = (0i64, 0i32);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Wire::Varint(bits)) => seconds = bits as i64,
            (2, Wire::Varint(bits)) => nanoseconds = bits as i32,
            (1 | 2, _) => return Err("a timestamp is none"),
            _ => {}
        }
    }
    let us = seconds
        .checked_mul(1_000_000)
        .and_then(|us| us.checked_add(i64::from(nanoseconds.div_euclid(1000))));
    Ok(us.map_or(Cell::Other("a timestamp out of range"), Cell::Time))
}
