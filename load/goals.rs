//! What the project has set itself, beside what was measured.

use serde_json::Value;

use crate::number::round;
use crate::report;
use crate::report::Column;
use crate::report::at;

const COLUMNS: [Column; 5] =
    [("goal", "goal"), ("bound", "bound"), ("measured", "measured"), ("met", "met"), ("of", "of")];

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// All goals that were measured, in their order.
#[derive(Debug, Default)]
pub(crate) struct Goals(Vec<Value>);

/// Which rows a figure is taken from: fields and what they are.
pub(crate) type Where<'a> = &'a [(&'a str, Value)];

/// The figure of the only such row.
pub(crate) fn figure(rows: &[Value], which: Where<'_>, path: &str) -> Option<f64> {
    let row = rows.iter().find(|row| which.iter().all(|(name, value)| same(&row[*name], value)))?;
    at(row, path).as_f64()
}

/// The same, but only where everything that was published has come.
pub(crate) fn sound_figure(rows: &[Value], which: Where<'_>, path: &str) -> Option<f64> {
    let sound: Vec<Value> = rows.iter().filter(|row| row["short"] == false && report::is_clean(row)).cloned().collect();
    figure(&sound, which, path)
}

fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some() && one.as_f64() == other.as_f64()
}

pub(crate) fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other.filter(|other| *other > 0.0)?)
}

impl Goals {
    /// `of` says how the figure came about.
    pub(crate) fn add(&mut self, goal: &str, bound: Bound, measured: Option<f64>, of: &str) {
        let (sign, limit) = match bound {
            Bound::AtMost(limit) => ("≤", limit),
            Bound::AtLeast(limit) => ("≥", limit),
        };
        let met = measured.is_some_and(|measured| match bound {
            Bound::AtMost(limit) => measured <= limit,
            Bound::AtLeast(limit) => measured >= limit,
        });
        self.0.push(serde_json::json!({
            "goal": goal,
            "bound": format!("{sign} {limit}"),
            // Not kept up with, or not measured.
            "measured": measured.map_or(Value::from("none"), |measured| round(measured).into()),
            "met": if met { "yes" } else { "no" },
            "of": of,
        }));
    }

    pub(crate) fn print(&self) {
        report::print("Goals", &self.0, &COLUMNS);
    }

    pub(crate) fn into_rows(self) -> Vec<Value> {
        self.0
    }
}
