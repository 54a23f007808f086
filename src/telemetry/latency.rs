//! A histogram that takes many equal observations at once.
//!
//! An event for ten thousand streams is ten thousand latencies of the same length. The crate's histogram takes them one by one,
//! which would be a tenth of the cost of writing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto::Bucket;
use prometheus::proto::Histogram;
use prometheus::proto::LabelPair;
use prometheus::proto::Metric;
use prometheus::proto::MetricFamily;
use prometheus::proto::MetricType;

/// Latencies by one label of a closed set. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Latencies(Arc<Series>);

#[derive(Debug)]
struct Series {
    desc: Desc,
    label: &'static str,
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    values: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    of: &'static str,
    /// One more than there are bounds.
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Latencies {
    /// One series for each value of the label.
    pub(super) fn new(
        (name, help): (&str, &str),
        label: &'static str,
        values: &[&'static str],
        bounds: &'static [f64],
    ) -> prometheus::Result<Self> {
        let desc = Desc::new(name.to_owned(), help.to_owned(), vec![label.to_owned()], HashMap::new())?;
        let counts = || (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let value = |of: &&'static str| Value { of, counts: counts(), sum_us: AtomicU64::new(0) };
        Ok(Self(Arc::new(Series { desc, label, bounds, values: values.iter().map(value).collect() })))
    }

    /// Counts `count` latencies of this length; `at` is the place of the label's value among all.
    pub fn observe(&self, at: usize, latency: Duration, count: u64) {
        let seconds = latency.as_secs_f64();
        let bucket = self.0.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.0.bounds.len());
        let Some(value) = self.0.values.get(at) else { return };
        if let Some(counted) = value.counts.get(bucket) {
            counted.fetch_add(count, Ordering::Relaxed);
        }
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        value.sum_us.fetch_add(us.saturating_mul(count), Ordering::Relaxed);
    }
}

impl Latencies {
    /// How many there were, and how long they took together, in seconds.
    #[must_use]
    pub fn total(&self) -> (u64, f64) {
        let counted = self.0.values.iter().flat_map(|value| &value.counts).map(|count| count.load(Ordering::Relaxed));
        let us = self.0.values.iter().map(|value| value.sum_us.load(Ordering::Relaxed)).sum();
        (counted.sum(), Duration::from_micros(us).as_secs_f64())
    }
}

impl Series {
    fn metric(&self, value: &Value) -> Metric {
        let mut seen = 0;
        let buckets = self.bounds.iter().zip(&value.counts).map(|(bound, count)| {
            seen += count.load(Ordering::Relaxed);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(seen);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(seen + value.counts.last().map_or(0, |beyond| beyond.load(Ordering::Relaxed)));
        histogram.set_sample_sum(Duration::from_micros(value.sum_us.load(Ordering::Relaxed)).as_secs_f64());
        let mut label = LabelPair::default();
        label.set_name(self.label.to_owned());
        label.set_value(value.of.to_owned());
        let mut metric = Metric::from_label(vec![label]);
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for Latencies {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    /// Only values that were ever observed, as the crate's own vectors do.
    fn collect(&self) -> Vec<MetricFamily> {
        let used = |value: &&Value| value.counts.iter().any(|count| count.load(Ordering::Relaxed) > 0);
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(self.0.values.iter().filter(used).map(|value| self.0.metric(value)).collect());
        vec![family]
    }
}

#[test]
fn it_counts_many_at_once_like_one_by_one() {
    use prometheus::Encoder as _;
    let made = Latencies::new(("latency", "Help"), "kind", &["a", "b"], &[0.001, 0.01]).expect("valid");
    made.observe(1, Duration::from_millis(1), 3);
    made.observe(1, Duration::from_millis(5), 1000);
    made.observe(1, Duration::from_secs(1), 1);
    let registry = prometheus::Registry::new();
    registry.register(Box::new(made)).expect("once");
    let mut text = Vec::new();
    prometheus::TextEncoder::new().encode(&registry.gather(), &mut text).expect("text");
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        r#"latency_bucket{kind="b",le="0.001"} 3"#,
        r#"latency_bucket{kind="b",le="0.01"} 1003"#,
        r#"latency_bucket{kind="b",le="+Inf"} 1004"#,
        r#"latency_sum{kind="b"} 6.003"#,
        r#"latency_count{kind="b"} 1004"#,
    ];
    assert_eq!(lines, expected);
}
