"""The files of the decoder's page: the script's own, ONNX Runtime's, and what it reads of a bundle.

ONNX Runtime Web is in the package, as npm has it (codec/LICENSES.md), its WebAssembly compressed: nothing is fetched
from anywhere when a page opens. Nothing here needs PyTorch.
"""

import gzip
import html
from collections.abc import Mapping
from pathlib import Path

from codec.browser import networks
from codec.errors import BundleError, SettingsError

SCRIPT = Path(__file__).parent / "script"
RUNTIME = Path(__file__).parent / "onnxruntime"
RUNTIME_FILES = {"ort.mjs": "ort.wasm.bundle.min.mjs", "ort.wasm": "ort-wasm-simd-threaded.wasm.gz"}
"""The page's names of ONNX Runtime Web's files, and those in the package."""
WEBGPU_FILES = {"ort.mjs": "ort.webgpu.bundle.min.mjs", "ort.wasm": "ort-wasm-simd-threaded.asyncify.wasm"}
"""The same of the build that also computes on a GPU: npm's, in its folder onnxruntime-web/dist."""
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
GIVEN = "given.fdc"
ORIGINAL = "original"
BODY = '<body data-state="idle">'


def packed_runtime(webgpu: Path | None = None) -> dict[str, bytes]:
    """ONNX Runtime Web as gzip data by the page's names: that of the package, or the build with WebGPU from a folder.

    Raises SettingsError if the folder lacks it.
    """
    folder, names = (RUNTIME, RUNTIME_FILES) if webgpu is None else (webgpu, WEBGPU_FILES)
    packed = {}
    for name, stored in names.items():
        try:
            content = (folder / stored).read_bytes()
        except OSError:
            raise SettingsError(f"{folder} has no {stored}; name the folder onnxruntime-web/dist of npm") from None
        packed[name] = content if stored.endswith(".gz") else gzip.compress(content, mtime=0)
    return packed


def bundle_files(folder: Path, bundle_id: str) -> dict[str, bytes]:
    """What the page reads of a bundle, by KEY/NAME. Raises BundleError if its backbone is not the embedded kind."""
    mini = networks.MiniNetworks.of(folder)
    files = {networks.UNET: networks.unet_model(mini), networks.DECODER: networks.decoder_model(mini)}
    try:
        files |= {name: (folder / part).read_bytes() for name, part in PARTS.items()}
    except OSError as error:
        raise BundleError(f"cannot read the bundle {folder}: {error.strerror}") from None
    return {f"{bundle_id[:KEY_DIGITS]}/{name}": content for name, content in files.items()}


def page_text(
    bundle_id: str, file_name: str | None = None, original_name: str | None = None, *, webgpu: bool = False
) -> str:
    """The page's HTML. It shows the file GIVEN and the picture ORIGINAL where their names are given.

    Without a file it loads a bundle, so that the first file that comes need not wait for it. With `webgpu` it uses a
    GPU where the browser has one.
    """
    attributes: Mapping[str, str | None] = {
        "bundle": bundle_id[:KEY_DIGITS],
        "file": file_name,
        "original": original_name,
        "webgpu": "yes" if webgpu else None,
    }
    written = "".join(f' data-{key}="{html.escape(name)}"' for key, name in attributes.items() if name is not None)
    return (SCRIPT / "page.html").read_text().replace(BODY, f"{BODY[:-1]}{written}>")
