//! Questions to a broker, outside any group: is it there, does it let us in, what does it have.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::broker::{Broker, Words};
use super::trouble::KafkaTrouble;
use crate::IngestError;

/// How long one try may take: between tries it is heard why the last one failed.
const TRY: Duration = Duration::from_secs(1);
/// How long a broker may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
/// How long one that has just started may take to know its topics.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// Events of the client that are looked at between two tries.
const EVENTS_MAX: usize = 64;
/// Time between two tries.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its client id; of a static member of ours, its instance.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
}

/// Asks a broker.
pub(super) struct Probe {
    broker: Broker,
    client: BaseConsumer<Words>,
    words: Words,
}

impl Probe {
    pub(super) fn new(broker: &Broker) -> Result<Self, IngestError> {
        let words = Words::default();
        let client = broker.consumer(&[], &[], words.clone())?;
        Ok(Self {
            broker: broker.clone(),
            client,
            words,
        })
    }

    /// How many partitions a topic has.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32, IngestError> {
        self.ask(&format!("asking for topic {topic}"), |client| {
            let metadata = client.fetch_metadata(Some(topic), TRY)?;
            let known = metadata.topics().iter().find(|known| known.name() == topic);
            let unknown = RDKafkaErrorCode::UnknownTopicOrPartition;
            let known = known.ok_or(KafkaError::MetadataFetch(unknown))?;
            match known.error().map(RDKafkaErrorCode::from) {
                None => Ok(known.partitions().len() as i32),
                Some(code) => Err(KafkaError::MetadataFetch(code)),
            }
        })
    }

    /// The members of a group.
    pub(super) fn members(&self, group: &str) -> Result<Vec<GroupMember>, IngestError> {
        self.ask(
            &format!("asking for the members of group {group}"),
            |client| {
                let groups = client.fetch_group_list(Some(group), TRY)?;
                let members = groups.groups().iter().flat_map(|group| group.members());
                Ok(members
                    .map(|member| GroupMember {
                        client_id: member.client_id().into(),
                        host: member.client_host().into(),
                    })
                    .collect())
            },
        )
    }

    /// Why the broker or its certificate is not accepted, if the client has said so. A line of its log is an event
    /// that looks as if there were no more of them, and what it says last may be that the connection is gone.
    fn refusal(&self) -> Option<(KafkaTrouble, String)> {
        (0..EVENTS_MAX).find_map(|_| {
            let _ = self.client.poll(Duration::ZERO);
            let (code, reason) = self.words.last()?;
            let trouble = KafkaTrouble::told(code, &reason);
            let tells = matches!(trouble, KafkaTrouble::Authentication | KafkaTrouble::Tls);
            tells.then_some((trouble, reason))
        })
    }

    /// Asks until there is an answer, or a reason to give up.
    fn ask<T>(
        &self,
        action: &str,
        question: impl Fn(&BaseConsumer<Words>) -> KafkaResult<T>,
    ) -> Result<T, IngestError> {
        let from = Instant::now();
        loop {
            let error = match question(&self.client) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // What the client says of its own accord tells more than that no answer came.
            if let Some((trouble, reason)) = self.refusal() {
                return Err(self.broker.trouble(action, trouble, reason));
            }
            let patience = match KafkaTrouble::of(&error) {
                KafkaTrouble::Unreachable => APPEARS_WITHIN,
                KafkaTrouble::MissingTopic | KafkaTrouble::Refused => SETTLES_WITHIN,
                _ => Duration::ZERO,
            };
            if from.elapsed() >= patience {
                return Err(self.broker.failed_because(action, &error, &self.words));
            }
            std::thread::sleep(AGAIN_AFTER);
        }
    }
}
