"""The child process that measures: `python -m tasks.processes.measure_worker CONFIG`, spec.EvaluationConfig as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from codec.evaluation.runner import Evaluation, Meters
from codec.evaluation.spec import EvaluationConfig
from codec.support.malloc import keep_freed_memory
from tasks.processes import requests
from tasks.processes.child import Frame, Handler, serve


def _prepare() -> tuple[dict[str, Any], Handler]:
    fields: dict[str, Any] = json.loads(sys.argv[1])
    for name, value in fields.items():
        if isinstance(value, list):  # JSON has no tuples
            fields[name] = tuple(value)
    config = EvaluationConfig(**fields)
    codecs, _ = config.open()
    jobs = {(job.image, job.baseline.name): job for job in config.jobs(codecs)}
    keep_freed_memory(large=True)
    evaluation = Evaluation(Path(config.output))
    meters = Meters(config.device)

    def handle(header: dict[str, Any], _payload: bytes) -> Frame:
        request = requests.read(header, requests.Measure)
        evaluation.measure(jobs[request.image, request.codec], meters)
        return {}, b""

    return {}, handle


if __name__ == "__main__":
    serve(_prepare)
