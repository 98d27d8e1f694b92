-- How do runs compare: pictures, rate, quality, failures?
SELECT archive, run, count(*) AS pictures, count(*) FILTER (status = 'failed') AS failed,
       count(*) FILTER (status = 'fallback') AS fallbacks,
       round(8 * sum(bytes) FILTER (width IS NOT NULL) / sum(width::BIGINT * height) FILTER (bytes IS NOT NULL), 4) AS bpp,
       round(avg(psnr_db), 3) AS psnr_db, round(avg(ms_ssim), 4) AS ms_ssim,
       round(avg(lpips), 4) AS lpips, round(avg(lpips_vgg), 4) AS lpips_vgg, round(avg(dists), 4) AS dists
FROM rows
WHERE status NOT IN ('unchanged', 'forgotten')
GROUP BY ALL
ORDER BY archive, run
