"""Sources of pictures: folders, listings and datasets."""
