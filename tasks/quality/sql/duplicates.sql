-- Which sources are there more than once? The last version of each picture counts.
WITH latest AS (
    SELECT archive, key, source_sha256, source_bytes FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
)
SELECT archive, source_sha256, count(*) AS copies, (sum(source_bytes) - any_value(source_bytes))::BIGINT AS repeated_bytes,
       list(key ORDER BY key)[:5] AS first_keys
FROM latest
GROUP BY archive, source_sha256
HAVING count(*) > 1
ORDER BY repeated_bytes DESC, archive, source_sha256
