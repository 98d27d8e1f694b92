"""The operations of the pipeline: plain functions over storage that run with or without an orchestrator."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless a program configures logging
