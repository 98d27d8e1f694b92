-- What needs attention, and why?
WITH latest AS (
    SELECT * FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
)
SELECT archive, needs_attention, key, run
FROM latest
WHERE needs_attention IS NOT NULL
ORDER BY archive, needs_attention, key
