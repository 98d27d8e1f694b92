"""Triton kernels for channels-last activations on a GPU, with fewer memory passes than torch.

Triton comes with CUDA builds of torch; import this module only if it is installed. All arithmetic is in float32, every
sum has a fixed order, nothing synchronizes with the host: the kernels may be captured in a CUDA graph. They run on
the current device and have no gradients.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Elements per tile: with four warps each thread has four 16-byte loads in flight."""
PROGRAMS = 1024
"""Number of programs for a batch's statistics: a few per multiprocessor."""


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, shift: Tensor | None = None, silu: bool = False
) -> Tensor:
    """Group normalization of x + shift, then optionally SiLU; x (B, C, H, W) channels-last, shift (B, C) or (1, C)."""
    batch, channels, height, width = x.shape
    pixels = height * width
    columns = _columns(channels)
    rows = ELEMENTS // columns
    blocks = channels // columns
    # moments of chunks of pixels first, joined by a second kernel: a fixed order of summation without atomics
    chunk = rows * max(1, pixels * batch * blocks // (rows * PROGRAMS))
    splits = triton.cdiv(pixels, chunk)
    mean, spread = torch.empty((2, batch, splits, channels), dtype=torch.float32, device=x.device)
    scale, offset = torch.empty((2, batch, channels), dtype=torch.float32, device=x.device)
    _channel_moments[splits, blocks, batch](x, mean, spread, pixels, channels, chunk, ROWS=rows, COLUMNS=columns)
    lanes = triton.next_power_of_2(channels // groups)
    _group_affine[groups, batch](
        mean,
        spread,
        x if shift is None else shift,
        weight,
        bias,
        scale,
        offset,
        pixels,
        channels,
        channels // groups,
        chunk,
        splits,
        0 if shift is None or len(shift) == 1 else channels,
        eps,
        SHIFTED=shift is not None,
        SPLITS=max(1, 1024 // lanes),
        LANES=lanes,
    )
    y = torch.empty_like(x)
    grid = (triton.cdiv(pixels, rows), blocks, batch)
    _affine[grid](x, y, scale, offset, pixels, channels, SILU=silu, ROWS=rows, COLUMNS=columns)
    return y


def add_(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """x + bias + residual in place of x; x and residual (B, C, H, W) channels-last, bias (C,)."""
    channels = x.shape[1]
    pixels = x.numel() // channels
    columns = _columns(channels)
    rows = ELEMENTS // columns
    _add[triton.cdiv(pixels, rows), channels // columns](
        x,
        bias,
        x if residual is None else residual,
        pixels,
        channels,
        RESIDUAL=residual is not None,
        ROWS=rows,
        COLUMNS=columns,
    )
    return x


def geglu(x: Tensor) -> Tensor:
    """The first half of the last axis times GELU of the second; x (..., 2 n) contiguous gives (..., n)."""
    width = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], width))
    tokens = y.numel() // width
    columns = _columns(width)
    rows = ELEMENTS // columns
    _geglu[triton.cdiv(tokens, rows), width // columns](x, y, tokens, width, ROWS=rows, COLUMNS=columns)
    return y


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width by repeating pixels; x (B, C, H, W) channels-last."""
    batch, channels, height, width = x.shape
    y = torch.empty(
        (batch, channels, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    pixels = batch * height * width
    columns = _columns(channels)
    rows = ELEMENTS // columns
    _upsample[triton.cdiv(pixels, rows), channels // columns](x, y, pixels, width, channels, ROWS=rows, COLUMNS=columns)
    return y


def softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Softmax of each row of scale x scores, in dtype; scores (n, m) contiguous, m up to 65536."""
    rows, columns = scores.shape
    y = torch.empty((rows, columns), dtype=dtype, device=scores.device)
    block = triton.next_power_of_2(columns)
    _softmax[(rows,)](scores, y, columns, scale, COLUMNS=block, num_warps=min(32, max(4, block // 2048)))
    return y


def _columns(channels: int) -> int:
    """Channels per tile: the largest power of two that divides their number, up to 256."""
    return min(256, channels & -channels)


@triton.jit
def _channel_moments(
    x,
    mean,
    spread,
    pixels,
    channels,
    chunk,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean and sum of squared deviations of each channel in a chunk of pixels.

    Sums are of differences to the chunk's first pixel, so that a large mean costs the deviations no precision.
    """
    split = tl.program_id(0)
    splits = tl.num_programs(0)
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x += image * pixels * channels
    start = split * chunk
    end = tl.minimum(start + chunk, pixels)
    origin = tl.load(x + start.to(tl.int64) * channels + columns).to(tl.float32)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(start, end, ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < end)[:, None]
        values = tl.load(x + rows.to(tl.int64)[:, None] * channels + columns[None, :], mask=inside, other=0.0)
        centered = tl.where(inside, values.to(tl.float32) - origin[None, :], 0.0)
        sums += centered
        squares += centered * centered
    count = (end - start).to(tl.float32)
    total = tl.sum(sums, axis=0)
    index = (image * splits + split) * channels + columns
    tl.store(mean + index, origin + total / count)
    tl.store(spread + index, tl.sum(squares, axis=0) - total * total / count)


@triton.jit(do_not_specialize=["pixels", "chunk", "splits", "shift_stride"])
def _group_affine(
    mean,
    spread,
    shift,
    weight,
    bias,
    scale,
    offset,
    pixels,
    channels,
    width,
    chunk,
    splits,
    shift_stride,
    eps,
    SHIFTED: tl.constexpr,
    SPLITS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Scale and offset that normalize the channels of a group, from their moments in all chunks (Chan et al., 1983)."""
    group = tl.program_id(0)
    image = tl.program_id(1)
    lanes = tl.arange(0, LANES)
    used = lanes < width
    channel = group * width + lanes
    added = tl.zeros((LANES,), tl.float32)
    if SHIFTED:
        added += tl.load(shift + image * shift_stride + channel, mask=used, other=0.0).to(tl.float32)
    values = 1.0 * pixels * width
    totals = tl.zeros((SPLITS, LANES), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & used[None, :]
        count = tl.minimum(chunk, pixels - split * chunk).to(tl.float32)[:, None]
        index = (image * splits + split)[:, None] * channels + channel[None, :]
        means = tl.load(mean + index, mask=inside, other=0.0) + added[None, :]
        totals += tl.where(inside, count * means, 0.0)
    center = tl.sum(tl.sum(totals, axis=0), axis=0) / values
    # a second pass for the variance around that center: one pass with squares would cancel for a large mean
    totals = tl.zeros((SPLITS, LANES), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & used[None, :]
        count = tl.minimum(chunk, pixels - split * chunk).to(tl.float32)[:, None]
        index = (image * splits + split)[:, None] * channels + channel[None, :]
        apart = tl.load(mean + index, mask=inside, other=0.0) + added[None, :] - center
        within = tl.load(spread + index, mask=inside, other=0.0)
        totals += tl.where(inside, within + count * apart * apart, 0.0)
    variance = tl.sum(tl.sum(totals, axis=0), axis=0) / values
    factor = tl.load(weight + channel, mask=used, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    constant = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32) + (added - center) * factor
    tl.store(scale + image * channels + channel, factor, mask=used)
    tl.store(offset + image * channels + channel, constant, mask=used)


@triton.jit
def _affine(
    x,
    y,
    scale,
    offset,
    pixels,
    channels,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Scale and offset of each channel of each image, then optionally SiLU."""
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (rows < pixels)[:, None]
    index = image * pixels * channels + rows.to(tl.int64)[:, None] * channels + columns[None, :]
    factor = tl.load(scale + image * channels + columns)[None, :]
    constant = tl.load(offset + image * channels + columns)[None, :]
    values = tl.load(x + index, mask=inside, other=0.0).to(tl.float32) * factor + constant
    if SILU:
        values = values * tl.sigmoid(values)
    tl.store(y + index, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _add(
    x,
    bias,
    residual,
    pixels,
    channels,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = (rows < pixels)[:, None]
    index = rows[:, None] * channels + columns[None, :]
    values = tl.load(x + index, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(bias + columns).to(tl.float32)[None, :]
    if RESIDUAL:
        values += tl.load(residual + index, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + index, values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _geglu(x, y, tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = (rows < tokens)[:, None]
    index = rows[:, None] * (2 * width) + columns[None, :]
    values = tl.load(x + index, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + index + width, mask=inside, other=0.0).to(tl.float32)
    values *= 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + rows[:, None] * width + columns[None, :], values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _upsample(x, y, pixels, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (rows < pixels)[:, None]
    values = tl.load(x + rows.to(tl.int64)[:, None] * channels + columns[None, :], mask=inside, other=0.0)
    corner = (rows // width).to(tl.int64) * (4 * width) + 2 * (rows % width)  # first of the four pixels in y
    index = y + corner[:, None] * channels + columns[None, :]
    tl.store(index, values, mask=inside)
    tl.store(index + channels, values, mask=inside)
    tl.store(index + 2 * width * channels, values, mask=inside)
    tl.store(index + (2 * width + 1) * channels, values, mask=inside)


@triton.jit
def _softmax(x, y, columns, scale, COLUMNS: tl.constexpr):
    lanes = tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * columns
    values = tl.load(x + row + lanes, mask=lanes < columns, other=float("-inf")).to(tl.float32) * scale
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row + lanes, (values / tl.sum(values, axis=0)).to(y.dtype.element_ty), mask=lanes < columns)
