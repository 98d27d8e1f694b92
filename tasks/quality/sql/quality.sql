-- How is quality distributed, and how bad is its tail? The last kept version of each picture counts.
-- Of a metric that was measured on a sample, the mean of all pictures lies from mean_low to mean_high with 95 % confidence.
WITH latest AS (
    SELECT psnr_db, ms_ssim, lpips, lpips_vgg, dists, not_measured FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
), left_out AS (
    SELECT split_part(reason, ': ', 1) AS metric, count(*) AS pictures
    FROM (SELECT unnest(string_split(not_measured, '; ')) AS reason FROM latest)
    WHERE reason LIKE '%: not in the sample'
    GROUP BY metric
), quality AS (
    SELECT metric, value, if(metric IN ('lpips', 'lpips_vgg', 'dists'), -value, value) AS good
    FROM (UNPIVOT latest ON psnr_db, ms_ssim, lpips, lpips_vgg, dists INTO NAME metric VALUE value)
), figures AS (
    SELECT metric, count(*) AS pictures,
           round(abs(min(good)), 4) AS worst,
           round(abs(quantile_cont(good, 0.01)), 4) AS worst_1_percent,
           round(abs(quantile_cont(good, 0.05)), 4) AS worst_5_percent,
           round(median(value), 4) AS median,
           round(avg(value), 4) AS mean,
           round(abs(quantile_cont(good, 0.95)), 4) AS best_5_percent,
           1.96 * stddev_samp(value) / sqrt(count(*)) AS half_width
    FROM quality
    GROUP BY metric
)
SELECT figures.* EXCLUDE (half_width),
       round(mean - half_width * sqrt(left_out.pictures / (figures.pictures + left_out.pictures)), 4) AS mean_low,
       round(mean + half_width * sqrt(left_out.pictures / (figures.pictures + left_out.pictures)), 4) AS mean_high
FROM figures LEFT JOIN left_out USING (metric)
ORDER BY metric
