-- The tables of embedded mode. STRICT: a column holds its type or NULL, so that what is read back can't surprise.
-- Without foreign keys, as in Postgres: an application may insert in any order, and a job without an owner is nobody's.

CREATE TABLE users (
    id          TEXT NOT NULL PRIMARY KEY,
    name        TEXT,
    avatar_url  TEXT,
    disabled_at TEXT,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT, WITHOUT ROWID;

-- `version` is the log position of the state. Only Tidings writes it; NULL: the application's own state.
-- `attempt` and `seq` are unsigned 64-bit numbers, which INTEGER can't hold: text.
CREATE TABLE jobs (
    id         TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT,
    status     TEXT,
    progress   REAL,
    message    TEXT,
    error      TEXT,
    data       TEXT,
    attempt    TEXT,
    seq        TEXT,
    version    INTEGER,
    updated_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    updated_at TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%fZ', updated_ms / 1000.0, 'unixepoch')) VIRTUAL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
CREATE INDEX jobs_user_id ON jobs (user_id);

CREATE TABLE documents (
    id         TEXT NOT NULL PRIMARY KEY,
    owner_id   TEXT,
    title      TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE document_permissions (
    document_id TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    role        TEXT NOT NULL CHECK (role IN ('owner', 'editor', 'commenter', 'viewer')),
    PRIMARY KEY (document_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX document_permissions_user_id ON document_permissions (user_id);
