-- What did we save, in all and by folder?
-- A stored file that several pictures share counts once, at the first of them. SET VARIABLE depth = 2 for deeper folders.
WITH kept AS (
    SELECT archive, source_bytes,
           coalesce(nullif(array_to_string(string_split(key, '/')[:-2][:coalesce(getvariable('depth'), 1)], '/'), ''), '.') AS folder,
           if(row_number() OVER (PARTITION BY archive, tar, "offset" ORDER BY run, key) = 1, bytes + coalesce(film_length, 0), 0) AS own_bytes
    FROM rows ANTI JOIN (FROM rows WHERE status = 'forgotten') USING (archive, key)
    WHERE tar IS NOT NULL AND status <> 'unchanged'
)
SELECT archive, folder, count(*) AS pictures, sum(source_bytes)::BIGINT AS source_bytes,
       sum(own_bytes)::BIGINT AS stored_bytes, (sum(source_bytes) - sum(own_bytes))::BIGINT AS saved_bytes,
       round(100 * (1 - sum(own_bytes) / sum(source_bytes)), 1) AS saved_percent
FROM kept
GROUP BY GROUPING SETS ((), (archive), (archive, folder))
ORDER BY grouping(archive) DESC, grouping(folder) DESC, saved_bytes DESC, archive, folder
