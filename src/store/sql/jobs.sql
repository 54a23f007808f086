-- $1 ids. Everything as text, cut at what can still be valid: a type that differs in a view, or a value of a gigabyte,
-- harms its own row at most.
SELECT asked.id, found.*
FROM unnest($1::text[]) AS asked(id)
CROSS JOIN LATERAL (
    SELECT left(t.user_id::text, 129) AS owner,
           left(t.status::text, 33) AS status,
           left(t.progress::text, 40) AS progress,
           CASE WHEN octet_length(t.message::text) <= 4096 THEN t.message::text END AS message,
           CASE WHEN octet_length(t.error::text) <= 65536 THEN t.error::text END AS error,
           CASE WHEN octet_length(t.data::text) <= 65536 THEN t.data::text END AS data,
           left(t.attempt::text, 40) AS attempt,
           left(t.seq::text, 40) AS seq,
           left(t.version::text, 40) AS version,
           (extract(epoch FROM t.updated_at) * 1000)::text AS updated_ms
    FROM $$.jobs AS t WHERE t.id::text = asked.id LIMIT 1
) AS found
