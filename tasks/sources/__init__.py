"""What pictures there are: in folders, listings and datasets."""
