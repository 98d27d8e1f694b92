"""Peak memory of a piece of work, and the error for one that does not fit."""

import gc
import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from codec.errors import SettingsError
from codec.support.malloc import return_freed_memory
from codec.training.settings import StageSettings

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What resets the peak of resident memory (proc(5), clear_refs)."""


def peak_gib(work: Callable[[], None], device: torch.device) -> float:
    """Runs the work; returns the peak of allocated memory on a GPU, else of the process's resident memory, in GiB.

    Includes what was in use before. Raises MemoryError where the device has too little.
    """
    on_gpu = device.type == "cuda"
    gc.collect()  # networks of an earlier piece may lie in cycles
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()  # else it would count as used
        with suppress(OSError):  # not on Linux, or not permitted: then it is the peak since the process began
            CLEAR.write_text(RESET_PEAK)
    try:
        work()
    except torch.OutOfMemoryError as error:
        raise MemoryError(_reason(error)) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # torch has no class for it
            raise
        raise MemoryError(_reason(error)) from error
    if on_gpu:
        return torch.cuda.max_memory_allocated(device) / 2**30
    return _resident_peak() / 2**30


def does_not_fit(name: str, settings: StageSettings, processes: int, why: str) -> SettingsError:
    """The error of a stage that needs too much memory, which names the settings to change."""
    crops = settings.batch_size // (processes * settings.accumulate)
    advice = []
    if crops > 1:
        advice.append(f"raise stages.{name}.accumulate ({settings.accumulate} now: {crops} crops at a time)")
    if not settings.checkpoint_gradients:
        advice.append(f"set stages.{name}.checkpoint_gradients = true")
    advice.append(f"lower stages.{name}.crop_size ({settings.crop_size} now)")
    return SettingsError(f"stage {name} does not fit in memory: {why}; {', '.join(advice)}")


def _reason(error: Exception) -> str:
    """What was asked for, without the place in torch's source before it and the advice for its developers after it."""
    found = re.search(r"(DefaultCPUAllocator|CUDA out of memory).*?(?=\. (GPU|Error)|$)", str(error), re.MULTILINE)
    return found[0].rstrip(".") if found else str(error)


def _resident_peak() -> int:
    """Bytes."""
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
