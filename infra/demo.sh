#!/usr/bin/env bash
# The main job on a few photos: shard, train a little, compress, restore, query. Everything lands in the folder given
# (default: build/demo), which is made afresh.
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh
export PATH="$PWD/.venv/bin:$PATH" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1
out=${1:-build/demo}
rm -rf "$out" && mkdir -p "$out/photos"
step() { printf '\n== %s\n' "$*"; }

step "photos that scikit-image ships, with a truncated JPEG, a text file named .jpg and a duplicate"
images=$(python -c 'import skimage; print(skimage.__path__[0])')/data
cp "$images"/{astronaut.png,chelsea.png,coffee.png,rocket.jpg,motorcycle_left.png,retina.jpg} "$out/photos"
head -c 30000 "$images/rocket.jpg" > "$out/photos/truncated.jpg"
echo "this is no picture" > "$out/photos/text.jpg"
cp "$images/coffee.png" "$out/photos/zz-duplicate.png"

step "shard-images: photos -> WebDataset tars and a manifest; two files are no whole pictures, the status is 2"
python -m flows.shard_images "$out/photos" "$out/shards" || [ $? -eq 2 ]

step "train-codec: a few steps on the shipped bundle"
python -m flows.train_codec "$out/shards" "$out/training" --settings demo

step "compress-archive: with the shipped bundle; a cut JPEG and a text are kept whole, with the reason; the status is 2"
python -m flows.compress_archive "$out/photos" "$out/archive" || [ $? -eq 2 ]

step "restore-archive: every picture back as PNG"
python -m flows.restore_archive "$out/archive" "$out/restored"

step "the quality report, asked with DuckDB"
python -c "
import duckdb
parts = '$out/archive/runs/*/report/*.parquet'
duckdb.sql(f'''select key, status, reason, width, height, bytes, round(bpp, 4) as bpp, round(psnr_db, 2) as psnr_db,
  round(ms_ssim, 4) as ms_ssim, round(lpips, 4) as lpips, duplicate_of from '{parts}' order by key''').show(max_width=200)
"
