"""The one place that opens storage: local folders, S3, any fsspec URL; keys; Parquet in bounded memory."""
