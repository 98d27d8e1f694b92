"""The training loop of one stage, with any number of processes, resumable bit for bit."""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codec.errors import SettingsError
from codec.support import processors
from codec.training.checkpoint import Checkpoint
from codec.training.data import BatchSource, prefetch
from codec.training.draws import Draws, to_device
from codec.training.pace import Pace
from codec.training.settings import StageSettings

HELD_OUT_BATCHES = 12
LOG_SECONDS = 2.0
"""Interval between records: a value on a GPU can only be read by waiting for it."""
EVERY_TERM = 60
"""Steps divisible by this compute every loss term, regardless of perceptual_every and structural_every."""


class Stage(Protocol):
    """A model with its loss. Called with a batch and the step's draws; returns the scalar loss and named terms."""

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The modules that this stage trains."""
        ...

    def __call__(self, batch: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]: ...


class Trainer:
    """Runs a stage from its last checkpoint to its last step, then loads the averaged (EMA) weights."""

    def __init__(
        self,
        name: str,
        settings: StageSettings,
        stage: Stage,
        source: BatchSource,
        accelerator: Accelerator,
        output: Path,
        *,
        seed: int,
        checkpoint_every: int,
        checkpoint_seconds: float,
        scalar: Callable[[str, float, int], None],
        deadline: float = math.inf,
        held_out: BatchSource | None = None,
        held_out_seconds: float = math.inf,
    ) -> None:
        self.name = name
        self.settings = settings
        self.stage = stage
        self.source = source
        self.accelerator = accelerator
        self.output = output
        self.seed = seed
        self.scalar = scalar
        self.checkpoint_every = checkpoint_every
        self.checkpoint_seconds = checkpoint_seconds
        self.deadline = deadline
        self.checkpoint = Checkpoint(output / "checkpoints", name)
        self.held_out = held_out
        self.held_out_seconds = held_out_seconds
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        for module, trained in stage.trained.items():
            for parameter_name, parameter in trained.named_parameters():
                if parameter.requires_grad:
                    self.parameters[f"{module}.{parameter_name}"] = parameter
            for buffer_name, buffer in trained.named_buffers():
                self.buffers[f"{module}.{buffer_name}"] = buffer
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.step = 0
        processes = accelerator.num_processes
        if settings.batch_size % (processes * settings.accumulate):
            raise SettingsError(
                f"stage {name}: a batch of {settings.batch_size} cannot be divided among {processes} processes with "
                f"accumulate = {settings.accumulate}; make it a multiple of {processes * settings.accumulate}"
            )
        # accelerate divides the loss by it
        accelerator.gradient_accumulation_steps = settings.accumulate

    def run(self) -> bool:
        """Trains to the last step, or past the deadline (time.monotonic) by one step. Returns whether it is done.

        Progress goes to progress.jsonl and the scalar log; checkpoints are atomic.
        """
        settings = self.settings
        main = self.accelerator.is_main_process
        device = self.accelerator.device
        rank = self.accelerator.process_index
        world = self.accelerator.num_processes
        model, optimizer = self._prepared()
        steps = range(self.step, settings.steps)
        saved = time.monotonic()
        looked = time.monotonic()
        logged = 0.0  # the first step is logged
        batches = prefetch(self.source, steps, rank=rank, world=world, processes=self._loaders(device))
        self.pace = Pace(settings.batch_size)
        with closing(batches):
            for batch in self.pace.watched(batches):
                values = self._learn(model, optimizer, to_device(batch, device))
                last = self.step == settings.steps
                if main and (time.monotonic() - logged > LOG_SECONDS or last):
                    logged = time.monotonic()
                    self._log(values)
                if main and time.monotonic() - looked > self.held_out_seconds:
                    self._look(device)
                    looked = time.monotonic()
                late = self._late()
                due = self.step % self.checkpoint_every == 0 or time.monotonic() - saved > self.checkpoint_seconds
                if last or late or due:
                    saved = time.monotonic()
                    if main:
                        self._save()
                if late and not last:
                    return False
        # the checkpoint keeps the weights themselves, from which a stage with more steps goes on
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.averages[name])
        return True

    def dry_step(self) -> None:
        """Makes one step that computes every loss term, and keeps no result. Raises FloatingPointError."""
        model, optimizer = self._prepared()
        self.step = 0
        rank = self.accelerator.process_index
        batch = self.source.batch(0, rank=rank, world=self.accelerator.num_processes)
        values = self._learn(model, optimizer, to_device(batch, self.accelerator.device))
        self._check(float(values["loss"]))

    def _prepared(self) -> tuple[Any, Any]:
        """Model and optimizer as accelerate wraps them, in the state of the last checkpoint."""
        self.averages = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._resume()
        model, optimizer = self.accelerator.prepare(self.stage, self.optimizer)
        return model, optimizer

    def _learn(self, model: Any, optimizer: Any, batch: Tensor) -> dict[str, Tensor]:
        """Makes one step; returns the loss, its terms, and the gradient's norm before clipping."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        count = self.settings.accumulate
        means: dict[str, Tensor] = {}
        for number, part in enumerate(batch.chunk(count)):
            # a part sees the draws of its samples in the whole batch, as a process does
            place = self.accelerator.process_index * count + number
            world = self.accelerator.num_processes * count
            draws = Draws(self.seed, self.step, rank=place, world=world, device=self.accelerator.device)
            is_last = number + 1 == count
            # processes exchange gradients once, after the last part
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                loss, terms = model(part, draws)
                self.accelerator.backward(loss)
            for name, value in ({"loss": loss} | terms).items():
                means[name] = means.get(name, 0) + value.detach() / count
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        self._average()
        self.step += 1
        return means | {"gradient_norm": norm}

    @torch.no_grad()
    def _look(self, device: torch.device) -> None:
        """Logs the averaged weights' loss on fixed held-out crops with fixed draws."""
        if self.held_out is None:
            return
        parameters: list[Tensor] = list(self.parameters.values())
        own = [value.detach().clone() for value in parameters]
        torch._foreach_copy_(parameters, list(self.averages.values()))
        sums: dict[str, float] = {}
        # in parts as small as those of training, which are known to fit the memory
        parts = self.accelerator.num_processes * self.settings.accumulate
        for batch, part in product(range(HELD_OUT_BATCHES), range(parts)):
            # a step that computes every term, so that each look measures the same
            draws = Draws(self.seed, batch * EVERY_TERM, rank=part, world=parts, device=device)
            crops = self.held_out.batch(batch, rank=part, world=parts)
            loss, terms = self.stage(to_device(crops, device), draws)
            for name, value in ({"loss": loss} | terms).items():
                sums[name] = sums.get(name, 0.0) + float(value) / (HELD_OUT_BATCHES * parts)
        torch._foreach_copy_(parameters, own)
        held_out = {name: round(value, 6) for name, value in sums.items()}
        self._record({"stage": self.name, "step": self.step, "held_out": held_out})

    def _loaders(self, device: torch.device) -> int:
        """Number of loader processes: a GPU consumes batches faster than one thread makes them."""
        if device.type != "cuda":
            return 0
        share: int = processors.available() // self.accelerator.num_processes
        return max(1, share - 1)  # one core is the training process's own

    def _late(self) -> bool:
        """Whether the deadline has passed on any process; all processes agree at the same step."""
        if math.isinf(self.deadline) or self.accelerator.num_processes == 1:
            return time.monotonic() > self.deadline
        if time.monotonic() > self.deadline:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _average(self) -> None:
        # at the start the average follows quickly, so that it forgets the initial weights
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        weights = [value.detach() for value in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    def _log(self, values: Mapping[str, Tensor]) -> None:
        numbers = {name: round(float(value.detach()), 6) for name, value in values.items()}
        self._check(numbers["loss"])
        for name, number in numbers.items():
            self.scalar(f"{self.name}/{name}", number, self.step)
        place = {"stage": self.name, "step": self.step, "steps": self.settings.steps}
        self._record(place | numbers | self.pace.figures())

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"stage {self.name}: the loss is {loss} at step {self.step}; lower the learning rate"
            )

    def _record(self, values: Mapping[str, Any]) -> None:
        # one write per line: readers take a line without its end as unfinished
        with (self.output / "progress.jsonl").open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def _save(self) -> None:
        """The complete state that the next step depends on."""
        tensors: dict[str, Tensor] = {}
        states: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        for index, (name, value) in enumerate(self.parameters.items()):
            tensors[f"weight/{name}"] = value.detach()
            tensors[f"average/{name}"] = self.averages[name]
            state = states.get(index, {})  # empty for a parameter that had no gradient yet
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    tensors[f"{key}/{name}"] = state[key]
        for name, buffer in self.buffers.items():
            tensors[f"buffer/{name}"] = buffer
        self.checkpoint.save(self.step, tensors)

    def _resume(self) -> None:
        found = self.checkpoint.load()
        if found is None:
            return
        self.step, tensors = found
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for index, (name, value) in enumerate(self.parameters.items()):
                value.copy_(tensors[f"weight/{name}"])
                self.averages[name] = tensors[f"average/{name}"].to(value.device)
                moments = {key: tensors[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
                state[index] = {"step": torch.tensor(float(self.step))} | moments
            for name, buffer in self.buffers.items():
                buffer.copy_(tensors[f"buffer/{name}"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def learning_rate(step: int, settings: StageSettings) -> float:
    """Linear warm-up, then cosine decay to final_learning_rate times the peak."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, settings.steps)))
    final = settings.final_learning_rate
    return settings.learning_rate * warm * (final + (1 - final) * cosine)
