"""Measures codecs on a folder of pictures in several processes; a failure affects only the rows of its picture."""

import itertools
import json
import operator
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from codec.errors import SettingsError
from codec.evaluation.baselines import Baseline
from codec.evaluation.runner import Evaluation, EvaluationJob
from codec.evaluation.spec import EvaluationConfig
from tasks.processes.child import Child, ChildDied
from tasks.processes.requests import Measure
from tasks.progress import SILENT, Progress
from tasks.storage.store import Store
from tasks.storage.working_copy import WorkingCopy

MOST_COPIED = 10_000
"""Most pictures copied from a URL: an evaluation uses a sample."""
SEND_SECONDS = 60.0


class Changed:
    """Callback for changes of the output: uploads it, if it is at a URL, at most every SEND_SECONDS."""

    def __init__(self, copy: WorkingCopy | None) -> None:
        self._copy = copy
        self._due = time.monotonic() + SEND_SECONDS
        self._sending = threading.Lock()

    def __call__(self) -> None:
        if self._copy is None or time.monotonic() < self._due:
            return
        # Threads that measure do not wait for an upload: a later call, or the end of the work, sends their rows.
        if not self._sending.acquire(blocking=False):
            return
        try:
            self._copy.send()
            self._due = time.monotonic() + SEND_SECONDS
        finally:
            self._sending.release()

    def telling(self, progress: Progress) -> Progress:
        """Wraps a progress so that each picture also calls this."""
        return _Telling(progress, self)


class _Telling(Progress):
    def __init__(self, progress: Progress, changed: Changed) -> None:
        self._progress = progress
        self._changed = changed

    def begin(self, images: int) -> None:
        self._progress.begin(images)

    def advance(self, images: int) -> None:
        self._progress.advance(images)
        self._changed()


@contextmanager
def as_folders(pictures: str, output: str) -> Iterator[tuple[Path, Path, Changed]]:
    """Opens pictures and output as local folders: themselves, or working copies of URLs.

    The output is uploaded during the work and at its end, also after an error. A row is uploaded after the picture it
    names. Raises SettingsError for too many pictures at a URL.
    """
    originals = Path(pictures)
    output_folder = Path(output)
    copy: WorkingCopy | None = None
    if "://" in pictures:
        first_objects = list(itertools.islice(Store(pictures).list(), MOST_COPIED + 1))
        if len(first_objects) > MOST_COPIED:
            raise SettingsError(f"{pictures}: more than {MOST_COPIED} objects; copy a sample of them to another folder")
        source = WorkingCopy(pictures, "pictures")
        source.fetch()
        originals = source.folder
    if "://" in output:
        # Rows are uploaded after other files, so that no row at the URL names a picture that is not there.
        copy = WorkingCopy(output, "evaluation", vouching="rows/**/*.parquet")
        copy.fetch()
        output_folder = copy.folder
    try:
        yield originals, output_folder, Changed(copy)
    finally:
        if copy is not None:
            copy.send()


def measure(
    config: EvaluationConfig,
    codecs: list[Baseline],
    *,
    workers: int = 1,
    threads: int = 1,
    seconds: float = 1800.0,
    progress: Progress = SILENT,
) -> int:
    """Measures pictures and codecs without rows. Returns the number of (picture, codec) pairs measured.

    `workers` child processes with `threads` computing threads each measure one picture at a time. A picture that takes
    longer than `seconds` with one codec, or crashes the child, gets failed rows. Raises ArchiveError if a child cannot
    start.
    """
    evaluation = Evaluation(Path(config.output))
    jobs = config.jobs(codecs)
    progress.begin(len(jobs))
    pending = [job for job in jobs if evaluation.pending(job)]
    progress.advance(len(jobs) - len(pending))
    idle: SimpleQueue[Child] = SimpleQueue()

    def of_one_picture(several: Iterable[EvaluationJob]) -> None:
        child = idle.get()
        try:
            for job in several:
                try:
                    child.ask(Measure(job.image, job.baseline.name), seconds=seconds)
                except ChildDied as died:
                    evaluation.fail(job, str(died))
                progress.advance(1)
        finally:
            idle.put(child)

    # All codecs of a picture in one process, which caches what it computed of the original.
    pictures = [list(several) for _, several in itertools.groupby(pending, key=operator.attrgetter("image"))]
    arguments = [json.dumps(asdict(config))]
    children = [
        Child("tasks.processes.measure_worker", arguments, threads, environment=os.environ)
        for _ in range(min(workers, len(pictures)))
    ]
    with ThreadPoolExecutor(max(1, len(children))) as pool:
        try:
            for child in children:
                idle.put(child.__enter__())
            list(pool.map(of_one_picture, pictures))  # raises the first error of a thread
        finally:
            pool.shutdown(cancel_futures=True)
            for child in children:
                child.__exit__()
    return len(pending)
