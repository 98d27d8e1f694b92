"""infra/setup.sh takes the build of torch that the machine has a use for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = """#!/usr/bin/env bash
# Stands for Python: makes an environment with itself in it, and writes down what is asked of pip.
case "$*" in
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip config list") {python} -m pip config list && seq 100000 ;; # whoever stops reading early breaks the pipe
    "-m pip "*) echo "$*" >> asked ;;
esac
"""
CPU = "--extra-index-url https://download.pytorch.org/whl/cpu torch torchvision"


@pytest.mark.skipif(
    sys.platform != "linux" or Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None,
    reason="there is a GPU here, or no Linux",
)
@pytest.mark.parametrize(
    ("told", "gpu", "cpu_build"),
    [({}, False, True), ({}, True, False), ({"PIP_INDEX_URL": "https://index.example/simple"}, False, False)],
    ids=["nothing", "gpu", "index"],
)
def test_without_a_gpu_or_an_index_of_the_users_torch_is_the_cpu_build(
    told: dict[str, str], gpu: bool, cpu_build: bool, tmp_path: Path
) -> None:
    (tmp_path / "infra").mkdir()
    for name in ("pyproject.toml", "infra/constraints.txt", "infra/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"python3": RECORDS.format(python=sys.executable), "nvidia-smi": "#!/bin/sh\n"}.items():
        if gpu or name == "python3":
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment = kept | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PIP_CONFIG_FILE": os.devnull} | told
    subprocess.run(["bash", tmp_path / "infra" / "setup.sh"], env=environment, check=True, capture_output=True)
    torch, *others = (tmp_path / "asked").read_text().splitlines()
    assert torch.endswith(CPU) is cpu_build
    assert torch.endswith("torch torchvision")
    assert others and not any("download.pytorch.org" in line for line in others)
