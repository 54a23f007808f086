-- $1 users, $2 documents, pairwise. Of several roles the strongest; a role on a document that doesn't exist is none.
SELECT asked.user_id, asked.document_id, found.role
FROM unnest($1::text[], $2::text[]) AS asked(user_id, document_id)
CROSS JOIN LATERAL (
    SELECT each.role
    FROM $$.documents AS d
    CROSS JOIN LATERAL (
        SELECT 'owner' AS role WHERE d.owner_id::text = asked.user_id
        UNION ALL
        SELECT left(p.role::text, 16) FROM $$.document_permissions AS p
        WHERE p.document_id::text = asked.document_id AND p.user_id::text = asked.user_id
    ) AS each
    WHERE d.id::text = asked.document_id
    ORDER BY array_position(ARRAY['owner', 'editor', 'commenter', 'viewer'], each.role) NULLS LAST
    LIMIT 1
) AS found
