"""A trained codec on disk: JSON configuration, safetensors files, and an id that hashes all of it.

bundle.json            configuration and the SHA-256 of every file below; its own canonical hash is the id
entropy.safetensors    the entropy model as integers, and the CDF tables
encoder.safetensors    encoder-only networks: hyper-encoder, parameter estimator
prompt.safetensors     the empty prompt's embedding, if the backbone takes one
backbone/              the backbone in diffusers layout, if embedded
CARD.md                model card; not part of the id
"""

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.bundle_id import CONFIG, EMBEDDED, digest
from codec.diffusion.backbone import Backbone
from codec.entropy.entroformer import Entroformer, EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel, trainable
from codec.entropy.tables import Tables, build_counts
from codec.errors import BundleError, FdcError
from codec.quantization.estimator import AdapterSettings, ParameterEstimator
from codec.quantization.quantizer import ParameterMode
from codec.support import remembered
from codec.support.dataclass_parsing import build

FORMAT = 2
"""Format of new bundles. Format 1 lacks the setting `grids` of the entropy model, which are wide then."""
LARGEST_OFFSET = 64
"""Largest offset of a channel's alpha code: two octaves."""
MOST_STEPS = 1000
LONGEST_CONFIG = 16 << 20
BACKBONES = "backbones"
"""Folder next to bundles that holds backbones by content hash, as in an archive."""
ENTROPY = "entropy.safetensors"
ENCODER = "encoder.safetensors"
EARLIER_ESTIMATOR = "head.weight"
"""A tensor that only the estimators of the earliest bundles have."""
EARLIER_ADAPTER = ("alpha_at_one", "first_timestep", "largest_timestep")
"""Settings of those estimators, which bundles made before state."""
PROMPT = "prompt.safetensors"
BACKBONE = "backbone"


@dataclass(frozen=True)
class BundleConfig:
    """The configuration of a codec: everything except tensors."""

    name: str
    backbone_hash: str
    backbone_source: str
    """'embedded', or the default location: a hub id or a path."""
    entropy: EntroformerSettings
    adapter: AdapterSettings
    steps: int = 1
    """DDIM steps of decoding."""
    parameters: ParameterMode = "measured"
    alpha_at_one: float = 0.5
    """Reciprocal bin width at lambda = 1; it grows with the root of lambda, for 'learned' before training alone."""
    alpha_offsets: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Alpha codes (1/32 octave) by which each channel's bins are narrower than lambda implies; not for 'learned'."""
    known_answer: str = ""
    """SHA-256 of the known answer that the exact entropy model must reproduce when loaded."""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of each file of the bundle by relative path."""


@dataclass(frozen=True)
class Bundle:
    """A bundle verified against its hashes; its networks are loaded on request."""

    path: Path
    config: BundleConfig
    id: str
    """SHA-256 of the configuration's canonical JSON, which covers all files."""

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Reads the configuration and checks every file's hash. Raises BundleError."""
        return cls.described(path).checked()

    @classmethod
    def described(cls, path: str | Path) -> "Bundle":
        """Reads the configuration alone, which gives the id. Raises BundleError."""
        path = Path(path)
        with _explained(f"{path / CONFIG} is damaged"):
            try:
                with (path / CONFIG).open("rb") as file:
                    text = file.read(LONGEST_CONFIG + 1)
            except OSError:
                raise BundleError(f"{path} is not a bundle: it has no readable {CONFIG}") from None
            if len(text) > LONGEST_CONFIG:
                raise ValueError(f"more than {LONGEST_CONFIG} bytes")
            data = json.loads(text)
            bundle_id = digest(data)  # before anything is taken out of the data
            return cls(path, _read_config(data, path), bundle_id)

    def checked(self) -> "Bundle":
        """Checks every file's hash against the configuration and returns this bundle. Raises BundleError."""
        for name, expected in self.config.files.items():
            with _explained(f"the bundle {self.path} is incomplete: {name!r} cannot be read"):
                location = Path(name)
                # a bundle may come from anywhere and must not make this process read other files
                if location.is_absolute() or ".." in location.parts:
                    raise ValueError("it lies outside")
                if not (self.path / location).is_file():
                    raise BundleError(f"the bundle {self.path} is incomplete: {name} is missing")
                with (self.path / location).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise BundleError(
                    f"the bundle {self.path} is damaged: {name} does not have the SHA-256 that {CONFIG} states"
                )
        return self

    def _tensors(self, name: str) -> dict[str, Tensor]:
        if name not in self.config.files:
            raise BundleError(
                f"the bundle {self.path} is incomplete: {CONFIG} does not list {name}, so its content is unverified"
            )
        return load_file(self.path / name)

    def load_backbone(self, source: str | Path | None = None, device: str = "cpu") -> Backbone:
        """Loads the bundle's backbone and checks its content hash. `source` overrides its location."""
        location = self.backbone_location() if source is None else source
        with _explained(
            f"the backbone of {self.path} does not fit it", only_unexpected=location != self.path / BACKBONE
        ):
            prompt = self._tensors(PROMPT)["embedding"] if PROMPT in self.config.files else None
            if location == self.path / BACKBONE:
                self._refuse_unlisted(self.path / BACKBONE)
            return Backbone.load(
                location, device=device, prompt_embedding=prompt, content_hash=self.config.backbone_hash
            )

    def _refuse_unlisted(self, folder: Path) -> None:
        # diffusers reads whatever it finds in a folder, so an unlisted file could replace hashed weights
        for file in folder.rglob("*"):
            name = file.relative_to(self.path).as_posix()
            if name not in self.config.files and not file.is_dir():
                raise BundleError(f"the bundle {self.path} holds {name}, which {CONFIG} does not list; remove it")

    def backbone_location(self) -> str | Path:
        """Search order: inside the bundle, next to it (../backbones/HASH), then `backbone_source`."""
        if self.config.backbone_source == "embedded":
            return self.path / BACKBONE
        beside = self.path.parent / BACKBONES / self.config.backbone_hash
        return beside if beside.is_dir() else self.config.backbone_source

    def load_entropy(self, device: str = "cpu", *, remember: bool = False) -> tuple[ExactEntropyModel, Tables]:
        """Loads the exact entropy model, runs its known-answer test, and loads the coder's tables. Raises BundleError.

        With `remember`, skips the test if this machine passed it within the last day (codec.support.remembered).
        """
        with _explained(f"the entropy model of {self.path} cannot be read"):
            tensors = self._tensors(ENTROPY)
            tables = Tables(tensors.pop("counts").numpy())
            model = ExactEntropyModel(tensors, self.config.entropy, device)
            if not (remember and remembered.recall(self.id, device)):
                if model.known_answer() != self.config.known_answer:
                    raise BundleError(
                        f"the entropy model of {self.path} does not compute its known answer on {device}: "
                        "decoding here would not be exact; decode on the CPU and report this machine"
                    )
                if remember:
                    remembered.keep(self.id, device)
            return model, tables

    def trainable_entropy(self) -> Entroformer:
        """The exported entropy model in float, for further training."""
        model = trainable(self._tensors(ENTROPY), self.config.entropy)
        model.hyper_encoder.load_state_dict(self.load_encoder()[0].hyper_encoder.state_dict())
        return model

    def load_encoder(self, device: str = "cpu") -> tuple[Entroformer, ParameterEstimator | None]:
        """The float entropy model, with only the hyper-encoder's weights set, and the estimator, if any.

        Estimators of the earliest bundles, which saw lambda among the features, are not computed any more.
        """
        settings = self.config
        with _explained(f"the encoder of {self.path} cannot be read"):
            tensors = {name: value.float() for name, value in self._tensors(ENCODER).items()}
            hyper = _under("hyper_encoder.", tensors)
            weights = _under("estimator.", tensors)
            if EARLIER_ESTIMATOR in weights:  # decoding needs no estimator
                weights = {}
            # sizes first, on the meta device: a configuration may state a network of any size
            with torch.device("meta"):
                _check_sizes(Entroformer(settings.entropy).hyper_encoder, hyper)
            model = Entroformer(settings.entropy)
            model.hyper_encoder.load_state_dict(hyper)
            estimator = None
            if weights:
                with torch.device("meta"):
                    _check_sizes(ParameterEstimator(settings.adapter, settings.alpha_at_one), weights)
                estimator = ParameterEstimator(settings.adapter, settings.alpha_at_one)
                if not all(bool(value.isfinite().all()) for value in weights.values()):
                    raise ValueError("the estimator has weights that are not finite")
                estimator.load_state_dict(weights)
                estimator.requires_grad_(False).to(device)
            return model.requires_grad_(False).eval().to(device), estimator


def write_bundle(
    folder: str | Path,
    config: BundleConfig,
    entropy: "Entroformer | Bundle",
    *,
    backbone: Backbone,
    estimator: ParameterEstimator | None = None,
    card: str = "",
) -> Bundle:
    """Exports a trained codec to a new folder atomically. An 'embedded' backbone is stored in half precision.

    The entropy model of another bundle is copied integer by integer, so both bundles give the same symbols.
    Raises BundleError when the folder exists or the entropy model cannot be made exact.
    """
    folder = Path(folder)
    if folder.exists():
        raise BundleError(f"{folder} already exists; a bundle is never overwritten: remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    spool = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if isinstance(entropy, Bundle):
            integers = load_file(entropy.path / ENTROPY)
            trained, _ = entropy.load_encoder()
        else:
            integers = export(entropy) | {"counts": torch.from_numpy(build_counts())}
            trained = entropy
        save_file(integers, spool / ENTROPY)
        encoder = {f"hyper_encoder.{name}": value for name, value in trained.hyper_encoder.state_dict().items()}
        if estimator is not None:
            encoder |= {f"estimator.{name}": value for name, value in estimator.state_dict().items()}
        save_file({name: value.half().contiguous().cpu() for name, value in encoder.items()}, spool / ENCODER)
        if backbone.prompt_embedding is not None:
            save_file({"embedding": backbone.prompt_embedding.cpu().contiguous()}, spool / PROMPT)
        content_hash = backbone.content_hash
        if config.backbone_source == "embedded":
            backbone.save(spool / BACKBONE, dtype=torch.float16)
            content_hash = Backbone.load(spool / BACKBONE).content_hash  # rounded weights are another backbone
        hashes = {}
        for file in sorted(spool.rglob("*")):
            if file.is_file():
                hashes[file.relative_to(spool).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        config = dataclasses.replace(
            config,
            backbone_hash=content_hash,
            known_answer=_known_answer(integers, config.entropy),
            files=hashes,
        )
        text = json.dumps({"format": FORMAT} | dataclasses.asdict(config), indent=1)
        (spool / CONFIG).write_text(text + "\n")
        (spool / "CARD.md").write_text(card or f"# {config.name}\n")
        # mkdtemp makes a private folder, but a bundle is for everybody on the machine
        for file in spool.rglob("*"):
            mode = 0o755 if file.is_dir() else 0o644
            file.chmod(mode)
        spool.chmod(0o755)
        spool.rename(folder)
    except BaseException:
        shutil.rmtree(spool, ignore_errors=True)
        raise
    return Bundle.open(folder)


def _known_answer(tensors: Mapping[str, Tensor], settings: EntroformerSettings) -> str:
    integers = {name: value for name, value in tensors.items() if name != "counts"}
    return ExactEntropyModel(integers, settings).known_answer()


def find_bundle(head: str, folders: Iterable[str | Path] = ()) -> Bundle:
    """Finds the bundle whose id starts with `head` (16 hex digits), in the given folders, then in the package.

    A folder may be a bundle or contain bundles. Raises BundleError if none matches.
    """
    locations = [Path(folder) for folder in folders] + [EMBEDDED]
    wanted: list[BundleError] = []
    others: list[BundleError] = []
    for location in locations:
        for candidate in _bundles_in(location):
            is_wanted = False
            try:
                bundle = Bundle.described(candidate)
                is_wanted = bundle.id.startswith(head)
                if is_wanted:
                    return bundle.checked()
            except BundleError as error:
                # a damaged copy of the wanted bundle explains the failure best, so it is named first
                if is_wanted:
                    wanted.append(error)
                else:
                    others.append(error)
    looked = ", ".join(map(str, locations))
    damaged = wanted + others
    why = ""
    if damaged:
        why = f"; {len(damaged)} there cannot be read, the first because {damaged[0]}"
    raise BundleError(
        f"no bundle with id {head}... in {looked}; pass the folder of the bundle that wrote the file{why}"
    )


def _bundles_in(location: Path) -> list[Path]:
    try:
        return [folder for folder in [location, *sorted(location.glob("*/"))] if (folder / CONFIG).exists()]
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot look for bundles in {location}: {error}") from None


@contextmanager
def _explained(what: str, *, only_unexpected: bool = True) -> Iterator[None]:
    """Converts a library's exception for a damaged file into a BundleError; any exception, unless `only_unexpected`."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        if isinstance(error, FdcError) and only_unexpected:
            raise
        # our own errors and those of parsers are sentences; others mean little without their class
        is_sentence = isinstance(error, FdcError | ValueError)
        text = " ".join(str(error).split()) if is_sentence else _named(error)
        raise BundleError(f"{what}: {text}") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:240]}".strip()


def _check_sizes(network: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless a meta-device network has tensors of these names and shapes."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise ValueError(f"{CONFIG} states {name} of {expected.get(name)}, its tensors have {found.get(name)}")


def _read_config(data: Any, path: Path) -> BundleConfig:
    try:
        if data.pop("format") not in (1, FORMAT):
            raise BundleError(
                f"the bundle {path} does not have format 1 or {FORMAT}: a newer release of fdcodec may read it"
            )
        for name in EARLIER_ADAPTER:
            data["adapter"].pop(name, None)
        config = cast(BundleConfig, build(BundleConfig, data, "settings"))
        if max(map(abs, config.alpha_offsets)) > LARGEST_OFFSET:
            raise ValueError(f"alpha_offsets must be at most {LARGEST_OFFSET}, not {list(config.alpha_offsets)}")
        if not 1 <= config.steps <= MOST_STEPS:
            raise ValueError(f"steps must be 1 to {MOST_STEPS}, not {config.steps}")
        if not 0 < config.alpha_at_one < math.inf:
            raise ValueError(f"alpha_at_one must be a positive number, not {config.alpha_at_one}")
        return config
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # also for JSON that is not an object
        raise BundleError(f"{path / CONFIG} does not describe a bundle: {error}") from None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
