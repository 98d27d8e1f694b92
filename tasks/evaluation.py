"""Measure codecs on a folder of pictures in several processes at a time; whatever one picture does costs its rows."""

import itertools
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from codec.evaluation.baselines import Baseline
from codec.evaluation.runner import Evaluation, Job
from codec.evaluation.spec import Contest
from tasks.processes.child import Child, ChildDied
from tasks.progress import SILENT, Progress


def measure(
    contest: Contest,
    codecs: list[Baseline],
    *,
    workers: int = 1,
    threads: int = 1,
    seconds: float = 1800.0,
    progress: Progress = SILENT,
) -> int:
    """Measure what has no row yet; returns how many pictures that was, each with one codec.

    `workers` child processes of so many computing threads each work on a picture at a time. One that takes longer than
    `seconds` with one codec, or ends over it, leaves failed rows. Raises ArchiveError when a child cannot start.
    """
    kept, jobs = Evaluation(Path(contest.output)), contest.jobs(codecs)
    progress.begin(len(jobs))
    pending = [job for job in jobs if kept.pending(job)]
    progress.advance(len(jobs) - len(pending))
    idle: SimpleQueue[Child] = SimpleQueue()

    def of_one_picture(several: Iterable[Job]) -> None:
        child = idle.get()
        try:
            for job in several:
                try:
                    child.ask({"image": job.image, "codec": job.baseline.name}, seconds=seconds)
                except ChildDied as died:
                    kept.fail(job, str(died))
                progress.advance(1)
        finally:
            idle.put(child)

    pictures = [list(several) for _, several in itertools.groupby(pending, key=lambda job: job.image)]
    arguments = [json.dumps(asdict(contest))]
    children = [
        Child("tasks.processes.measure_worker", arguments, threads, environment=os.environ)
        for _ in range(min(workers, len(pictures)))
    ]
    with ThreadPoolExecutor(max(1, len(children))) as pool:
        try:
            for child in children:
                idle.put(child.__enter__())
            for done in pool.map(of_one_picture, pictures):
                assert done is None
        finally:
            pool.shutdown(cancel_futures=True)
            for child in children:
                child.__exit__()
    return len(pending)
