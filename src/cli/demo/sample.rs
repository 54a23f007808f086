//! Sample people, jobs and documents. Idempotent: a second start finds them.

use std::collections::HashMap;

use crate::event::Id;
use crate::jobs::TerminalStatuses;
use crate::store::Role;
use crate::store::Store;
use crate::store::StoreError;

/// A sample job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: &'static str,
    owner: &'static str,
}

/// Three whose colors differ: there are sixteen, and an id has the one it has.
pub(super) const USERS: [(&str, &str); 3] =
    [("ada", "Ada Lovelace"), ("katherine", "Katherine Johnson"), ("alan", "Alan Turing")];

/// Nobody works on this one: it is for what you publish from a shell.
pub(super) const YOURS: &str = "your-job";

pub(super) const JOBS: [Job; 5] = [
    Job { id: "quarterly-report", owner: "ada" },
    Job { id: "sales-deck", owner: "ada" },
    Job { id: "onboarding", owner: "ada" },
    Job { id: "press-kit", owner: "ada" },
    Job { id: "secret-project", owner: "katherine" },
];

pub(super) const DOCUMENT: &str = "d1";

/// Id and title of a document that every visitor may edit, until they take the role away from themselves. Its owner is nobody
/// whom one can visit as: an owner has no role to lose.
pub(super) const SHARED: (&str, &str) = ("launch-deck", "Launch deck");
const SHARED_OWNER: (&str, &str) = ("studio", "The design studio");

/// The last attempt of each sample job, of this run or an earlier one: a worker goes on counting where it was.
pub(super) async fn attempts(store: &Store, terminal: &TerminalStatuses) -> Result<HashMap<Id, u64>, StoreError> {
    let ids: Vec<Id> = JOBS.iter().filter_map(|job| Id::parse(job.id).ok()).collect();
    let rows = store.jobs(&ids, terminal).await?;
    Ok(rows.into_iter().map(|(id, row)| (id, row.state.and_then(|state| state.attempt).unwrap_or(0))).collect())
}

pub(super) async fn fill(store: &Store) -> Result<(), StoreError> {
    let id = |text: &str| Id::parse(text).expect("sample ids follow the grammar");
    for (user, name) in USERS {
        store.put_user(&id(user), name).await?;
    }
    for job in &JOBS {
        store.put_job(&id(job.id), &id(job.owner), "queued").await?;
    }
    store.put_job(&id(YOURS), &id("ada"), "queued").await?;
    store.put_document(&id(DOCUMENT), &id("ada"), "A shared slide").await?;
    store.put_role(&id(DOCUMENT), &id("katherine"), Role::Editor).await?;
    store.put_user(&id(SHARED_OWNER.0), SHARED_OWNER.1).await?;
    store.put_document(&id(SHARED.0), &id(SHARED_OWNER.0), SHARED.1).await?;
    for (user, _) in USERS {
        store.put_role(&id(SHARED.0), &id(user), Role::Editor).await?;
    }
    Ok(())
}
