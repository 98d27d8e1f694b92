"""The child process that measures: `python -m tasks.processes.measure_worker CONTEST`, a spec.Contest as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from codec.evaluation.runner import Evaluation, Meters
from codec.evaluation.spec import Contest
from codec.support.malloc import keep_freed_memory
from tasks.processes import requests
from tasks.processes.child import Frame, Handler, serve


def _prepare() -> tuple[dict[str, Any], Handler]:
    told: dict[str, Any] = json.loads(sys.argv[1])
    told |= {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    contest = Contest(**told)
    codecs, _ = contest.open()
    jobs = {(job.image, job.baseline.name): job for job in contest.jobs(codecs)}
    keep_freed_memory(large=True)
    kept, meters = Evaluation(Path(contest.output)), Meters(contest.device)

    def handle(header: dict[str, Any], _payload: bytes) -> Frame:
        request = requests.read(header, requests.Measure)
        kept.measure(jobs[request.image, request.codec], meters)
        return {}, b""

    return {}, handle


if __name__ == "__main__":
    serve(_prepare)
