"""The decoder's page as one file that opens without a server: script, WebAssembly and weights within it."""

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from codec.browser import page

IMPORT = re.compile(r'^import \{ (?P<names>[^}]+) \} from "\./(?P<module>\w+)\.mjs";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?P<what>(async )?(function|class|const) (?P<name>\w+))", re.MULTILINE)
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; "
    "style-src 'unsafe-inline'; img-src blob: data:; connect-src blob: data:"
)
"""What the page may load: nothing from any network."""


def embedded_page(
    folder: Path,
    bundle_id: str,
    given: Mapping[str, bytes] = MappingProxyType({}),
    file_name: str | None = None,
    original_name: str | None = None,
    *,
    webgpu: Path | None = None,
) -> bytes:
    """The page with a bundle, and with the files by name that `fdc view` would serve with it.

    Raises BundleError if the bundle's backbone is not the embedded kind, SettingsError if the folder `webgpu` lacks
    ONNX Runtime Web with WebGPU.
    """
    kernel = {"kernel.wat": (page.SCRIPT / "kernel.wat").read_bytes()}
    files = kernel | page.bundle_files(folder, bundle_id) | dict(given)
    packed = {name: _packed(content) for name, content in files.items()}
    packed |= {name: _encoded(content) for name, content in page.packed_runtime(webgpu).items()}
    inlined = {
        '<link rel="stylesheet" href="page.css" />': (
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />\n'
            f"<style>\n{(page.SCRIPT / 'page.css').read_text()}</style>"
        ),
        '<script type="module" src="main.mjs"></script>': (
            f'<script type="text/plain" id="worker">\n{_joined("worker")}</script>\n'
            f'<script type="application/json" id="assets">{json.dumps(packed)}</script>\n'
            f'<script type="module">\n{_joined("main")}</script>'
        ),
    }
    text = page.page_text(bundle_id, file_name, original_name, webgpu=webgpu is not None)
    for original, replacement in inlined.items():
        text = text.replace(original, replacement)
    return text.encode()


def _packed(content: bytes) -> str:
    # weights hardly get smaller at higher levels; without a time of writing, equal contents give equal pages
    return _encoded(gzip.compress(content, 1, mtime=0))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _joined(entry: str) -> str:
    """A module and those it imports as one script, each a function that returns its exports."""
    parts = []
    for name in _in_order(entry, []):
        source = (page.SCRIPT / f"{name}.mjs").read_text()
        exports = ", ".join(found["name"] for found in EXPORT.finditer(source))
        source = IMPORT.sub(lambda found: f"const {{ {found['names']} }} = $.{found['module']};\n", source)
        source = EXPORT.sub(lambda found: found["what"], source)
        parts.append(f"$.{name} = (() => {{\n{source}return {{ {exports} }};\n}})();\n")
    return "const $ = {};\n" + "".join(parts)


def _in_order(entry: str, done: list[str]) -> Iterator[str]:
    """The modules that `entry` needs, each after those that it imports itself."""
    for found in IMPORT.finditer((page.SCRIPT / f"{entry}.mjs").read_text()):
        yield from _in_order(found["module"], done)
    if entry not in done:
        done.append(entry)
        yield entry
