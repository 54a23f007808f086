//! File and variables laid over the defaults, each value of the default's type; every mistake with its source.

use std::collections::BTreeMap;

/// Variables of the OpenTelemetry specification that mean the same as ours; ours come first.
const STANDARD: [(&str, &str); 2] =
    [("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"), ("OTLP_SERVICE_NAME", "OTEL_SERVICE_NAME")];

pub(super) fn file(
    table: &mut toml::Table,
    defaults: &toml::Table,
    name: &str,
    text: &str,
    mistakes: &mut Vec<String>,
) {
    match text.parse::<toml::Table>() {
        Err(e) => mistakes.push(format!("{name}: {}", e.to_string().replace('\n', " "))),
        Ok(file) => {
            for (key, value) in file {
                match defaults.get(&key) {
                    None => mistakes.push(format!("{name}: `{key}`: no such setting")),
                    Some(default) if default.type_str() != value.type_str() => {
                        let (want, got) = (default.type_str(), value.type_str());
                        mistakes.push(format!("{name}: `{key}`: expected {want}, found {got}"));
                    }
                    Some(_) => drop(table.insert(key, value)),
                }
            }
        }
    }
}

pub(super) fn variables(
    table: &mut toml::Table,
    defaults: &toml::Table,
    given: &BTreeMap<String, String>,
    mistakes: &mut Vec<String>,
) {
    for (key, default) in defaults {
        let name = key.to_uppercase();
        // The owner's documents say HEARTBEAT_INTERVAL, in milliseconds; the unit is part of our name.
        let short = name.strip_suffix("_MS").map(str::to_owned);
        let standard = STANDARD.iter().find(|(ours, _)| *ours == name).and_then(|(_, theirs)| given.get(*theirs));
        let given = given.get(&name).or_else(|| short.and_then(|short| given.get(&short))).or(standard);
        let Some(text) = given else { continue };
        match typed(text.trim(), default) {
            Ok(value) => drop(table.insert(key.clone(), value)),
            Err(want) => mistakes.push(format!("environment variable {name}: expected {want}")),
        }
    }
}

fn typed(text: &str, default: &toml::Value) -> Result<toml::Value, &'static str> {
    match default {
        toml::Value::Boolean(_) => match text {
            "true" | "1" | "yes" | "on" => Ok(true.into()),
            "false" | "0" | "no" | "off" | "" => Ok(false.into()),
            _ => Err("true or false"),
        },
        toml::Value::Integer(_) => number(text).map(Into::into).ok_or("a whole number, or a duration such as 15s"),
        toml::Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(toml::Value::Array(items.map(toml::Value::from).collect()))
        }
        _ => Ok(text.into()),
    }
}

/// A whole number; `15s`, `10min` and `250ms` are milliseconds.
fn number(text: &str) -> Option<i64> {
    let units = [("ms", 1), ("min", 60_000), ("s", 1000), ("h", 3_600_000)];
    let unit = units.iter().find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|rest| (rest.trim(), *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    digits.parse::<i64>().ok().filter(|n| *n >= 0)?.checked_mul(factor)
}
