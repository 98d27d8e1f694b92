"""A stand-in for a cluster's API that enforces the rights of a Role. It keeps jobs, and starts nothing.

There is no cluster to test with, so this part is played; who asks it is the real worker of prefect-kubernetes.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

Right = tuple[str, str, str]
"""Namespace, resource, verb."""
OF_V1 = {"namespaces": "Namespace", "pods": "Pod", "events": "Event", "secrets": "Secret"}
GROUPS = {"v1": OF_V1, "batch/v1": {"jobs": "Job"}}


def rights_of(role: dict[str, Any]) -> set[Right]:
    """What a Role allows."""
    place = role["metadata"]["namespace"]
    return {(place, kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}


class Cluster:
    """What was asked of the API, what of it was refused, and the jobs that were made."""

    def __init__(self, rights: set[Right]) -> None:
        self._rights = rights
        self.granted: list[Right] = []
        self.refused: list[Right] = []
        self.watched: list[Right] = []
        self.jobs: list[dict[str, Any]] = []
        self.over = threading.Event()

    def may(self, asked: Right) -> bool:
        allowed = asked in self._rights
        (self.granted if allowed else self.refused).append(asked)
        return allowed

    def create(self, place: str, job: dict[str, Any]) -> dict[str, Any]:
        name = f"{job['metadata'].pop('generateName', 'job-')}{len(self.jobs)}"
        job["metadata"] |= {"name": name, "namespace": place, "uid": str(uuid.uuid4()), "resourceVersion": "1"}
        job["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        self.jobs.append(job)
        return job


@contextmanager
def playing(role: dict[str, Any], kubeconfig: Path) -> Iterator[Cluster]:
    """A cluster whose one user has a Role; how it is reached is written into a file."""
    cluster = Cluster(rights_of(role))
    handler = type("Bound", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    about = {"apiVersion": "v1", "kind": "Config", "current-context": "played"}
    about |= {"clusters": [{"name": "played", "cluster": {"server": address}}]}  # type: ignore[dict-item]
    about |= {"users": [{"name": "worker", "user": {"token": "played"}}]}  # type: ignore[dict-item]
    about |= {"contexts": [{"name": "played", "context": {"cluster": "played", "user": "worker"}}]}  # type: ignore[dict-item]
    kubeconfig.write_text(json.dumps(about))
    try:
        yield cluster
    finally:
        cluster.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cluster: ClassVar[Cluster]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if (found := _discovery(path)) is not None:
            return self._say(200, found)
        group, place, kind, name = _resource(path)
        watching = query.get("watch", ["false"])[0] in ("1", "true", "True")
        asked = (place, kind, "watch" if watching else "get" if name else "list")
        if not self.cluster.may(asked):
            return self._refuse(asked)
        if watching:
            return self._watch(asked)
        if name:
            jobs = [job for job in self.cluster.jobs if job["metadata"]["name"] == name.partition("/")[0]]
            return self._say(200, jobs[0]) if jobs else self._say(404, _status(404, "NotFound"))
        items = self.cluster.jobs if kind == "jobs" else []
        of_kind = f"{GROUPS[group][kind]}List"
        return self._say(
            200, {"kind": of_kind, "apiVersion": group, "metadata": {"resourceVersion": "1"}, "items": items}
        )

    def do_POST(self) -> None:
        _, place, kind, _ = _resource(urlsplit(self.path).path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.cluster.may((place, kind, "create")):
            return self._refuse((place, kind, "create"))
        return self._say(201, self.cluster.create(place, body))

    def _watch(self, asked: Right) -> None:
        """Nothing ever happens, until it is over."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.cluster.watched.append(asked)
        self.cluster.over.wait()
        self.close_connection = True

    def _refuse(self, asked: Right) -> None:
        place, kind, verb = asked
        self._say(403, _status(403, "Forbidden", f"cannot {verb} resource {kind} in {place or 'the cluster'}"))

    def _say(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _status(code: int, reason: str, message: str = "") -> dict[str, Any]:
    about = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return about | {"reason": reason, "code": code, "message": message or reason}


def _resource(path: str) -> tuple[str, str, str, str]:
    """Group, namespace (empty: the whole cluster), resource and name of a path."""
    parts = path.strip("/").split("/")
    group, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    place = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        place, rest = rest[1], rest[2:]
    return group, place, rest[0], "/".join(rest[1:])


def _discovery(path: str) -> dict[str, Any] | None:
    """What every account may know."""
    batch = {"groupVersion": "batch/v1", "version": "v1"}
    preferred = {"preferredVersion": batch}
    found: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": [{"name": "batch", "versions": [batch]} | preferred]},
    }
    for group, kinds in GROUPS.items():
        verbs = ["get", "list", "watch", "create", "patch", "delete"]
        listed = [
            {"name": name, "singularName": "", "namespaced": name != "namespaces", "kind": kind, "verbs": verbs}
            for name, kind in kinds.items()
        ]
        place = f"/api/{group}" if group == "v1" else f"/apis/{group}"
        found[place] = {"kind": "APIResourceList", "groupVersion": group, "resources": listed}
    return found.get(path.rstrip("/"))
