//! How a metric is made and registered, and what was said of it is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use sanderling_schemas::Partition;

/// Why making a metric cannot fail.
const VALID: &str = "names and bounds are constants of the right form";

/// What is declared of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<&'static str>,
    /// What it counts.
    pub help: &'static str,
}

/// Makes metrics, registers them and keeps what was said of each.
#[derive(Default)]
pub(super) struct Declare {
    pub registry: Registry,
    pub declared: Vec<Declared>,
}

impl Declare {
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect(VALID);
        self.register("counter", name, help, &[], counter)
    }

    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
    ) -> IntCounterVec {
        let vec = IntCounterVec::new(Opts::new(name, help), &[label]).expect(VALID);
        self.register("counter", name, help, &[label], vec)
    }

    pub(super) fn counter_each<K, const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [(K, &'static str); N],
    ) -> Each<K, IntCounter> {
        let vec = self.counters(name, help, label);
        let each = values.map(|(key, value)| (key, vec.with_label_values(&[value])));
        Each(each.into())
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect(VALID);
        self.register("gauge", name, help, &[], gauge)
    }

    pub(super) fn gauge_of_seconds(&mut self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::new(name, help).expect(VALID);
        self.register("gauge", name, help, &[], gauge)
    }

    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> IntGaugeVec {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID);
        self.register("gauge", name, help, labels, vec)
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        bounds: &[f64],
    ) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let histogram = Histogram::with_opts(options).expect(VALID);
        self.register("histogram", name, help, &[], histogram)
    }

    pub(super) fn histogram_each<K, const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [(K, &'static str); N],
        bounds: &[f64],
    ) -> Each<K, Histogram> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let vec = HistogramVec::new(options, &[label]).expect(VALID);
        let vec = self.register("histogram", name, help, &[label], vec);
        let each = values.map(|(key, value)| (key, vec.with_label_values(&[value])));
        Each(each.into())
    }

    fn register<M: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
        metric: M,
    ) -> M {
        self.registry
            .register(Box::new(metric.clone()))
            .expect("each name is declared once");
        self.declared.push(Declared {
            name,
            kind,
            labels: labels.to_vec(),
            help,
        });
        metric
    }
}

/// One metric for each value of a closed label.
pub(super) struct Each<K, M>(Vec<(K, M)>);

impl<K: Copy + PartialEq, M> Each<K, M> {
    pub(super) fn of(&self, key: K) -> &M {
        let mut all = self.0.iter();
        let (_, metric) = all
            .find(|(known, _)| *known == key)
            .expect("a closed label's values are all declared");
        metric
    }
}

/// A gauge by partition, which is gone once the partition is.
pub(super) struct PartitionGauges {
    vec: IntGaugeVec,
    owned: Mutex<BTreeMap<(Arc<str>, Partition), IntGauge>>,
}

impl PartitionGauges {
    pub(super) fn new(vec: IntGaugeVec) -> Self {
        Self {
            vec,
            owned: Mutex::default(),
        }
    }

    pub(super) fn set(&self, partitions: &[(Arc<str>, Partition, i64)]) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<(Arc<str>, Partition)> = owned
            .keys()
            .filter(|(topic, partition)| {
                !partitions
                    .iter()
                    .any(|(t, p, _)| t == topic && p == partition)
            })
            .cloned()
            .collect();
        for key in gone {
            owned.remove(&key);
            // Not to find it is to have it gone already.
            let _ = self
                .vec
                .remove_label_values(&[&*key.0, &key.1.0.to_string()]);
        }
        for (topic, partition, records) in partitions {
            owned
                .entry((topic.clone(), *partition))
                .or_insert_with(|| {
                    self.vec
                        .with_label_values(&[&**topic, &partition.0.to_string()])
                })
                .set(*records);
        }
    }
}
