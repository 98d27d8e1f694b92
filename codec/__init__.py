"""fdcodec: lossy image compression with a foundation diffusion model.

>>> from codec import Codec, read_image
>>> codec = Codec.load()
>>> encoded = codec.encode(read_image("photo.jpg"), quality=8)
>>> pixels = codec.decode(encoded.data)
"""

from typing import TYPE_CHECKING, Any

from codec.errors import (
    ArchiveError,
    BackboneError,
    BitstreamError,
    BundleError,
    FdcError,
    ImageError,
    ImageLimitError,
    QualityError,
    SettingsError,
)

if TYPE_CHECKING:
    from codec.bundle import Bundle
    from codec.codec import Codec, Encoded
    from codec.containers.writing import encode_png
    from codec.diffusion.backbone import Backbone
    from codec.images import Picture, read_image
    from codec.metrics.quality import Metrics, Quality
    from codec.preview import read_preview, with_preview

__all__ = [
    "ArchiveError",
    "Backbone",
    "BackboneError",
    "BitstreamError",
    "Bundle",
    "BundleError",
    "Codec",
    "Encoded",
    "FdcError",
    "ImageError",
    "ImageLimitError",
    "Metrics",
    "Picture",
    "Quality",
    "QualityError",
    "SettingsError",
    "encode_png",
    "read_image",
    "read_preview",
    "with_preview",
]

_HOMES = {
    "Backbone": "codec.diffusion.backbone",
    "Bundle": "codec.bundle",
    "Codec": "codec.codec",
    "Encoded": "codec.codec",
    "Metrics": "codec.metrics.quality",
    "Picture": "codec.images",
    "Quality": "codec.metrics.quality",
    "encode_png": "codec.containers.writing",
    "read_image": "codec.images",
    "read_preview": "codec.preview",
    "with_preview": "codec.preview",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers without loading torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'codec' has no attribute {name!r}")
