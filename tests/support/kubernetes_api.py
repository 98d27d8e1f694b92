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
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, urlsplit

Right = tuple[str, str, str]
"""Namespace, resource, verb."""
OF_V1 = {"namespaces": "Namespace", "pods": "Pod", "events": "Event", "secrets": "Secret"}
GROUPS = {"v1": OF_V1, "batch/v1": {"jobs": "Job"}}


def rights_of(role: dict[str, Any]) -> set[Right]:
    """What a Role allows."""
    place = role["metadata"]["namespace"]
    rights = set()
    for rule in role["rules"]:
        for kind in rule["resources"]:
            for verb in rule["verbs"]:
                rights.add((place, kind, verb))
    return rights


class Cluster:
    """The requests that were granted and refused, the watches that began, and the jobs that were made."""

    def __init__(self, rights: set[Right]) -> None:
        self._rights = rights
        self.granted: list[Right] = []
        self.refused: list[Right] = []
        self.watched: list[Right] = []
        self.jobs: list[dict[str, Any]] = []
        self.over = threading.Event()

    def may(self, asked: Right) -> bool:
        allowed = asked in self._rights
        if allowed:
            self.granted.append(asked)
        else:
            self.refused.append(asked)
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
    # The server makes a handler for each request itself: the cluster reaches them as an attribute of their class.
    handler = type("Bound", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True  # a watch that still waits must not keep pytest alive
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    about = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "played",
        "clusters": [{"name": "played", "cluster": {"server": address}}],
        "users": [{"name": "worker", "user": {"token": "played"}}],
        "contexts": [{"name": "played", "context": {"cluster": "played", "user": "worker"}}],
    }
    kubeconfig.write_text(json.dumps(about))
    try:
        yield cluster
    finally:
        cluster.over.set()  # first, or the worker's watches would hang on a server that is gone
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cluster: ClassVar[Cluster]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked_for = urlsplit(self.path)
        found = _discovery(asked_for.path)
        if found is not None:
            self._say(200, found)
            return
        resource = _resource(asked_for.path)
        # Clients of several languages write true in their own way.
        watching = parse_qs(asked_for.query).get("watch", ["false"])[0] in ("1", "true", "True")
        if watching:
            verb = "watch"
        elif resource.name:
            verb = "get"
        else:
            verb = "list"
        asked = (resource.place, resource.kind, verb)
        if not self.cluster.may(asked):
            self._refuse(asked)
        elif watching:
            self._watch(asked)
        elif resource.name:
            self._one(resource.name)
        else:
            self._all(resource)

    def do_POST(self) -> None:
        resource = _resource(urlsplit(self.path).path)
        # Read even if it is refused: what is left of a body would be taken for the next request.
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = (resource.place, resource.kind, "create")
        if not self.cluster.may(asked):
            self._refuse(asked)
            return
        self._say(201, self.cluster.create(resource.place, body))

    def _one(self, name: str) -> None:
        wanted = name.partition("/")[0]  # of NAME/status and the like
        for job in self.cluster.jobs:
            if job["metadata"]["name"] == wanted:
                self._say(200, job)
                return
        self._say(404, _status(404, "NotFound"))

    def _all(self, resource: "_Resource") -> None:
        items = self.cluster.jobs if resource.kind == "jobs" else []
        of_kind = f"{GROUPS[resource.group][resource.kind]}List"
        about = {"kind": of_kind, "apiVersion": resource.group, "metadata": {"resourceVersion": "1"}}
        self._say(200, about | {"items": items})

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


class _Resource(NamedTuple):
    """What a path names; an empty `place` is the whole cluster, an empty `name` all of a kind."""

    group: str
    place: str
    kind: str
    name: str


def _resource(path: str) -> _Resource:
    """Read /api/v1/... or /apis/GROUP/VERSION/..., each with or without namespaces/NAMESPACE."""
    parts = path.strip("/").split("/")
    if parts[0] == "api":
        group = parts[1]
        rest = parts[2:]
    else:
        group = "/".join(parts[1:3])
        rest = parts[3:]
    place = ""
    # /namespaces/NAME alone is the namespace itself.
    if rest[0] == "namespaces" and len(rest) > 2:
        place = rest[1]
        rest = rest[2:]
    return _Resource(group, place, rest[0], "/".join(rest[1:]))


def _discovery(path: str) -> dict[str, Any] | None:
    """What every account may know."""
    batch = {"groupVersion": "batch/v1", "version": "v1"}
    batch_group = {"name": "batch", "versions": [batch], "preferredVersion": batch}
    found: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": [batch_group]},
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
