"""Pictures out of an archive again: selection, files, and a view for fsspec."""
