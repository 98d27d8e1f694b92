"""The entropy model: trainable Entroformer, its exact integer form, integer tables and the range coder."""
