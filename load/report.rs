//! What was seen, as numbers, as a table and as JSON.

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::Failure;

/// Longest latency that is told apart: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;
const COMPLAINTS_MAX: usize = 5;

/// Of all streams together.
#[derive(Debug)]
pub(crate) struct Seen {
    latency_us: Histogram<u64>,
    /// Delivered before the measured time.
    pub(crate) cold: u64,
    /// Never came; also what was conflated, which doesn't happen to a reader that keeps up.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) resets: u64,
    pub(crate) ends: u64,
    pub(crate) disconnected: u64,
    pub(crate) complaints: Vec<String>,
}

impl Default for Seen {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants and good");
        let (cold, lost, repeated, out_of_order) = (0, 0, 0, 0);
        let (resets, ends, disconnected, complaints) = (0, 0, 0, Vec::new());
        Self { latency_us, cold, lost, repeated, out_of_order, resets, ends, disconnected, complaints }
    }
}

impl Seen {
    pub(crate) fn measure(&mut self, latency_us: u64) {
        self.latency_us.saturating_record(latency_us.max(1));
    }

    pub(crate) fn disconnected(&mut self, why: &str) {
        self.disconnected += 1;
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(why.to_owned());
        }
    }

    /// For the process that asked.
    pub(crate) fn to_json(&self) -> Result<Value, Failure> {
        let at = |quantile: f64| self.latency_us.value_at_quantile(quantile);
        Ok(serde_json::json!({
            "delivered": self.latency_us.len(),
            "deliveredCold": self.cold,
            "lost": self.lost,
            "repeated": self.repeated,
            "outOfOrder": self.out_of_order,
            "resets": self.resets,
            "ends": self.ends,
            "disconnected": self.disconnected,
            "complaints": self.complaints,
            "latencyUs": {
                "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "p100": self.latency_us.max(),
            },
        }))
    }
}

/// Whether nothing was lost, repeated, out of order, reset or cut, and something came at all.
pub(crate) fn is_clean(seen: &Value) -> bool {
    let faults = ["lost", "repeated", "outOfOrder", "resets", "ends", "disconnected"];
    seen["delivered"].as_u64() > Some(0) && faults.iter().all(|name| seen[*name] == 0)
}

/// One scenario's result for people: each leaf on a line, latencies in milliseconds.
pub(crate) fn print(name: &str, result: &Value) {
    println!("{name}");
    lines("", result).iter().for_each(|line| println!("  {line}"));
}

fn lines(path: &str, value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return vec![format!("{path:<28} {value:>12}")] };
    let in_us = path.ends_with("Us");
    fields
        .iter()
        .flat_map(|(name, value)| match value.as_f64() {
            Some(us) if in_us => vec![format!("{:<28} {:>12.3} ms", format!("latency {name}"), us / 1000.0)],
            _ => lines(&if path.is_empty() { name.clone() } else { format!("{path} {name}") }, value),
        })
        .collect()
}
