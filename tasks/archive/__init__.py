"""The archive format: layout, manifests, schema, report, tars and escrow."""
