-- What was left out, and of which pictures?
WITH latest AS (
    SELECT * FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
)
SELECT archive, unnest(discarded_parts) AS part, key, run
FROM latest
WHERE len(discarded_parts) > 0
ORDER BY archive, part, key
