-- A job that is new says what it says to whoever asks first; one that the application changes has to be told to those who asked
-- before. So the announcement of an INSERT into the jobs says that it is one.
--     NOTIFY <schema>, '{"table":"jobs","new":true,"keys":[["j1"]]}'

DROP FUNCTION announce(text, text[][]);

CREATE FUNCTION announce(source text, keys text[][], is_new boolean) RETURNS void
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
        PERFORM pg_notify(current_schema(), CASE
            WHEN is_new THEN json_build_object('table', source, 'new', true, 'keys', chunk)
            ELSE json_build_object('table', source, 'keys', chunk)
        END::text);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION announce_changes() RETURNS trigger
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
        PERFORM announce(TG_ARGV[0], found_keys, TG_OP = 'INSERT' AND TG_ARGV[0] = 'jobs');
    END IF;
    RETURN NULL;
END $$;
