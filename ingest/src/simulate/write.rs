//! Payments to a file, the same bytes each time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Builder, Int64Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::IngestError;
use crate::simulate::card_fraud::Payment;

/// Rows of one row group.
const ROWS_OF_A_GROUP: usize = 1 << 16;
const COLUMNS: &str =
    "transaction_id,tx_time,card_id,terminal_id,device_id,amount,is_fraud,fraud_kind";

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Payments.
    pub rows: u64,
    /// Frauds among them.
    pub frauds: u64,
}

/// Writes `payments` to a .jsonl, .csv or .parquet file, one row each: `transaction_id, tx_time`
/// (milliseconds), `card_id, terminal_id, device_id, amount, is_fraud, fraud_kind`.
pub fn write_payments(
    path: &Path,
    payments: impl Iterator<Item = Payment>,
) -> Result<Written, IngestError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("jsonl" | "csv" | "parquet")) {
        return Err(IngestError::Extension { path: path.into() });
    }
    let unwritable = |message: String| IngestError::Write {
        path: path.into(),
        message,
    };
    let file = File::create(path).map_err(|error| unwritable(error.to_string()))?;
    let mut written = Written::default();
    let counted = payments.inspect(|payment| {
        written.rows += 1;
        written.frauds += u64::from(payment.fraud.is_some());
    });
    match extension {
        Some("parquet") => write_parquet(file, counted).map_err(|e| unwritable(e.to_string()))?,
        Some("csv") => write_csv(file, counted).map_err(|e| unwritable(e.to_string()))?,
        _ => write_json_lines(file, counted).map_err(|e| unwritable(e.to_string()))?,
    }
    Ok(written)
}

fn write_json_lines(file: File, payments: impl Iterator<Item = Payment>) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 18, file);
    for payment in payments {
        writeln!(out, "{}", payment.to_json())?;
    }
    out.flush()
}

fn write_csv(file: File, payments: impl Iterator<Item = Payment>) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 18, file);
    writeln!(out, "{COLUMNS}")?;
    for payment in payments {
        writeln!(
            out,
            "{},{},{},{},{},{}.{:02},{},{}",
            payment.transaction_id(),
            payment.tx_time_ms,
            payment.card_id(),
            payment.terminal_id(),
            payment.device_id(),
            payment.amount_cents / 100,
            payment.amount_cents % 100,
            i64::from(payment.fraud.is_some()),
            payment.fraud.map_or("", |kind| kind.as_str()),
        )?;
    }
    out.flush()
}

fn write_parquet(
    file: File,
    payments: impl Iterator<Item = Payment>,
) -> Result<(), parquet::errors::ParquetError> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("transaction_id", DataType::Utf8, false),
        Field::new("tx_time", DataType::Int64, false),
        Field::new("card_id", DataType::Utf8, false),
        Field::new("terminal_id", DataType::Utf8, false),
        Field::new("device_id", DataType::Utf8, false),
        Field::new("amount", DataType::Decimal128(12, 2), false),
        Field::new("is_fraud", DataType::Int64, false),
        Field::new("fraud_kind", DataType::Utf8, true),
    ]));
    let properties = WriterProperties::builder()
        .set_created_by("sanderling".into())
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROWS_OF_A_GROUP))
        .build();
    let mut writer = ArrowWriter::try_new(BufWriter::new(file), schema.clone(), Some(properties))?;
    let mut payments = payments.peekable();
    while payments.peek().is_some() {
        let (mut id, mut card, mut terminal, mut device, mut kind) = (
            StringBuilder::new(),
            StringBuilder::new(),
            StringBuilder::new(),
            StringBuilder::new(),
            StringBuilder::new(),
        );
        let (mut time, mut fraud) = (Int64Builder::new(), Int64Builder::new());
        let mut amount = Decimal128Builder::new().with_precision_and_scale(12, 2)?;
        for payment in payments.by_ref().take(ROWS_OF_A_GROUP) {
            id.append_value(payment.transaction_id());
            time.append_value(payment.tx_time_ms);
            card.append_value(payment.card_id());
            terminal.append_value(payment.terminal_id());
            device.append_value(payment.device_id());
            amount.append_value(payment.amount_cents.into());
            fraud.append_value(payment.fraud.is_some().into());
            kind.append_option(payment.fraud.map(|kind| kind.as_str()));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(id.finish()),
            Arc::new(time.finish()),
            Arc::new(card.finish()),
            Arc::new(terminal.finish()),
            Arc::new(device.finish()),
            Arc::new(amount.finish()),
            Arc::new(fraud.finish()),
            Arc::new(kind.finish()),
        ];
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    writer.close()?;
    Ok(())
}
