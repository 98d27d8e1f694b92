"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept."""

from functools import partial
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from codec.diffusion.backbone import Backbone
from codec.diffusion.mini import MiniNetwork, ResidualBlock
from codec.entropy.attention import Block
from codec.entropy.entroformer import Entroformer


def checkpoint_gradients(backbone: Backbone, entropy: Entroformer) -> None:
    """Turns gradient checkpointing on in networks that are used for training, in place; gradients stay the same.

    Networks of diffusers bring it. Ours keep only the input of each residual or transformer block, which hold nearly
    all activations. Nothing changes where no gradient is wanted.
    """
    for network in (backbone.autoencoder, backbone.unet):
        if isinstance(network, MiniNetwork):
            _recompute(network, ResidualBlock)
        else:
            cast(Any, network).enable_gradient_checkpointing()
    _recompute(entropy, Block)


def _recompute(network: nn.Module, kind: type[nn.Module]) -> None:
    for module in network.modules():
        if isinstance(module, kind):
            # no block draws random numbers, so their state need not be kept
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            module.forward = again
