"""What a stage needs fits the memory: parts of a batch, recomputed activations, and a step that is tried beforehand."""

import copy
import gc
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.diffusion.backbone import Backbone
from codec.diffusion.schedule import NoiseSchedule
from codec.entropy.entroformer import Entroformer
from codec.errors import SettingsError
from codec.metrics.perceptual import lpips_network
from codec.quantization.estimator import AdapterSettings, ParameterEstimator
from codec.training.__main__ import main
from codec.training.draws import Draws
from codec.training.end_to_end import EndToEndStage
from codec.training.memory import peak_gib
from codec.training.pretraining import UNetStage
from codec.training.recomputation import checkpoint_gradients
from codec.training.run import Run
from codec.training.settings import StageSettings, TrainingSettings, read_settings
from codec.training.stages import AdapterStage, EntropyStage
from codec.training.trainer import Stage, Trainer
from tests.support.tiny_backbones import PROMPT_LENGTH, PROMPT_WIDTH, SCHEDULER, tiny_autoencoder, tiny_unet
from tests.support.tiny_bundles import tiny_backbone, tiny_entropy
from tests.support.tiny_crops import sampler

STAGE = {"steps": 2, "batch_size": 4, "crop_size": 32, "perceptual": 0.0, "warmup_steps": 1, "calibration_crops": 4}
GIB = 2**30


def foreign_backbone() -> Backbone:
    """The networks of diffusers, as in Stable Diffusion."""
    schedule = NoiseSchedule.from_config(SCHEDULER | {"prediction_type": "v_prediction"})
    prompt = torch.randn(1, PROMPT_LENGTH, PROMPT_WIDTH, generator=torch.Generator().manual_seed(0))
    return Backbone(tiny_autoencoder(), tiny_unet(), schedule, name="foreign", prompt_embedding=prompt)


def unet_stage(settings: StageSettings, backbone: Backbone, _entropy: Entroformer) -> Stage:
    return UNetStage(settings, backbone)


def entropy_stage(settings: StageSettings, backbone: Backbone, entropy: Entroformer) -> Stage:
    return EntropyStage(settings, backbone, entropy)


def joint_stage(settings: StageSettings, backbone: Backbone, entropy: Entroformer) -> Stage:
    torch.manual_seed(3)
    estimator = ParameterEstimator(AdapterSettings(channels=(4, 4, 4)), alpha_at_one=0.5)
    return AdapterStage(settings, backbone, entropy, estimator, joint=True)


def end_to_end_stage(settings: StageSettings, backbone: Backbone, entropy: Entroformer) -> Stage:
    return EndToEndStage(settings, backbone, entropy, alpha_at_one=0.5)


Built = Callable[[StageSettings, Backbone, Entroformer], Stage]


@pytest.mark.parametrize("built", [unet_stage, entropy_stage, joint_stage])
def test_two_accumulated_parts_of_two_crops_give_the_gradients_of_four(
    built: Built, tars: Path, tmp_path: Path
) -> None:
    moments = []
    for accumulate in (1, 2):
        settings = StageSettings(
            steps=1, batch_size=4, crop_size=32, perceptual=0.0, clip_norm=1e9, accumulate=accumulate
        )
        trainer = Trainer(
            "stage", settings, built(settings, tiny_backbone(), tiny_entropy()), sampler(tars), Accelerator(cpu=True),
            tmp_path / str(accumulate), seed=1, checkpoint_every=9, checkpoint_seconds=1e9, scalar=lambda *_: None,
        )  # fmt: skip
        trainer.output.mkdir()
        trainer.run()
        step, tensors = trainer.checkpoint.load()
        assert step == 1, "steps are those of the optimizer"
        # a tenth of the gradient after the first step
        moments.append({name: value for name, value in tensors.items() if name.startswith("exp_avg/")})
    assert any(float(value.abs().max()) > 1e-3 for value in moments[0].values())
    for name, value in moments[0].items():
        scale = float(value.abs().max()) + 1e-6
        assert torch.allclose(value, moments[1][name], atol=1e-4 * scale, rtol=1e-3), name


def test_an_accumulating_stage_counts_steps_of_the_optimizer_and_resumes_bit_for_bit(
    tars: Path, tmp_path: Path, bundle: Bundle
) -> None:
    made = []
    for output, slots in (("whole", (4,)), ("cut", (1, 3, 4))):
        for steps in slots:  # a finished stage goes on with more steps; a constant rate makes the two alike
            stage = StageSettings(**STAGE | {"steps": steps, "accumulate": 2, "final_learning_rate": 1.0})  # type: ignore[arg-type]
            settings = TrainingSettings(start=str(bundle.path), stages={"entropy": stage})
            assert Run(settings, [tars], [], tmp_path / output).train(["entropy"])
            assert (tmp_path / output / "checkpoints" / "entropy.done").read_text() == str(steps)
        records = [json.loads(line) for line in (tmp_path / output / "progress.jsonl").read_text().splitlines()]
        assert records[-1]["step"] == 4
        made.append(load_file(tmp_path / output / "entropy.safetensors"))
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_the_running_statistics_of_an_end_to_end_step_move_as_far_however_many_its_parts() -> None:
    moved = []
    for accumulate in (1, 4):
        settings = StageSettings(steps=9, perceptual=0.0, accumulate=accumulate, rate_gain=0.1)
        stage = end_to_end_stage(settings, tiny_backbone(), tiny_entropy())
        before = copy.deepcopy(stage.state)
        pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
        for number, part in enumerate(pixels.chunk(accumulate)):
            stage(part, Draws(1, 0, rank=number, world=accumulate))
        moved.append((stage.state.mean - before.mean, stage.state.log_scale - before.log_scale))
    for whole, parts in zip(*moved, strict=True):
        assert torch.allclose(whole, parts, rtol=0.05, atol=1e-5)
        assert float(whole.abs().max()) > 0


def test_a_batch_that_cannot_be_divided_is_refused_in_one_line(tars: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(stages={"unet": StageSettings(steps=1, batch_size=4, crop_size=32, accumulate=3)})
    with pytest.raises(SettingsError, match="accumulate = 3; make it a multiple of 3"):
        Run(settings, [tars], [], tmp_path).dry(["unet"])


@pytest.mark.parametrize(
    ("backbone", "built"),
    [(foreign_backbone, joint_stage), (tiny_backbone, joint_stage), (tiny_backbone, end_to_end_stage)],
)
def test_recomputed_activations_give_the_same_gradients_with_less_memory(
    backbone: Callable[[], Backbone], built: Built
) -> None:
    gradients, kept = [], []
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for recompute in (False, True):
        networks, entropy = backbone(), tiny_entropy()
        stage = built(StageSettings(steps=9, perceptual=0.0), networks, entropy)
        if recompute:
            checkpoint_gradients(networks, entropy)
        sizes: dict[int, int] = {}

        def keep(value: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss, _ = stage(pixels, Draws(1, 0))
        kept.append(sum(sizes.values()))
        loss.backward()
        trained = nn.ModuleDict(stage.trained)
        gradients.append({name: value.grad for name, value in trained.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], rtol=1e-4, atol=1e-6 * float(value.abs().max())), name
    assert kept[1] < 0.7 * kept[0]


def test_a_dry_step_measures_the_memory_of_its_peak() -> None:
    def work() -> None:
        torch.ones(GIB // 16)  # a quarter of a GiB, which is let go

    before = peak_gib(lambda: None, torch.device("cpu"))
    after = peak_gib(work, torch.device("cpu"))
    assert after - before == pytest.approx(0.25, abs=0.05)
    assert peak_gib(lambda: None, torch.device("cpu")) < after - 0.15, "of this piece alone"


@pytest.fixture
def _any_precision() -> Iterator[None]:
    """accelerate keeps one precision for a process, which is that of the first test to train."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_any_precision")
def test_one_dry_step_of_every_stage_tells_its_memory_and_keeps_nothing(
    tars: Path, tmp_path: Path, bundle: Bundle
) -> None:
    settings = tmp_path / "settings.json"
    stages = dict.fromkeys(("entropy", "adapter", "joint"), STAGE)
    # in mixed precision accelerate ties knots around a model, which only the garbage collector unties
    values = {"start": str(bundle.path), "stages": stages, "mixed_precision": "bf16"}
    settings.write_text(json.dumps(values))
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out"), "--dry"]) == 0
    peaks = json.loads((tmp_path / "out" / "memory.json").read_text())["peak_gib"]
    assert list(peaks) == list(stages)
    assert all(0.05 < peak < 100 for peak in peaks.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["memory.json"]
    made = []
    for output, tries_first in (("out", True), ("other", False)):
        run = Run(read_settings(settings), [tars], [], tmp_path / output)
        if tries_first:
            run.dry(list(stages))  # type: ignore[arg-type]
        gc.disable()  # only what a stage's end lets go
        try:
            assert run.train(list(stages))  # type: ignore[arg-type]
        finally:
            gc.enable()
        assert not any(type(thing) in (EntropyStage, AdapterStage) for thing in gc.get_objects()), "networks are let go"
        made.append(load_file(tmp_path / output / "entropy.safetensors"))
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_a_stage_that_does_not_fit_is_refused_before_the_first_step_and_names_the_settings_to_change(
    tars: Path, tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.json"
    stages = dict.fromkeys(("entropy", "joint"), STAGE)
    values = {"start": str(bundle.path), "stages": stages, "memory_gib": 0.01}
    settings.write_text(json.dumps(values))
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("codec.training")]
    assert "stage entropy does not fit in memory: a step needs " in line
    for setting in ("accumulate (1 now: 4 crops at a time)", "checkpoint_gradients = true", "crop_size (32 now)"):
        assert f"stages.entropy.{setting}" in line
    assert not (tmp_path / "out" / "progress.jsonl").exists()


def test_memory_that_the_machine_does_not_have_is_the_same_line(
    tars: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(EntropyStage):
        def forward(self, batch: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
            torch.empty(2**50)  # the allocator itself refuses
            return super().forward(batch, draws)

    monkeypatch.setattr("codec.training.run.EntropyStage", Greedy)
    settings = TrainingSettings(start=str(bundle.path), stages={"entropy": StageSettings(**STAGE)})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"does not fit in memory: DefaultCPU.*allocate.*set stages.entropy.ch"):
        Run(settings, [tars], [], tmp_path).dry(["entropy"])


def test_a_loss_that_is_no_number_is_found_by_the_dry_step(
    tars: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(EntropyStage):
        def forward(self, batch: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
            loss, terms = super().forward(batch, draws)
            return loss * math.nan, terms

    monkeypatch.setattr("codec.training.run.EntropyStage", Poisoned)
    settings = TrainingSettings(start=str(bundle.path), stages={"entropy": StageSettings(**STAGE)})  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="stage entropy: the loss is nan"):
        Run(settings, [tars], [], tmp_path).dry(["entropy"])


def test_tf32_is_for_convolutions_which_the_decoded_side_of_the_entropy_model_has_not(
    tars: Path, tmp_path: Path
) -> None:
    for allowed in (False, True):
        Run(TrainingSettings(stages={}, tf32=allowed), [tars], [], tmp_path)
        assert torch.backends.cudnn.allow_tf32 == allowed
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    entropy = tiny_entropy()
    for part in (entropy.hyper_decoder, entropy.context, entropy.parameter_net):
        assert not any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in part.modules())


@pytest.mark.gpu
def test_the_gradient_of_lpips_is_the_same_with_tf32_convolutions() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    original = torch.rand(2, 3, 128, 128, device="cuda") * 2 - 1
    gradients = []
    for allowed in (False, True):
        decoded = (original + 0.1 * torch.sin(37 * original)).requires_grad_(True)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            lpips_network("vgg", "cuda")(original, decoded).sum().backward()
        gradient = decoded.grad
        assert gradient is not None
        gradients.append(gradient.flatten())
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.999
