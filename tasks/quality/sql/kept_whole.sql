-- What is kept whole, why, at how many bytes, and about what would --discard save?
-- A picture that were compressed would take what the compressed ones here take a pixel.
WITH latest AS (
    SELECT * FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
), rate AS (
    SELECT archive, 8.0 * sum(bytes) / sum(width::BIGINT * height) AS mean_bpp FROM latest WHERE codec = 'fdc' GROUP BY archive
)
SELECT latest.archive, reason, count(*)::BIGINT AS pictures, sum(bytes)::BIGINT AS stored_bytes,
       CASE reason WHEN 'trailing_data' THEN if(starts_with(error, 'film'), 'motion', 'trailer')
                   WHEN 'signed' THEN 'content-credentials' WHEN 'gain_map' THEN 'gain-map' END AS discard,
       if(discard IS NULL, NULL, round(sum(bytes - mean_bpp * width::BIGINT * height / 8)))::BIGINT AS would_save_bytes
FROM latest LEFT JOIN rate USING (archive)
WHERE codec <> 'fdc'
GROUP BY latest.archive, reason, discard
ORDER BY stored_bytes DESC, latest.archive, reason, discard
