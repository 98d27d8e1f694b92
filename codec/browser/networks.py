"""The embedded backbone's networks as ONNX: built from a bundle's files, without PyTorch.

Weights stay float16 where the bundle has float16, behind a Cast that the runtime folds when it loads the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import BundleError

UNET = "unet.onnx"
DECODER = "decoder.onnx"
OPSET = 18
IR_VERSION = 10
"""Of opset 18's time, so that older runtimes read the files as well."""
EPSILON = 1e-6
"""Of PixelNorm (FORMAT.md, section 5)."""
FREQUENCIES = 32
"""Sines and cosines of a timestep, each."""

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MiniNetworks:
    """The files of a bundle's embedded networks, as read."""

    unet: Weights
    unet_config: Mapping[str, Any]
    autoencoder: Weights
    autoencoder_config: Mapping[str, Any]

    @classmethod
    def of(cls, bundle: Path) -> "MiniNetworks":
        """Reads a bundle's folder. Raises BundleError if its backbone is not the embedded kind."""
        from safetensors.numpy import load_file

        found: list[Any] = []
        for part, wanted in (("unet", "MiniUNet"), ("vae", "MiniAutoencoder")):
            folder = bundle / "backbone" / part
            try:
                config = json.loads((folder / "config.json").read_text())
            except OSError:
                raise BundleError(f"the bundle {bundle} has no embedded backbone; only those can be exported") from None
            kind = config.get("_class_name")
            if kind != wanted:
                raise BundleError(f"the bundle {bundle} has the backbone network {kind}; only {wanted} can be exported")
            found += [load_file(folder / "diffusion_pytorch_model.safetensors"), config]
        return cls(*found)


class _OnnxGraph:
    """An ONNX graph under construction: each operation returns the name of its result."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the bundle as float32."""
        from onnx import TensorProto

        value = self.weights[name]
        if value.dtype == np.float32:
            return self.constant(name, value)
        return self("Cast", self.constant(name, value), to=TensorProto.FLOAT)

    def scalar(self, value: float) -> str:
        return self.constant(f"constant {value}", np.array(value, np.float32))

    def convolution(self, name: str, x: str, *, stride: int = 1) -> str:
        size = self.weights[f"{name}.weight"].shape[-1]
        parameters = [self.weight(f"{name}.{part}") for part in ("weight", "bias")]
        return self("Conv", x, *parameters, pads=[size // 2] * 4, strides=[stride] * 2)

    def shuffle(self, x: str) -> str:
        return self("DepthToSpace", x, blocksize=2, mode="CRD")

    def silu(self, x: str) -> str:
        return self("Mul", x, self("Sigmoid", x))

    def linear(self, name: str, x: str) -> str:
        return self("Gemm", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), transB=1)

    def inverse_norm(self, x: str, channels: int) -> str:
        """One over the root of the mean square over channels, (B, 1, h, w).

        The mean is a 1 x 1 convolution: runtimes sum over the channels of NCHW slowly, and multiply matrices fast.
        """
        mean = self.constant(f"mean of {channels}", np.full((1, channels, 1, 1), 1 / channels, np.float32))
        epsilon = self.constant("epsilon", np.array([EPSILON], np.float32))
        return self("Reciprocal", self("Sqrt", self("Conv", self("Mul", x, x), mean, epsilon)))

    def pixel_norm(self, name: str, x: str) -> str:
        gain = f"{name}.gain"
        normalized = self("Mul", x, self.inverse_norm(x, self.weights[gain].shape[1]))
        return self("Mul", normalized, self.weight(gain))

    def block(self, name: str, x: str, embedding: str | None = None) -> str:
        """A residual block, scaled and shifted by an embedding (1, n) where it has one."""
        h = self.pixel_norm(f"{name}.norm", x)
        if embedding is not None:
            modulation = self.linear(f"{name}.modulation", embedding)
            axes = self.constant("rows and columns", np.array([2, 3]))
            both = self("Unsqueeze", modulation, axes)
            channels = self.weights[f"{name}.norm.gain"].shape[1]
            halves = self.constant(f"halves of {2 * channels}", np.array([channels, channels]))
            scale, shift = self.split(both, halves)
            h = self("Add", self("Mul", h, self("Add", scale, self.scalar(1.0))), shift)
        h = self.silu(self.convolution(f"{name}.inner", self.silu(h)))
        return self("Add", x, self.convolution(f"{name}.outer", h))

    def split(self, x: str, sizes: str) -> tuple[str, str]:
        from onnx import helper

        names = (f"Split_{len(self.nodes)}_first", f"Split_{len(self.nodes)}_second")
        self.nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        return names

    def finish(self, name: str, inputs: Mapping[str, list[Any]], result: str, output: str, channels: int) -> bytes:
        """The model as a file, of float32 inputs by name and shape."""
        from onnx import TensorProto, checker, helper

        values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()]
        self.nodes.append(helper.make_node("Identity", [result], [output]))
        last = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", channels, None, None])
        graph = helper.make_graph(self.nodes, name, values, [last], list(self.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "fdcodec"
        checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def unet_model(networks: MiniNetworks) -> bytes:
    """The U-Net: sample (1, 4, h, w), h and w multiples of 4, and timestep (1, 1) give prediction (1, 4, h, w)."""
    graph = _OnnxGraph(networks.unet)
    blocks = range(networks.unet_config["blocks"])
    frequencies = 1000.0 ** (-np.arange(FREQUENCIES) / FREQUENCIES)
    angles = graph("Mul", "timestep", graph.constant("frequencies", frequencies.astype(np.float32)[None]))
    waves = graph("Concat", graph("Sin", angles), graph("Cos", angles), axis=1)
    embedding = graph.linear("embed.2", graph.silu(graph.linear("embed.0", waves)))
    h = graph.convolution("enter", "sample")
    kept = []
    for level in range(3):
        for number in blocks:
            h = graph.block(f"down.{level}.{number}", h, embedding)
        if level < 2:
            kept.append(h)
            h = graph.convolution(f"shrink.{level}", h, stride=2)
    for level in (1, 0):
        h = graph("Add", graph.shuffle(graph.convolution(f"grow.{level}", h)), kept[level])
        for number in blocks:
            h = graph.block(f"up.{level}.{number}", h, embedding)
    h = graph.convolution("leave.2", graph.silu(graph.pixel_norm("leave.0", h)))
    inputs = {"sample": ["batch", 4, "height", "width"], "timestep": ["batch", 1]}
    return graph.finish("unet", inputs, h, "prediction", 4)


def decoder_model(networks: MiniNetworks) -> bytes:
    """The autoencoder's decoder: a normalized latent (1, 4, h, w) gives pixels (1, 3, 8 h, 8 w), about -1 to 1."""
    graph = _OnnxGraph(networks.autoencoder)
    config = networks.autoencoder_config
    scaling = 1 / config.get("scaling_factor", 1.0)
    deviation = np.array(config.get("latents_std") or [scaling] * 4, np.float32).reshape(1, 4, 1, 1)
    mean = np.array(config.get("latents_mean") or [0.0] * 4, np.float32).reshape(1, 4, 1, 1)
    scaled = graph("Mul", "latent", graph.constant("latents_std", deviation))
    z = graph("Add", scaled, graph.constant("latents_mean", mean))
    h = graph.convolution("decoder.0", z)
    number = 1  # modules are numbered as in the network, shuffles and activations included
    for level, blocks in reversed(list(enumerate(config["decoder_blocks"]))):
        if level < 2:
            h = graph.shuffle(graph.convolution(f"decoder.{number}", h))
            number += 2
        for _ in range(blocks):
            h = graph.block(f"decoder.{number}", h)
            number += 1
    h = graph.silu(graph.pixel_norm(f"decoder.{number}", h))
    h = graph.shuffle(graph.convolution(f"decoder.{number + 2}", h))
    synthesis = [graph.weight(f"synthesis.{part}") for part in ("weight", "bias")]
    h = graph("Add", h, graph("ConvTranspose", z, *synthesis, strides=[8, 8]))
    return graph.finish("decoder", {"latent": ["batch", 4, "height", "width"]}, h, "pixels", 3)
