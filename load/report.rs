//! Figures as medians, as a table and as JSON.

use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::Map;
use serde_json::Value;

use crate::Failure;
use crate::number;

/// Longest latency that is told apart: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Of several runs the worst of these is told, not the median.
const FAULTS: [&str; 6] = ["lost", "repeated", "outOfOrder", "resets", "ends", "disconnected"];

pub(crate) fn us_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants and good")
}

pub(crate) fn quantiles(us: &Histogram<u64>) -> Value {
    let at = |quantile: f64| us.value_at_quantile(quantile);
    serde_json::json!({
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "p100": us.max(),
    })
}

/// Whether nothing was lost, repeated, out of order, reset or cut.
pub(crate) fn is_clean(seen: &Value) -> bool {
    FAULTS.iter().all(|name| seen[*name].as_u64().unwrap_or(0) == 0)
}

/// One figure from several runs of the same thing.
pub(crate) fn medians(runs: &[Value]) -> Value {
    merge("", &runs.iter().collect::<Vec<_>>())
}

fn merge(name: &str, runs: &[&Value]) -> Value {
    let Some(first) = runs.first() else { return Value::Null };
    match first {
        Value::Object(fields) => {
            let of = |field: &String| merge(field, &runs.iter().map(|run| &run[field]).collect::<Vec<_>>());
            Value::Object(fields.keys().map(|field| (field.clone(), of(field))).collect())
        }
        Value::Number(_) => {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.as_f64()).collect();
            let value =
                if FAULTS.contains(&name) { values.into_iter().fold(0.0, f64::max) } else { number::median(values) };
            number::json(value)
        }
        other => (*other).clone(),
    }
}

/// A column: its heading, and where its value is, with dots between.
pub(crate) type Column = (&'static str, &'static str);

/// What is of interest wherever updates are delivered.
pub(crate) const DELIVERY: [Column; 14] = [
    ("server", "server"),
    ("way", "way"),
    ("streams", "streams"),
    ("updates/s", "rate"),
    ("µs/delivery", "cpuUsPerDelivery"),
    ("µs/update", "cpuUsPerUpdate"),
    ("p50 ms", "latencyUs.p50"),
    ("p99 ms", "latencyUs.p99"),
    ("p100 ms", "latencyUs.p100"),
    ("late p99 ms", "published.lateUs.p99"),
    ("lost", "lost"),
    ("cut", "disconnected"),
    ("server %", "cores.server"),
    ("load %", "loadPercent"),
];

pub(crate) fn print(title: &str, rows: &[Value], columns: &[Column]) {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, path)| cell(row, path)).collect()).collect();
    let used = |at: &usize| cells.iter().any(|row| !row[*at].is_empty());
    let columns: Vec<(usize, &str)> = (0..columns.len()).filter(used).map(|at| (at, columns[at].0)).collect();
    let width = |(at, heading): &(usize, &str)| {
        cells.iter().map(|row| row[*at].chars().count()).chain([heading.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().map(width).collect();
    println!("\n{title}");
    line(columns.iter().map(|(_, heading)| *heading), &widths);
    for row in &cells {
        line(columns.iter().map(|(at, _)| row[*at].as_str()), &widths);
    }
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
    println!("  {}", padded.join("  "));
}

fn cell(row: &Value, path: &str) -> String {
    let value = at(row, path);
    match value.as_f64() {
        Some(us) if path.contains("Us.") => format!("{:.2}", us / 1000.0),
        Some(number) if number.fract() == 0.0 => format!("{number}"),
        Some(number) if number.abs() < 100.0 => format!("{number:.2}"),
        Some(number) => format!("{number:.0}"),
        None => value.as_str().unwrap_or_default().to_owned(),
    }
}

/// The value at a path with dots between; a key may hold a dot itself where it is the last one.
pub(crate) fn at<'a>(row: &'a Value, path: &str) -> &'a Value {
    if !row[path].is_null() {
        return &row[path];
    }
    match path.split_once('.') {
        Some((first, rest)) if !row[first].is_null() => at(&row[first], rest),
        _ => &Value::Null,
    }
}

pub(crate) fn write(path: Option<&Path>, results: &Map<String, Value>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    Ok(std::fs::write(path, serde_json::to_string_pretty(results)? + "\n")?)
}
