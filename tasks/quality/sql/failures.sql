-- What failed, and why? A picture that a later run kept counts no more.
WITH latest AS (
    SELECT archive, key, run, status, reason, error FROM rows
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1
)
SELECT archive, reason, error, count(*) AS pictures, min(key) AS example, max(run) AS last_run
FROM latest
WHERE status = 'failed'
GROUP BY ALL
ORDER BY pictures DESC, archive, reason, error
