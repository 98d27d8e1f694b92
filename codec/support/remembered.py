"""Remembers for a day that this machine computed a bundle's known answer.

The self-test of an entropy model takes a fifth of a second, as long as a small picture. A command that handles one
picture may rely on an earlier test; long-lived processes always run it.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch

LONGEST_SECONDS = 24 * 3600
CHANGES_ARITHMETIC = ("ATEN", "MKL", "DNNL", "ONEDNN", "OMP", "KMP", "GOMP", "TORCH", "CUBLAS", "CUDA", "NVIDIA")
"""Prefixes of environment variables that select kernels."""


def recall(bundle_id: str, device: str) -> bool:
    """Whether a bundle's known answer was computed under the same conditions within the last day."""
    try:
        age = time.time() - _path(bundle_id, device).stat().st_mtime
    except OSError:
        return False
    return 0 <= age < LONGEST_SECONDS  # a negative age: the clock was set back, so the age is unknown


def keep(bundle_id: str, device: str) -> None:
    """Records that a bundle's known answer was computed. Does nothing if the cache is not writable."""
    with contextlib.suppress(OSError):
        path = _path(bundle_id, device)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        os.utime(path)


def _path(bundle_id: str, device: str) -> Path:
    """The cache file, named by a hash of everything that may change the result."""
    conditions = {
        "bundle": bundle_id,
        "processor": _processor(),
        "device": _device(device),
        "torch": [torch.__version__, torch.__config__.show(), _built()],
        "threads": torch.get_num_threads(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(CHANGES_ARITHMETIC)},
    }
    name = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "fdcodec" / "known-answers" / name


@functools.cache
def _processor() -> list[str]:
    """CPU model and flags, and the running kernel."""
    system = [platform.machine(), platform.platform(), torch.backends.cpu.get_cpu_capability()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [*system, platform.processor()]
    fields = ("model name", "stepping", "microcode", "flags", "CPU implementer", "CPU part", "CPU revision", "Features")
    return [*system, *sorted({line for line in lines if line.startswith(fields)})]


def _device(device: str) -> list[str]:
    if torch.device(device).type != "cuda":
        return [device]
    driver = Path("/proc/driver/nvidia/version")
    version = driver.read_text() if driver.exists() else ""
    return [device, torch.cuda.get_device_name(device), str(torch.version.cuda), version]


def _built() -> Mapping[str, int]:
    """Size and time of torch's library, to tell builds of one version apart."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return {}
    status = library.stat()
    return {"size": status.st_size, "time": status.st_mtime_ns}
