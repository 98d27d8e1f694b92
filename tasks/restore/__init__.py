"""Restores pictures from an archive: selection, decoding, files, and an fsspec file system."""
