//! Moving a consumer to given offsets, and telling when they are no longer there.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sanderling_schemas::Offset;

use super::broker::{ANSWER_WITHIN, Broker};
use super::options::TopicPartition;
use crate::IngestError;

/// Time between two tries of a seek that comes too early.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Continues each partition at its offset. Fails if a partition no longer holds it, where the
/// client would silently continue elsewhere.
pub(super) fn seek<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    broker: &Broker,
    at: &[(TopicPartition, Offset)],
) -> Result<(), IngestError> {
    for (partition, offset) in at {
        held(consumer, broker, partition, *offset, *offset)?;
    }
    let failed = |error| broker.failed("seeking", &error);
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in at {
        list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(offset.0))
            .map_err(failed)?;
    }
    let from = Instant::now();
    while list.count() > 0 {
        let sought = consumer
            .seek_partitions(list, ANSWER_WITHIN)
            .map_err(failed)?;
        list = TopicPartitionList::new();
        for element in sought.elements() {
            let Err(error) = element.error() else {
                continue;
            };
            // A partition that was just assigned is not yet read: there is nothing to seek in.
            let early = matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PreviousInProgress)
            );
            if !early || from.elapsed() > ANSWER_WITHIN {
                return Err(failed(error));
            }
            list.add_partition_offset(element.topic(), element.partition(), element.offset())
                .map_err(failed)?;
        }
        if list.count() > 0 {
            thread::sleep(AGAIN_AFTER);
        }
    }
    Ok(())
}

/// Fails unless the partition still holds what begins at `from`, and reaches `next`. Returns the
/// first offset that it holds.
pub(super) fn held<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    broker: &Broker,
    (topic, partition): &TopicPartition,
    from: Offset,
    next: Offset,
) -> Result<Offset, IngestError> {
    let (low, high) = consumer
        .fetch_watermarks(topic, partition.0, ANSWER_WITHIN)
        .map_err(|error| {
            broker.failed(
                &format!("asking what {topic}/{} holds", partition.0),
                &error,
            )
        })?;
    if low <= from.0 && next.0 <= high {
        return Ok(Offset(low));
    }
    Err(IngestError::NotHeld {
        topic: topic.to_string(),
        partition: partition.0,
        from: from.0,
        next: next.0,
        low,
        high,
    })
}
