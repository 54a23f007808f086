//! Jobs whose rows the application changes itself: it writes `completed` into its table, and the live streams must know.
//!
//! The database says which rows were changed, not what was changed or by whom, and our own write-back may still be on its way. So a
//! row counts as written by the application when it stands at the version that the log knows and yet says another status, or when
//! it says an end that the log does not know; else it is looked at again a moment later. Every node hears of it, and the log takes
//! it once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::broker::JobAppend;
use crate::broker::KnownJob;
use crate::broker::Once;
use crate::broker::Seed;
use crate::clock;
use crate::digest;
use crate::event::Id;
use crate::event::LogId;
use crate::ingest::Ingest;
use crate::ingest::IngestError;
use crate::jobs::JobState;
use crate::jobs::JobUpdate;
use crate::store::JobRow;

/// Jobs that are looked at together.
const BATCH: usize = 256;
/// How soon a row that is not at the log's version is looked at again, and how often: longer than a write-back takes.
const AGAIN: Duration = Duration::from_millis(1200);
const LOOKS_MAX: u32 = 4;
/// Rows that are to be looked at again, at most; those beyond are found by whoever opens a stream of them.
const WAITING_MAX: usize = 16_384;

/// What a row and the log say of a job together.
enum Judged {
    /// The same, or something that the log knows better.
    Settled,
    /// The application wrote this.
    Outside(JobState),
    /// One of them is not up to date yet.
    Unclear,
}

/// A row to look at.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Somebody here is shown this job.
    carried: bool,
    looks: u32,
    at: Instant,
}

/// Looks at rows that were changed, and whether a stream of this node carries their jobs, until nobody says any more which.
pub async fn run(ingest: &Ingest, mut changed: mpsc::Receiver<Vec<(Id, bool)>>) {
    let mut waiting: HashMap<Id, Look> = HashMap::new();
    loop {
        let next = waiting.values().map(|look| look.at).min();
        let wake = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            jobs = changed.recv() => match jobs {
                Some(jobs) => {
                    let (room, at) = (WAITING_MAX.saturating_sub(waiting.len()), Instant::now());
                    waiting.extend(jobs.into_iter().take(room).map(|(job, carried)| (job, Look { carried, looks: 0, at })));
                }
                None => return,
            },
            () = wake => {}
        }
        let now = Instant::now();
        let due: Vec<Id> =
            waiting.iter().filter(|(_, look)| look.at <= now).map(|(job, _)| job.clone()).take(BATCH).collect();
        let due: Vec<(Id, Look)> = due.into_iter().filter_map(|job| waiting.remove_entry(&job)).collect();
        for (job, look) in look_at(ingest, due).await.into_iter().filter(|(_, look)| look.looks < LOOKS_MAX) {
            // A newer announcement counts anew.
            waiting.entry(job).or_insert(Look { looks: look.looks + 1, at: Instant::now() + AGAIN, ..look });
        }
    }
}

/// Answers those that are to be looked at again.
async fn look_at(ingest: &Ingest, due: Vec<(Id, Look)>) -> Vec<(Id, Look)> {
    let ids: Vec<Id> = due.iter().map(|(job, _)| job.clone()).collect();
    let rows = match ingest.store.jobs(&ids, &ingest.terminal).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::debug!(%error, "rows of jobs can't be read");
            return due;
        }
    };
    let mut again = Vec::new();
    for (job, look) in due {
        let Some(row) = rows.get(&job) else { continue };
        match take(ingest, &job, row, look).await {
            Ok(true) => {}
            Ok(false) => again.push((job, look)),
            Err(error) => {
                tracing::debug!(%error, "a row that the application wrote is not in the log yet");
                again.push((job, look));
            }
        }
    }
    again
}

/// Whether nothing is left to be done for this row.
async fn take(ingest: &Ingest, job: &Id, row: &JobRow, look: Look) -> Result<bool, IngestError> {
    let known = ingest.broker.job(job).await?;
    if known.is_none() && !look.carried {
        return Ok(true); // whoever asks for it is told what the row says
    }
    let state = match judge(known.as_ref(), row) {
        Judged::Settled => return Ok(true),
        Judged::Unclear => return Ok(false),
        Judged::Outside(state) => state,
    };
    // The number within the attempt is the worker's: with it, this would be the update that the log has already.
    let text = JobState { seq: None, ..state }.to_json(job);
    let Ok(update) = JobUpdate::parse(text.as_bytes(), Some(job)) else { return Ok(true) };
    let once = Once::Named(name(job, row.version, &update.status));
    let accepted_us = clock::now_us();
    if known.is_none() {
        // As the log doesn't know the job, streams were given what the row said before: it is told as something new.
        let seed = Seed { state: None, version: row.version };
        ingest.broker.append_job(&JobAppend { update: &update, once, seed: Some(&seed), accepted_us }).await?;
        return Ok(true);
    }
    ingest.judge(&update, &once, accepted_us, "database").await?;
    Ok(true)
}

fn judge(known: Option<&KnownJob>, row: &JobRow) -> Judged {
    let Some(state) = &row.state else { return Judged::Settled };
    let Some(known) = known else { return Judged::Outside(state.clone()) };
    if known.state.status == state.status {
        return Judged::Settled;
    }
    // Our own write-back may still be on its way, over a row that says something older. An end is different: we announce none of
    // ours, so the application wrote it, unless the job has begun a new attempt since.
    let ended =
        state.terminal && !known.state.terminal && state.attempt.unwrap_or(0) >= known.state.attempt.unwrap_or(0);
    if ended || row.version == known.version { Judged::Outside(state.clone()) } else { Judged::Unclear }
}

/// The same on every node.
fn name(job: &Id, version: LogId, status: &str) -> String {
    digest::name_of(&[job.as_str(), &version.to_string(), status])
}

#[cfg(test)]
mod tests {
    use crate::broker::KnownJob;
    use crate::event::LogId;
    use crate::ingest::outside::Judged;
    use crate::ingest::outside::judge;
    use crate::jobs::JobState;
    use crate::store::JobRow;

    fn state(status: &str, terminal: bool) -> JobState {
        JobState { status: status.to_owned(), terminal, ..JobState::default() }
    }

    fn at(ms: u64) -> LogId {
        LogId { ms, seq: 0 }
    }

    #[test]
    fn only_what_the_log_cannot_have_written_counts() {
        let row =
            |status: &str, terminal, ms| JobRow { owner: None, state: Some(state(status, terminal)), version: at(ms) };
        let running = KnownJob { state: state("running", false), version: at(10) };
        let judged = |row: &JobRow| match judge(Some(&running), row) {
            Judged::Settled => "settled",
            Judged::Outside(_) => "outside",
            Judged::Unclear => "unclear",
        };
        assert_eq!(judged(&row("running", false, 5)), "settled");
        assert_eq!(judged(&row("completed", true, 10)), "outside");
        assert_eq!(judged(&row("queued", false, 5)), "unclear", "our own write-back is on its way");
        assert_eq!(judged(&row("completed", true, 5)), "outside", "an end is an end");
        let again = KnownJob { state: JobState { attempt: Some(2), ..state("running", false) }, version: at(10) };
        assert!(
            matches!(judge(Some(&again), &row("failed", true, 5)), Judged::Unclear),
            "the end of the attempt before"
        );
    }
}
