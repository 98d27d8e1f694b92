"""The trainer: a stage that was stopped anywhere ends with the weights of one that was not."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codec.training.checkpoint import Checkpoint
from codec.training.draws import Draws
from codec.training.pace import Pace
from codec.training.settings import StageSettings
from codec.training.trainer import Trainer, learning_rate
from tests.support.tiny_crops import sampler


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


def run_line(
    tars: Path,
    output: Path,
    steps: int,
    stop: int | None = None,
    deadline: float = math.inf,
    held_out_seconds: float = math.inf,
) -> Line:
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
        held_out=sampler(tars), held_out_seconds=held_out_seconds,
    )  # fmt: skip
    trainer.run()
    return stage


def test_the_log_tells_the_gradient_norm_before_it_was_clipped(tars: Path, tmp_path: Path) -> None:
    class Steep(Line):
        def forward(self, batch: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
            return 100 * self.line.bias.sum(), {}  # its norm is 100, clip_norm is 1

    settings = StageSettings(steps=1, batch_size=4, crop_size=32)
    trainer = Trainer(
        "line", settings, Steep(), sampler(tars), Accelerator(cpu=True), tmp_path,
        seed=1, checkpoint_every=9, checkpoint_seconds=1e9, scalar=lambda *_: None,
    )  # fmt: skip
    trainer.run()
    record = json.loads((tmp_path / "progress.jsonl").read_text().splitlines()[-1])
    assert record["gradient_norm"] == pytest.approx(100)


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


def test_held_out_crops_are_looked_at_with_averaged_weights_which_training_does_not_notice(
    tars: Path, tmp_path: Path
) -> None:
    alone = run_line(tars, tmp_path / "alone", 9)
    watched = run_line(tars, tmp_path / "watched", 9, held_out_seconds=0.0)
    assert torch.equal(alone.line.weight, watched.line.weight)
    lines = [json.loads(line) for line in (tmp_path / "watched" / "progress.jsonl").read_text().splitlines()]
    looks = [line["held_out"]["loss"] for line in lines if "held_out" in line]
    assert len(looks) == 9
    assert looks[-1] != looks[0]


def test_the_record_says_how_fast_samples_are_used_and_how_long_the_loader_is_waited_for(
    tars: Path, tmp_path: Path
) -> None:
    run_line(tars, tmp_path, 4)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert all(line["samples_per_second"] > 0 and 0 <= line["waiting"] <= 1 for line in lines)


def test_a_loader_that_sleeps_is_what_is_waited_for() -> None:
    def slow() -> Iterator[Tensor]:
        for _ in range(3):
            time.sleep(0.05)
            yield torch.zeros(1)

    pace = Pace(4)
    for _ in pace.watched(slow()):
        pass
    assert pace.figures()["waiting"] > 0.5
