"""Storage access for the whole pipeline: local folders, S3 and any fsspec URL; keys; Parquet in bounded memory."""
