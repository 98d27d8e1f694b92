"""Flows: orchestration alone. `python -m flows.<name> --help` runs one; a deployment names it by module."""

import os

# Before Prefect is imported: it would report its use, and keep results and errors as pickles where it is told to.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] = "false"
