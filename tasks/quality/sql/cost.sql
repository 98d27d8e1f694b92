-- What did each run cost in time, by stage? Processor time that pictures took, added up; a shared file counts once.
WITH encoded AS (
    SELECT archive, run, width::BIGINT * height AS pixels, encode_seconds AS encode, decode_seconds AS decode FROM rows
    WHERE tar IS NOT NULL AND status <> 'unchanged'
    QUALIFY row_number() OVER (PARTITION BY archive, tar, "offset" ORDER BY run, key) = 1
)
SELECT archive, run, stage, count(*) AS pictures, round(sum(seconds), 1) AS seconds,
       round(avg(seconds), 3) AS seconds_a_picture, round(sum(pixels) / 1e6 / nullif(sum(seconds), 0), 3) AS megapixels_a_second
FROM (UNPIVOT encoded ON encode, decode INTO NAME stage VALUE seconds)
GROUP BY ALL
ORDER BY archive, run, stage DESC
