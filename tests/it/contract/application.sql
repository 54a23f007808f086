-- An application with tables of its own, uuid keys and other names, and its views for Tidings.
CREATE SCHEMA app;
CREATE TABLE app.accounts (account_id uuid PRIMARY KEY, display text, picture text, deleted_at timestamptz);
CREATE TABLE app.tasks (
    id uuid PRIMARY KEY, account_id uuid, state text, percent integer, note text, failure jsonb, result jsonb,
    attempt integer, seq bigint, version bigint, changed_at timestamptz DEFAULT now()
);
CREATE TABLE app.files (id uuid PRIMARY KEY, account_id uuid);
CREATE TABLE app.shares (file_id uuid, account_id uuid, level text, PRIMARY KEY (file_id, account_id));

CREATE INDEX ON app.accounts ((account_id::text));
CREATE INDEX ON app.tasks ((id::text));
CREATE INDEX ON app.files ((id::text));
CREATE INDEX ON app.shares ((file_id::text), (account_id::text));

CREATE SCHEMA tidings;
CREATE VIEW tidings.users AS
SELECT account_id::text AS id, display AS name, picture AS avatar_url, deleted_at AS disabled_at FROM app.accounts;
CREATE VIEW tidings.jobs AS
SELECT id::text AS id, account_id::text AS user_id, state AS status, percent AS progress, note AS message,
       failure AS error, result AS data, attempt, seq, version, changed_at AS updated_at
FROM app.tasks;
-- Without a cast: ids of any type are read as text.
CREATE VIEW tidings.documents AS SELECT id, account_id AS owner_id FROM app.files;
CREATE VIEW tidings.document_permissions AS
SELECT file_id AS document_id, account_id AS user_id, level AS role FROM app.shares;
