-- Announcing changes that can change what somebody may see, as
--     NOTIFY <schema>, '{"table":"document_permissions","keys":[["d7","ada"],["d7","bob"]]}'
--     NOTIFY <schema>, '{"table":"jobs","all":true}'
-- on the channel that is named like the schema (`tidings`). Keys only, never contents: whoever listens reads the truth
-- again. `all` stands for a TRUNCATE, and for more keys than a listener would want one by one.
--
-- The triggers fire once per statement and look at what it changed as a whole: a bulk update is a few notifications, not
-- one per row, and a statement that changes nothing of interest is none. That matters because every transaction with a
-- notification takes a lock of the whole server at its commit.
--
-- `SET search_path FROM CURRENT` ties the functions to this schema whatever the caller's path is, and tells them its name.

-- Sends keys, each a text array. Only ids of the protocol's grammar (anything else can't be subscribed to) and few enough
-- for the 8000 bytes of a payload: 24 × 2 × 131 bytes.
CREATE FUNCTION announce(source text, keys text[][]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    chunk jsonb;
BEGIN
    FOR chunk IN
        SELECT jsonb_agg(numbered.key)
        FROM (
            SELECT valid.key, (row_number() OVER () - 1) / 24 AS part
            FROM jsonb_array_elements(to_jsonb(keys)) AS valid(key)
            WHERE NOT EXISTS (
                SELECT FROM jsonb_array_elements_text(valid.key) AS one(id)
                WHERE one.id IS NULL OR one.id !~ '^[A-Za-z0-9][A-Za-z0-9_.:@|~-]{0,127}$'
            )
        ) AS numbered
        GROUP BY numbered.part
    LOOP
        PERFORM pg_notify(current_schema(), json_build_object('table', source, 'keys', chunk)::text);
    END LOOP;
END $$;

-- The trigger. Arguments: our table's name; then as array literals the key columns, the columns whose change counts, the
-- columns whose change counts only when it isn't ours; and the version column by which we know ours, or ''.
CREATE FUNCTION announce_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    key_columns  text[] := TG_ARGV[1];
    watched      text[] := TG_ARGV[2];
    from_outside text[] := TG_ARGV[3];
    version      text   := TG_ARGV[4];
    same_key     text;
    changed      text;
    statement    text;
    found_keys   text[][];
    keys_max     constant integer := 1000;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify(current_schema(), json_build_object('table', TG_ARGV[0], 'all', true)::text);
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT string_agg(format('o.%1$I = n.%1$I', c), ' AND ') INTO same_key FROM unnest(key_columns) AS c;
        SELECT string_agg(format('o.%1$I IS DISTINCT FROM n.%1$I', c), ' OR ') INTO changed
        FROM unnest(key_columns || watched) AS c;
        IF cardinality(from_outside) > 0 THEN
            SELECT format('%s OR ((%s) AND %s)', changed, string_agg(format('o.%1$I IS DISTINCT FROM n.%1$I', c), ' OR '),
                CASE WHEN version = '' THEN 'true' ELSE format('o.%1$I IS NOT DISTINCT FROM n.%1$I', version) END)
            INTO changed FROM unnest(from_outside) AS c;
        END IF;
        -- A row whose key changed has no partner on either side, so both its old and its new key are announced.
        SELECT format(
            'SELECT DISTINCT %s FROM old_rows AS o FULL JOIN new_rows AS n ON %s WHERE %s',
            string_agg(format('coalesce(o.%1$I, n.%1$I)::text AS k%2$s', c, place), ', '), same_key, changed)
        INTO statement FROM unnest(key_columns) WITH ORDINALITY AS u(c, place);
    ELSE
        SELECT format('SELECT DISTINCT %s FROM %I',
            string_agg(format('%I::text AS k%s', c, place), ', '),
            CASE TG_OP WHEN 'INSERT' THEN 'new_rows' ELSE 'old_rows' END)
        INTO statement FROM unnest(key_columns) WITH ORDINALITY AS u(c, place);
    END IF;
    SELECT format('SELECT array_agg(ARRAY[%s]) FROM (%s LIMIT %s) AS changed',
        string_agg(format('k%s', place), ', '), statement, keys_max + 1)
    INTO statement FROM unnest(key_columns) WITH ORDINALITY AS u(c, place);
    EXECUTE statement INTO found_keys;
    IF array_length(found_keys, 1) > keys_max THEN
        PERFORM pg_notify(current_schema(), json_build_object('table', TG_ARGV[0], 'all', true)::text);
    ELSIF found_keys IS NOT NULL THEN
        PERFORM announce(TG_ARGV[0], found_keys);
    END IF;
    RETURN NULL;
END $$;

-- Attaches the triggers to a base table that stands behind one of our four names. An application with views calls, say,
--     SELECT tidings.watch('app.accounts', 'users', '{account_id}', '{deleted_at}');
--     SELECT tidings.watch('app.tasks', 'jobs', '{id}', '{account_id}', '{state}');
--     SELECT tidings.watch('app.shares', 'document_permissions', '{doc_id,account_id}', '{level}');
-- where the key columns stand in the order of our keys: users (id), jobs (id), documents (id),
-- document_permissions (document_id, user_id). Again with other columns replaces the former triggers.
CREATE FUNCTION watch(
    source       regclass,
    as_table     text,
    key_columns  text[],
    watched      text[] DEFAULT '{}',
    from_outside text[] DEFAULT '{}',
    version      text   DEFAULT ''
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    wanted  integer := CASE as_table WHEN 'document_permissions' THEN 2 ELSE 1 END;
    unknown text;
    event   record;
BEGIN
    IF as_table IS NULL OR as_table NOT IN ('users', 'jobs', 'documents', 'document_permissions') THEN
        RAISE EXCEPTION 'the second argument is one of users, jobs, documents, document_permissions';
    END IF;
    IF coalesce(cardinality(key_columns), 0) <> wanted THEN
        RAISE EXCEPTION '% needs % key column(s)', as_table, wanted;
    END IF;
    SELECT c INTO unknown
    FROM unnest(key_columns || watched || from_outside || array_remove(ARRAY[version], '')) AS c
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = source AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped
    )
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% has no column %', source, unknown;
    END IF;
    FOR event IN
        SELECT * FROM (VALUES
            ('insert', 'REFERENCING NEW TABLE AS new_rows'),
            ('update', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
            ('delete', 'REFERENCING OLD TABLE AS old_rows'),
            ('truncate', '')
        ) AS e(name, tables)
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'tidings_' || as_table || '_' || event.name, source);
        EXECUTE format(
            'CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %I.announce_changes(%L, %L, %L, %L, %L)',
            'tidings_' || as_table || '_' || event.name, event.name, source, event.tables, current_schema(),
            as_table, key_columns, watched, from_outside, version);
    END LOOP;
END $$;

COMMENT ON FUNCTION watch IS
    'watch(base table, which of our tables it stands for, key columns, columns whose change counts, columns whose change '
    'counts when Tidings did not write it, version column)';

-- Our own tables. A change of a job's status with a new version is our write-back, which everybody knows already.
DO $$
DECLARE
    ours record;
BEGIN
    FOR ours IN
        SELECT c.oid::regclass AS source, c.relname::text AS name
        FROM pg_class AS c
        WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND obj_description(c.oid, 'pg_class') = 'made by tidings'
    LOOP
        CASE ours.name
            WHEN 'users' THEN PERFORM watch(ours.source, 'users', '{id}', '{disabled_at}');
            WHEN 'jobs' THEN PERFORM watch(ours.source, 'jobs', '{id}', '{user_id}', '{status}', 'version');
            WHEN 'documents' THEN PERFORM watch(ours.source, 'documents', '{id}', '{owner_id}');
            WHEN 'document_permissions' THEN
                PERFORM watch(ours.source, 'document_permissions', '{document_id,user_id}', '{role}');
            ELSE NULL;
        END CASE;
    END LOOP;
END $$;
