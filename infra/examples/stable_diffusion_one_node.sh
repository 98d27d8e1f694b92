#!/usr/bin/env bash
# Trains a codec on Stable Diffusion 2.1 on one node of eight GPUs:
#
#   bash stable_diffusion_one_node.sh PHOTOS /models/stable-diffusion-2-1 OUTPUT
#
# For one GPU: SETTINGS=.../sd21-1x80gb.toml or sd21-1x24gb.toml, and LAUNCH="accelerate launch --num_processes 1".
# Run again after an interruption, it goes on from the last checkpoint.
set -euo pipefail
photos=$1 model=$2 output=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
settings=${SETTINGS:-$root/codec/training/settings/sd21.toml}
launch=${LAUNCH:-accelerate launch --config_file $root/infra/accelerate/gpu-8.yaml}

python -m flows.shard_images "$photos" "$output/photos" --direct
# one step of each stage comes first: what does not fit the memory is said at once
$launch -m codec.training "$settings" --data "$output/photos" --output "$output/training" --set "backbone=$model"
fdc encode "$(find "$photos" -type f | sort | head -n 1)" -o "$output/first.fdc" \
    --bundle "$output/training/bundle" --backbone "$model"
