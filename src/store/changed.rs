//! Rows that may have changed what somebody may see, or what a job is doing.

use crate::event::Id;

/// Which rows were changed, by their keys. Whoever hears of it reads the truth again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// So much, or so unknown, that everything has to be asked for again.
    pub all: bool,
    /// Users.
    pub users: Vec<Id>,
    /// Jobs: whose they are, or what they are doing.
    pub jobs: Vec<Id>,
    /// Jobs that are new.
    pub new_jobs: Vec<Id>,
    /// Documents.
    pub documents: Vec<Id>,
    /// Roles: document and user.
    pub permissions: Vec<(Id, Id)>,
}

impl Changed {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The keys of one table, as they are announced: one id each, or two for a role. Others are left out: they name nothing that
    /// can be subscribed to.
    pub fn add(&mut self, table: &str, keys: impl Iterator<Item = Vec<String>>) {
        for key in keys {
            let ids: Option<Vec<Id>> = key.iter().map(|text| Id::parse(text).ok()).collect();
            let Some(ids) = ids else { continue };
            match (table, ids.as_slice()) {
                ("users", [id]) => self.users.push(id.clone()),
                ("jobs", [id]) => self.jobs.push(id.clone()),
                ("new_jobs", [id]) => self.new_jobs.push(id.clone()),
                ("documents", [id]) => self.documents.push(id.clone()),
                ("document_permissions", [document, user]) => self.permissions.push((document.clone(), user.clone())),
                _ => {}
            }
        }
    }

    /// Both together.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.users.extend(other.users);
        self.jobs.extend(other.jobs);
        self.new_jobs.extend(other.new_jobs);
        self.documents.extend(other.documents);
        self.permissions.extend(other.permissions);
    }
}
