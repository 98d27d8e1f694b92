"""Shims for other libraries."""
