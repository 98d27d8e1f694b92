-- Which sources changed or vanished, and in which run was it seen?
SELECT archive, run, key, state AS what, version FROM listings
WHERE state IN ('changed', 'gone')
UNION ALL
SELECT archive, run, key, if(reason = 'source_missing', 'gone while the run went on', 'changed while it was read'), version
FROM rows
WHERE reason IN ('source_changed', 'source_missing')
ORDER BY archive, run, key
