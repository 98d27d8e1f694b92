"""The verbs of the pipeline: plain functions over storage that orchestrators map, and that run without one."""
