-- $1 ids
SELECT asked.id, found.owner
FROM unnest($1::text[]) AS asked(id)
CROSS JOIN LATERAL (
    SELECT left(t.user_id::text, 129) AS owner FROM $$.jobs AS t WHERE t.id::text = asked.id LIMIT 1
) AS found
