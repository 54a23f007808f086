//! The fold: what an update does to the state of its job. `append.lua` says the same in Lua.

use crate::event::Delivery;
use crate::jobs::Field;
use crate::jobs::JobState;
use crate::jobs::JobUpdate;
use crate::jobs::Reject;
use crate::jobs::TerminalStatuses;

/// What became of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The new state, and what a lagging client may miss of it.
    Applied(JobState, Delivery),
    /// Nothing changed.
    Rejected(Reject),
}

/// Folds an update into a state; `None` is a job of which nothing is known. `now` is the timestamp of an update without one.
///
/// Repetition by `updateId` or by bytes is the broker's to notice: it needs a memory beyond the state.
#[must_use]
pub fn judge(state: Option<&JobState>, update: &JobUpdate, terminal: &TerminalStatuses, now: &str) -> Judgement {
    let anew = match state {
        None => true,
        Some(state) => match order(state, update) {
            Err(reject) => return Judgement::Rejected(reject),
            Ok(anew) => anew,
        },
    };
    let base = match state {
        Some(state) if !anew => state.clone(),
        _ => JobState::default(),
    };
    let next = apply(base, update, terminal, now);
    let same_status = !anew && state.is_some_and(|state| state.status == next.status);
    let delivery = if same_status && !next.terminal { Delivery::Latest } else { Delivery::Durable };
    Judgement::Applied(next, delivery)
}

/// Whether the update starts a new attempt, or why it is too late. A job without numbers is at attempt 0.
fn order(state: &JobState, update: &JobUpdate) -> Result<bool, Reject> {
    let current = state.attempt.unwrap_or(0);
    let attempt = update.attempt.unwrap_or(current);
    if attempt < current {
        return Err(Reject::Stale);
    }
    if attempt > current {
        return Ok(true);
    }
    if state.terminal {
        return if may_run_again(state, update) { Ok(true) } else { Err(Reject::Terminal) };
    }
    match (update.seq, state.seq) {
        (Some(new), Some(old)) if new < old => Err(Reject::Stale),
        (Some(new), Some(old)) if new == old => Err(Reject::Duplicate),
        _ => Ok(false),
    }
}

/// Workers that don't number attempts say `queued` or `retrying` when they try a failed job again.
fn may_run_again(state: &JobState, update: &JobUpdate) -> bool {
    let numbered = update.attempt.is_some() || state.attempt.is_some();
    let succeeded = matches!(state.status.as_str(), "completed" | "succeeded");
    !numbered && !succeeded && matches!(update.status.as_str(), "queued" | "retrying")
}

fn apply(mut state: JobState, update: &JobUpdate, terminal: &TerminalStatuses, now: &str) -> JobState {
    merge(&mut state.progress, &update.progress);
    merge(&mut state.message, &update.message);
    merge(&mut state.error, &update.error);
    merge(&mut state.data, &update.data);
    state.status.clone_from(&update.status);
    state.terminal = terminal.contains(&update.status);
    state.attempt = update.attempt.or(state.attempt);
    state.seq = update.seq.or(state.seq);
    state.timestamp = update.timestamp.clone().unwrap_or_else(|| now.to_owned());
    state
}

fn merge(slot: &mut Option<String>, field: &Field) {
    match field {
        Field::Keep => {}
        Field::Clear => *slot = None,
        Field::Set(value) => *slot = Some(value.clone()),
    }
}
