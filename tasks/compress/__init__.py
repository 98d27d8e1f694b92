"""Runs: what is new at a source, encoded shard by shard."""
