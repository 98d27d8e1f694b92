-- How is quality distributed, and how bad is its tail? The last kept version of each picture counts.
WITH measured AS (
    SELECT psnr_db, ms_ssim, lpips, dists FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
), quality AS (
    SELECT metric, value, if(metric IN ('lpips', 'dists'), -value, value) AS good
    FROM (UNPIVOT measured ON psnr_db, ms_ssim, lpips, dists INTO NAME metric VALUE value)
)
SELECT metric, count(*) AS pictures,
       round(abs(min(good)), 4) AS worst,
       round(abs(quantile_cont(good, 0.01)), 4) AS worst_1_percent,
       round(abs(quantile_cont(good, 0.05)), 4) AS worst_5_percent,
       round(median(value), 4) AS median,
       round(avg(value), 4) AS mean,
       round(abs(quantile_cont(good, 0.95)), 4) AS best_5_percent
FROM quality
GROUP BY metric
ORDER BY metric
