#!/usr/bin/env bash
# Builds the site of infra/docs in build/site. A dead link, or a page that no other leads to, is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "import furo, myst_parser" 2> /dev/null || pip install --quiet --constraint infra/constraints.txt --editable '.[docs]'
DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1 \
    python -m sphinx --builder html --fail-on-warning --keep-going --quiet -c infra/docs . build/site
echo build/site/infra/docs/index.html
