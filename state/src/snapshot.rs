//! A snapshot: named sections of pages, taken without copying, written as Arrow.
//!
//! The file is one Arrow IPC stream of `{section: Utf8, page: UInt32, bytes: LargeBinary}`, followed
//! by the SHA-256 of all of it. Readers of Arrow stop at the end of the stream and never see the
//! digest; [`Restored`] checks it before it looks at anything else.
//!
//! A page that a snapshot holds is copied when the fold next writes to it. So a snapshot that is written lets
//! go of each page as soon as its bytes are out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, LargeBinaryArray, LargeBinaryBuilder, RecordBatch, StringBuilder, UInt32Builder,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use sha2::{Digest, Sha256};

use crate::{Persist, StateError};

/// Bytes of pages that are gathered before a record batch is written.
const BATCH_BYTES: usize = 1 << 20;
const DIGEST_BYTES: usize = 32;

/// A page of state as a snapshot sees it.
pub trait Page: Send + Sync {
    /// Appends the page's bytes.
    fn write(&self, out: &mut Vec<u8>);
}

/// Pages of state at one moment of the fold.
#[derive(Default, Clone)]
pub struct Snapshot {
    sections: Vec<(String, Vec<Arc<dyn Page>>)>,
}

/// A page of one value.
struct Single<V>(V);

impl<V: Persist + Send + Sync> Page for Single<V> {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
}

impl Snapshot {
    /// Adds a section. Names must differ within a snapshot.
    pub fn add(&mut self, name: &str, pages: Vec<Arc<dyn Page>>) {
        debug_assert!(
            self.sections.iter().all(|(other, _)| other != name),
            "{name} added twice"
        );
        self.sections.push((name.to_string(), pages));
    }

    /// Adds a section of one page that holds one value.
    pub fn add_value<V: Persist + Send + Sync + 'static>(&mut self, name: &str, value: V) {
        self.add(name, vec![Arc::new(Single(value))]);
    }

    /// Writes the snapshot as Arrow IPC and its digest. Returns the SHA-256 of the whole file.
    ///
    /// # Errors
    /// Whatever writing meets.
    pub fn write_arrow(self, out: impl Write) -> Result<[u8; DIGEST_BYTES], StateError> {
        let hashing = Hashing {
            out,
            digest: Sha256::new(),
        };
        let mut gathered = Gathered::default();
        let mut writer = StreamWriter::try_new(hashing, &gathered.schema)?;
        let mut buffer = Vec::new();
        for (name, pages) in self.sections {
            // An empty section is one row without bytes and with the page number that no page has.
            if pages.is_empty() {
                gathered.add(&name, u32::MAX, &[]);
            }
            for (number, page) in pages.into_iter().enumerate() {
                buffer.clear();
                page.write(&mut buffer);
                drop(page);
                gathered.add(&name, number as u32, &buffer);
                if gathered.is_full() {
                    writer.write(&gathered.take()?)?;
                }
            }
        }
        writer.write(&gathered.take()?)?;
        writer.finish()?;
        let Hashing { mut out, digest } = writer.into_inner()?;
        let of_stream = digest.clone().finalize();
        out.write_all(&of_stream)?;
        out.flush()?;
        Ok(digest.chain_update(of_stream).finalize().into())
    }
}

/// Rows of a snapshot's file that are still to be written.
struct Gathered {
    schema: SchemaRef,
    names: StringBuilder,
    numbers: UInt32Builder,
    bytes: LargeBinaryBuilder,
}

impl Default for Gathered {
    fn default() -> Self {
        Self {
            schema: Arc::new(Schema::new(vec![
                Field::new("section", DataType::Utf8, false),
                Field::new("page", DataType::UInt32, false),
                Field::new("bytes", DataType::LargeBinary, false),
            ])),
            names: StringBuilder::new(),
            numbers: UInt32Builder::new(),
            bytes: LargeBinaryBuilder::new(),
        }
    }
}

impl Gathered {
    fn add(&mut self, name: &str, number: u32, bytes: &[u8]) {
        self.names.append_value(name);
        self.numbers.append_value(number);
        self.bytes.append_value(bytes);
    }

    fn is_full(&self) -> bool {
        self.bytes.values_slice().len() >= BATCH_BYTES
    }

    fn take(&mut self) -> Result<RecordBatch, StateError> {
        Ok(RecordBatch::try_new(
            self.schema.clone(),
            vec![
                Arc::new(self.names.finish()),
                Arc::new(self.numbers.finish()),
                Arc::new(self.bytes.finish()),
            ],
        )?)
    }
}

/// Passes bytes on and digests them.
struct Hashing<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// A snapshot read back: sections by name.
#[derive(Debug, Default)]
pub struct Restored {
    sections: BTreeMap<String, Section>,
    sha256: [u8; DIGEST_BYTES],
}

/// The pages of one section, in order.
#[derive(Debug, Default)]
pub struct Section {
    /// Arrays of pages and the row in them; they share the memory of the file.
    pages: Vec<(LargeBinaryArray, usize)>,
}

impl Section {
    /// Number of pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// No pages.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The bytes of each page.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.pages.iter().map(|(array, row)| array.value(*row))
    }

    /// The only value of a section written by [`Snapshot::add_value`].
    ///
    /// # Errors
    /// [`StateError::Damaged`] when the section is not one page that holds just that value.
    pub fn value<V: Persist>(&self) -> Result<V, StateError> {
        let [(array, row)] = self.pages.as_slice() else {
            return Err(StateError::Damaged(format!(
                "{} pages where one value stands",
                self.len()
            )));
        };
        let mut bytes = array.value(*row);
        let value = V::read(&mut bytes)?;
        match bytes {
            [] => Ok(value),
            _ => Err(StateError::Damaged("bytes after the last value".into())),
        }
    }
}

impl Restored {
    /// Reads what [`Snapshot::write_arrow`] wrote.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a byte is missing or changed.
    pub fn read_arrow(mut input: impl Read) -> Result<Self, StateError> {
        let mut file = Vec::new();
        input.read_to_end(&mut file)?;
        Self::of_file(Buffer::from_vec(file))
    }

    /// The same of a whole file in memory, which what is read goes on to share.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a byte is missing or changed.
    pub fn of_file(file: Buffer) -> Result<Self, StateError> {
        let Some(end) = file.len().checked_sub(DIGEST_BYTES) else {
            return Err(StateError::Damaged("too short".into()));
        };
        let digest = Sha256::new_with_prefix(&file[..end]);
        if digest.clone().finalize().as_slice() != &file[end..] {
            return Err(StateError::Damaged("checksum differs".into()));
        }
        let mut restored = Restored {
            sha256: digest.chain_update(&file[end..]).finalize().into(),
            ..Self::default()
        };
        let mut buffer = file.slice_with_length(0, end);
        let mut decoder = StreamDecoder::new();
        while let Some(batch) = decoder.decode(&mut buffer)? {
            restored.add(&batch)?;
        }
        decoder.finish()?;
        Ok(restored)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), StateError> {
        let types: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| c.data_type().clone())
            .collect();
        if types != [DataType::Utf8, DataType::UInt32, DataType::LargeBinary] {
            return Err(StateError::Damaged("not the columns of a snapshot".into()));
        }
        let names = batch.column(0).as_string::<i32>();
        let numbers = batch.column(1).as_primitive::<UInt32Type>();
        let bytes = batch.column(2).as_binary::<i64>();
        for row in 0..batch.num_rows() {
            let section = self
                .sections
                .entry(names.value(row).to_string())
                .or_default();
            match numbers.value(row) {
                u32::MAX => {}
                number if number as usize == section.len() => {
                    section.pages.push((bytes.clone(), row));
                }
                number => {
                    let name = names.value(row);
                    return Err(StateError::Damaged(format!(
                        "page {number} of {name} out of order"
                    )));
                }
            }
        }
        Ok(())
    }

    /// A section by name.
    ///
    /// # Errors
    /// [`StateError::MissingSection`].
    pub fn section(&self, name: &str) -> Result<&Section, StateError> {
        self.sections
            .get(name)
            .ok_or_else(|| StateError::MissingSection(name.to_string()))
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> &[u8; DIGEST_BYTES] {
        &self.sha256
    }

    /// Names of the sections, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut snapshot = Snapshot::default();
        snapshot.add_value("count", 7u64);
        snapshot.add("none", Vec::new());
        snapshot.add_value("list", vec![1i64, 2, 3]);
        let mut file = Vec::new();
        let sha256 = snapshot.write_arrow(&mut file).unwrap();
        assert_eq!(Sha256::digest(&file).as_slice(), sha256);
        file
    }

    #[test]
    fn sections_come_back() {
        let restored = Restored::read_arrow(file().as_slice()).unwrap();
        assert_eq!(Sha256::digest(file()).as_slice(), restored.sha256());
        assert_eq!(
            restored.section("count").unwrap().value::<u64>().unwrap(),
            7
        );
        assert!(restored.section("none").unwrap().is_empty());
        assert_eq!(
            restored
                .section("list")
                .unwrap()
                .value::<Vec<i64>>()
                .unwrap(),
            [1, 2, 3]
        );
        assert!(matches!(
            restored.section("other"),
            Err(StateError::MissingSection(_))
        ));
        assert!(restored.section("list").unwrap().value::<u64>().is_err());
    }

    #[test]
    fn any_damage_is_an_error() {
        let whole = file();
        for cut in [0, 1, 31, 32, 100, whole.len() - 1] {
            assert!(matches!(
                Restored::read_arrow(&whole[..cut]),
                Err(StateError::Damaged(_))
            ));
        }
        for at in (0..whole.len()).step_by(17) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(matches!(
                Restored::read_arrow(damaged.as_slice()),
                Err(StateError::Damaged(_))
            ));
        }
    }

    #[test]
    fn other_readers_see_a_plain_arrow_stream() {
        let file = file();
        let reader = arrow::ipc::reader::StreamReader::try_new(file.as_slice(), None).unwrap();
        let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 3);
    }
}
