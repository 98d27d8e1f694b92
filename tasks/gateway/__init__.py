"""Serves the pictures of an archive over HTTP: read-only, decoded when asked for, cached on disk."""
