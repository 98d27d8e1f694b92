"""The archive's part of tests.benchmarks.gpu: megapixels a second from JPEG files, and when each stage is at work."""

import io
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.metrics import names
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress import process_pair
from tasks.compress.runs import compress
from tasks.compress.shard import CompressionJob, encode_shard
from tasks.processes import stages
from tasks.processes.codec_process import Models
from tests.support.tiny_bundles import tiny_bundle

DIFFERENT = 8
"""Pictures that are made; the others are these, moved around their borders."""


@dataclass(frozen=True)
class Form:
    """How many pictures of which size, by how many workers, in batches of how many."""

    device: str
    side: int
    pictures: int
    workers: int
    batches: tuple[int, ...]
    metrics: tuple[tuple[str, ...], ...]
    """Each of which is an archive of its own."""


GPU = Form("cuda", 1024, 384, 4, (1, 8), ((), names.DEFAULT))
REHEARSAL = Form("cpu:0", 64, 5, 1, (2,), (("psnr",),))


class Listener(logging.Handler):
    """Keeps the spans that processes tell of."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.spans: list[tuple[str, stages.Span]] = []

    def emit(self, record: logging.LogRecord) -> None:
        for span in getattr(record, "spans", ()):
            self.spans.append((f"{record.worker} {record.threadName}", span))  # type: ignore[attr-defined]


@contextmanager
def listening() -> Iterator[Listener]:
    """Hear of all spans told meanwhile."""
    listener = Listener()
    level = stages.LOGGER.level
    stages.LOGGER.addHandler(listener)
    stages.LOGGER.setLevel(logging.DEBUG)
    try:
        yield listener
    finally:
        stages.LOGGER.removeHandler(listener)
        stages.LOGGER.setLevel(level)


def photos(folder: Path, count: int, side: int) -> Path:
    """JPEG files whose spectrum falls as that of photos does."""
    folder.mkdir(parents=True)
    different = [_photo(seed, side) for seed in range(min(count, DIFFERENT))]
    for number in range(count):
        pixels = np.roll(different[number % len(different)], 8 * (number // len(different)), axis=1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    return folder


def _photo(seed: int, side: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    rows = np.fft.fftfreq(side)[:, None]
    columns = np.fft.rfftfreq(side)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / side)
    shared = rng.normal(size=(side, side))
    layers = []
    for _ in range(3):
        noise = np.fft.rfft2(shared + 0.3 * rng.normal(size=(side, side))) * amplitude
        layer = np.fft.irfft2(noise, (side, side))
        layers.append(128 + 55 * (layer - layer.mean()) / layer.std())
    return np.stack(layers, 2).clip(0, 255).astype(np.uint8)


def rows(form: Form, home: Path, bundle: str, trace: Path | None) -> Iterator[str]:
    """The table, then what each stage was busy in the last archive; the trace has that archive's time line."""
    source = photos(home / "photos", form.pictures, form.side)
    if form.side < 256 and not bundle:
        bundle = str(tiny_bundle(home / "bundle").path)
    yield "| batch | metrics | megapixels a second, models loaded | megapixels a second in all | seconds |"
    yield "|---|---|---|---|---|"
    last: list[tuple[str, stages.Span]] = []
    for batch in form.batches:
        for metrics in form.metrics:
            shard = -(-form.pictures // (2 * form.workers))
            settings = RunSettings(batch=batch, metrics=metrics, max_images_per_shard=shard, quality=8.0)
            archive = home / f"archive-{batch}-{len(metrics)}"
            started = time.monotonic()
            with listening() as listener, ThreadPoolExecutor(form.workers) as pool:
                kept = _compressed(source, archive, settings, Models(bundle, form.device), pool)
            ended = time.monotonic()
            if kept != form.pictures:
                raise AssertionError(f"only {kept} of {form.pictures} pictures are compressed")
            megapixels = form.pictures * form.side**2 / 1e6
            rate = "not told"
            if listener.spans:
                last = listener.spans
                rate = f"{megapixels / (ended - min(span[1] for _, span in last)):.1f}"
            cells = f"{rate} | {megapixels / (ended - started):.1f} | {ended - started:.1f}"
            yield f"| {batch} | {', '.join(metrics) or 'none'} | {cells} |"
    if last:
        yield from _busy(last, form)
        if trace is not None:
            trace.write_text(json.dumps(timeline(last)))
            yield f"time line: {trace}"


def _compressed(source: Path, archive: Path, settings: RunSettings, models: Models, pool: ThreadPoolExecutor) -> int:
    """Pictures of a new archive that are compressed."""

    def mapped(job: CompressionJob, shards: int) -> list[report.Totals]:
        return list(pool.map(partial(encode_shard, job), range(shards)))

    try:
        return compress(str(source), str(archive), settings, models=models, shard_map=mapped).totals["compressed"]
    finally:
        process_pair.dismiss_all()


def _busy(told: list[tuple[str, stages.Span]], form: Form) -> Iterator[str]:
    begin = min(span[1] for _, span in told)
    end = max(span[2] for _, span in told)
    busy: dict[str, float] = defaultdict(float)
    for _, (stage, start, stop) in told:
        busy[stage] += stop - start
    shares = [f"{stage} {seconds / (end - begin) / form.workers:.0%}" for stage, seconds in busy.items()]
    yield f"\nthe last archive: of {end - begin:.1f} s a worker is busy with: {', '.join(shares)}"


def timeline(told: list[tuple[str, stages.Span]]) -> dict[str, list[dict[str, object]]]:
    """Spans as events of Chrome's trace viewer, microseconds from the first; a row a stage of a worker."""
    begin = min(span[1] for _, span in told)
    events: list[dict[str, object]] = []
    for worker, (stage, start, stop) in told:
        place = {"pid": worker, "tid": stage, "ts": 1e6 * (start - begin), "dur": 1e6 * (stop - start)}
        events.append({"name": stage, "ph": "X", **place})
    return {"traceEvents": events}
