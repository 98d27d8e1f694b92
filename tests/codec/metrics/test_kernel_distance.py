"""The kernel distance is what its definition says, and the features are those of the patches."""

import numpy as np
import pytest
import torch

from codec.images import to_tensor
from codec.metrics.kernel_distance import kernel_distance, original_features, patch_features
from codec.metrics.perceptual import Lpips, lpips_network
from codec.metrics.quality import Metrics
from tests.conftest import synthetic


def test_a_set_has_no_distance_to_itself_and_some_to_another() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 8)).astype(np.float32)
    assert kernel_distance(first, first) == 0
    assert kernel_distance(first, first + 2) > 1  # type: ignore[operator]
    assert kernel_distance(first[:1], first[:1]) is None


def test_the_kernel_distance_of_two_pairs_by_hand() -> None:
    first, second = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[1.0, 1.0], [0.0, 0.0]], np.float32)
    within, without, across = 1.0, 1.0, (1.0 + 1.5**3) / 2  # (x.y / 2 + 1)^3 over the pairs i != j
    assert kernel_distance(first, second) == pytest.approx(within + without - 2 * across)


def test_samples_of_one_law_have_about_no_distance() -> None:
    rng = np.random.default_rng(0)
    values = [kernel_distance(*rng.normal(size=(2, 50, 4)).astype(np.float32)) for _ in range(100)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 10


def test_the_features_are_means_over_whole_patches_of_what_lpips_sees() -> None:
    original, decoded = synthetic(300, 520), synthetic(300, 520, 1)
    with patch_features("cpu") as seen:
        Metrics("lpips-vgg").measure_all(original, [decoded])
    network = lpips_network("vgg")
    assert isinstance(network, Lpips)
    with torch.no_grad():
        for pixels, features in ((original, original_features(original, "cpu")), (decoded, seen[0][0])):
            deepest = network.stages(to_tensor(pixels)[None])[-1][0].numpy()
            assert features.shape == (2, 512)
            assert np.allclose(features[1], deepest[:, :16, 16:32].mean((1, 2)), rtol=1e-4, atol=1e-6)
