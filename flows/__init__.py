"""Flows: orchestration alone. `python -m flows.<name> --help` runs one; a deployment names it by module."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")  # before Prefect is imported: it reports its use otherwise
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
