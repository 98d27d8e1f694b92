"""Flows: orchestration alone. `python -m flows.<name> --help` runs one; a deployment names it by module."""

import logging
import os

from codec.support.waiting import wait_passively

wait_passively()
# Set before Prefect is imported: no usage reports, and no pickled errors of failed flows.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# On a busy machine, a temporary server needs more than the default 20 seconds to create its database.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] = "json"  # whoever can write results could run code by a pickle
# A run sends one heartbeat a minute; infra/crashed.yaml marks a run without heartbeats as crashed.
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "60")
# Each state change retries an unreachable server after 2, 4 and 8 seconds; a failing run has four state changes.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")
# Prefect's threads log a traceback per event if the server is unreachable; the run reports the error itself.
os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
LOGGERS = ("tasks",)
"""Loggers whose lines are part of a run's log on the server."""
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", ",".join(LOGGERS))
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")  # as in threads that libraries start
for name in LOGGERS:
    logging.getLogger(name).setLevel(logging.INFO)
