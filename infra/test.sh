#!/usr/bin/env bash
# Lint, types, tests. Everything that continuous integration checks.
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh
if ! command -v chromedriver > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver > /dev/null
fi # without Chromium the tests of the pages say so and skip
export PATH="$PWD/.venv/bin:$PATH" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1
export OMP_NUM_THREADS=1 # a test process for each processor instead
ruff check .
ruff format --check .
mypy
pytest -m "not proof" -n auto --dist loadfile --cov --cov-report=term:skip-covered "$@"
