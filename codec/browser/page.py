"""The files of the decoder's page: the script's own, ONNX Runtime's, and what it reads of a bundle.

ONNX Runtime Web is in the package, as npm has it (codec/LICENSES.md), its WebAssembly compressed: nothing is fetched
from anywhere when a page opens.
"""

import functools
import lzma
from pathlib import Path

from codec.browser import networks
from codec.bundle import Bundle
from codec.errors import BundleError

SCRIPT = Path(__file__).parent / "script"
RUNTIME = Path(__file__).parent / "onnxruntime"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PARTS = {
    "bundle.json": "bundle.json",
    "entropy.safetensors": "entropy.safetensors",
    "scheduler.json": "backbone/scheduler/scheduler_config.json",
    "unet.json": "backbone/unet/config.json",
    "vae.json": "backbone/vae/config.json",
}
"""Where the page's names of a bundle's files lie in its folder."""
KEY_DIGITS = 16
"""The page names a bundle by the digits of its id that a file states."""


@functools.cache
def runtime_file(name: str) -> bytes:
    """A file of ONNX Runtime Web."""
    packed = RUNTIME / f"{name}.xz"
    return lzma.decompress(packed.read_bytes()) if packed.exists() else (RUNTIME / name).read_bytes()


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """What the page reads of a bundle, by KEY/NAME. Raises BundleError if its backbone is not the embedded kind."""
    mini = networks.MiniNetworks.of(bundle.path)
    files = {networks.UNET: networks.unet_model(mini), networks.DECODER: networks.decoder_model(mini)}
    try:
        files |= {name: (bundle.path / part).read_bytes() for name, part in PARTS.items()}
    except OSError as error:
        raise BundleError(f"cannot read the bundle {bundle.path}: {error.strerror}") from None
    return {f"{bundle.id[:KEY_DIGITS]}/{name}": content for name, content in files.items()}
