"""Other makers' S3 servers, as far as they are installed: each a process of its own that forgets everything."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support import fake_s3

KEYS = ("testing", "planted-secret")
SECONDS = 120


def version(*command: str) -> str:
    """The first line of what a program says of itself."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).splitlines()[0].strip()


@contextmanager
def rclone(home: Path) -> Iterator[str]:
    """rclone serve s3, over a folder."""
    with _started(home, lambda port: _RCLONE.format(port=port, keys=",".join(KEYS), home=home).split()) as address:
        yield address


_RCLONE = "rclone serve s3 --auth-key {keys} --addr 127.0.0.1:{port} {home}"


@contextmanager
def s3rver(home: Path) -> Iterator[str]:
    """s3rver, of npm."""
    with _started(home, lambda port: f"s3rver --address 127.0.0.1 --port {port} --directory {home}".split()) as address:
        yield address


@contextmanager
def ceph(home: Path) -> Iterator[str]:
    """Ceph's object gateway on a monitor, a manager and one disk in memory."""
    monitor, gateway, fsid = _port(), _port(), str(uuid.uuid4())
    conf = home / "ceph.conf"
    conf.write_text(_CEPH.format(home=home, monitor=monitor, gateway=gateway, fsid=fsid))

    def call(*command: str) -> str:
        known = [command[0], "--conf", str(conf), *command[1:]]
        return subprocess.run(known, check=True, capture_output=True, text=True, timeout=SECONDS).stdout

    with ExitStack() as stack:

        def start(*command: str) -> None:
            stack.enter_context(_running([command[0], "--conf", str(conf), "-f", *command[1:]], home))

        for folder in ("mon", "osd", "mgr", "rgw"):
            (home / folder).mkdir()
        call("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", fsid, f"{home}/monmap")
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{home}/monmap")
        start("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        call("ceph", "osd", "new", disk)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-mgr", "-i", "x")
        start("ceph-osd", "-i", "0")
        while json.loads(call("ceph", "osd", "stat", "--format", "json"))["num_up_osds"] < 1:
            time.sleep(0.5)
        start("radosgw", "-n", "client.rgw")
        owner = ("--uid", "owner", "--display-name", "owner", "--access-key", KEYS[0], "--secret-key", KEYS[1])
        call("radosgw-admin", "user", "create", *owner)
        address = f"http://127.0.0.1:{gateway}"
        _wait(address)
        yield address


_CEPH = """
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{monitor}]
ms bind msgr2 = false
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 3000000000
run dir = {home}
log file = {home}/$name.log
admin socket = {home}/$name.sock
keyring = {home}/keyring
mon data = {home}/mon
osd data = {home}/osd
mgr data = {home}/mgr
rgw data = {home}/rgw
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""


@contextmanager
def moto(home: Path) -> Iterator[str]:
    """The server of the tests, with checksums that are checked."""
    with fake_s3.serving(ways=("checks-checksums",)) as address:
        yield address


Server = tuple[str, Callable[[Path], AbstractContextManager[str]], Callable[[], str]]


def installed() -> Mapping[str, Server]:
    """Servers by name: the credentials' first half that works, what starts one and gives its address, its version."""
    import moto as package  # slow

    found: dict[str, Server] = {"moto": (KEYS[0], moto, lambda: f"moto {package.__version__}, checks checksums")}
    if shutil.which("rclone") and "s3" in version("rclone", "serve", "s3", "--help").lower():  # since 1.65
        found["rclone"] = (KEYS[0], rclone, lambda: version("rclone", "version"))
    if shutil.which("s3rver"):
        found["s3rver"] = ("S3RVER", s3rver, lambda: f"s3rver {version('s3rver', '--version')}")
    if all(map(shutil.which, ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph"))):
        found["ceph"] = (KEYS[0], ceph, lambda: " ".join(version("radosgw", "--version").split()[:3]))
    return found


def credentials(server: str) -> dict[str, str]:
    """What a client of a server needs in its environment, besides its address."""
    keys = ("S3RVER", "S3RVER") if server == "s3rver" else KEYS
    return {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1], "AWS_DEFAULT_REGION": "us-east-1"}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(home: Path, command: Callable[[int], list[str]]) -> Iterator[str]:
    port = _port()
    with _running(command(port), home):
        _wait(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], home: Path) -> Iterator[None]:
    with (home.parent / f"{home.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(home)})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait(address: str) -> None:
    """Until the server answers, whatever it says."""
    options = Config(connect_timeout=2, read_timeout=20, retries={"max_attempts": 0})
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", config=options, **_any_keys())
    deadline = time.time() + SECONDS
    while True:
        try:
            client.list_buckets()
            return
        except ClientError:
            return
        except BotoCoreError:
            if time.time() > deadline:
                sys.exit(f"{address}: no server")
            time.sleep(0.2)


def _any_keys() -> dict[str, str]:
    return {"aws_access_key_id": KEYS[0], "aws_secret_access_key": KEYS[1]}
