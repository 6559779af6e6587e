//! How records written by one Avro schema become cells: worked out once for each schema, so that a
//! record is one walk along its bytes.
//!
//! The pipeline's columns are the reader's schema. A field that no column wants is passed over, a
//! column that has no field is NULL, and a field of another type than the column's is cast like a
//! value of any other source.

mod planner;

use std::borrow::Cow;

use apache_avro::Schema;

use crate::values::Cell;
use planner::Planner;

/// How deep values may lie within each other.
const DEPTH_MAX: usize = 64;

/// A schema, as steps along a record's bytes.
#[derive(Debug)]
pub(crate) struct Plan {
    nodes: Vec<Node>,
    row: Vec<Field>,
}

/// A field of the row.
#[derive(Debug)]
struct Field {
    name: String,
    node: usize,
    /// Index of the cell that wants it.
    cell: Option<usize>,
}

#[derive(Debug)]
enum Node {
    Null,
    Boolean,
    Long(Long),
    Float,
    Double,
    /// Bytes with their length before them.
    Bytes(Bytes),
    Fixed(usize, Bytes),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
    /// A record whose fields are being worked out, or will never be.
    Open,
}

/// What an int or a long says.
#[derive(Debug, Clone, Copy)]
enum Long {
    Number,
    Days,
    Milliseconds,
    Microseconds,
    Nanoseconds,
    TimeOfDay,
}

/// What bytes say.
#[derive(Debug, Clone, Copy)]
enum Bytes {
    Text,
    /// Text, if it is UTF-8.
    Any,
    Decimal(i8),
    Uuid,
    /// Something with no scalar value, in words.
    Other(&'static str),
}

impl Plan {
    /// The plan for records of the schema `text`, which may name schemas of `references`. Field
    /// `wanted[i]` goes to cell `i`. The error says why no rows can be read by it.
    pub(crate) fn new(
        text: &str,
        references: &[String],
        wanted: &[String],
    ) -> Result<Plan, String> {
        let parsed = Schema::parse_str_with_list(text, references);
        let (root, others) = parsed.map_err(|error| error.to_string())?;
        let mut planner = Planner::default();
        for schema in std::iter::once(&root).chain(&others) {
            planner.note_names(schema, None);
        }
        let Schema::Record(record) = &root else {
            return Err("it is not the schema of a record".into());
        };
        let node = planner.node(&root, None)?;
        let Node::Record(nodes) = &planner.nodes[node] else {
            return Err("it is not the schema of a record".into());
        };
        let row = record.fields.iter().zip(nodes).map(|(field, node)| Field {
            name: field.name.clone(),
            node: *node,
            cell: wanted.iter().position(|name| *name == field.name),
        });
        Ok(Plan {
            row: row.collect(),
            nodes: planner.nodes,
        })
    }

    /// The first of `wanted` that the schema has no field for.
    pub(crate) fn lacks<'a>(&self, wanted: &'a [String]) -> Option<&'a String> {
        let has = |name: &String| self.row.iter().any(|field| field.name == *name);
        wanted.iter().find(|name| !has(name))
    }

    /// Reads a record into `cells`, which it first sets to NULL. The error says where the record
    /// is not one of this schema, and never what it holds.
    pub(crate) fn read<'a>(
        &'a self,
        record: &'a [u8],
        cells: &mut [Cell<'a>],
    ) -> Result<(), String> {
        cells.fill(Cell::Null);
        let mut rest = Rest(record);
        for field in &self.row {
            let read = match field.cell {
                Some(cell) => self
                    .cell(field.node, &mut rest)
                    .map(|value| cells[cell] = value),
                None => self.skip(field.node, &mut rest, 0),
            };
            if let Err(what) = read {
                let name = &field.name;
                return Err(format!("not a record of its schema: field {name}: {what}"));
            }
        }
        match rest.0.len() {
            0 => Ok(()),
            left => Err(format!(
                "not a record of its schema: {left} bytes stand behind its last field"
            )),
        }
    }

    fn cell<'a>(&'a self, node: usize, rest: &mut Rest<'a>) -> Result<Cell<'a>, Broken> {
        Ok(match &self.nodes[node] {
            Node::Null => Cell::Null,
            Node::Boolean => match rest.take(1)? {
                [0] => Cell::Bool(false),
                [1] => Cell::Bool(true),
                _ => return Err("a boolean is neither 0 nor 1"),
            },
            Node::Long(says) => of_long(rest.long()?, *says),
            Node::Float => Cell::Float(f32::from_le_bytes(rest.array()?).into()),
            Node::Double => Cell::Float(f64::from_le_bytes(rest.array()?)),
            Node::Bytes(says) => {
                let len = rest.len()?;
                of_bytes(rest.take(len)?, *says)?
            }
            Node::Fixed(len, says) => of_bytes(rest.take(*len)?, *says)?,
            Node::Enum(symbols) => {
                let symbol = symbols
                    .get(rest.len()?)
                    .ok_or("an enum has no such symbol")?;
                Cell::Text(Cow::Borrowed(symbol))
            }
            Node::Union(branches) => {
                let branch = *branches
                    .get(rest.len()?)
                    .ok_or("a union has no such branch")?;
                // A union holds no union, so this goes one deep.
                return self.cell(branch, rest);
            }
            Node::Array(_) => {
                self.skip(node, rest, 0)?;
                Cell::Other("an array")
            }
            Node::Map(_) => {
                self.skip(node, rest, 0)?;
                Cell::Other("a map")
            }
            Node::Record(_) | Node::Open => {
                self.skip(node, rest, 0)?;
                Cell::Other("a record")
            }
        })
    }

    fn skip(&self, node: usize, rest: &mut Rest<'_>, depth: usize) -> Result<(), Broken> {
        if depth == DEPTH_MAX {
            return Err("values lie too deep within each other");
        }
        match &self.nodes[node] {
            Node::Null => {}
            Node::Boolean => rest.pass(1)?,
            Node::Long(_) | Node::Enum(_) => {
                rest.long()?;
            }
            Node::Float => rest.pass(4)?,
            Node::Double => rest.pass(8)?,
            Node::Bytes(_) => rest.pass_counted()?,
            Node::Fixed(len, _) => rest.pass(*len)?,
            Node::Union(branches) => {
                let branch = *branches
                    .get(rest.len()?)
                    .ok_or("a union has no such branch")?;
                self.skip(branch, rest, depth + 1)?;
            }
            Node::Record(fields) => {
                for field in fields {
                    self.skip(*field, rest, depth + 1)?;
                }
            }
            Node::Array(items) => self.skip_blocks(*items, false, rest, depth)?,
            Node::Map(values) => self.skip_blocks(*values, true, rest, depth)?,
            Node::Open => return Err("a record holds itself without end"),
        }
        Ok(())
    }

    /// Blocks of items, each with its number before it, until one of none.
    fn skip_blocks(
        &self,
        item: usize,
        keyed: bool,
        rest: &mut Rest<'_>,
        depth: usize,
    ) -> Result<(), Broken> {
        loop {
            let count = rest.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The block's size in bytes follows, made for those who pass over it.
                rest.pass_counted()?;
                continue;
            }
            for _ in 0..count {
                let before = rest.0.len();
                if keyed {
                    rest.pass_counted()?;
                }
                self.skip(item, rest, depth + 1)?;
                // Items of no bytes could be said to be any number.
                if rest.0.len() == before {
                    break;
                }
            }
        }
    }
}

/// Where bytes are not what the schema says, in words.
type Broken = &'static str;

/// What is left of a record.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or("the record breaks off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("the record breaks off")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn pass(&mut self, len: usize) -> Result<(), Broken> {
        self.take(len).map(|_| ())
    }

    /// Passes over bytes with their length before them.
    fn pass_counted(&mut self) -> Result<(), Broken> {
        let len = self.len()?;
        self.pass(len)
    }

    /// A long: seven bits a byte, the lowest first, the sign in the lowest bit.
    fn long(&mut self) -> Result<i64, Broken> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        match self.0.len() {
            0..10 => Err("the record breaks off"),
            _ => Err("a number has too many bytes"),
        }
    }

    /// A long that is a length or an index.
    fn len(&mut self) -> Result<usize, Broken> {
        usize::try_from(self.long()?).map_err(|_| "a length is negative")
    }
}

fn of_long(value: i64, says: Long) -> Cell<'static> {
    let us = match says {
        Long::Number => return Cell::Int(value.into()),
        Long::TimeOfDay => return Cell::Other("a time of day"),
        Long::Days => value.checked_mul(86_400_000_000),
        Long::Milliseconds => value.checked_mul(1000),
        Long::Microseconds => Some(value),
        Long::Nanoseconds => Some(value.div_euclid(1000)),
    };
    us.map_or(Cell::Other("a timestamp out of range"), Cell::Time)
}

fn of_bytes<'a>(bytes: &'a [u8], says: Bytes) -> Result<Cell<'a>, Broken> {
    Ok(match says {
        Bytes::Text => {
            let text = std::str::from_utf8(bytes).map_err(|_| "text is not UTF-8")?;
            Cell::Text(Cow::Borrowed(text))
        }
        Bytes::Any => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(Cow::Borrowed(text)),
            Err(_) => Cell::Other("bytes that are not text"),
        },
        Bytes::Decimal(scale) => match unscaled(bytes) {
            Some(value) => Cell::Decimal(value, scale),
            None => Cell::Other("a decimal of more than 128 bits"),
        },
        Bytes::Uuid => match <[u8; 16]>::try_from(bytes) {
            Ok(uuid) => Cell::Text(Cow::Owned(hyphenated(uuid))),
            Err(_) => Cell::Other("bytes that are not a UUID"),
        },
        Bytes::Other(what) => Cell::Other(what),
    })
}

/// A two's complement number, the highest byte first, if 128 bits hold it.
fn unscaled(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let sign = if negative { 0xff } else { 0 };
    let (extra, low) = bytes.split_at(bytes.len().saturating_sub(16));
    let sign_kept = low
        .first()
        .is_none_or(|byte| (byte & 0x80 != 0) == negative);
    if !sign_kept || extra.iter().any(|byte| *byte != sign) {
        return None;
    }
    let mut all = [sign; 16];
    all[16 - low.len()..].copy_from_slice(low);
    Some(i128::from_be_bytes(all))
}

fn hyphenated(uuid: [u8; 16]) -> String {
    let digits = hex::encode(uuid);
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unscaled_numbers_have_any_length() {
        assert_eq!(unscaled(&[]), Some(0));
        assert_eq!(unscaled(&[0x80]), Some(-128));
        assert_eq!(unscaled(&[0, 0x80]), Some(128));
        assert_eq!(unscaled(&[0xff; 20]), Some(-1));
        let widest = |sign: u8, value: i128| [&[sign; 3][..], &value.to_be_bytes()].concat();
        assert_eq!(unscaled(&widest(0, i128::MAX)), Some(i128::MAX));
        assert_eq!(unscaled(&widest(0xff, i128::MIN)), Some(i128::MIN));
        assert_eq!(unscaled(&widest(0, i128::MIN)), None);
        assert_eq!(unscaled(&widest(1, 1)), None);
    }

    #[test]
    fn items_of_no_bytes_end_however_many_there_are_said_to_be() {
        let schema = r#"{"type": "record", "name": "P", "fields": [
            {"name": "nulls", "type": {"type": "array", "items": "null"}},
            {"name": "id", "type": "string"}]}"#;
        let plan = Plan::new(schema, &[], &["id".to_string()]).unwrap();
        // 2^62 nulls, the end of the array, "a".
        let record = [&[0x80; 8][..], &[0x80, 0x01, 0, 2, b'a']].concat();
        let mut cells = [Cell::Null];
        plan.read(&record, &mut cells).unwrap();
        assert_eq!(cells[0], Cell::Text("a".into()));
    }

    #[test]
    fn a_schema_that_holds_itself_without_end_is_survived() {
        let schema = r#"{"type": "record", "name": "P", "fields": [{"name": "p", "type": "P"}]}"#;
        if let Ok(plan) = Plan::new(schema, &[], &["p".to_string()]) {
            assert!(plan.read(&[0; 100], &mut [Cell::Null]).is_err());
        }
    }
}
