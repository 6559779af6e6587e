//! What a group commits, and reads back when it begins again.

use std::collections::BTreeMap;

use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sanderling_schemas::{Offset, Offsets, Partition};

use super::options::TopicPartition;

/// Where to read on, and a note beside a partition's offset. Offsets that others set for the group, such as
/// an operator who moves it, have none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// The next offsets to read.
    pub next: Offsets,
    /// What is noted of them.
    pub notes: BTreeMap<TopicPartition, String>,
}

impl From<Offsets> for Progress {
    fn from(next: Offsets) -> Self {
        let notes = BTreeMap::new();
        Self { next, notes }
    }
}

impl Progress {
    /// In the client's form.
    ///
    /// # Errors
    /// An offset that is none.
    pub fn list(&self) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in self.next.iter() {
            let mut element = list.add_partition(topic, partition.0);
            element.set_offset(KafkaOffset::Offset(next.0))?;
            if let Some(note) = self.notes.get(&(topic.into(), partition)) {
                element.set_metadata(note);
            }
        }
        Ok(list)
    }

    /// Of what the broker answers, the partitions that have an offset.
    pub(super) fn of(list: &TopicPartitionList) -> KafkaResult<Self> {
        let mut progress = Self::default();
        for element in list.elements() {
            element.error()?;
            if let KafkaOffset::Offset(next) = element.offset() {
                let (topic, partition) = (element.topic(), Partition(element.partition()));
                progress.next.set(topic.into(), partition, Offset(next));
                if !element.metadata().is_empty() {
                    let note = element.metadata().to_string();
                    progress.notes.insert((topic.into(), partition), note);
                }
            }
        }
        Ok(progress)
    }
}
