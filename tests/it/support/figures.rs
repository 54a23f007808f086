//! Figures of what was measured.

/// The 99th percentile.
///
/// # Panics
/// When nothing was measured.
pub fn p99(mut delays: Vec<u64>) -> u64 {
    delays.sort_unstable();
    delays[(delays.len() * 99).div_ceil(100) - 1]
}

/// Of several rounds: one of them may have met something else on this machine.
///
/// # Panics
/// When there was none.
pub fn median(mut of_rounds: Vec<u64>) -> u64 {
    of_rounds.sort_unstable();
    of_rounds[of_rounds.len() / 2]
}
