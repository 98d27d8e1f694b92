"""Training: backbone pretraining, entropy model and adapter, on accelerate and WebDataset tars."""

from codec.support.waiting import wait_passively

wait_passively()
