"""Runs codecs on pictures: a row per picture, codec and rate point, stored in a folder to be computed once.

    FOLDER/rows/CODEC/PICTURE.parquet           its rows; the file marks the job as done
    FOLDER/rows/CODEC/PICTURE.npz               features of its patches, for codec.metrics.kernel_distance
    FOLDER/pictures/CODEC/setting-S/PICTURE.png its reconstructions

A picture is named by its path below the folder of pictures. Rows of other codecs stay when a bundle is replaced.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from codec.containers.writing import encode_png
from codec.errors import FdcError, SettingsError
from codec.evaluation.baselines import Baseline, Pixels, largest_within
from codec.images import read_image
from codec.metrics.kernel_distance import Features, original_features, patch_features
from codec.metrics.outside import SMALLEST_SIDE, ssimulacra2
from codec.metrics.quality import Metrics, Quality

EvaluationRow = dict[str, Any]
"""A row of an evaluation: COLUMNS has its names and types. Tables choose metrics by name."""

RATES = (0.06, 0.10, 0.16, 0.26)
"""Target bits per pixel for each picture: the file stays below, or is the codec's smallest."""
ENOUGH = 0.95
"""Tolerance below a rate as a fraction; curves are interpolated, and closer files cost trials."""

COLUMNS = {
    "image": "VARCHAR",
    "codec": "VARCHAR",
    "version": "VARCHAR",
    "asked_bpp": "DOUBLE",  # NULL at a given setting
    "setting": "DOUBLE",
    "status": "VARCHAR",  # measured | failed
    "error": "VARCHAR",  # why it failed, or why a metric is undefined
    "source_format": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
    "bytes": "BIGINT",  # NULL where there is no file: an autoencoder alone
    "bpp": "DOUBLE",  # 8 * bytes of the whole file / pixels
    "psnr_db": "DOUBLE",
    "ms_ssim": "DOUBLE",
    "lpips_alex": "DOUBLE",
    "lpips_vgg": "DOUBLE",
    "dists": "DOUBLE",
    "ssimulacra2": "DOUBLE",  # NULL in rows of before it was measured
    "encode_seconds": "DOUBLE",
    "decode_seconds": "DOUBLE",
    "picture": "VARCHAR",  # of the reconstruction, below the folder
}


@dataclass(frozen=True)
class EvaluationJob:
    """One picture with one codec, at the codec's own points or else at these rates."""

    pictures: Path
    image: str
    baseline: Baseline
    rates: Sequence[float] = RATES

    @property
    def points(self) -> list[tuple[float | None, float | None]]:
        """(rate, None) or (None, setting)."""
        if self.baseline.points:
            return [(None, setting) for setting in self.baseline.points]
        return [(rate, None) for rate in self.rates]


class Evaluation:
    """A folder of measured rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pending(self, job: EvaluationJob) -> bool:
        """Whether any of the job's points has no row or a failed one."""
        rows_file = self._rows_file(job.baseline.name, job.image)
        if not rows_file.exists():
            return True
        # Point by point: an evaluation may be run again with more rates or qualities.
        done = {_point(row) for row in read_rows([rows_file]) if row["status"] == "measured"}
        return not done.issuperset(job.points)

    def measure(self, job: EvaluationJob, meters: "Meters") -> list[EvaluationRow]:
        """Encodes all files of a job, measures them, and stores rows, features and reconstructions."""
        rows, decoded, features = measure(job, meters)
        rows_file = self._rows_file(job.baseline.name, job.image)
        rows_file.parent.mkdir(parents=True, exist_ok=True)
        # The rows last: they mark the job as done, and refer to the pictures.
        for row, pixels in zip(rows, decoded, strict=True):
            if pixels is not None:
                row["picture"] = _picture(row)
                target = self.folder / row["picture"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(encode_png(pixels))
        if features is not None:
            np.savez_compressed(rows_file.with_suffix(".npz"), allow_pickle=False, **features)
        self.write(job, rows)
        return rows

    def fail(self, job: EvaluationJob, error: str) -> None:
        """Stores failed rows for a job that crashed its process."""
        self.write(job, _all_failed(job, error))

    def write(self, job: EvaluationJob, rows: Sequence[EvaluationRow]) -> None:
        """Replaces the rows of a job."""
        rows_file = self._rows_file(job.baseline.name, job.image)
        rows_file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: the file marks the job as done.
        partial = rows_file.with_suffix(".partial")
        write_parquet(rows, partial)
        partial.replace(rows_file)

    def rows_of(self, job: EvaluationJob) -> list[EvaluationRow]:
        """The rows of a job that is done."""
        return read_rows([self._rows_file(job.baseline.name, job.image)])

    def rows(self) -> list[EvaluationRow]:
        """All rows, by codec, picture and bits."""
        return read_rows(sorted(self.folder.glob("rows/*/**/*.parquet")))

    def features(self, codec: str, image: str) -> dict[str, Features] | None:
        """Features (patches, 512) of a picture: `original`, and by setting_name; None where they were not measured."""
        rows_file = self._rows_file(codec, image).with_suffix(".npz")
        if not rows_file.exists():
            return None
        with np.load(rows_file, allow_pickle=False) as arrays:
            return dict(arrays)

    def _rows_file(self, codec: str, image: str) -> Path:
        return self.folder / "rows" / codec / f"{image}.parquet"


class Meters:
    """All metrics, their networks loaded once. Raises SettingsError when weights cannot be had."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._metrics = Metrics(device=device)

    def measure(
        self, original: Pixels, decoded: Sequence[Pixels]
    ) -> tuple[list[EvaluationRow], dict[str, Features] | None]:
        """The metric columns of each reconstruction, `error` saying why one is undefined; the features of patches."""
        with patch_features(self.device) as seen:
            measured = self._metrics.measure_all(original, decoded)
        rows = [_metric_columns(quality, original, pixels) for quality, pixels in zip(measured, decoded, strict=True)]
        # Nothing is seen of a picture that is measured in tiles, or is smaller than a patch.
        if not seen or not seen[0].size:
            return rows, None
        return rows, {"original": original_features(original, self.device), "decoded": np.concatenate(seen)}


def _metric_columns(quality: Quality, original: Pixels, decoded: Pixels) -> EvaluationRow:
    """The metrics of one reconstruction by column; `error` says why one is undefined."""
    row: EvaluationRow = {
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "dists": quality.dists,
        "lpips_alex": quality.lpips,
        "lpips_vgg": quality.lpips_vgg,
        "ssimulacra2": ssimulacra2(original, decoded),
    }
    reasons = []
    for name, why in quality.reasons.items():
        column = "lpips_alex" if name == "lpips" else name
        reasons.append(f"{column}: {why}")
    if row["ssimulacra2"] is None:
        reasons.append(f"ssimulacra2: side below {SMALLEST_SIDE}")
    row["error"] = "; ".join(reasons) or None
    return row


@dataclass
class _Files:
    """The files of a picture, each made once, with the seconds that took."""

    baseline: Baseline
    pixels: Pixels
    made: dict[float, tuple[bytes, float]] = field(default_factory=dict)

    def at(self, setting: float) -> tuple[bytes, float]:
        """The file at a setting, and the seconds of its encoding."""
        if setting not in self.made:
            started = time.perf_counter()
            data = self.baseline.encode(self.pixels, setting)
            self.made[setting] = (data, time.perf_counter() - started)
        return self.made[setting]

    def setting(self, rate: float | None, setting: float | None) -> float:
        """The setting of a point."""
        if setting is not None:
            return setting
        assert rate is not None
        size = rate * self.pixels.shape[0] * self.pixels.shape[1] / 8
        # Files made for other rates narrow the search.
        known = {setting: len(data) for setting, (data, _) in self.made.items()}
        return largest_within(self.baseline.settings, size, self._length, known, ENOUGH)

    def _length(self, setting: float) -> int:
        data, _ = self.at(setting)
        return len(data)


def measure(
    job: EvaluationJob, meters: Meters
) -> tuple[list[EvaluationRow], list[Pixels | None], dict[str, Features] | None]:
    """The rows of a job with their reconstructions, and the patches' features; failures become rows with a reason."""
    try:
        picture = read_image(job.pictures / job.image)
    except FdcError as error:
        return _all_failed(job, _line(error)), [None] * len(job.points), None
    described = {"source_format": picture.source_format, "width": picture.width, "height": picture.height}
    rows, decoded = _coded_rows(job, picture.pixels)
    try:
        values, features = meters.measure(picture.pixels, list(decoded.values()))
    except (RuntimeError, MemoryError) as error:  # torch reports lack of memory as RuntimeError
        failed = [row | described for row in _all_failed(job, _line(error))]
        return failed, [None] * len(failed), None
    # By setting: rows of two rates may share one file.
    measured = dict(zip(decoded, values, strict=True))
    reconstructions: list[Pixels | None] = []
    for row in rows:
        row |= described
        if row["status"] == "measured":
            row |= measured[row["setting"]]
            reconstructions.append(decoded[row["setting"]])
        else:
            reconstructions.append(None)
    if features is None:
        return rows, reconstructions, None
    named = {setting_name(setting): part for setting, part in zip(decoded, features["decoded"], strict=True)}
    named["original"] = features["original"]
    return rows, reconstructions, named


def _coded_rows(job: EvaluationJob, original: Pixels) -> tuple[list[EvaluationRow], dict[float, Pixels]]:
    """A row for each point, without metrics, and the reconstructions by setting; several points may share one."""
    files = _Files(job.baseline, original)
    decoded: dict[float, Pixels] = {}
    rows: list[EvaluationRow] = []
    for point in job.points:
        try:
            setting = files.setting(*point)
            data, seconds = files.at(setting)
            started = time.perf_counter()
            pixels = job.baseline.decode(data)
            ended = time.perf_counter()
            if pixels.shape != original.shape:  # metrics would compare it with other places, or fail for all points
                raise SettingsError(f"decoded to {pixels.shape} instead of {original.shape}")
        except Exception as error:  # any exception of a codec costs only this row
            rows.append(_failed(job, point, _line(error)))
            continue
        row = _row(job, point) | {"status": "measured", "setting": setting}
        row |= {"encode_seconds": seconds, "decode_seconds": ended - started}
        if not job.baseline.lossless_latent:
            height, width, _ = original.shape
            row |= {"bytes": len(data), "bpp": 8 * len(data) / (width * height)}
        rows.append(row)
        decoded[setting] = pixels
    return rows, decoded


def _all_failed(job: EvaluationJob, error: str) -> list[EvaluationRow]:
    return [_failed(job, point, error) for point in job.points]


def pictures_of(folder: Path) -> list[str]:
    """The files of a folder, recursively, without hidden ones. Raises SettingsError if there are none."""
    found = []
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if path.is_file() and not hidden:
            found.append(below.as_posix())
    if not found:
        raise SettingsError(f"{folder} is not a folder with files")
    return found


def evaluate(jobs: Iterable[EvaluationJob], folder: Path, device: str = "cpu") -> list[EvaluationRow]:
    """Runs the unfinished jobs one after the other and returns the rows of all."""
    evaluation = Evaluation(folder)
    meters: Meters | None = None
    rows: list[EvaluationRow] = []
    for job in jobs:
        if evaluation.pending(job):
            meters = meters or Meters(device)  # no networks if all jobs are done
            evaluation.measure(job, meters)
        rows += evaluation.rows_of(job)
    return rows


def jobs(pictures: Path, codecs: Iterable[Baseline], rates: Sequence[float]) -> list[EvaluationJob]:
    """Every picture with every codec, picture by picture, since results of an original are cached."""
    chosen = list(codecs)
    found = []
    for image in pictures_of(pictures):
        for baseline in chosen:
            found.append(EvaluationJob(pictures, image, baseline, rates))
    return found


def read_rows(row_files: Sequence[Path]) -> list[EvaluationRow]:
    """The rows of Parquet files."""
    if not row_files:
        return []
    with duckdb.connect() as database:
        files = list(map(str, row_files))
        found = database.execute("SELECT * FROM read_parquet(?, union_by_name = true)", [files])
        names = [column[0] for column in found.description or ()]
        rows = []
        for values in found.fetchall():
            row = dict(zip(names, values, strict=True))
            rows.append({name: row.get(name) for name in COLUMNS})  # older files lack newer columns
    return rows


def write_parquet(rows: Sequence[EvaluationRow], path: Path) -> None:
    """Writes the rows, one column each of COLUMNS. Raises SettingsError where that fails."""
    declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    marks = ", ".join(["?"] * len(COLUMNS))
    values = []
    for row in rows:
        values.append([row.get(name) for name in COLUMNS])
    target = str(path).replace("'", "''")  # COPY takes no parameter for its file
    try:
        with duckdb.connect() as database:
            database.execute(f"CREATE TABLE report ({declared})")
            database.executemany(f"INSERT INTO report VALUES ({marks})", values)
            database.execute(f"COPY report TO '{target}' (FORMAT parquet)")
    except duckdb.Error as error:
        raise SettingsError(f"cannot write the report: {str(error).splitlines()[0]}") from None


def setting_name(setting: float) -> str:
    """The name of a setting in file names and arrays."""
    return f"setting-{setting:.6g}"


def _row(job: EvaluationJob, point: tuple[float | None, float | None]) -> EvaluationRow:
    rate, setting = point
    row: EvaluationRow = dict.fromkeys(COLUMNS)
    row["image"] = job.image
    row["codec"] = job.baseline.name
    row["version"] = job.baseline.version
    row["asked_bpp"] = rate
    row["setting"] = setting
    return row


def _failed(job: EvaluationJob, point: tuple[float | None, float | None], error: str) -> EvaluationRow:
    return _row(job, point) | {"status": "failed", "error": error}


def _point(row: EvaluationRow) -> tuple[float | None, float | None]:
    """The point at which a row was measured, as EvaluationJob.points lists it."""
    if row["asked_bpp"] is not None:
        return row["asked_bpp"], None
    return None, row["setting"]


def _picture(row: EvaluationRow) -> str:
    """Path of a reconstruction, shared by rows of one setting."""
    name = row["image"]
    if not name.endswith(".png"):
        name += ".png"
    return f"pictures/{row['codec']}/{setting_name(row['setting'])}/{name}"


def _line(error: BaseException) -> str:
    """An exception in one line; other people's with its type, since their texts assume it."""
    text = " ".join(str(error).split())
    if isinstance(error, FdcError):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")
