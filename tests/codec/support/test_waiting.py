"""Threads wait asleep in all that this package starts, unless the environment says how."""

import os
import subprocess
import sys

import pytest

from codec.support.waiting import PASSIVE, passive
from tasks.processes.child import Child

WATCHED = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Watch())
"""
"""Says how threads will wait when torch is about to be imported."""
BEGINNINGS = {
    "command line": "import tempfile; from PIL import Image; name = tempfile.mkdtemp() + '/a.png'\n"
    "Image.new('RGB', (8, 8)).save(name); sys.argv = ['fdc', 'encode', name]\n"
    "from codec import cli; cli.main()",
    "flow": "import flows.compress_archive, torch",
    "training": "import codec.training.__main__",
    "benchmark": "import tests.benchmarks.speed",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize(("own", "found"), [({}, "passive 1000"), ({"OMP_WAIT_POLICY": "active"}, "active None")])
def test_threads_wait_asleep_before_torch_is_loaded_unless_the_environment_says_how(
    beginning: str, own: dict[str, str], found: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    program = WATCHED + BEGINNINGS[beginning]
    done = subprocess.run([sys.executable, "-c", program], env=environment | own, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [found], done.stderr


def environment_of_a_child() -> dict[str, str]:
    child = Child("module", [], 1)
    try:
        return child._environment()
    finally:
        child.__exit__()


def test_the_threads_of_a_child_wait_asleep_unless_the_environment_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PASSIVE:
        monkeypatch.delenv(name, raising=False)
    assert PASSIVE.items() <= environment_of_a_child().items()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    own = environment_of_a_child()
    assert own["GOMP_SPINCOUNT"] == "7" and "OMP_WAIT_POLICY" not in own


def test_an_environment_that_says_how_to_wait_is_left_alone() -> None:
    assert passive({}) == PASSIVE
    assert all(passive({name: "x"}) == {} for name in PASSIVE)
