//! Waiting for something to become true, with a deadline, instead of sleeping and hoping.

use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits at most for what takes milliseconds where nothing else runs. It says nothing of the product, and costs
/// nothing where all is well; a machine that is busy stands still for seconds.
pub const SOON: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Asks again and again, with growing short pauses, until the answer is `Some`.
///
/// # Panics
/// After `deadline`, saying what was waited for; also when a single question takes that long.
pub async fn eventually<T>(what: &str, deadline: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut pause = PAUSE_MIN;
    let mut asked = 0_u32;
    loop {
        asked += 1;
        let left = deadline.saturating_sub(started.elapsed());
        if let Ok(Some(answer)) = tokio::time::timeout(left, ask()).await {
            return answer;
        }
        let waited = started.elapsed();
        assert!(waited < deadline, "not within {deadline:?}: {what} (asked {asked} times)");
        tokio::time::sleep(pause.min(deadline.saturating_sub(waited))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The pause between two acts of a part that a test plays, as somebody who publishes now and then; never to wait for an outcome.
pub async fn pace(pause: Duration) {
    tokio::time::sleep(pause).await;
}
