//! What can go wrong with the database, each with one line of advice.

use sqlx::migrate::MigrateError;

/// The database can't do it. `Display` is for the log, `advice` for the operator; neither holds a password or a URL.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `DATABASE_URL` can't be read. The cause is left out: it may quote the URL.
    #[error("DATABASE_URL can't be read")]
    Settings,
    /// Nobody answers there.
    #[error("the database at {target} can't be reached")]
    Unreachable {
        /// `host:port`, or the socket's directory.
        target: String,
        /// What the driver said.
        source: Box<sqlx::Error>,
    },
    /// No encrypted connection came about.
    #[error("no TLS connection to the database at {target}")]
    Tls {
        /// `host:port`
        target: String,
        /// What the driver said.
        source: Box<sqlx::Error>,
    },
    /// User or password are wrong, or `pg_hba.conf` says no.
    #[error("the database refuses the user {user}")]
    Refused {
        /// The user's name.
        user: String,
        /// What the database said.
        source: Box<sqlx::Error>,
    },
    /// No such database.
    #[error("there is no database {database}")]
    DatabaseMissing {
        /// Its name.
        database: String,
        /// What the database said.
        source: Box<sqlx::Error>,
    },
    /// Tables, views or columns are missing.
    #[error("the schema {schema} lacks {missing}")]
    SchemaMissing {
        /// `DATABASE_SCHEMA`
        schema: String,
        /// `users.id, jobs.version`, at most a few.
        missing: String,
    },
    /// The data directory can't be used.
    #[error("the directory {path} can't be used")]
    Directory {
        /// `DATA_DIR`
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A migration failed; none of its statements took effect.
    #[error("the migration failed")]
    Migration {
        /// What the database said.
        source: Box<MigrateError>,
    },
    /// The database gave up answering within the bound.
    #[error("the question `{query}` was not answered in time")]
    Timeout {
        /// Which question.
        query: &'static str,
    },
    /// Nobody answered at all: no connection, or silence on it.
    #[error("the question `{query}` was not heard")]
    Silent {
        /// Which question.
        query: &'static str,
    },
    /// The database answered with an error.
    #[error("the question `{query}` failed")]
    Query {
        /// Which question.
        query: &'static str,
        /// What the driver said.
        source: Box<sqlx::Error>,
    },
}

impl StoreError {
    /// One line that says what to do.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Settings => "DATABASE_URL must look like postgres://user:password@host:5432/name".to_owned(),
            Self::Unreachable { target, .. } => {
                format!("start the database at {target}, or correct host and port in DATABASE_URL")
            }
            Self::Tls { target, .. } => {
                format!(
                    "check the certificate of {target}; sslmode and sslrootcert in DATABASE_URL say what is accepted"
                )
            }
            Self::Refused { user, .. } => format!("correct the user ({user}) or the password in DATABASE_URL"),
            Self::DatabaseMissing { database, .. } => {
                format!("create it with `createdb {database}`, or correct the name in DATABASE_URL")
            }
            Self::SchemaMissing { schema, missing } => {
                format!("run `tidings migrate`, or complete your views in the schema {schema} ({missing})")
            }
            Self::Directory { path, .. } => {
                format!("make {path} a directory that this user may write to, or set DATA_DIR")
            }
            Self::Migration { source } => {
                format!("run `tidings migrate` again once this is solved: {}", one_line(source))
            }
            Self::Timeout { .. } | Self::Silent { .. } => "look at the load of the database, and for locks".to_owned(),
            Self::Query { source, .. } => format!("look at the log of the database: {}", one_line(source)),
        }
    }

    /// Whether the same question can be answered later without anybody's help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.is_away() || matches!(self, Self::Timeout { .. } | Self::Query { .. })
    }

    /// Whether nobody is there to be asked, so that another question would fare no better.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { .. })
    }

    /// The metric label.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Timeout { .. } | Self::Silent { .. } => "timeout",
            Self::Unreachable { .. } => "unreachable",
            _ => "error",
        }
    }

    /// What the driver said while answering a question.
    pub(super) fn of_query(query: &'static str, source: sqlx::Error) -> Self {
        match &source {
            sqlx::Error::PoolTimedOut => Self::Silent { query },
            // statement_timeout
            sqlx::Error::Database(e) if e.code().as_deref() == Some("57014") => Self::Timeout { query },
            _ => Self::Query { query, source: Box::new(source) },
        }
    }
}

/// Text of a database on one line, at most 300 characters, for a log or a terminal.
pub(super) fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
