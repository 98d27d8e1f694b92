"""A second decoder of .fdc files: symbols and chunks, written from FORMAT.md alone by one who had not seen the codec.

The header and the chunks of version 2 were added by one who had.

`python -m tests.golden.second_decoder FOLDER FILE ...` prints the SHA-256 of the symbols; FOLDER holds bundles.
It shares no code with the codec. Names are those of FORMAT.md.

Numbers are float64 in their true size: all are multiples of powers of two, so sums and products are exact.
"""

import hashlib
import json
import lzma
import math
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TILE = 128
REACH = 16
MAX_PIXELS = 100_000_000
HALVES: Integers = np.array([0, 2**23, 2**24])
S, O = (20, 9), (20, 12)  # noqa: E741
GRIDS = {
    "wide": dict.fromkeys("NQMHKZG", (16, 9)),
    "narrow": {"N": (11, 7), "Q": (8, 4), "M": (11, 7), "H": (11, 7), "K": (11, 5), "Z": (11, 4), "G": (9, 4)},
}
INPUTS = {"project": "N", "merge": "M", "expand": "N", "contract": "H", "inner": "N", "outer": "H"}
"""The grid of a linear map's inputs, by the last part of its name; of others see EntropyModel.input_grid."""


@dataclass(frozen=True)
class File:
    """A file taken apart; `chunks` holds the decoded contents by tag, in the order of the file."""

    bundle_id: bytes
    width: int
    height: int
    gray: bool
    alpha_codes: tuple[int, ...]
    stream: bytes
    chunks: dict[str, list[bytes]]
    version: int = 2
    orientation: int = 1
    skipped: tuple[str, ...] = ()


def require(condition: bool, message: str) -> None:
    """Refuse the file unless the condition holds."""
    if not condition:
        raise ValueError(message)


def take(data: BytesIO, length: int) -> bytes:
    """Return the next bytes, of which there must be enough."""
    part = data.read(length)
    require(len(part) == length, "a part reaches into the checksum")
    return part


def varint(data: BytesIO) -> int:
    """Return the next varint."""
    value = 0
    for place in range(5):
        byte = take(data, 1)[0]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            require(byte > 0 or place == 0, "a varint is longer than needed")
            return value
    raise ValueError("a varint is longer than five bytes")


def unpack(data: bytes, least: int, most: int) -> bytes:
    """Decode a chunk's LZMA2 data, which must hold from `least` to `most` bytes."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**20}])
    try:
        content = decoder.decompress(data, max_length=most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError("a chunk is damaged") from error
    require(decoder.eof and not decoder.unused_data, "a chunk does not end with its LZMA2 data")
    require(least <= len(content) <= most, "a chunk's content has a wrong length")
    return content


SIGNATURE = bytes.fromhex("8f4644430d0a1a0a")
ONCE = ("ALPH", "ICCP", "exIf", "ipTc", "phYs", "prEV", "xmPp")
REPEATED = ("auXP", "coMm", "psIr", "teXt", "unKn", "xeXt")


def parse(data: bytes) -> File:
    """Take a file of either version apart."""
    if data[:4] == b"FDC\x01":
        return parse_version_1(data)
    require(data[:8] == SIGNATURE, "this is no .fdc file")
    require(data[8] == 2, "the version is not known")
    require(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "the checksum is wrong")
    rest = BytesIO(data[10:-4])
    flags = take(rest, 1)[0]
    bundle_id = take(rest, 8)
    require(flags < 4, "an unknown flag is set")
    width = varint(rest)
    height = varint(rest)
    check_size(width, height)
    take(rest, 1)  # the quality code
    require(int.from_bytes(take(rest, 2), "little") <= 999 * 8, "the timestep is out of its range")
    alpha_codes = tuple(take(rest, 4) if flags & 1 else take(rest, 1) * 4)
    require(not flags & 1 or len(set(alpha_codes)) > 1, "four equal alpha codes")
    stream = take(rest, varint(rest))
    require(len(stream) % 4 == 0 and len(stream) > 0, "the stream is not whole words, or none")
    orientation = take(rest, 1)[0]
    require(1 <= orientation <= 8, "the orientation is none")
    chunks, skipped = parse_chunks(rest, width, height)
    return File(bundle_id, width, height, bool(flags & 2), alpha_codes, stream, chunks, 2, orientation, skipped)


def parse_chunks(rest: BytesIO, width: int, height: int) -> tuple[dict[str, list[bytes]], tuple[str, ...]]:
    """Take the chunks up to the checksum."""
    chunks: dict[str, list[bytes]] = {}
    skipped: list[str] = []
    last = (False, b"", -1)
    count = total = 0
    while head := rest.read(4):
        count += 1
        require(count <= 256, "there are too many chunks")
        require(len(head) == 4 and head.isalpha() and head.isascii() and not head[2] & 32, "a tag is none")
        tag = head.decode("ascii")
        payload = BytesIO(take(rest, varint(rest)))
        index = varint(payload) if tag in REPEATED else 0
        place = (bool(head[0] & 32), head, index)
        require(place > last, "a chunk is repeated or out of order")
        require(index == (last[2] + 1 if last[1] == head else 0), "an index is not the next")
        last = place
        if tag not in ONCE + REPEATED:
            require(bool(head[0] & 32), "a critical chunk is not known")
            skipped.append(tag)
            continue
        content = payload.read()
        if tag == "ALPH":
            chunks[tag] = [alpha_plane(content, width, height)]
            continue
        content = unpack(content, 1, 2**24)
        total += len(content)
        require(total <= 2**26, "the chunks hold too much")
        chunks.setdefault(tag, []).append(content)
    return chunks, tuple(skipped)


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no file has, or that this decoder does not take on."""
    require(0 < width < 2**20 and 0 < height < 2**20 and width * height <= 2**30, "the size is out of its range")
    require(width * height <= MAX_PIXELS, "the picture is larger than this decoder allows")


def alpha_plane(coded: bytes, width: int, height: int) -> bytes:
    """Decode an alpha plane."""
    require(len(coded) > 0 and coded[0] <= 2, "the alpha plane has an unknown coding mode")
    plane = np.frombuffer(unpack(coded[1:], width * height, width * height), np.uint8).reshape(height, width)
    return (np.cumsum(plane, axis=2 - coded[0], dtype=np.uint8) if coded[0] > 0 else plane).tobytes()


def parse_version_1(data: bytes) -> File:
    """Take a file of version 1 apart."""
    require(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "the checksum is wrong")
    rest = BytesIO(data[4:-4])
    flags = take(rest, 1)[0]
    bundle_id = take(rest, 8)
    require(flags < 32, "an unknown flag is set")
    width = varint(rest)
    height = varint(rest)
    check_size(width, height)
    take(rest, 1)  # the quality code
    require(int.from_bytes(take(rest, 2), "little") <= 999 * 8, "the timestep is out of its range")
    alpha_codes = tuple(take(rest, 4) if flags & 1 else take(rest, 1) * 4)
    stream = take(rest, varint(rest))
    require(len(stream) % 4 == 0 and len(stream) > 0, "the stream is not whole words, or none")
    alpha, *others = [take(rest, varint(rest)) if flags & bit else None for bit in (4, 8, 16)]
    require(not rest.read(), "there are bytes before the checksum that belong to no part")
    chunks = {} if alpha is None else {"ALPH": [alpha_plane(alpha, width, height)]}
    for tag, chunk in zip(("ICCP", "exIf"), others, strict=True):
        if chunk is not None:
            chunks[tag] = [unpack(chunk, 1, 2**24)]
    return File(bundle_id, width, height, bool(flags & 2), alpha_codes, stream, chunks, 1)


def read_tables(counts: npt.NDArray[np.int32]) -> list[tuple[Integers, int]]:
    """Return the running sums 0, C_1, ..., 2^24 and the R of table (s, f) at 32 s + f."""
    tables = []
    start = 0
    for s in range(128):
        # (sigma is 64 at level 127; the subtraction keeps a rounding error there from counting)
        reach = math.ceil(6 * 0.06 * (64 / 0.06) ** (s / 127) - 1e-9) + 2
        size = 2 * reach + 2
        sums = np.cumsum(counts[start : start + 32 * size].reshape(32, size), 1, dtype=np.int64)
        tables += [(np.append(0, row), reach) for row in sums]
        start += 32 * size
    require(start == len(counts), "the tables have a wrong length")
    return tables


class RangeDecoder:
    """Decodes symbols from a stream."""

    def __init__(self, stream: bytes, tables: list[tuple[Integers, int]]) -> None:
        """Read the first two words."""
        self.words = np.frombuffer(stream, "<u4").tolist()
        self.tables = tables
        self.next = 2
        self.information = 0.0
        first, second = [*self.words, 0, 0][:2]
        self.range, self.offset = 2**64 - 1, first << 32 | second
        self.low, self.spread, self.shifts = 0, 2**64 - 1, 0  # of the encoder that would have written the stream

    def entry(self, sums: Integers) -> int:
        """Decode the next entry of the table with these running sums."""
        scale = self.range >> 24
        require(self.offset // scale < 2**24, "the stream is damaged")
        e = int(sums.searchsorted(self.offset // scale, "right")) - 1
        below, above = sums[e : e + 2].tolist()
        self.offset -= scale * below
        self.range = scale * (above - below)
        self.encode(below, above)
        self.information += 24 - math.log2(above - below)
        require(self.information <= 32 * len(self.words) + 1, "the stream ran out")
        if self.range < 2**32:
            self.range <<= 32
            self.offset = self.offset << 32 | (self.words[self.next] if self.next < len(self.words) else 0)
            self.next += 1
        return e

    def encode(self, below: int, above: int) -> None:
        """Do what the encoder did."""
        scale = self.spread >> 24
        self.low += scale * below
        self.spread = scale * (above - below)
        if self.spread < 2**32:
            self.spread <<= 32
            self.low <<= 32
            self.shifts += 1

    def written(self) -> list[int]:
        """Return the words that the encoder would have written."""
        value = (self.low + 2**32 - 1) >> 32
        words = [value >> 32 * place & (2**32 - 1) for place in reversed(range(self.shifts + 1))]
        again = (self.low + self.spread) >> 32
        return [*words, 0] if again & (2**32 - 1) == words[-1] else words

    def symbol(self, m: int, s: int, limit: int = 2**15 - 1) -> int:
        """Decode the next symbol, which has mean m and scale level s."""
        q, f = divmod(m, 32)
        sums, reach = self.tables[32 * s + f]
        r = self.entry(sums) - reach
        if r > reach:
            zeros = 0
            while self.entry(HALVES) == 0:
                zeros += 1
                require(zeros <= 17, "an escape is too long")
            v = 2**zeros - 1 + sum(self.entry(HALVES) << bit for bit in reversed(range(zeros)))
            r = (v // 2 + reach + 1) * (1 - v % 2 * 2)
        require(abs(r + q) <= limit, "a symbol is too large")
        return r + q


def snap(x: Floats, grid: tuple[int, int]) -> Floats:
    """Round to the nearest multiple of 2^-fraction, ties to even, and clamp to the grid's bits."""
    bits, fraction = grid
    most = 2.0 ** (bits - 1) - 1
    return np.clip(np.rint(x * 2.0**fraction), -most, most) * 2.0**-fraction


def windows(rows: int, columns: int, size: int, shifted: bool) -> Iterator[tuple[slice, slice]]:
    """Cut a tile into windows from its top left, the first ones half as wide and high if shifted."""
    first = size // 2 if shifted else size
    spans = [[0, *range(first, length, size), length] for length in (rows, columns)]
    return product(*([slice(start, stop) for start, stop in pairwise(span)] for span in spans))


def anchors(rows: int, columns: int) -> Bools:
    """Return where in a tile the anchors are."""
    return (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 1


class EntropyModel:
    """A bundle's entropy model (section 6); the symbols that it takes are k - j / 32."""

    def __init__(self, folder: Path) -> None:
        """Read a bundle and check its entropy model's file."""
        content = json.loads((folder / "bundle.json").read_text("utf-8"))
        self.id = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()
        require(content["format"] in (1, 2), f"{folder} has another format")
        self.settings = content["entropy"]
        self.known_answer = content["known_answer"]
        self.grids = GRIDS[self.settings.get("grids", "wide")]
        data = (folder / "entropy.safetensors").read_bytes()
        checksum = content["files"]["entropy.safetensors"]
        require(hashlib.sha256(data).hexdigest() == checksum, f"{folder} has another entropy model than it states")
        tensors = self.tensors = load(data)
        self.tables = read_tables(tensors["counts"])
        self.heads = self.settings["heads"]
        self.size = self.settings["dim"] // self.heads
        self.scale = 2.0 ** -np.rint(math.log2(self.size) / 2 - 0.25)
        self.maps: dict[str, tuple[Floats, Floats]] = {}
        for name in [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]:
            unit = 2.0 ** -tensors[f"{name}.fraction"].astype(np.float64)
            biases = tensors.get(f"{name}.bias", 0) * unit * 2.0 ** -self.grids[self.input_grid(name)][1]
            self.maps[name] = tensors[f"{name}.weight"].T * unit, biases
        reach = self.settings["positions"] // 2
        v, h = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2]
        inside = abs(v) + abs(h) <= reach
        self.cells = np.where(inside, np.cumsum(inside).reshape(v.shape) - 1, inside.sum())

    @staticmethod
    def input_grid(name: str) -> str:
        """Return the letter of the grid of a linear map's inputs."""
        if name.endswith("embed"):
            return "Z" if name.startswith("hyper") else "K"
        return INPUTS.get(name.rpartition(".")[2], "G")

    def snap(self, x: Floats, letter: str) -> Floats:
        """Round to one of the grids that depend on the bundle."""
        return snap(x, self.grids[letter])

    def norm(self, x: Floats) -> Floats:
        """Center and scale the last axis."""
        d = x.shape[-1]
        c = x - snap(x.sum(-1, keepdims=True) / d, S)
        return self.snap(c / np.sqrt((c * c).sum(-1, keepdims=True) / d + 2.0**-18), "N")

    def leaky(self, x: Floats) -> Floats:
        """Apply the activation function."""
        return self.snap(np.where(x >= 0, x, 0.2 * x), "H")

    def choose(self, codes: tuple[int, ...]) -> None:
        """Set the four channels' alpha codes."""
        self.codes = list(codes)
        self.alpha, self.inverse = (self.tensors[name][self.codes] / 4096 for name in ("alpha", "inverse"))

    def linear(self, name: str, x: Floats) -> Floats:
        """Apply a linear map to the last axis."""
        return x @ self.maps[name][0] + self.maps[name][1]

    def rate(self, name: str) -> Floats:
        """Return a rate table's value."""
        return snap(self.tensors[name][self.codes].sum(0) / 4 / 2**9, S)

    def level(self, scale: Floats, code: int) -> Integers:
        """Return the scale levels s."""
        return np.clip(np.rint(16 * scale + self.tensors["level"][code] / 64), 0, 127).astype(np.int64)

    def attend(self, net: str, parts: list[Floats], v: Integers, h: Integers, allowed: Bools | bool = True) -> Floats:
        """Attention of n queries to m keys, given both and the values, n x m offsets (v, h) and the keys allowed."""
        query, key, value = (part.reshape(-1, self.heads, self.size).swapaxes(0, 1) for part in parts)
        m, kept, most = key.shape[1], min(key.shape[1], self.settings["top_k"]), len(self.cells) // 2
        cell = self.cells[np.clip(v, -most, most) + most, np.clip(h, -most, most) + most][None]
        unit = 2.0 ** -self.grids["Q"][1]
        near = np.take_along_axis(query @ self.tensors[f"{net}.relative"].T * unit, cell.repeat(self.heads, 0), 2)
        units = ((query @ key.swapaxes(1, 2) + near) / unit**2).astype(np.int64)
        ranked = np.where(allowed, units, -(2**45)) * m + np.arange(m)
        score, index = np.divmod(np.partition(ranked, m - kept, 2)[..., m - kept :], m)
        distance = np.rint(32 * self.scale * unit**2 * (score.max(2, keepdims=True) - score))
        weight = self.tensors["exponential"][np.minimum(512, distance).astype(np.int64)].astype(np.float64)
        total = (weight[:, :, None] @ value[np.arange(self.heads)[:, None, None], index])[:, :, 0]
        return self.snap((total / weight.sum(2, keepdims=True)).swapaxes(0, 1).reshape(len(v), -1), "M")

    def merge(self, name: str, x: Floats, a: Floats) -> Floats:
        """Do what a block does after its attention."""
        x = snap(x + snap(self.linear(f"{name}.merge", a), S), S)
        u = self.leaky(self.snap(self.linear(f"{name}.expand", self.norm(x)), "H"))
        return snap(x + snap(self.linear(f"{name}.contract", u), S), S)

    def block(self, net: str, index: int, x: Floats, size: int) -> Floats:
        """Return x after a block with windows; in the context transformer keys are anchors and the query's own."""
        name = f"{net}.blocks.{index}"
        a = np.zeros_like(x)
        parts = np.split(self.snap(self.linear(f"{name}.project", self.norm(x)), "Q"), 3, -1)
        for window in windows(x.shape[0], x.shape[1], size, index % 2 == 1):
            query, key, value = (part[window].reshape(-1, x.shape[2]) for part in parts)
            v, h = (axis[window].ravel() for axis in np.mgrid[: x.shape[0], : x.shape[1]])
            order, allowed = np.arange(len(v)), True
            if net == "context":
                order = np.argsort((v + h) % 2 == 0, kind="stable")
                allowed = ((v + h)[order] % 2 == 1) | (np.arange(len(v))[:, None] == order)
            here = [query, key[order], value[order]]
            found = self.attend(net, here, v[order] - v[:, None], h[order] - h[:, None], allowed)
            a[window] = found.reshape(a[window].shape)
        return self.merge(name, x, a)

    def prior(self) -> tuple[Integers, Integers]:
        """Return m and s of the hyper-latent's channels."""
        mean, scale = np.split(snap(self.rate("prior.table"), O), 2)
        return (32 * snap(mean, (22, 5))).astype(np.int64), self.level(scale, 128)

    def offsets(self, rows: slice, columns: slice) -> Integers:
        """Return the offsets j of a tile's symbols, rows x columns x 4, which are zero without dither."""
        v, h, c = np.ogrid[rows, columns, :4]
        n: Integers = (3242174889 * v + 2447445414 * h + 2**30 * c) % 2**32
        return n // 2**27 - 16 if self.settings.get("dither", False) else np.zeros_like(n)

    def hyper_decoder(self, z: Integers, rows: int, columns: int) -> Floats:
        """Return norm(hyper) of a tile, rows x columns x d, from its hyper-latent."""
        embedded = self.linear("hyper_decoder.embed", self.snap(np.moveaxis(z, 0, -1), "Z"))
        x = self.block("hyper_decoder", 0, snap(embedded + self.rate("hyper_decoder.rate.table"), S), 16)
        for index in range(self.settings["halvings"]):
            high, wide, d = x.shape
            padded = np.pad(self.snap(x, "G"), ((1, 1), (1, 1), (0, 0)))
            near = [padded[v : v + high, h : h + wide] for v in range(3) for h in range(3)]
            x = snap(self.linear(f"hyper_decoder.grow.{index}", np.concatenate(near, -1)), S)
            x = x.reshape(high, wide, 2, 2, d).transpose(0, 2, 1, 3, 4).reshape(2 * high, 2 * wide, d)
            if index + 1 < self.settings["halvings"] or self.settings.get("finest_attention", True):
                x = self.block("hyper_decoder", index + 1, x, 16)
        return self.norm(x[:rows, :columns])

    def embed(self, symbols: Floats) -> Floats:
        """Begin the context transformer with a position's four symbols or those of its four neighbors."""
        inputs = np.concatenate([symbols, symbols * np.tile(self.inverse, symbols.shape[-1] // 4)], -1)
        return snap(self.linear("context.embed", self.snap(inputs, "K")) + self.rate("context.rate.table"), S)

    def context(self, symbols: Floats) -> Floats:
        """Return the context of a tile in parallel order from its symbols, rows x columns x 4."""
        x = self.embed(symbols * anchors(*symbols.shape[:2])[:, :, None])
        for index in range(self.settings["depth"]):
            x = self.block("context", index, x, 32)
        return self.snap(x, "N")

    def serial_context(self, cache: Floats, symbols: Floats, v: int, h: int) -> Floats:
        """Return a position's serial context; `cache` has keys and values, depth x 2 x rows x columns x d."""
        left = max(0, h - REACH)
        right = min(symbols.shape[1] - 2, h + REACH + 1)
        keys = np.mgrid[max(0, v - REACH) : v + 1, left:right].reshape(2, -1)
        key_v, key_h = keys[:, : keys.shape[1] - (right - 1 - h)]
        x = self.embed(symbols[[v, v, v, v + 1], [h, h + 1, h + 2, h]].reshape(1, 16))
        for index, (key, value) in enumerate(cache):
            name = f"context.blocks.{index}"
            projected = self.snap(self.linear(f"{name}.project", self.norm(x)), "Q")
            query, key[v, h], value[v, h] = np.split(projected, 3, -1)
            parts = [query, key[key_v, key_h], value[key_v, key_h]]
            x = self.merge(name, x, self.attend("context", parts, key_v[None] - v, key_h[None] - h))
        return self.snap(x[0], "N")

    def parameters(self, c: int, hyper: Floats, context: Floats, symbols: Floats) -> tuple[Integers, Integers]:
        """Return m and s of channel c of positions, given norm(hyper), the context and the symbols, ... x 4."""
        inputs = [hyper, context]
        if self.settings["channel_conditioning"]:
            known = np.where(np.arange(4) < c, symbols, 0)
            inputs += [self.snap(known, "K"), self.snap(known * self.inverse, "K")]
        u = self.leaky(self.snap(self.linear("parameter_net.inner", np.concatenate(inputs, -1)), "H"))
        out = snap(self.linear("parameter_net.outer", u)[..., [c, 4 + c]], O)
        m = 32 * snap(out[..., 0] * self.alpha[c], (22, 5))
        return m.astype(np.int64), self.level(out[..., 1], self.codes[c])


def known_answer(model: EntropyModel) -> str:
    """Return the SHA-256 that should be the bundle's known answer."""
    model.choose((100, 128, 140, 170))
    # Odd sizes above a window of 32, so that blocks are shifted and windows are cut at borders.
    rows = 37
    columns = 41
    settings = model.settings
    coarse = [-(-length // 2 ** settings["halvings"]) for length in (rows, columns)]
    shapes = [(settings["hyper_channels"], *coarse), (rows, columns, 4)]
    z, k = ((7919 * np.arange(math.prod(shape)) % 23 - 11).reshape(shape) for shape in shapes)
    hyper = model.hyper_decoder(z, rows, columns)
    symbols = k.astype(np.float64)
    if settings["order"] == "serial":
        cache = np.zeros((settings["depth"], 2, *hyper.shape))
        padded = np.pad(symbols, ((1, 0), (1, 1), (0, 0)))
        serial = [model.serial_context(cache, padded, v, h) for v, h in np.ndindex(rows, columns)]
        contexts = [np.array(serial).reshape(hyper.shape)]
    else:
        contexts = [np.zeros_like(hyper), model.context(symbols)]
    hashed = list(model.prior())
    for context in contexts:
        hashed += map(np.array, zip(*(model.parameters(c, hyper, context, symbols) for c in range(4)), strict=True))
    return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in hashed)).hexdigest()


def decode_tile(decoder: RangeDecoder, model: EntropyModel, hyper: Floats, j: Integers) -> Integers:
    """Decode the symbols of a tile, rows x columns x 4, whose offsets are j."""
    rows, columns, _ = hyper.shape
    padded = np.zeros((rows + 1, columns + 2, 4))
    symbols = padded[1:, 1:-1]  # (k - j / 32, zero before k is decoded)
    if model.settings["order"] == "serial":
        cache = np.zeros((model.settings["depth"], 2, *hyper.shape))
        for v, h in np.ndindex(rows, columns):
            context = model.serial_context(cache, padded, v, h)
            for c in range(4):
                m, s = model.parameters(c, hyper[v, h], context, symbols[v, h])
                symbols[v, h, c] = decoder.symbol(int(m + j[v, h, c]), int(s)) - j[v, h, c] / 32
        return (symbols + j / 32).astype(np.int64)
    context = np.zeros_like(hyper)
    for where in (anchors(rows, columns), ~anchors(rows, columns)):
        for c in range(4):
            ms, ss = model.parameters(c, hyper[where], context[where], symbols[where])
            ms += j[where, c]
            k = [decoder.symbol(m, s) for m, s in zip(ms.tolist(), ss.tolist(), strict=True)]
            symbols[where, c] = k - j[where, c] / 32
        context = model.context(symbols)  # (of use after the anchors only)
    return (symbols + j / 32).astype(np.int64)


def decode(file: File, model: EntropyModel) -> npt.NDArray[np.int32]:
    """Decode a file's symbols, by channel, row, column."""
    require(file.bundle_id == model.id[:8], "the file was made with another bundle")
    model.choose(file.alpha_codes)
    decoder = RangeDecoder(file.stream, model.tables)
    hyper_latents = []
    symbols = np.zeros((4, -(-file.height // 8), -(-file.width // 8)), np.int32)
    tiles = list(windows(*symbols.shape[1:], TILE, shifted=False))
    for tile in tiles:
        high, wide = (-(-(span.stop - span.start) // 2 ** model.settings["halvings"]) for span in tile)
        values = [
            [decoder.symbol(int(m), int(s), 63) for _ in range(high * wide)]
            for m, s in zip(*model.prior(), strict=True)
        ]
        hyper_latents.append(np.array(values).reshape(-1, high, wide))
    for (rows, columns), z in zip(tiles, hyper_latents, strict=True):
        hyper = model.hyper_decoder(z, rows.stop - rows.start, columns.stop - columns.start)
        symbols[:, rows, columns] = np.moveaxis(decode_tile(decoder, model, hyper, model.offsets(rows, columns)), -1, 0)
    require(decoder.next >= len(decoder.words), "the stream has words that nothing needs")
    require(decoder.offset < 2**33 - 1, "the stream's end is damaged")
    require(file.version == 1 or decoder.written() == decoder.words, "the stream is not the one of its symbols")
    return symbols


def main(bundles_folder: str, *names: str) -> None:
    """Print the SHA-256 of each file's symbols."""
    folders = [path.parent for path in Path(bundles_folder).glob("*/bundle.json")]
    models = {model.id[:8]: model for model in map(EntropyModel, folders)}
    for name in names:
        file = parse(Path(name).read_bytes())
        require(file.bundle_id in models, f"there is no bundle for {name}")
        print(hashlib.sha256(decode(file, models[file.bundle_id]).astype("<i4").tobytes()).hexdigest(), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
