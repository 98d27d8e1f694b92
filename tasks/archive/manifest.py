"""The manifest, or plan, of a run: its sources, shards, settings and bundle. Written once, never changed."""

import dataclasses
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, field
from typing import Any, Self

from codec.containers.judgement import DISCARDS
from codec.errors import ArchiveError, SettingsError
from codec.format.preview import SIDE, check_side
from codec.metrics import names
from codec.quantization.efforts import EFFORTS, check_effort
from tasks.sources.filters import LITTER

FORMAT = 2
"""The format that is written. It stores .fdc files of version 2."""
READ = (1, 2)
"""The formats that are read."""
DIGEST = "sha256"
"""The hash algorithm of all names, seals and rows, as stated in archive.json."""
MOST_TOGETHER = 256
"""Largest batch."""
METADATA = ("all", "no-location", "none")


@dataclass(frozen=True)
class RunSettings:
    """The settings that, with sources and bundle, determine the output of a run. Raises SettingsError for bad values.

    `quality` is lambda (None: the codec's default); `target_bpp`, in bits per pixel of the whole file, replaces it.
    `min_psnr_db` and `max_lpips` (AlexNet) are a quality constraint: lambda is raised for a picture that misses it, and
    a picture that cannot meet it is kept without loss. `metadata` (all, no-location, none) selects the metadata in .fdc
    files. A file kept whole retains all its metadata, unless `strict_metadata` refuses it. `discard` names parts that
    may be left out. `include`, `exclude` and `non_images` (keep, skip) select sources: see tasks.sources.filters.
    `metrics` names metrics of codec.metrics.names; the costly ones are measured for a fraction `metrics_sample` of the
    pictures. `image_timeout` is in seconds for each picture; `image_memory` limits the memory of its process, in
    bytes. `effort` (0, 1, 2) refines each picture's latent (codec.quantization.refinement); absent in older plans.
    `preview` is the longer side in pixels of the preview in each .fdc file, 0 for none; older plans have none.
    """

    quality: float | None = None
    target_bpp: float | None = None
    min_psnr_db: float | None = None
    max_lpips: float | None = None
    metadata: str = "all"
    discard: tuple[str, ...] = ("preview",)
    strict_metadata: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = LITTER
    non_images: str = "keep"
    max_images_per_shard: int = 2000
    max_shard_bytes: int = 10**9
    image_timeout: float = 1800.0
    image_memory: int = 16 * 10**9
    max_failed_fraction: float = 1.0
    verify: bool = True
    metrics: tuple[str, ...] = names.DEFAULT
    metrics_sample: float = 0.02
    processor_sample: float = 0.01
    threads: int = 1
    batch: int = 1
    effort: int = 0
    preview: int = SIDE

    def __post_init__(self) -> None:
        if self.quality is not None and self.target_bpp is not None:
            raise SettingsError("quality and target_bpp are mutually exclusive; set only one")
        limits = ("max_images_per_shard", "max_shard_bytes", "image_timeout", "image_memory", "threads", "batch")
        for name in ("quality", "target_bpp", "min_psnr_db", "max_lpips", *limits):
            value = getattr(self, name)
            if value is not None and not value > 0:  # not `<= 0`, which is false for nan
                raise SettingsError(f"{name} must be above 0, not {value}")
        object.__setattr__(self, "metrics", names.chosen(self.metrics))  # the way around `frozen`
        if self.max_lpips is not None and "lpips" not in self.metrics:
            raise SettingsError("max_lpips requires the metric lpips; add lpips to metrics")
        for name in ("metrics_sample", "processor_sample"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if self.batch > MOST_TOGETHER:
            raise SettingsError(f"batch must be at most {MOST_TOGETHER}, not {self.batch}")
        if check_effort(self.effort) and self.batch > 1:
            raise SettingsError(f"effort {self.effort} refines pictures one by one; set batch to 1, not {self.batch}")
        check_side(self.preview)
        if self.max_images_per_shard > 2000:
            raise SettingsError(f"max_images_per_shard must be at most 2000, not {self.max_images_per_shard}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise SettingsError(f"max_failed_fraction must be from 0 to 1, not {self.max_failed_fraction}")
        if self.metadata not in METADATA:
            raise SettingsError(f"metadata must be one of {', '.join(METADATA)}, not {self.metadata!r}")
        if self.non_images not in ("keep", "skip"):
            raise SettingsError(f"non_images must be keep or skip, not {self.non_images!r}")
        if unknown := sorted(set(self.discard) - set(DISCARDS)):
            raise SettingsError(f"discard must be among {', '.join(DISCARDS)}, not {unknown[0]!r}")

    @property
    def encode_timeout(self) -> float:
        """Time limit for encoding one picture in seconds: image_timeout, times 10 at effort 1 and 100 at effort 2."""
        return self.image_timeout * EFFORTS[self.effort].times

    def metrics_of(self, key: str) -> list[str]:
        """Returns the metrics to measure for a picture: costly ones only if the hash of its key is in the sample.

        A key in a sample is in every larger sample and in every run, so means are comparable between runs.
        """
        sampled = _fraction(b"metrics/", key) < self.metrics_sample
        return [name for name in self.metrics if sampled or name not in names.COSTLY]

    def is_decoded_on_processor(self, key: str) -> bool:
        """Whether a picture is in the sample that is also decoded on the CPU, whatever device encoded it."""
        return _fraction(b"processor/", key) < self.processor_sample


def _fraction(purpose: bytes, key: str) -> float:
    """Maps the hash of a key to 0..1. With different purposes, samples do not depend on each other."""
    digest = hashlib.sha256(purpose + key.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


@dataclass(frozen=True)
class Manifest:
    """One run. `shards` are row ranges [start, stop) of the listing."""

    run: int
    parent: int | None
    source: str
    listing: str
    listing_sha256: str
    gone: int
    truncated: bool
    shards: tuple[tuple[int, int], ...]
    settings: RunSettings
    bundle_id: str
    excluded: int = 0
    package_version: str = field(default_factory=lambda: importlib.metadata.version("fdcodec"))
    format: int = FORMAT

    @property
    def images(self) -> int:
        """Number of sources in the run."""
        return sum(stop - start for start, stop in self.shards)

    def to_bytes(self) -> bytes:
        """Serializes the manifest as JSON."""
        return to_json(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Parses a manifest from JSON; raises ArchiveError, which names the location `where`."""
        document = from_json(data, where)
        try:
            document["settings"] = _settings(document["settings"])
            document.pop("batch", None)  # absent before release 0.3: always 1
            document.pop("erasures", None)  # absent in archives without a log
            document["shards"] = tuple((start, stop) for start, stop in document["shards"])
            return cls(**document)
        except (TypeError, KeyError, ValueError) as error:
            raise ArchiveError(f"{where}: not a manifest: {error}") from error


def _settings(given: dict[str, Any]) -> RunSettings:
    """Parses the settings of a manifest.

    Releases before 0.2 have `keep_exif` instead of `metadata`. Releases before 0.3 have a switch and a network for
    metrics, and measured DISTS for every picture. Plans without `preview` are from releases that wrote none.
    """
    given = {"preview": 0, **given}
    if "keep_exif" in given:
        keep_exif = given.pop("keep_exif")
        given["metadata"] = "all" if keep_exif else "none"
    if isinstance(given.get("metrics"), bool):
        lpips = {"alex": "lpips", "vgg": "lpips-vgg"}[given.pop("lpips_net", "alex")]
        are_measured = given["metrics"]
        given["metrics"] = ("psnr", "ms-ssim", lpips, "dists") if are_measured else ()
        given["metrics_sample"] = 1.0
    for name in ("discard", "include", "exclude", "metrics"):
        if name in given:
            given[name] = tuple(given[name])  # JSON has lists alone, and settings are compared
    return RunSettings(**given)


def to_json(document: dict[str, Any]) -> bytes:
    """Serializes a document as canonical JSON: equal content gives equal bytes.

    The field `sha256` is the SHA-256 of the serialized document without this field.
    """
    digest = hashlib.sha256(_canonical(document)).hexdigest()
    return _canonical(document | {"sha256": digest})


def from_json(data: bytes, where: str, *, remedy: str = "restore it from a mirror") -> dict[str, Any]:
    """Parses the output of `to_json`; raises ArchiveError for damage or an unsupported format."""
    try:
        document = dict(json.loads(data))
        stated = document.pop("sha256", None)
        format_ = document["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise ArchiveError(f"{where}: damaged; {remedy}") from error
    is_intact = data == to_json(document)
    # A changed digit in a document of today must be reported as damage. A later format may state no hash at all.
    if format_ not in READ and (stated is None or is_intact):
        raise ArchiveError(
            f"{where}: format {format_} is newer than {FORMAT}, the newest that this release reads; upgrade fdcodec"
        )
    if not is_intact:
        raise ArchiveError(f"{where}: damaged; {remedy}")
    return document


def _canonical(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
