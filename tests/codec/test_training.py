"""Training: resumable to the bit, the same for any number of processes, and ending in a bundle that codes."""

import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import webdataset
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from codec import BackboneError, Codec, Picture, SettingsError
from codec.adapter import AdapterSettings, ParameterEstimator
from codec.backbone import Backbone
from codec.bundle import Bundle
from codec.entropy.distribution import alpha_of_code
from codec.training.__main__ import main
from codec.training.checkpoint import Checkpoint
from codec.training.data import CropSampler, ShardedImages, prefetch
from codec.training.draws import Draws
from codec.training.latents import CachedLatents
from codec.training.pack import pack
from codec.training.settings import StageSettings, TrainingSettings, read_settings, to_json
from codec.training.stages import AdapterStage
from codec.training.trainer import Trainer, learning_rate
from tests.codec.tiny_backbones import write_folder
from tests.codec.tiny_bundles import TINY, tiny_backbone, tiny_entropy
from tests.conftest import synthetic

ACCELERATE = Path(__file__).parents[2] / "infra" / "accelerate"
SHIPPED = Path(__file__).parents[2] / "codec" / "training" / "settings"


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of seven small photos, one of them no photo at all."""
    folder = tmp_path_factory.mktemp("tars")
    for shard, places in enumerate((range(4), range(4, 7))):
        with webdataset.TarWriter(str(folder / f"{shard:06d}.tar")) as tar:
            for place in places:
                stream = io.BytesIO()
                Image.fromarray(synthetic(60 + place, 80, seed=place)).save(stream, "JPEG", quality=95)
                tar.write({"__key__": f"{place:06d}", "jpg": b"broken" if place == 3 else stream.getvalue()})
    return folder


def sampler(tars: Path, **changes: int) -> CropSampler:
    values = {"seed": 3, "batch_size": 4, "crop_size": 32} | changes
    return CropSampler(ShardedImages([tars]), **values)


def test_a_batch_is_a_function_of_seed_and_step(tars: Path) -> None:
    first, second = sampler(tars), sampler(tars)
    for step in (5, 0, -2):
        assert torch.equal(first.batch(step), second.batch(step))
    assert not torch.equal(first.batch(0), first.batch(1))
    assert not torch.equal(first.batch(0), sampler(tars, seed=4).batch(0))
    assert first.batch(0).shape == (4, 3, 32, 32)
    assert first.batch(0).abs().max() <= 1


def test_ranks_together_hold_the_batch_of_one_process(tars: Path) -> None:
    source = sampler(tars)
    for step in range(3):
        ranks = [source.batch(step, rank=rank, world=2) for rank in (0, 1)]
        assert torch.equal(torch.cat(ranks), source.batch(step))
    with pytest.raises(SettingsError, match="does not divide"):
        source.batch(0, world=3)


def test_every_photo_is_seen_equally_often(tars: Path) -> None:
    source = sampler(tars, batch_size=7, seed=5)
    seen: list[int] = []
    source._photo = lambda index: seen.append(index) or Image.new("RGB", (40, 40))  # type: ignore[func-returns-value, assignment, return-value]
    for step in range(3):
        source.batch(step)
    assert [sorted(seen[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert seen[:7] != seen[7:14]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_offsets_lead_to_the_members_bytes(tars: Path) -> None:
    images = ShardedImages([tars / "000000.tar", tars / "000001.tar"])
    assert len(images) == 7
    assert images.read(3) == b"broken"
    read = webdataset.WebDataset(str(tars / "000001.tar"), shardshuffle=False)
    assert [sample["jpg"] for sample in read] == [images.read(index) for index in range(4, 7)]


def test_a_photo_that_cannot_be_decoded_gives_way_to_the_next(tars: Path) -> None:
    source = sampler(tars, batch_size=14, seed=9)
    assert torch.isfinite(source.batch(0)).all()


def test_shards_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no photos"):
        ShardedImages([tmp_path])
    with pytest.raises(SettingsError, match="neither a tar nor a folder"):
        ShardedImages([tmp_path / "nothing.tar"])
    (tmp_path / "cut.tar").write_bytes(b"x" * 700)
    with pytest.raises(SettingsError, match="not a whole tar"):
        ShardedImages([tmp_path])


def test_prefetching_gives_the_batches_in_order_and_can_be_left_early(tars: Path) -> None:
    source, threads = sampler(tars), threading.active_count()
    batches = prefetch(source, range(7, 12))
    assert torch.equal(next(batches), source.batch(7))
    assert torch.equal(next(batches), source.batch(8))
    batches.close()
    assert threading.active_count() == threads
    assert [len(batch) for batch in prefetch(source, range(3))] == [4, 4, 4]


def test_a_batch_that_cannot_be_made_ahead_of_time_stops_the_run_as_it_would_have(tars: Path) -> None:
    class Broken:
        def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
            raise SettingsError(f"no photo for step {step}")

    with pytest.raises(SettingsError, match="step 0"):
        list(prefetch(Broken(), range(5)))


def test_cached_latents_are_those_of_the_backbone_and_are_encoded_once(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, backbone, accelerator = sampler(tars), tiny_backbone(), Accelerator()
    cached = CachedLatents(crops, backbone, 2, tmp_path, accelerator)
    with torch.no_grad():
        assert torch.equal(cached.batch(5), backbone.encode(crops.batch(1)))
    assert torch.equal(cached.batch(1, rank=1, world=2), cached.batch(1)[2:])
    monkeypatch.setattr(Backbone, "encode", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(CachedLatents(crops, backbone, 2, tmp_path, accelerator).batch(0), cached.batch(0))


def test_latents_of_another_backbone_are_not_taken_from_the_cache(tars: Path, tmp_path: Path) -> None:
    first, second = (CachedLatents(sampler(tars), tiny_backbone(s), 1, tmp_path, Accelerator()) for s in (1, 2))
    assert not torch.equal(first.batch(0), second.batch(0))


def test_draws_of_two_ranks_are_those_of_one_process() -> None:
    whole = Draws(1, 2)
    first, second = Draws(1, 2, rank=0, world=2), Draws(1, 2, rank=1, world=2)
    assert torch.equal(whole.normal(4, 3), torch.cat([first.normal(2, 3), second.normal(2, 3)]))
    assert torch.equal(whole.log_uniform(4, 0.5, 8), torch.cat([d.log_uniform(2, 0.5, 8) for d in (first, second)]))


class Line(nn.Module):
    """A stage with three weights, for the trainer alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    @property
    def trained(self) -> dict[str, nn.Module]:
        return {"line": self.line}

    def forward(self, batch: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        noise = draws.normal(len(batch), 1)
        loss = (self.line(batch.mean((2, 3))) - 0.3 + 0.1 * noise).square().mean()
        return loss, {"noise": noise.mean()}


def checkpoint(output: Path) -> Checkpoint:
    return Checkpoint(output / "checkpoints", "line")


def run_line(tars: Path, output: Path, steps: int, stop: int | None = None, deadline: float = math.inf) -> Line:
    stage = Line()
    settings = StageSettings(steps=steps, batch_size=4, crop_size=32, learning_rate=0.05, warmup_steps=2)
    output.mkdir(exist_ok=True)
    source = sampler(tars)
    if stop is not None:
        original = source.batch

        def batch(step: int, *, rank: int = 0, world: int = 1) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return original(step, rank=rank, world=world)

        source.batch = batch  # type: ignore[method-assign]
    trainer = Trainer(
        "line", settings, stage, source, Accelerator(cpu=True), output,
        seed=1, checkpoint_every=3, checkpoint_seconds=1e9, scalar=lambda *_: None, deadline=deadline,
    )  # fmt: skip
    trainer.run()
    return stage


def test_an_interrupted_stage_ends_with_the_weights_of_an_uninterrupted_one(tars: Path, tmp_path: Path) -> None:
    whole = run_line(tars, tmp_path / "whole", 11)
    with pytest.raises(KeyboardInterrupt):
        run_line(tars, tmp_path / "cut", 11, stop=8)
    resumed = run_line(tars, tmp_path / "cut", 11)
    assert torch.equal(whole.line.weight, resumed.line.weight)
    assert torch.equal(whole.line.bias, resumed.line.bias)
    (step, first), (other, second) = (checkpoint(tmp_path / name).load() for name in ("whole", "cut"))
    assert step == other == 11
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stage_in_short_slots_ends_with_the_weights_of_one_in_a_single_run(tars: Path, tmp_path: Path) -> None:
    whole = run_line(tars, tmp_path / "whole", 5)
    for step in range(1, 5):
        run_line(tars, tmp_path / "slots", 5, deadline=0)
        assert checkpoint(tmp_path / "slots").load()[0] == step
    last = run_line(tars, tmp_path / "slots", 5, deadline=0)
    assert torch.equal(whole.line.weight, last.line.weight)


def test_a_checkpoint_is_in_pieces_and_a_killed_writer_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, tensors = checkpoint(tmp_path), {str(i): torch.full((1000,), float(i)) for i in range(5)}
    monkeypatch.setattr("codec.training.checkpoint.PIECE_BYTES", 9000)
    kept.save(1, tensors)
    files = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    assert [file.stat().st_size < 9500 for file in files] == [True] * 3

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("codec.training.checkpoint.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            kept.save(2, {name: -value for name, value in tensors.items()})
    step, loaded = kept.load()
    assert step == 1 and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    kept.save(2, tensors)
    assert kept.load()[0] == 2 and len(list((tmp_path / "checkpoints").glob("*.safetensors"))) == 3


def test_packed_crops_fit_their_size_and_are_the_same_each_time(tars: Path, tmp_path: Path) -> None:
    images = ShardedImages([tars])
    for name in ("a.tar", "b.tar"):
        count = pack(images, tmp_path / name, size=60_000, side=48, seed=3)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "a.tar").stat().st_size <= 60_000
    packed = ShardedImages([tmp_path / "a.tar"])
    assert len(packed) == count > 5
    assert sampler(tmp_path / "a.tar").batch(0).shape[-1] == 32


def test_a_loss_that_is_no_number_stops_the_run(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(self: Line, batch: Tensor, _draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return self.line(batch.mean((2, 3))).sum() * torch.nan, {}

    monkeypatch.setattr(Line, "forward", poisoned)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run_line(tars, tmp_path / "out", 3)


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    settings = StageSettings(steps=100, learning_rate=1.0, warmup_steps=10, final_learning_rate=0.1)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] < 0.11
    assert max(rates) == pytest.approx(rates[9], rel=0.05)
    assert rates[100] == pytest.approx(0.1)


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
    assert main([str(settings), "--data", str(tars), "--output", str(out)]) == 0
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
    estimator = ParameterEstimator(AdapterSettings(channels=(4, 4, 4)))
    stage = AdapterStage(settings, tiny_backbone(), tiny_entropy(), estimator, joint=False)
    loss, terms = stage(torch.rand(2, 3, 32, 32) * 2 - 1, Draws(1, 0))
    loss.backward()
    gradient = estimator.head.weight.grad
    assert gradient is not None
    assert float(gradient[0].abs().sum()) > 0, "no gradient for alpha"
    assert float(gradient[1].abs().sum()) > 0, "no gradient for the timestep"
    assert all(parameter.grad is None for parameter in stage.entropy.parameters())
    assert 0 < float(terms["t"].detach()) < 350


def test_the_untrained_estimator_starts_at_the_table() -> None:
    estimator = ParameterEstimator(AdapterSettings(alphas=4))
    alpha, t = estimator(torch.randn(2, 4, 9, 5), torch.tensor([1.0, 16.0]))
    assert alpha.shape == (2, 4, 1, 1)
    assert alpha[:, 0, 0, 0].tolist() == pytest.approx([0.5, 2.0])
    assert t.tolist() == pytest.approx([50.0, 50.0])
    assert alpha_of_code(96) == 0.5


def test_two_processes_train_the_weights_of_one(tars: Path, tmp_path: Path, bundle: Bundle) -> None:
    settings = settings_file(
        tmp_path,
        start=str(bundle.path),
        stages={"entropy": TINY_SETTINGS["stages"]["entropy"]},  # type: ignore[index]
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


@pytest.mark.parametrize("name", ["mini", "mini-decoder", "demo", "sd21"])
def test_shipped_settings_are_valid_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    settings = read_settings(SHIPPED / f"{name}.toml")
    (tmp_path / "again.json").write_text(to_json(settings))
    assert read_settings(tmp_path / "again.json") == settings


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
