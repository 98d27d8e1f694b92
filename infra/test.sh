#!/usr/bin/env bash
# Lint, types, tests. Everything that continuous integration checks.
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh
export PATH="$PWD/.venv/bin:$PATH" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1
ruff check .
ruff format --check .
mypy
pytest --cov --cov-report=term:skip-covered "$@"
