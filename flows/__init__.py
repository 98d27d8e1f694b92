"""Flows: orchestration alone. `python -m flows.<name> --help` runs one; a deployment names it by module."""

import logging
import os

from codec.support.waiting import wait_passively

wait_passively()
# Before Prefect is imported: it would report its use, and keep the errors of failed flows as pickles.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# A temporary server that makes its database on a busy machine needs more than the usual 20 seconds.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] = "json"
# A run sends a heartbeat a minute: one that was killed sends none, and infra/crashed.yaml marks it as crashed.
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "60")
# A server that is gone is asked again after 2, 4 and 8 seconds at each change of state; a run that fails has four.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")
# What Prefect's own threads meet when a server is gone, a traceback for each event, ends the run as an error anyway.
os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
LOGGERS = ("tasks",)
"""Their lines are part of a run's log on the server."""
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", ",".join(LOGGERS))
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")  # as in threads that libraries start
for name in LOGGERS:
    logging.getLogger(name).setLevel(logging.INFO)
