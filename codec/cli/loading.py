"""Loads the codec of a command."""

from typing import TYPE_CHECKING

from codec.errors import SettingsError

if TYPE_CHECKING:
    from codec.codec import Codec
    from codec.entropy.integer import ExactEntropyModel
    from codec.entropy.tables import Tables
    from codec.format.bitstream import FdcFile


def codec(bundle: str | None, backbone: str | None, device: str, file: "FdcFile | None" = None) -> "Codec":
    """Loads a codec: of the bundle that wrote `file`, of the given bundle, or the embedded default."""
    from codec.bundle import find_bundle
    from codec.codec import Codec

    check_device(device)
    if file is None:
        return Codec.load(bundle, device=device, backbone=backbone, remember=True)
    found = find_bundle(file.bundle_id, [bundle] if bundle else [])
    return Codec.load(found, device=device, backbone=backbone, remember=True)


def entropy(bundle: str | None, file: "FdcFile") -> "tuple[ExactEntropyModel, Tables]":
    """Loads the entropy model of the bundle that wrote `file`. Raises BundleError."""
    from codec.bundle import find_bundle

    return find_bundle(file.bundle_id, [bundle] if bundle else []).load_entropy()


def check_device(device: str) -> None:
    """Raises SettingsError if the device is not available here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch asserts that it was built for the device
        raise SettingsError(f"device {device!r} is not available here; use cpu") from None
