"""What an archive is: its layout, manifest, schema, report, tars and escrow."""
