-- How many bytes were written each month, at how many bits per pixel?
WITH stored AS (
    SELECT archive, strftime(created_at::TIMESTAMP, '%Y-%m') AS month, source_bytes, bytes, coalesce(film_length, 0) AS film, width::BIGINT * height AS pixels
    FROM rows
    WHERE tar IS NOT NULL AND status <> 'unchanged'
    QUALIFY row_number() OVER (PARTITION BY archive, tar, "offset" ORDER BY run, key) = 1
)
SELECT archive, month, count(*) AS files, sum(source_bytes)::BIGINT AS source_bytes, sum(bytes + film)::BIGINT AS stored_bytes,
       round(8 * sum(bytes) FILTER (pixels IS NOT NULL) / sum(pixels), 4) AS bpp
FROM stored
GROUP BY ALL
ORDER BY month, archive
