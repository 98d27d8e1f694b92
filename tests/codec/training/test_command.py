"""The command: every stage runs, mistakes are one line, and it ends in a bundle that codes."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codec import BackboneError, Codec, Picture, SettingsError
from codec.bundle import Bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.entropy.distribution import alpha_of_code
from codec.entropy.entroformer import A4
from codec.quantization.estimator import AdapterSettings, ParameterEstimator
from codec.quantization.quantizer import tied_alpha_bar
from codec.training.__main__ import main
from codec.training.draws import Draws
from codec.training.evaluation import evaluate_bundle
from codec.training.settings import StageSettings, TrainingSettings, read_settings, to_json
from codec.training.stages import AdapterStage
from tests.conftest import synthetic
from tests.support.image_files import stored
from tests.support.tiny_backbones import write_folder
from tests.support.tiny_bundles import TINY, tiny_backbone, tiny_entropy

ACCELERATE = Path(__file__).parents[3] / "infra" / "accelerate"
SHIPPED = Path(__file__).parents[3] / "codec" / "training" / "settings"


TINY_SETTINGS = {
    "name": "tiny",
    "stages": {
        "entropy": {"steps": 3, "batch_size": 4, "crop_size": 32, "learning_rate": 1e-3, "warmup_steps": 1},
        "adapter": {"steps": 2, "batch_size": 2, "crop_size": 32, "learning_rate": 1e-3, "perceptual": 0.0},
        "joint": {"steps": 2, "batch_size": 2, "crop_size": 32, "learning_rate": 1e-4, "perceptual": 0.0},
    },
    "checkpoint_every": 1,
    "evaluation_images": 1,
    "evaluation_qualities": [8.0],
}


def settings_file(folder: Path, **changes: object) -> Path:
    path = folder / "settings.json"
    path.write_text(json.dumps(TINY_SETTINGS | changes))
    return path


def test_every_stage_runs_and_the_export_codes(tars: Path, tmp_path: Path, bundle: Bundle) -> None:
    settings = settings_file(tmp_path, start=str(bundle.path))
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    out = tmp_path / "out"
    rows = json.loads((out / "evaluation.json").read_text())
    assert rows[0]["quality"] == 8
    assert rows[0]["bpp"] > 0
    codec = Codec.load(out / "bundle")
    picture = Picture(synthetic(40, 50))
    encoded = codec.encode(picture)
    assert codec.decode(encoded.data).shape == (40, 50, 3)
    assert codec.estimator is not None
    records = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == {"entropy", "adapter", "joint"}
    assert any((out / "tensorboard").iterdir())
    card = (out / "bundle" / "CARD.md").read_text()
    assert codec.bundle.id in card
    first = codec.bundle.id
    (out / "checkpoints" / "joint.done").write_text("")  # as a kill or a full disk may leave it
    assert main([str(settings), "--data", str(tars), "--output", str(out)]) == 0
    assert (out / "checkpoints" / "joint.done").read_text().isdecimal()
    assert Bundle.open(out / "bundle").id == first


def test_a_stage_of_the_backbone_alone_goes_on_from_a_bundle_and_keeps_its_entropy_model(
    tars: Path, tmp_path: Path, bundle: Bundle
) -> None:
    stage = {"steps": 1, "batch_size": 2, "crop_size": 32, "perceptual": 0.0, "structural": 1.0, "warmup_steps": 1}
    settings = settings_file(tmp_path, start=str(bundle.path), stages={"decoder": stage})
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    made = Bundle.open(tmp_path / "out" / "bundle")
    assert made.config.backbone_hash != bundle.config.backbone_hash
    assert made.config.known_answer == bundle.config.known_answer


def test_going_on_from_a_bundle_can_turn_dither_on_and_keeps_it_on(tars: Path, tmp_path: Path, bundle: Bundle) -> None:
    made = bundle
    for call, entropy in enumerate([{"dither": True}, {}]):
        settings = settings_file(tmp_path, start=str(made.path), stages={}, entropy=entropy)
        assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / f"out{call}")]) == 0
        made = Bundle.open(tmp_path / f"out{call}" / "bundle")
        assert made.config.entropy == dataclasses.replace(bundle.config.entropy, dither=True)
        assert made.config.known_answer == bundle.config.known_answer
    assert not bundle.config.entropy.dither


def test_going_on_from_a_bundle_can_round_its_entropy_model_to_narrow_grids(
    tars: Path, tmp_path: Path, bundle: Bundle
) -> None:
    stages = {"adapter": {"steps": 1, "batch_size": 2, "crop_size": 32, "perceptual": 0.0}}
    narrow: dict[str, object] = {"grids": "narrow"}
    settings = settings_file(tmp_path, start=str(bundle.path), stages=stages, entropy=narrow, parameters="learned")
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    made = Bundle.open(tmp_path / "out" / "bundle")
    assert made.config.entropy == dataclasses.replace(bundle.config.entropy, grids="narrow")
    weights, _ = made.load_entropy()
    assert weights.settings.grids == "narrow"
    codec = Codec.load(made)
    wide = Codec.load(bundle)
    encoded = codec.encode(Picture(synthetic(40, 50)))
    assert (codec.symbols(encoded.data) == encoded.symbols).all()
    assert len(encoded.data) == pytest.approx(len(wide.encode(Picture(synthetic(40, 50))).data), rel=0.1)


def test_going_on_from_a_bundle_can_leave_its_finest_attention_out_when_the_rest_is_trained(
    tars: Path, tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {"steps": 1, "batch_size": 2, "crop_size": 32, "warmup_steps": 1}
    for stages, status in (({}, 1), ({"entropy": stage}, 0)):
        settings = settings_file(tmp_path, start=str(bundle.path), stages=stages, entropy={"finest_attention": False})
        assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == status
    assert "run the entropy stage" in capsys.readouterr().err
    made = Bundle.open(tmp_path / "out" / "bundle")
    assert made.config.entropy == dataclasses.replace(bundle.config.entropy, finest_attention=False)
    names = [name.split(".") for name in load_file(made.path / "entropy.safetensors")]
    assert {name[2] for name in names if name[:2] == ["hyper_decoder", "blocks"]} == {"0", "1"}


def test_a_mini_backbone_is_made_from_photos_alone(tars: Path, tmp_path: Path) -> None:
    stage = {"steps": 1, "batch_size": 2, "crop_size": 32, "perceptual": 0.0, "warmup_steps": 1}
    cached = stage | {"cached_batches": 1, "mask_ratio": 0.5, "random_top_k": True}
    stages = {"autoencoder": stage, "unet": cached, "entropy": cached, "decoder": stage}
    settings = settings_file(tmp_path, stages=stages)
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    codec = Codec.load(tmp_path / "out" / "bundle")
    assert codec.decode(codec.encode(Picture(synthetic(40, 50))).data).shape == (40, 50, 3)


def test_the_adapter_learns_through_unet_and_decoder() -> None:
    torch.manual_seed(0)
    settings = StageSettings(steps=1, perceptual=0.0)
    estimator = ParameterEstimator(AdapterSettings(channels=(4, 4, 4)), alpha_at_one=0.5)
    stage = AdapterStage(settings, tiny_backbone(), tiny_entropy(), estimator, joint=False)
    loss, terms = stage(torch.rand(2, 3, 32, 32) * 2 - 1, Draws(1, 0))
    loss.backward()
    bins, noise = estimator.bins.weight.grad, estimator.noise[-1].weight.grad
    assert bins is not None and noise is not None
    assert float(bins[0].abs().sum()) > 0, "no gradient for alpha"
    assert float(bins[1].abs().sum()) > 0, "no gradient for its slope"
    assert float(noise.abs().sum()) > 0, "no gradient for the timestep"
    assert all(parameter.grad is None for parameter in stage.entropy.parameters())
    assert 0 < float(terms["t"].detach()) < 999


def test_mixed_precision_leaves_bins_and_timestep_whole() -> None:
    """bfloat16 has eight bits: no room for a timestep, which the backbone refuses in it."""
    stage = AdapterStage(
        StageSettings(steps=1, perceptual=0.0),
        tiny_backbone(),
        tiny_entropy(),
        ParameterEstimator(AdapterSettings(channels=(4, 4, 4)), alpha_at_one=0.5),
        joint=True,
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = stage(torch.rand(2, 3, 32, 32) * 2 - 1, Draws(1, 0))
    loss.backward()
    assert terms["t"].dtype == terms["alpha"].dtype == torch.float32
    assert torch.isfinite(loss)


def test_a_new_estimator_has_the_sizes_of_the_settings(tars: Path, tmp_path: Path) -> None:
    stage = {"steps": 1, "batch_size": 2, "crop_size": 32, "perceptual": 0.0, "warmup_steps": 1}
    settings = settings_file(
        tmp_path,
        backbone=str(write_folder(tmp_path / "sd")),
        parameters="learned",
        entropy={"dim": 32, "depth": 1, "heads": 2, "top_k": 8, "hyper_channels": 4},
        adapter={"channels": [4, 4, 8], "hidden": 8, "alphas": 4},
        stages={"entropy": stage, "adapter": stage | {"learning_rate": 0.1}},
        evaluation_images=0,
    )
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    made = Bundle.open(tmp_path / "out" / "bundle")
    assert made.config.adapter == AdapterSettings(channels=(4, 4, 8), hidden=8, alphas=4)
    _, estimator = made.load_encoder()
    assert estimator is not None and estimator.bins.weight.shape == (5, 8)


def test_the_untrained_estimator_starts_at_the_table() -> None:
    estimator = ParameterEstimator(AdapterSettings(alphas=4), alpha_at_one=0.5)
    pooled = estimator.pooled(torch.randn(2, 4, 9, 5))
    log2_alpha = estimator.log2_alpha(pooled, torch.tensor([1.0, 16.0]))
    assert log2_alpha.tolist() == [pytest.approx([-1.0] * 4), pytest.approx([1.0] * 4)]
    alpha_bar = estimator.alpha_bar(pooled, log2_alpha)
    assert alpha_bar.tolist() == pytest.approx(tied_alpha_bar(torch.tensor([0.5, 2.0])).tolist())
    assert alpha_of_code(96) == 0.5


def test_two_processes_train_the_weights_of_one(tars: Path, tmp_path: Path, bundle: Bundle) -> None:
    settings = settings_file(
        tmp_path,
        start=str(bundle.path),
        stages={"entropy": TINY_SETTINGS["stages"]["entropy"] | {"accumulate": 2}},  # type: ignore[index]
    )
    weights = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        config = ["--config_file", str(ACCELERATE / f"cpu-{processes}.yaml"), "--main_process_port", port]
        command = [sys.executable, "-m", "accelerate.commands.launch", *config]
        command += ["--module", "codec.training", str(settings)]
        command += ["--data", str(tars), "--output", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        weights.append(load_file(out / "entropy.safetensors"))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-4), name


EVERY_SHIPPED = pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)


@EVERY_SHIPPED
def test_shipped_settings_are_valid_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    settings = read_settings(path)
    (tmp_path / "again.json").write_text(to_json(settings))
    assert read_settings(tmp_path / "again.json") == settings


@EVERY_SHIPPED
def test_no_shipped_settings_train_what_their_bundle_does_not_use(path: Path) -> None:
    settings = read_settings(path)
    stages = set(settings.stages)
    if {"adapter", "joint"} & stages:
        assert settings.parameters == "learned"
    elif settings.parameters == "learned":
        assert settings.start == "mini" and Bundle.open(DEFAULT_BUNDLE).config.parameters == "learned"
        assert not stages & {"autoencoder", "end_to_end"}, "the start's estimator knows other latents"
    is_foreign = settings.backbone != "new" and not settings.start
    assert not is_foreign or set(settings.stages) <= {"entropy", "adapter", "joint"}, "a foreign backbone stays frozen"
    assert all(stage.steps > 0 for stage in settings.stages.values())


MACHINES = {"sd21": 8, "sd21-1x80gb": 1, "sd21-1x24gb": 1}
"""The number of GPUs that a settings file of Stable Diffusion 2.1 is for."""


def test_stable_diffusion_settings_differ_in_memory_and_batch_alone() -> None:
    found = {path.stem for path in SHIPPED.glob("sd21*.toml")}
    assert found == set(MACHINES)
    shipped = read_settings(SHIPPED / "sd21.toml")
    for name, processes in MACHINES.items():
        settings = read_settings(SHIPPED / f"{name}.toml")
        assert settings.entropy == dataclasses.replace(A4, dither=True), "the published sizes, dither as in the default"
        for stage_name, stage in settings.stages.items():
            assert stage.batch_size % (processes * stage.accumulate) == 0
            same = {field: getattr(shipped.stages[stage_name], field) for field in MEMORY}
            assert dataclasses.replace(stage, **same) == shipped.stages[stage_name]
            cached_gib = stage.cached_batches * stage.batch_size * stage.crop_size**2 / 4 / 2**30
            assert cached_gib <= settings.cache_gib
        memory = {field: getattr(shipped, field) for field in ("stages", "memory_gib", "cache_gib")}
        assert dataclasses.replace(settings, **memory) == shipped


MEMORY = ("batch_size", "accumulate", "checkpoint_gradients", "cached_batches")


def test_settings_of_an_earlier_release_take_defaults_for_what_they_lack(tmp_path: Path) -> None:
    settings = json.loads(to_json(read_settings(settings_file(tmp_path))))
    for name in ("tf32", "memory_gib", "cache_gib"):
        del settings[name]
    for stage in settings["stages"].values():
        del stage["accumulate"], stage["checkpoint_gradients"]
    (tmp_path / "earlier.json").write_text(json.dumps(settings))
    assert read_settings(tmp_path / "earlier.json") == read_settings(settings_file(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "x"}, "no setting is called 'nmae'"),
        ({"stages": {"entropie": {"steps": 1}}}, "'entropie' is not one of"),
        ({"stages": {"entropy": {"steps": "many"}}}, "steps: expected int"),
        ({"stages": {"entropy": {"steps": 1, "alpha": [1.0]}}}, "expected 2 values"),
        ({"parameters": "guessed"}, "'guessed' is not one of"),
        ({"entropy": 3}, "expected a table"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(settings_file(tmp_path, **changes))


def test_mistakes_on_the_command_line_are_one_line(
    tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_file(tmp_path)
    cases = [
        ([str(tmp_path / "none.toml"), "--data", str(tars)], "cannot read settings"),
        ([str(settings), "--data", str(tmp_path / "none")], "neither a tar nor a folder"),
        ([str(settings), "--data", str(tars), "--stage", "unet"], "stage unet has no settings"),
        ([str(settings), "--data", str(tars), "--set", "seed"], "NAME=VALUE"),
        ([str(settings), "--data", str(tars), "--stage", "adapter"], "run the entropy stage first"),
    ]
    for arguments, message in cases:
        assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert message in error.splitlines()[-1]


def test_every_override_counts_however_they_are_given(tars: Path, tmp_path: Path) -> None:
    arguments = [str(settings_file(tmp_path)), "--data", str(tars), "--output", str(tmp_path / "out")]
    overrides = ["--set", "stages.entropy.steps=1", "seed=5", "--set", "name=other", "--set", "evaluation_images=0"]
    assert main([*arguments, *overrides, "--stage", "entropy"]) == 0
    used = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (used["stages"]["entropy"]["steps"], used["seed"], used["name"], used["evaluation_images"]) == (
        1,
        5,
        "other",
        0,
    )


def test_overrides_reach_nested_settings(tmp_path: Path) -> None:
    settings = read_settings(settings_file(tmp_path), {"stages.entropy.steps": "9", "name": "other", "steps": "4"})
    assert settings.stages["entropy"].steps == 9
    assert (settings.name, settings.steps) == ("other", 4)
    assert settings == TrainingSettings(
        **{**vars(read_settings(settings_file(tmp_path))), "stages": settings.stages, "name": "other", "steps": 4}
    )
    assert settings.entropy != TINY


def test_a_codec_for_a_stable_diffusion_folder_is_trained_and_exported(tars: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sd")
    settings = settings_file(
        tmp_path,
        backbone=str(folder),
        parameters="learned",
        steps=2,
        entropy={"dim": 32, "depth": 1, "heads": 2, "top_k": 8, "hyper_channels": 4},
    )
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 0
    exported = tmp_path / "out" / "bundle"
    assert {file.name for file in exported.iterdir()} >= {"prompt.safetensors", "entropy.safetensors"}
    assert not (exported / "backbone").exists()
    shutil.rmtree(folder / "text_encoder")  # decoding needs no text encoder
    codec = Codec.load(exported)
    assert codec.decode(codec.encode(Picture(synthetic(40, 50))).data).shape == (40, 50, 3)
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(BackboneError):
        Codec.load(exported)
    Codec.load(exported, backbone=tmp_path / "elsewhere")
    # the evaluation at the end of a training has its backbone in memory
    photo = ("photo", stored(synthetic(40, 50), "PNG"))
    bundle = Bundle.open(exported)
    rows = evaluate_bundle(bundle, [photo], [8.0], backbone=bundle.load_backbone(tmp_path / "elsewhere"))
    assert rows[0]["bpp"] > 0
