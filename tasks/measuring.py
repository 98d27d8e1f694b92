"""The child process that measures: `python -m tasks.measuring CONTEST`, a codec.contest.Contest as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from codec.contest import Contest
from codec.evaluation import Evaluation, Meters
from tasks.channel import Frame, Handler, serve


def _prepare() -> tuple[dict[str, Any], Handler]:
    contest = Contest(**{name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(sys.argv[1]).items()})
    codecs, _ = contest.open()
    jobs = {(job.image, job.baseline.name): job for job in contest.jobs(codecs)}
    kept, meters = Evaluation(Path(contest.output)), Meters(contest.device)

    def handle(header: dict[str, Any], _payload: bytes) -> Frame:
        kept.measure(jobs[header["image"], header["codec"]], meters)
        return {}, b""

    return {}, handle


if __name__ == "__main__":
    serve(_prepare)
