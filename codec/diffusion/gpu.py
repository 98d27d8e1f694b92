"""Prepares a diffusion model's networks for fast inference on a GPU: fewer memory passes, one layout throughout.

torch's group normalization and diffusers' transformer blocks take channels-last activations back to contiguous ones,
so that every convolution beside them copies its input; a convolution's bias, SiLU and residual sum are passes of their
own. Here normalization, time embedding and SiLU are one step, bias and residual sum another, and all stays
channels-last. The steps are Triton's where no gradient is wanted on a GPU, and torch's own elsewhere.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import ModelMixin

ALIGNMENT = 8
"""Channel alignment of matrix units in half precision: convolutions of 3 or 4 channels are padded with zeros."""
WIDE_HEAD = 256
"""Widest attention head that fused kernels support; wider ones store their scores in memory."""
SCORES = 2**28
"""Upper bound on attention scores in memory, in float32 elements: 1 GiB."""


def for_inference(network: "ModelMixin") -> "ModelMixin":
    """A copy of an AutoencoderKL or UNet2DConditionModel for inference on a GPU, its convolutions channels-last.

    It computes the same function up to rounding, with the same shapes, and shares the network's weights, whose
    convolutions become channels-last in place. Joined or padded weights are copies, so later changes to the network do
    not affect them. Attention masks are not supported. Call it after setting the network's dtype and device.
    """
    weights = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    prepared = copy.deepcopy(network, weights).to(memory_format=torch.channels_last).eval()
    _replace(prepared)
    return prepared


def _replace(module: nn.Module) -> None:
    """Replaces descendants of a module by faster equivalents."""
    for name, child in list(module._modules.items()):
        if child is None:
            continue
        faster = _faster(child, final=name == "conv_norm_out")
        if faster is None:
            _replace(child)
        else:
            module.add_module(name, faster)
            if name == "conv_norm_out":
                module.add_module("conv_act", nn.Identity())


def _faster(module: nn.Module, *, final: bool) -> nn.Module | None:
    """A faster equivalent of a module, or None to keep it; its children may still be replaced."""
    if isinstance(module, ResnetBlock2D) and _Residual.fits(module):
        return _Residual(module)
    if isinstance(module, Transformer2DModel) and _Transformer.fits(module):
        return _Transformer(module)
    if isinstance(module, Attention) and _Attention.fits(module):
        return _Attention(module)
    if isinstance(module, Upsample2D) and module.use_conv and module.interpolate and module.norm is None:
        return _Upsample(module)
    if isinstance(module, GEGLU):
        return _Geglu(module)
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return _Convolution(module)
    if isinstance(module, nn.GroupNorm):
        return _Norm(module, silu=final)
    return None


class _Norm(nn.Module):
    """Group normalization of x + shift, then optionally SiLU."""

    def __init__(self, source: nn.GroupNorm, *, silu: bool = False) -> None:
        super().__init__()
        self.groups = source.num_groups
        self.eps = source.eps
        self.silu = silu
        self.weight = source.weight
        self.bias = source.bias

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if _fused(x):
            from codec.diffusion import kernels

            return kernels.group_norm(
                _channels_last(x), self.groups, self.weight, self.bias, self.eps, shift=shift, silu=self.silu
            )
        x = x if shift is None else x + shift[..., None, None]
        x = F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return F.silu(x) if self.silu else x


class _Convolution(nn.Module):
    """A convolution with optional extra bias and residual sum."""

    def __init__(self, source: nn.Conv2d, *, with_bias: bool = True) -> None:
        super().__init__()
        self.stride = source.stride
        self.padding = source.padding
        self.dilation = source.dilation
        self.outputs = source.out_channels
        self.extra_inputs = -source.in_channels % ALIGNMENT
        self.weight = source.weight
        self.bias = source.bias if with_bias else None
        extra_outputs = -self.outputs % ALIGNMENT
        if self.extra_inputs or extra_outputs:
            # zeros contribute nothing; forward drops the extra outputs
            filled = F.pad(source.weight.detach(), (0, 0, 0, 0, 0, self.extra_inputs, 0, extra_outputs))
            self.weight = nn.Parameter(filled.contiguous(memory_format=torch.channels_last), requires_grad=False)
            if self.bias is not None:
                self.bias = nn.Parameter(F.pad(self.bias.detach(), (0, extra_outputs)), requires_grad=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.extra_inputs:
            x = F.pad(x, (0, 0, 0, 0, 0, self.extra_inputs))
        y = F.conv2d(_channels_last(x), self.weight, None, self.stride, self.padding, self.dilation)
        if self.bias is not None:
            y = _add(y, self.bias, residual)
        return y[:, : self.outputs]


class _Residual(nn.Module):
    """A ResnetBlock2D: normalize, convolve, add the time embedding, normalize, convolve, add the input."""

    @staticmethod
    def fits(source: ResnetBlock2D) -> bool:
        timed = source.time_embedding_norm == "default" or source.time_emb_proj is None
        plain = timed and not source.skip_time_act and source.output_scale_factor == 1
        aligned = source.in_channels % ALIGNMENT == 0 and source.out_channels % ALIGNMENT == 0
        same_size = source.upsample is None and source.downsample is None
        return plain and aligned and same_size and isinstance(source.nonlinearity, nn.SiLU)

    def __init__(self, source: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1 = _Norm(source.norm1, silu=True)
        self.norm2 = _Norm(source.norm2, silu=True)
        self.conv1 = _Convolution(source.conv1, with_bias=False)
        self.conv2 = _Convolution(source.conv2)
        self.time = source.time_emb_proj
        # the first convolution's bias and the time embedding are added together, inside the second normalization
        self.shift = source.conv1.bias
        if self.time is not None:
            self.shift = nn.Parameter((self.time.bias + source.conv1.bias).detach(), requires_grad=False)
        self.shortcut = None
        if source.conv_shortcut is not None:
            self.shortcut = _Convolution(source.conv_shortcut, with_bias=False)
            if source.conv_shortcut.bias is not None:
                # one sum with both biases after the second convolution
                both = (source.conv2.bias + source.conv_shortcut.bias).detach()
                self.conv2.bias = nn.Parameter(both, requires_grad=False)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        x = _channels_last(x)
        if self.time is None or temb is None:
            shift = self.shift[None]
        else:
            shift = F.linear(F.silu(temb), self.time.weight, self.shift)
        hidden = self.norm2(self.conv1(self.norm1(x)), shift)
        residual = x if self.shortcut is None else self.shortcut(x)
        y: Tensor = self.conv2(hidden, residual)
        return y


class _Upsample(nn.Module):
    """An Upsample2D: repeat pixels, then convolve."""

    def __init__(self, source: Upsample2D) -> None:
        super().__init__()
        self.conv = _Convolution(source.conv if source.name == "conv" else source.Conv2d_0)

    def forward(self, x: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        if output_size is not None and tuple(output_size) != (2 * x.shape[-2], 2 * x.shape[-1]):
            x = F.interpolate(x, size=output_size, mode="nearest")
        elif _fused(x):
            from codec.diffusion import kernels

            x = kernels.upsample(_channels_last(x))
        else:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        y: Tensor = self.conv(x)
        return y


class _Geglu(nn.Module):
    """A fused GEGLU."""

    def __init__(self, source: GEGLU) -> None:
        super().__init__()
        self.projection = source.proj

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        if _fused(x):
            from codec.diffusion import kernels

            return kernels.geglu(x)
        values, gate = x.chunk(2, -1)
        return values * F.gelu(gate)


class _Transformer(nn.Module):
    """A Transformer2DModel whose activations stay channels-last."""

    @staticmethod
    def fits(source: Transformer2DModel) -> bool:
        return bool(source.is_input_continuous and source.use_linear_projection)

    def __init__(self, source: Transformer2DModel) -> None:
        super().__init__()
        self.norm = _Norm(source.norm)
        self.inwards = source.proj_in
        self.outwards = source.proj_out
        self.blocks = source.transformer_blocks
        _replace(self.blocks)

    def forward(self, x: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any) -> tuple[Tensor]:
        _refuse_masks(others)
        tokens = self.inwards(_tokens(self.norm(x)))
        for block in self.blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        return (_pixels(self.outwards(tokens), x) + x,)


class _Attention(nn.Module):
    """An Attention with a joint projection of everything that shares its input tokens."""

    @staticmethod
    def fits(source: Attention) -> bool:
        extras = (source.spatial_norm, source.norm_q, source.norm_k, source.norm_cross, source.added_kv_proj_dim)
        plain: bool = source.rescale_output_factor == 1 and source.scale_qk and not source.only_cross_attention
        return plain and not source.upcast_attention and not any(map(bool, extras))

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads = source.heads
        self.residual = source.residual_connection
        self.norm = None if source.group_norm is None else _Norm(source.group_norm)
        projections = [source.to_q, source.to_k, source.to_v]
        self.query = None
        if source.is_cross_attention:  # queries come from other tokens than keys and values
            self.query = projections.pop(0)
        self.weight = nn.Parameter(torch.cat([part.weight.detach() for part in projections]), requires_grad=False)
        self.bias = None
        if source.to_k.bias is not None:
            self.bias = nn.Parameter(torch.cat([part.bias.detach() for part in projections]), requires_grad=False)
        self.outwards = source.to_out[0]

    def forward(self, x: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any) -> Tensor:
        _refuse_masks(others)
        tokens = x if self.norm is None else self.norm(x)
        tokens = _tokens(tokens) if x.ndim == 4 else tokens
        if self.query is None:
            query, key, value = F.linear(tokens, self.weight, self.bias).chunk(3, -1)
        else:
            query = self.query(tokens)
            context = tokens if encoder_hidden_states is None else encoder_hidden_states
            key, value = F.linear(context, self.weight, self.bias).chunk(2, -1)

        def by_head(part: Tensor) -> Tensor:
            split: Tensor = part.unflatten(-1, (self.heads, -1))
            return split.transpose(1, 2)

        attended = _attend(by_head(query), by_head(key), by_head(value))
        y = self.outwards(attended.transpose(1, 2).flatten(2))
        y = _pixels(y, x) if x.ndim == 4 else y
        return y + x if self.residual else y


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, heads, tokens, width) each; with unfused products and softmax if heads are too wide."""
    if query.shape[-1] <= WIDE_HEAD or not _fused(query):
        return F.scaled_dot_product_attention(query, key, value)
    from codec.diffusion import kernels

    batch, heads, tokens, width = query.shape
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    rows = max(1, SCORES // key.shape[2])
    for image in range(batch):
        for head in range(heads):
            for first in range(0, tokens, rows):
                part = (image, head, slice(first, first + rows))
                scores = torch.mm(query[part], key[image, head].T, out_dtype=torch.float32)
                result[part] = kernels.softmax(scores, width**-0.5, query.dtype) @ value[image, head]
    return result


def _add(x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    """x + bias + residual, in place of x if fused."""
    if _fused(x):
        from codec.diffusion import kernels

        return kernels.add_(_channels_last(x), bias, None if residual is None else _channels_last(residual))
    x = x + bias[:, None, None]
    return x if residual is None else x + residual


def _fused(x: Tensor) -> bool:
    return x.is_cuda and not torch.is_grad_enabled()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C): a view of channels-last activations."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _pixels(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) to (B, C, H, W), channels-last."""
    x: Tensor = tokens.unflatten(1, like.shape[-2:])
    return x.permute(0, 3, 1, 2)


def _refuse_masks(arguments: dict[str, Any]) -> None:
    given = [name for name, value in arguments.items() if "mask" in name and value is not None]
    if given:
        raise ValueError(f"a network prepared for inference does not support {given[0]}")
