-- Which pictures miss a floor? SET VARIABLE min_psnr_db, min_ms_ssim, max_lpips or max_dists for other floors.
WITH latest AS (
    SELECT * FROM rows
    WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
)
SELECT archive, key, run, round(bpp, 4) AS bpp, round(psnr_db, 2) AS psnr_db, round(ms_ssim, 4) AS ms_ssim,
       round(lpips, 4) AS lpips, round(dists, 4) AS dists,
       concat_ws(', ',
           if(psnr_db < coalesce(getvariable('min_psnr_db'), 24), 'PSNR', NULL),
           if(ms_ssim < coalesce(getvariable('min_ms_ssim'), 0.85), 'MS-SSIM', NULL),
           if(lpips > coalesce(getvariable('max_lpips'), 0.35), 'LPIPS', NULL),
           if(dists > coalesce(getvariable('max_dists'), 0.3), 'DISTS', NULL)) AS misses
FROM latest
WHERE misses <> ''
ORDER BY lpips DESC NULLS LAST, psnr_db, archive, key
