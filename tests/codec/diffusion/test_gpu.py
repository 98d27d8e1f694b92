"""codec.diffusion.gpu: what is prepared for a GPU computes what it was prepared from."""

import importlib.util
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.diffusion.gpu import for_inference
from tests.benchmarks.foundation import REHEARSAL, networks, parts

ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and np.lib.NumpyVersion(np.__version__) < "2.4.0"
"""Triton 3.6's interpreter takes one-element arrays for numbers, which later releases of NumPy refuse."""


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= tolerance * expected.norm())


def images(*shape: int) -> Tensor:
    device = "cuda" if ON_GPU else "cpu"
    return torch.randn(shape, device=device).to(memory_format=torch.channels_last)


@torch.no_grad()
def test_a_prepared_network_computes_the_same_and_leaves_the_original_as_it_was() -> None:
    torch.manual_seed(0)
    plain = networks(replace(REHEARSAL, dtype=torch.float64), "cpu")  # tiny groups amplify rounding
    before = [list(network.state_dict()) for network in plain]
    for network in plain:
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # biases and norms that are not zeros and ones
    prepared = for_inference(plain[0]), for_inference(plain[1])
    for name in parts(*plain, (64, 96), 2):
        results = []
        for pair in (plain, prepared):
            torch.manual_seed(1)
            results.append(parts(*pair, (64, 96), 2)[name]())
        assert near(results[1], results[0]), name
    assert [list(network.state_dict()) for network in plain] == before
    with pytest.raises(ValueError, match="does not support attention_mask"):
        latent, prompt = torch.randn(1, 4, 8, 16).double(), torch.randn(1, 77, 32).double()
        prepared[1](latent, 1, encoder_hidden_states=prompt, attention_mask=torch.ones(1, 128))


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with CUDA builds of torch")
@pytest.mark.skipif(not INTERPRETED and not ON_GPU, reason="no GPU, nor TRITON_INTERPRET=1 with numpy below 2.4")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton 3.6's interpreter
@torch.no_grad()
def test_the_kernels_compute_what_torch_does() -> None:
    from codec.diffusion import kernels

    torch.manual_seed(0)
    x, residual = images(2, 24, 5, 7) + 30, images(2, 24, 5, 7)
    weight, bias, shift = (torch.randn(shape, device=x.device) for shape in ((24,), (24,), (2, 24)))
    expected = F.silu(F.group_norm((x + shift[..., None, None]).double(), 4, weight.double(), bias.double(), 1e-6))
    assert near(kernels.group_norm(x, 4, weight, bias, 1e-6, shift=shift, silu=True).double(), expected, 1e-5)
    assert near(kernels.add_(x.clone(), bias, residual), x + bias[:, None, None] + residual, 1e-6)
    assert near(kernels.upsample(x), F.interpolate(x, scale_factor=2.0), 0)
    values, gate = (pair := torch.randn(3, 5, 48, device=x.device)).chunk(2, -1)
    assert near(kernels.geglu(pair), values * F.gelu(gate), 1e-5)
    scores = torch.randn(3, 77, device=x.device)
    assert near(kernels.softmax(scores, 0.3, torch.float32), torch.softmax(0.3 * scores, -1), 1e-5)
