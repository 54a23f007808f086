-- Which of these jobs ($1) and documents ($2) there are.
SELECT 'job' AS kind, asked.id
FROM unnest($1::text[]) AS asked(id)
WHERE EXISTS (SELECT FROM $$.jobs AS j WHERE j.id::text = asked.id)
UNION ALL
SELECT 'document' AS kind, asked.id
FROM unnest($2::text[]) AS asked(id)
WHERE EXISTS (SELECT FROM $$.documents AS d WHERE d.id::text = asked.id)
