"""A bundle of a stranger loads, or is refused with one BundleError; memory is not asked for on its word."""

import hashlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec.bundle import CONFIG, ENCODER, ENTROPY, Bundle, find_bundle
from codec.codec import Codec
from codec.errors import BackboneError, BundleError
from tests.support.tiny_bundles import tiny_bundle

HUGE = (2**31, 2**40, 2**63, 10**30)
STRANGE: tuple[Any, ...] = (*HUGE, 0, -1, 1.5, 1e308, float("inf"), float("nan"), True, None, "", "x", [], {}, [[]])
TEXTS = (b"", b"[" * 100_000, b"null", b"3", b"[]", b"{}", b"\xff", b"9" * 5000)
SOME_MEMORY = 1 << 30


def config(folder: Path) -> Any:
    return json.loads((folder / CONFIG).read_text())


def signed(folder: Path, document: Any | None = None) -> None:
    """Let the configuration state the hashes that the files have, as a hostile author would."""
    document = config(folder) if document is None else document
    if isinstance(document, dict) and isinstance(document.get("files"), dict):
        for name in document["files"]:
            if isinstance(name, str) and (folder / name).is_file():
                document["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(document))


def load(folder: Path) -> None:
    """Load it, or see one line; only of a backbone elsewhere it is a BackboneError."""
    try:
        Codec.load(folder)
    except (BundleError, BackboneError) as error:
        assert "\n" not in str(error)
        assert str(error)
        assert isinstance(error, BundleError) or config(folder)["backbone_source"] != "embedded"


@contextmanager
def some_memory() -> Iterator[None]:
    """Address space for what this process has, and a little more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SOME_MEMORY
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    found = [path] if path else []
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        found += places(document[key], (*path, key))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("sound") / "tiny").path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work") / "bundle"


def mutated(data: st.DataObject, folder: Path) -> None:
    """Change a bundle folder in one way that damage or malice may."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    documents = [path for path in files if path.suffix == ".json"]
    act = data.draw(st.sampled_from(("flip", "cut", "remove", "folder", "value", "drop", "extra", "text", "header")))
    path = data.draw(st.sampled_from(documents if act in ("value", "drop", "text") else files))
    content = bytearray(path.read_bytes())
    if act == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    elif act == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif act in ("remove", "folder"):
        path.unlink()
        if act == "folder":
            path.mkdir()
    elif act in ("value", "drop"):
        document = json.loads(content)
        place = data.draw(st.sampled_from(places(document)))
        put(document, place, data.draw(st.sampled_from(STRANGE)))
        path.write_text(json.dumps(document))
    elif act == "extra":
        name = data.draw(st.sampled_from(("x", "backbone/x", "backbone/unet/model.bin", "prompt.safetensors")))
        (folder / name).write_bytes(b"extra")
    elif act == "text":
        path.write_bytes(data.draw(st.sampled_from(TEXTS)))
    elif path.suffix == ".safetensors":  # its header, as long as it was
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        name = data.draw(st.sampled_from(sorted(header)))
        field = data.draw(st.sampled_from(("shape", "dtype", "data_offsets")))
        if name != "__metadata__":
            value = {"shape": [2**40, 0], "dtype": "F64", "data_offsets": [0, 2**50]}[field]
            header[name][field] = data.draw(st.sampled_from((value, [], "I8", header[name]["shape"][::-1])))
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_mutated_bundle_loads_or_is_one_bundle_error(sound: Path, work: Path, data: st.DataObject) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound, work)
    mutated(data, work)
    if data.draw(st.booleans()):
        try:
            signed(work)
        except (OSError, ValueError, RecursionError):
            return load(work)
    with some_memory():
        load(work)
    return None


@pytest.mark.parametrize("name", ["dim", "depth", "mlp_ratio", "positions", "hyper_channels", "halvings", "channels"])
def test_sizes_that_the_tensors_do_not_have_are_refused_before_memory_is_asked_for(
    sound: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(sound, tmp_path / "b")
    document = config(tmp_path / "b")
    part = document["adapter" if name == "channels" else "entropy"]
    for huge in (64, 2**15, 2**31, 10**30):
        part[name] = [huge] * 3 if name == "channels" else huge
        signed(tmp_path / "b", document)
        with some_memory(), pytest.raises(BundleError) as caught:
            Codec.load(tmp_path / "b")
        assert "memory" not in str(caught.value)


def test_an_entropy_model_that_could_be_exact_and_is_not_there_is_refused_before_memory_is_asked_for(
    sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "b")
    document = config(tmp_path / "b")
    document["entropy"] |= {"dim": 4096, "heads": 128}
    (tmp_path / "b" / CONFIG).write_text(json.dumps(document))
    with some_memory(), pytest.raises(BundleError, match="expected integers"):
        Codec.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet", {"blocks": 10**9}),
        ("unet", {"channels": [2**20] * 3}),
        ("unet", {"embedding": 2**40}),
        ("vae", {"encoder_blocks": [1, 1, 10**9]}),
        ("vae", {"decoder_channels": [2**30] * 3}),
        ("scheduler", {"num_train_timesteps": 10**13}),
        ("vae", {"scaling_factor": "much"}),
        ("vae", {"latents_mean": [1, 2]}),
        ("unet", {"_class_name": "UNet2DConditionModel", "layers_per_block": 10**9}),
        ("unet", {"_class_name": "UNet2DConditionModel", "block_out_channels": [2**24] * 4}),
    ],
)
def test_a_backbone_that_states_what_its_tensors_do_not_have_is_refused_before_memory_is_asked_for(
    sound: Path, tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    shutil.copytree(sound, tmp_path / "b")
    (path,) = (tmp_path / "b" / "backbone" / part).glob("*config.json")
    document = json.loads(path.read_text()) | change
    if "_class_name" in change:
        document = change
    path.write_text(json.dumps(document))
    signed(tmp_path / "b")
    with some_memory(), pytest.raises(BundleError, match="the backbone of") as caught:
        Codec.load(tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert "memory" not in str(caught.value)


@pytest.mark.parametrize("name", [ENCODER, ENTROPY, "backbone/unet/diffusion_pytorch_model.safetensors"])
def test_a_file_that_the_configuration_does_not_list_is_not_loaded(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "b")
    document = config(tmp_path / "b")
    del document["files"][name]
    signed(tmp_path / "b", document)
    with pytest.raises(BundleError, match=rf"{name}.*not list|not list.*{name}"):
        Codec.load(tmp_path / "b")


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "backbone", "", "a\0b", "\ud800"])
def test_a_listed_name_that_is_no_file_inside_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "b")
    document = config(tmp_path / "b")
    (tmp_path / "outside").write_bytes(b"")
    document["files"][name] = hashlib.sha256(b"").hexdigest()
    (tmp_path / "b" / CONFIG).write_text(json.dumps(document))
    with pytest.raises(BundleError, match="incomplete"):
        Bundle.open(tmp_path / "b")


@pytest.mark.parametrize(("name", "value"), [("steps", 10**9), ("steps", 0), ("alpha_at_one", float("inf"))])
def test_settings_that_would_never_end_are_refused(sound: Path, tmp_path: Path, name: str, value: object) -> None:
    shutil.copytree(sound, tmp_path / "b")
    signed(tmp_path / "b", config(tmp_path / "b") | {name: value})
    with pytest.raises(BundleError, match=name):
        Bundle.open(tmp_path / "b")


def test_a_damaged_bundle_beside_the_right_one_does_not_stop_decoding(sound: Path, tmp_path: Path) -> None:
    wanted = shutil.copytree(sound, tmp_path / "some" / "z-right")
    for name in ("a-flipped", "b-text", "c-cut"):
        shutil.copytree(sound, tmp_path / "some" / name)
    (tmp_path / "some" / "b-text" / CONFIG).write_text("{")
    encoder = tmp_path / "some" / "a-flipped" / ENCODER
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"?")
    (tmp_path / "some" / "c-cut" / ENTROPY).unlink()
    head = Bundle.open(sound).id[:16]
    assert find_bundle(head, [tmp_path / "some"]).path == wanted
    shutil.rmtree(wanted)
    with pytest.raises(BundleError, match=r"no bundle with id.*3 there cannot be read.*a-flipped is damaged") as caught:
        find_bundle(head, [tmp_path / "some"])
    assert "\n" not in str(caught.value)
