//! Questions to the database about jobs that the log does not know, asked together: a thousand new jobs are a few queries.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::broker::Seed;
use crate::event::Id;
use crate::jobs::TerminalStatuses;
use crate::store::Store;
use crate::store::StoreError;

/// Ids of one question.
const BATCH_MAX: usize = 500;

/// Rounds for others after which somebody else goes on asking.
const ROUNDS: usize = 4;

/// Who waits for what is known of a job; `None`: the database can't be asked.
type Asker = (Id, oneshot::Sender<Option<Seed>>);

/// Whoever asks first asks for all who ask meanwhile. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Seeds {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    asking: bool,
    askers: Vec<Asker>,
}

/// Hands the asking on, also when the one who asks is dropped in the middle of it.
struct Turn<'a>(&'a Seeds);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.asking = false;
        // Those who still wait learn it by their dropped senders, and the first of them asks.
        waiting.askers = Vec::new();
    }
}

impl Seeds {
    /// What the database knows of a job.
    ///
    /// # Errors
    /// The database can't be asked.
    pub(super) async fn of(&self, store: &Store, terminal: &TerminalStatuses, job: &Id) -> Result<Seed, StoreError> {
        loop {
            let Some(answer) = self.wait_in_line(job) else {
                return self.ask_for_all(store, terminal, job).await;
            };
            match answer.await {
                Ok(Some(seed)) => return Ok(seed),
                Ok(None) => return Err(StoreError::Timeout { query: "jobs" }),
                Err(_) => {} // whoever asked went away: perhaps it is our turn
            }
        }
    }

    /// A place in the line, or `None`: it is this caller's turn to ask.
    fn wait_in_line(&self, job: &Id) -> Option<oneshot::Receiver<Option<Seed>>> {
        let mut waiting = self.waiting.lock();
        if !waiting.asking {
            waiting.asking = true;
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.askers.push((job.clone(), sender));
        Some(receiver)
    }

    async fn ask_for_all(&self, store: &Store, terminal: &TerminalStatuses, job: &Id) -> Result<Seed, StoreError> {
        let _turn = Turn(self);
        let mut known = self.ask(store, terminal, vec![job.clone()]).await?;
        for _ in 0..ROUNDS {
            let batch = self.next_batch();
            if batch.is_empty() {
                break;
            }
            let ids = batch.iter().map(|(id, _)| id.clone()).collect();
            // That the others can't be told is their failure, not ours.
            let Ok(seeds) = self.ask(store, terminal, ids).await else { break };
            for (id, asker) in batch {
                // One who no longer wants to know is no failure either.
                drop(asker.send(Some(seeds.get(&id).cloned().unwrap_or_default())));
            }
        }
        Ok(known.remove(job).unwrap_or_default())
    }

    /// Asks; when that fails, it has failed for all who wait: one by one they would wait for as many time-outs.
    async fn ask(
        &self,
        store: &Store,
        terminal: &TerminalStatuses,
        ids: Vec<Id>,
    ) -> Result<HashMap<Id, Seed>, StoreError> {
        let rows = store.jobs(&ids, terminal).await.inspect_err(|_| {
            for (_, asker) in std::mem::take(&mut self.waiting.lock().askers) {
                drop(asker.send(None));
            }
        })?;
        Ok(rows.into_iter().map(|(id, row)| (id, Seed { state: row.state, version: row.version })).collect())
    }

    fn next_batch(&self) -> Vec<Asker> {
        let mut waiting = self.waiting.lock();
        let count = waiting.askers.len().min(BATCH_MAX);
        waiting.askers.drain(..count).collect()
    }
}
