-- The tables of Tidings. `search_path` is the schema of the setting DATABASE_SCHEMA, and nothing else.
--
-- An application with tables of its own puts views of these names there, before or instead. Whatever already has one of
-- the names is left exactly as it is, so each table is made only where there is none, and carries a comment by which a
-- later migration knows it as ours. No foreign keys: any of the four may be a view.
--
-- A view has the same columns; ids may be of any type, we read them as text. The index that serves the look-up is then
--     CREATE INDEX ON app.users ((id::text));
-- on the application's table, for every id that we look up by: users.id, jobs.id, documents.id, and
-- document_permissions (document_id, user_id) together.

DO $$
BEGIN
    IF to_regclass(format('%I.users', current_schema())) IS NULL THEN
        CREATE TABLE users (
            id          text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
            name        text,
            avatar_url  text,
            disabled_at timestamptz,
            created_at  timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE users IS 'made by tidings';
    END IF;
END $$;

-- `version` is the log position of the state. Only Tidings writes it; NULL: the application's own state.
-- `json`, not `jsonb`: it keeps our spelling, and takes the \u0000 that a worker may send. `attempt` and `seq` are unsigned
-- 64-bit numbers, which bigint can't hold.
DO $$
BEGIN
    IF to_regclass(format('%I.jobs', current_schema())) IS NULL THEN
        CREATE TABLE jobs (
            id         text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
            user_id    text,
            status     text,
            progress   double precision,
            message    text,
            error      json,
            data       json,
            attempt    numeric(20, 0) CHECK (attempt >= 0),
            seq        numeric(20, 0) CHECK (seq >= 0),
            version    bigint,
            updated_at timestamptz NOT NULL DEFAULT now(),
            created_at timestamptz NOT NULL DEFAULT now()
        ) WITH (fillfactor = 80); -- room on the page for the next state of the row: no index changes with it
        CREATE INDEX jobs_user_id ON jobs (user_id);
        COMMENT ON TABLE jobs IS 'made by tidings';
    END IF;
END $$;

DO $$
BEGIN
    IF to_regclass(format('%I.documents', current_schema())) IS NULL THEN
        CREATE TABLE documents (
            id         text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
            owner_id   text,
            title      text,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE documents IS 'made by tidings';
    END IF;
END $$;

DO $$
BEGIN
    IF to_regclass(format('%I.document_permissions', current_schema())) IS NULL THEN
        CREATE TABLE document_permissions (
            document_id text NOT NULL,
            user_id     text NOT NULL,
            role        text NOT NULL CHECK (role IN ('owner', 'editor', 'commenter', 'viewer')),
            PRIMARY KEY (document_id, user_id)
        );
        CREATE INDEX document_permissions_user_id ON document_permissions (user_id);
        COMMENT ON TABLE document_permissions IS 'made by tidings';
    END IF;
END $$;
