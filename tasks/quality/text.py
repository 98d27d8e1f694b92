"""Formats values for the page: sizes, percentages, decimals, and the columns of an answer."""

import base64
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
DECIMALS = {"bpp": 3, "psnr_db": 2, "ms_ssim": 4, "lpips": 4, "lpips_vgg": 4, "dists": 4, "saved_percent": 1}
LABELS = {
    "bpp": "bpp",
    "psnr_db": "PSNR, dB",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "lpips_vgg": "LPIPS (VGG)",
    "dists": "DISTS",
}
NAMES_OF_METRICS = "metric"


@dataclass(frozen=True)
class Column:
    """A column of an answer: its name in the query, its heading, and whether it holds numbers."""

    name: str
    label: str
    number: bool


def columns(answer: pa.Table, many: bool) -> list[Column]:
    """Selects the columns to show; the archive only if there are several."""
    chosen = []
    for field in answer.schema:
        if field.name == "archive" and not many:
            continue
        label = LABELS.get(field.name, field.name.replace("_", " "))
        chosen.append(Column(field.name, label, _number(field.type)))
    return chosen


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def shown(name: str, value: Any) -> str:
    """Formats a value of a column; a null is a dash, or `all` in a total."""
    if value is None:
        return "all" if name in ("archive", "folder") else "–"
    if name.endswith("sha256"):
        return str(value[:16])
    if name == NAMES_OF_METRICS:
        return LABELS.get(value, str(value))
    if name == "bytes" or name.endswith("_bytes"):
        return size(int(value))
    if name == "saved_percent":
        return f"{value:.1f} %"
    if isinstance(value, float):
        if name in DECIMALS:
            return f"{value:,.{DECIMALS[name]}f}"
        return f"{value:,.6g}"
    if isinstance(value, int) and name != "run":
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def size(count: int) -> str:
    """Formats bytes in the largest decimal unit that gives at least 1.

    >>> size(1_234_567)
    '1.23 MB'
    """
    value = float(count)
    for unit in UNITS:
        if abs(value) < 1000 or unit == UNITS[-1]:
            break
        value /= 1000
    if unit == UNITS[0]:
        return f"{count} bytes"
    return f"{value:.3g} {unit}"


def data_uri(webp: bytes) -> str:
    """Encodes a picture as a data URL."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
