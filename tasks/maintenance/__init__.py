"""Audit, forget, compaction and status of archives."""
