"""The diffusion backbone: weights in all published layouts, noise schedule, denoiser, tiling, and GPU kernels."""
