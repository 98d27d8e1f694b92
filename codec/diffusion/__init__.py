"""The backbone: weights in every published layout, the schedule, the denoiser, tiles and forms for a GPU."""
