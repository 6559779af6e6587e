//! Decoders of payments in each format, and what they make of records.

use sanderling_ingest::{Decoded, Decoder, Format, RegistryOptions};
use sanderling_schemas::{EventBatch, EventId, Offset, Partition, RejectReason, Sequence};

use crate::registry::FakeRegistry;
use crate::{lines, payments};

pub fn decoder(format: Format) -> Decoder {
    decoder_of_columns(format, |_| {})
}

pub fn decoder_of_columns(
    format: Format,
    change: impl FnOnce(&mut sanderling_ingest::StreamSpec),
) -> Decoder {
    let (relation, specs) = payments();
    let mut spec = specs[0].clone();
    spec.format = format;
    change(&mut spec);
    Decoder::new(relation, spec).unwrap()
}

pub fn avro_decoder(registry: &FakeRegistry) -> Decoder {
    decoder(Format::Avro(RegistryOptions::new(&registry.url)))
}

pub fn decode(decoder: &Decoder, records: &[Vec<u8>]) -> Decoded {
    let records: Vec<_> = records
        .iter()
        .map(|record| Some(record.as_slice()))
        .collect();
    decoder.decode(&records, &[]).unwrap()
}

/// Rows as text, and refusals.
pub fn outcome(decoded: Decoded) -> (Vec<String>, Vec<(usize, RejectReason, String)>) {
    let id = |offset: &usize| EventId {
        topic: "t".into(),
        partition: Partition(0),
        offset: Offset(*offset as i64),
    };
    let batch = EventBatch {
        rows: decoded.rows,
        ids: decoded.records.iter().map(id).collect(),
        sequence: Sequence(0),
        broker_time_us: Vec::new(),
    };
    let refused = decoded.refused.into_iter();
    let refused = refused.map(|refusal| (refusal.record, refusal.reason, refusal.detail));
    (lines(&[batch]), refused.collect())
}

pub fn reasons(decoded: &Decoded) -> Vec<RejectReason> {
    decoded
        .refused
        .iter()
        .map(|refusal| refusal.reason)
        .collect()
}
