"""The bytes of a file."""
