"""The verbs of the pipeline: plain functions over storage that orchestrators map, and that run without one."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet unless a program asks for the lines
