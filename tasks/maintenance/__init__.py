"""Maintains archives: audit, erasure, holds, compaction, drill, events, status and upgrade."""
