-- Which bundle and settings wrote what?
WITH written AS (
    SELECT archive, run, bundle_id, device, count(*) AS pictures, sum(bytes)::BIGINT AS bytes,
           min(quality_lambda) AS least_lambda, max(quality_lambda) AS greatest_lambda,
           strftime(min(created_at)::TIMESTAMP, '%Y-%m-%d %H:%M') AS first_written
    FROM rows
    WHERE status NOT IN ('unchanged', 'forgotten')
    GROUP BY archive, run, bundle_id, device
)
SELECT archive, run, source, left(written.bundle_id, 16) AS bundle, device, settings.quality AS quality,
       settings.target_bpp AS target_bpp, least_lambda, greatest_lambda, settings.threads AS threads, package_version,
       pictures, bytes, first_written
FROM written JOIN runs USING (archive, run)
ORDER BY archive, run, device
