"""Compression runs: plan new and changed sources, and encode them shard by shard."""
