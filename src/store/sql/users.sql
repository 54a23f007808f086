-- $1 ids. A view that yields a user twice: disabled once is disabled.
SELECT asked.id, found.name, found.avatar_url, found.disabled
FROM unnest($1::text[]) AS asked(id)
CROSS JOIN LATERAL (
    SELECT left(t.name::text, 300) AS name, left(t.avatar_url::text, 2049) AS avatar_url,
           t.disabled_at IS NOT NULL AS disabled
    FROM $$.users AS t WHERE t.id::text = asked.id
    ORDER BY t.disabled_at NULLS LAST LIMIT 1
) AS found
