"""The .fdc file format: parsing, packing, chunks, and the breakdown of bits."""
