//! Numbers between integers and reals, in one place because each such step has to be looked at.

/// Rounded; negative numbers and what is none are 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and that is what is meant"
)]
pub(crate) fn to_u64(value: f64) -> u64 {
    value.round() as u64
}

/// To so many significant digits, for tables and JSON.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - magnitude(value));
    (value * scale).round() / scale
}

#[expect(clippy::cast_possible_truncation, reason = "a logarithm is a small number")]
fn magnitude(value: f64) -> i32 {
    value.abs().log10().floor() as i32
}

/// For JSON: whole numbers without a point, others to a few digits.
pub(crate) fn json(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value >= 0.0 { to_u64(value).into() } else { round(value).into() }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (Some(value), _) => *value,
        (None, _) => 0.0,
    }
}
