"""Training: backbone pretraining, entropy model and adapter, on accelerate and WebDataset tars."""
