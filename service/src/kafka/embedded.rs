//! A broker inside this process, for the demo: librdkafka's mock cluster, reached over a real
//! socket by the real client. It keeps little and knows no transactions (docs/adr/0005).

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::failure::Failure;

/// Runs until it is dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// A broker with these topics, one partition each.
    pub fn start<'a>(topics: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let failed = |e| Failure::new("kafka", format!("the embedded broker does not start: {e}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        for topic in topics {
            cluster.create_topic(topic, 1, 1).map_err(failed)?;
        }
        Ok(Self { cluster })
    }

    /// Its bootstrap servers.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}
