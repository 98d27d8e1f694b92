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
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support import fake_s3

KEYS = ("testing", "planted-secret")
S3RVER_KEY = "S3RVER"
"""s3rver knows this pair only."""
CEPH_PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph")
SECONDS = 120


def version(*command: str) -> str:
    """The first line of what a program says of itself."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).splitlines()[0].strip()


@contextmanager
def rclone(home: Path) -> Iterator[str]:
    """rclone serve s3, over a folder."""
    port = _port()
    keys = ",".join(KEYS)
    command = f"rclone serve s3 --auth-key {keys} --addr 127.0.0.1:{port} {home}"
    with _started(home, command.split(), port) as address:
        yield address


@contextmanager
def s3rver(home: Path) -> Iterator[str]:
    """s3rver, of npm."""
    port = _port()
    command = f"s3rver --address 127.0.0.1 --port {port} --directory {home}"
    with _started(home, command.split(), port) as address:
        yield address


@contextmanager
def ceph(home: Path) -> Iterator[str]:
    """Ceph's object gateway on a monitor, a manager and one disk in memory."""
    monitor = _port()
    gateway = _port()
    fsid = str(uuid.uuid4())
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
        # Each step asks those before it: the monitors' map, a monitor, a disk that it knows of, then the gateway.
        call("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", fsid, f"{home}/monmap")
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{home}/monmap")
        start("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        call("ceph", "osd", "new", disk)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-mgr", "-i", "x")
        start("ceph-osd", "-i", "0")
        # The gateway makes its pools when it starts, which needs a disk that is up.
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
    """The S3 server of the tests, which compares bodies with the checksums sent beside them."""
    with fake_s3.serving(ways=("checks-checksums",)) as address:
        yield address


Server = tuple[str, Callable[[Path], AbstractContextManager[str]], Callable[[], str]]


def installed() -> Mapping[str, Server]:
    """Servers by name: the credentials' first half that works, what starts one and gives its address, its version."""
    found: dict[str, Server] = {"moto": (KEYS[0], moto, _version_of_moto)}
    # rclone has this command since 1.65, and older ones are still packaged.
    if shutil.which("rclone") and "s3" in version("rclone", "serve", "s3", "--help").lower():
        found["rclone"] = (KEYS[0], rclone, partial(version, "rclone", "version"))
    if shutil.which("s3rver"):
        found["s3rver"] = (S3RVER_KEY, s3rver, _version_of_s3rver)
    if all(map(shutil.which, CEPH_PROGRAMS)):
        found["ceph"] = (KEYS[0], ceph, _version_of_ceph)
    return found


def _version_of_moto() -> str:
    import moto as package  # slow

    return f"moto {package.__version__}, checks checksums"


def _version_of_s3rver() -> str:
    return f"s3rver {version('s3rver', '--version')}"


def _version_of_ceph() -> str:
    words = version("radosgw", "--version").split()
    return " ".join(words[:3])  # without the hash of its commit


def credentials(server: str) -> dict[str, str]:
    """What a client of a server needs in its environment, besides its address."""
    access, secret = KEYS
    if server == "s3rver":
        access = S3RVER_KEY
        secret = S3RVER_KEY
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(home: Path, command: list[str], port: int) -> Iterator[str]:
    address = f"http://127.0.0.1:{port}"
    with _running(command, home):
        _wait(address)
        yield address


@contextmanager
def _running(command: list[str], home: Path) -> Iterator[None]:
    # Beside the folder, not in it: a server that serves the folder would list the log as an object.
    with (home.parent / f"{home.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(home)})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait(address: str) -> None:
    """Wait until the server answers, whatever it answers."""
    options = Config(connect_timeout=2, read_timeout=20, retries={"max_attempts": 0})
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", config=options, **_any_keys())
    deadline = time.time() + SECONDS
    while True:
        try:
            client.list_buckets()
            return
        except ClientError:
            return  # an answer too, if only a refusal of these keys
        except BotoCoreError:
            if time.time() > deadline:
                sys.exit(f"{address}: no server")
            time.sleep(0.2)


def _any_keys() -> dict[str, str]:
    return {"aws_access_key_id": KEYS[0], "aws_secret_access_key": KEYS[1]}
