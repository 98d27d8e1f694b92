"""The specification of an evaluation: pictures, codecs and points; serializable for other processes."""

from dataclasses import dataclass
from pathlib import Path

from codec.errors import SettingsError
from codec.evaluation.baselines import NAMES, Baseline, available
from codec.evaluation.baselines.external import Command, read_commands
from codec.evaluation.baselines.ours import NAME, QUALITIES, UPPER_BOUND, ours, upper_bound
from codec.evaluation.runner import RATES, EvaluationJob, jobs

ALL = "all"


@dataclass(frozen=True)
class EvaluationConfig:
    """A folder of pictures, the codecs to measure on it, and their points; `output` receives the results."""

    pictures: str
    output: str
    codecs: tuple[str, ...] = (NAME,)
    """fdcodec, autoencoder (the same without quantization), names of baselines or of external commands, or all."""
    rates: tuple[float, ...] = RATES
    """Bits per pixel at which the codecs without points of their own are measured."""
    qualities: tuple[float, ...] = QUALITIES
    """Lambdas at which this codec is measured."""
    commands: str = ""
    """A TOML file of external codecs (codec.evaluation.baselines.external)."""
    bundle: str = ""
    backbone: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not Path(self.pictures).is_dir():
            raise SettingsError(f"{self.pictures} is not a folder with files")
        # The next run would measure the reconstructions as pictures.
        if Path(self.output).resolve().is_relative_to(Path(self.pictures).resolve()):
            raise SettingsError(f"{self.output} is in the folder of pictures: give a folder outside of it")
        try:
            Path(self.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot write to {self.output}: {error.strerror}") from None

    def open(self) -> tuple[list[Baseline], dict[str, str]]:
        """The codecs that run here, and for each other one why not. Raises SettingsError, BundleError."""
        commands: list[Command] = []
        if self.commands:
            commands = read_commands(Path(self.commands))
        names = list(self.codecs)
        if ALL in names:
            names = [NAME, UPPER_BOUND, *NAMES, *(command.name for command in commands)]
        names = list(dict.fromkeys(names))  # each once, in order
        own = [name for name in names if name in (NAME, UPPER_BOUND)]
        others = [name for name in names if name not in own]
        found, missing = available(others, commands)
        if not own:
            return found, missing
        from codec.codec import Codec  # a comparison of other codecs needs no bundle

        codec = Codec.load(self.bundle or None, device=self.device, backbone=self.backbone or None)
        first: list[Baseline] = []
        for name in own:
            if name == NAME:
                first.append(ours(codec, self.qualities))
            else:
                first.append(upper_bound(codec))
        return first + found, missing

    def jobs(self, codecs: list[Baseline]) -> list[EvaluationJob]:
        """Every picture with every codec."""
        return jobs(Path(self.pictures), codecs, self.rates)
