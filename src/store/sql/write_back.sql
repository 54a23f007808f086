-- Ten arrays, one element per job. Only forward: the row keeps whatever is newer.
UPDATE $$.jobs AS t
SET status = w.status, progress = w.progress, message = w.message, error = w.error::json, data = w.data::json,
    attempt = w.attempt::numeric, seq = w.seq::numeric, version = w.version,
    updated_at = coalesce(to_timestamp(w.updated_ms / 1000.0), now())
FROM unnest($1::text[], $2::text[], $3::double precision[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::bigint[], $10::bigint[])
    AS w(id, status, progress, message, error, data, attempt, seq, version, updated_ms)
WHERE t.id::text = w.id AND (t.version IS NULL OR t.version < w.version)
