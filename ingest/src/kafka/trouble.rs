//! What kind of trouble a broker makes, told from the client's error codes, so that each kind can
//! have its own cure.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A kind of trouble with a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaTrouble {
    /// No broker answers.
    Unreachable,
    /// The broker does not accept who we say we are.
    Authentication,
    /// No secure connection comes about.
    Tls,
    /// A topic is not there.
    MissingTopic,
    /// A topic may not be read by this user.
    TopicDenied,
    /// The consumer group may not be joined or looked at by this user.
    GroupDenied,
    /// Another member of the same name took this one's place.
    Fenced,
    /// A setting that the client does not take.
    Setting,
    /// Anything else.
    Refused,
}

impl KafkaTrouble {
    /// The kind that `error` is of.
    pub fn of(error: &KafkaError) -> Self {
        use RDKafkaErrorCode::*;
        if let KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) = error {
            return KafkaTrouble::Setting;
        }
        match error.rdkafka_error_code() {
            Some(
                BrokerTransportFailure
                | AllBrokersDown
                | Resolve
                | OperationTimedOut
                | RequestTimedOut
                | BrokerNotAvailable
                | NetworkException
                | WaitingForCoordinator,
            ) => KafkaTrouble::Unreachable,
            Some(
                Authentication
                | SaslAuthenticationFailed
                | IllegalSASLState
                | UnsupportedSASLMechanism,
            ) => KafkaTrouble::Authentication,
            Some(SSL) => KafkaTrouble::Tls,
            Some(UnknownTopicOrPartition | UnknownTopic | UnknownPartition) => {
                KafkaTrouble::MissingTopic
            }
            Some(TopicAuthorizationFailed) => KafkaTrouble::TopicDenied,
            Some(GroupAuthorizationFailed | ClusterAuthorizationFailed) => {
                KafkaTrouble::GroupDenied
            }
            Some(FencedInstanceId | UnreleasedInstanceId) => KafkaTrouble::Fenced,
            _ => KafkaTrouble::Refused,
        }
    }

    /// The kind that is told by what a client says of its own accord. Since TLS 1.3 a broker turns a client's certificate down
    /// when the connection already stands, and so the client takes it for one that broke.
    pub(super) fn told(code: RDKafkaErrorCode, reason: &str) -> Self {
        match Self::of(&KafkaError::Global(code)) {
            KafkaTrouble::Unreachable if reason.contains("SSL alert") => KafkaTrouble::Tls,
            trouble => trouble,
        }
    }

    /// Whether the client goes on by itself after `error` of a running consumer.
    pub(super) fn passes(error: &KafkaError) -> bool {
        if matches!(error, KafkaError::MessageConsumptionFatal(_))
            || error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
        {
            return false;
        }
        matches!(
            Self::of(error),
            KafkaTrouble::Unreachable | KafkaTrouble::Tls | KafkaTrouble::Refused
        )
    }
}
