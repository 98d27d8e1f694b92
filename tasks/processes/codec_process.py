"""Child processes with a codec, from their parent's side: settings, command lines and calls."""

import argparse
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitstreamError
from codec.metrics.names import NONE
from tasks.processes.child import Child, ChildDied, Frame
from tasks.processes.requests import Request, Verify, VerifyMany

if TYPE_CHECKING:
    from codec.format.content import Content
    from codec.images import Picture

CODEC = "codec.codec:Codec"
"""The class that a child loads, as module:name; tests name a substitute."""


class Asked(Protocol):
    """A child process or a substitute."""

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> Frame: ...


class Coder(Protocol):
    """The methods of codec.Codec that this process uses."""

    bundle: Any
    backbone: Any

    def encode(self, picture: "Picture", *, quality: float, effort: int) -> Any: ...

    def encode_to_bpp(self, picture: "Picture", bits_per_pixel: float, *, effort: int) -> Any: ...

    def encode_to_quality(
        self,
        picture: "Picture",
        *,
        min_psnr_db: float | None,
        max_lpips: float | None,
        above: float,
        effort: int,
    ) -> Any: ...

    def decode(self, data: bytes) -> NDArray[np.uint8]: ...

    def reconstruct(self, data: bytes, symbols: NDArray[np.int32]) -> NDArray[np.uint8]: ...

    def begin_many(
        self, pictures: Mapping[int, "Picture"], count: int, *, quality: float
    ) -> Callable[[], dict[int, Any]]: ...

    def reconstruct_many(
        self, files: Mapping[int, tuple[bytes, NDArray[np.int32]]], count: int
    ) -> dict[int, NDArray[np.uint8]]: ...

    def contents(self, files: Sequence[bytes]) -> "Sequence[Content | BitstreamError]": ...

    def decode_picture(self, data: bytes) -> "Picture": ...

    def content(self, data: bytes) -> "Content": ...


@dataclass(frozen=True)
class Models:
    """Settings of a child process. An empty bundle means the embedded one; `codec` is the class as module:name.

    `memory` is the limit of the process in bytes; None is unlimited. `child_env` names environment variables that it
    gets in addition to the standard ones.
    """

    bundle: str
    device: str = "cpu"
    backbone: str = ""
    threads: int = 1
    codec: str = CODEC
    memory: int | None = None
    child_env: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The command-line arguments for `parser`."""
        return [self.bundle, "--device", self.device, "--backbone", self.backbone, "--codec", self.codec]


def worker(models: Models, metrics: Sequence[str] = ()) -> Child:
    """Creates the process that encodes, measures and decodes (encode_worker). `metrics`: the metrics it loads."""
    arguments = [*models.arguments(), "--metrics", *(metrics or [NONE])]
    return Child("tasks.processes.encode_worker", arguments, models.threads, models.memory, models.child_env)


def verifier(models: Models, *, on_card: bool = False) -> Child:
    """Creates the process that decodes again (verify_worker), on the CPU or, with `on_card`, on the encoder's GPU.

    Before it accepts a file, it reproduces its bundle's known answer on that device.
    """
    if not on_card:
        models = replace(models, device="cpu")
    return Child("tasks.processes.verify_worker", models.arguments(), models.threads, models.memory, models.child_env)


@dataclass(frozen=True)
class Claim:
    """A file, the hash of its symbols or pixels and, for .fdc, the fingerprint of everything else it is shown with."""

    data: bytes
    content: str
    fingerprint: str | None = None


def decodes(child: Asked, data: bytes, content: str, *, seconds: float) -> bool:
    """Whether the verifier decodes a file to the content of this hash, within its time limit and without a crash.

    If the process ends, a new one tries once more: a process killed while idle is no evidence against the file.
    """
    return decodes_claim(child, Claim(data, content), seconds=seconds)


def decodes_claim(child: Asked, claim: Claim, *, seconds: float) -> bool:
    """`decodes` with the fingerprint compared too."""
    for _attempt in range(2):
        try:
            answer, _ = child.ask(Verify(), claim.data, seconds=seconds)
        except ChildDied:
            continue
        return _agrees(claim, answer)
    # a file that ends two processes must not be committed
    return False


def decodes_each(child: Asked, claims: Sequence[Claim], *, seconds: float) -> list[bool]:
    """`decodes` for several files in one request; if the process ends, for each file alone."""
    if not claims:
        return []
    request = VerifyMany([len(claim.data) for claim in claims])
    together = b"".join(claim.data for claim in claims)
    try:
        answer, _ = child.ask(request, together, seconds=seconds * len(claims))
    except ChildDied:  # by one of the files: the others are good
        return [decodes_claim(child, claim, seconds=seconds) for claim in claims]
    return [_agrees(claim, one) for claim, one in zip(claims, answer["answers"], strict=True)]


def _agrees(claim: Claim, answer: dict[str, Any]) -> bool:
    if answer.get("content") != claim.content:
        return False
    if claim.fingerprint is None:  # JPEG XL, or a caller that compares the symbols alone
        return True
    return claim.fingerprint == answer.get("fingerprint")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command-line parser of every process that loads a codec."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("bundle")
    options.add_argument("--device", default="cpu")
    options.add_argument("--backbone", default="")
    options.add_argument("--codec", default=CODEC)
    return options


def load(arguments: argparse.Namespace) -> Coder:
    """Loads the codec named by a command line."""
    module, _, name = arguments.codec.partition(":")
    kind = getattr(importlib.import_module(module), name)
    codec = kind.load(arguments.bundle or None, device=arguments.device, backbone=arguments.backbone or None)
    return cast(Coder, codec)


def digest(symbols: NDArray[np.int32]) -> str:
    """Returns the SHA-256 of symbols (channel, row, column) as little-endian 32-bit integers."""
    integers = np.ascontiguousarray(symbols, dtype="<i4")
    return hashlib.sha256(integers.tobytes()).hexdigest()


def greeting(codec: Coder, arguments: argparse.Namespace) -> dict[str, Any]:
    """The greeting of a process with a codec."""
    embedded = codec.bundle.config.backbone_source == "embedded"
    home = importlib.import_module(arguments.codec.partition(":")[0])
    return {
        "bundle_id": codec.bundle.id,
        "bundle_path": str(codec.bundle.path),
        "backbone": None if embedded else str(codec.bundle.config.backbone_hash),
        "default_quality": float(home.DEFAULT_QUALITY),
    }
