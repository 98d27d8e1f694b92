-- What was kept in another format than .fdc, and why?
SELECT archive, reason, codec, count(*) AS pictures, sum(source_bytes)::BIGINT AS source_bytes,
       sum(bytes)::BIGINT AS stored_bytes, min(key) AS example
FROM rows ANTI JOIN (FROM rows WHERE status = 'forgotten') USING (archive, key)
WHERE status = 'fallback'
GROUP BY ALL
ORDER BY pictures DESC, archive, reason, codec
