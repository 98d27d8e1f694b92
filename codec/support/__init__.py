"""Shims and helpers around other libraries and the operating system."""
