"""Makes torchvision importable when its compiled operators do not match the torch build.

A CUDA wheel of torchvision next to CPU torch cannot load its operators and then stops at import. diffusers (through
transformers) and lpips import torchvision but need none of these operators, so missing ones are declared as
schemas. Import this module before diffusers, lpips or torchvision.
"""

import importlib.util
from pathlib import Path

import torch


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to do
    library = next(Path(spec.origin).parent.glob("_C*.so"), None)
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


if not _operators_load():
    DECLARED = torch.library.Library("torchvision", "DEF")
    DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
