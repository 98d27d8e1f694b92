"""Hostile requests: each gets a clear status or is cut off, none reaches a file, and the others are still served."""

import base64
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.gateway import connections
from tasks.gateway.guard import LOOPBACK
from tasks.gateway.tokens import Gate
from tests.support.gateways import Running, running

TOKEN = "a token of thirty characters!!"
THUMBNAIL = "/2024/photo.jpg.webp?preview=1"


def sent(gateway: Running, data: bytes, *, until_closed: float = 30.0) -> bytes:
    """What the gateway answers to bytes as they are, until it closes the connection."""
    host, port = gateway.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), until_closed) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def asked(gateway: Running, target: str, *headers: str, method: str = "GET") -> tuple[int, bytes]:
    """The status and the whole answer of a request whose target is sent as it is."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", ""]
    answer = sent(gateway, "\r\n".join(lines).encode())
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(
    "target",
    [
        "/../../../etc/passwd.png",
        "/%2e%2e/%2e%2e/etc/passwd.png",
        "/..%2f..%2fetc%2fpasswd.png",
        "/..%5c..%5cetc%5cpasswd.fdc",
        "//etc/passwd.png",
        "/etc/passwd%00.png",
        "/archive.json.original",
        "/log/000000/000000001.json.original",
        "/-/../server.py.original",
        "/-/style.css/../../server.py",
        "/key.original?key=../archive.json",
        "/key.fdc?key=file:///etc/passwd",
        "/key.png?key=s3://bucket/key",
        "/%c0%ae%c0%ae/passwd.png",
        "/page/style.css",
        "/docs",
        "/openapi.json",
        "http://169.254.169.254/latest/meta-data.png",
    ],
)
def test_no_address_leaves_the_report(gateway: Running, target: str) -> None:
    status, answer = asked(gateway, target)
    assert status in (400, 404) and b"root:" not in answer and b"import" not in answer
    assert answer.partition(b"\r\n\r\n")[2].count(b"\n") <= 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
def test_the_gateway_only_reads(gateway: Running, method: str) -> None:
    assert asked(gateway, THUMBNAIL, method=method)[0] == 405


def test_bodies_floods_of_headers_and_nonsense_are_refused(gateway: Running) -> None:
    assert asked(gateway, THUMBNAIL, "Content-Length: 999999999999")[0] == 413
    assert asked(gateway, THUMBNAIL, "Transfer-Encoding: chunked")[0] == 413
    assert asked(gateway, f"/{'a' * 9000}.png")[0] == 414
    assert asked(gateway, THUMBNAIL, *(f"X-{number}: {'y' * 100}" for number in range(1000)))[0] in (400, 431)
    assert asked(gateway, THUMBNAIL, f"Cookie: {'y' * 100_000}")[0] in (400, 431)
    assert asked(gateway, THUMBNAIL, "Range: bytes=" + ",".join("0-" for _ in range(3000)))[0] == 200
    assert asked(gateway, THUMBNAIL, "If-None-Match: " + '"a",' * 4000)[0] == 200
    for nonsense in (b"\x16\x03\x01\x02\0\x01\0", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"):
        assert sent(gateway, nonsense).startswith(b"HTTP/1.1 4")
    smuggled = b"GET /a.png.png HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert sent(gateway, smuggled).startswith(b"HTTP/1.1 4")
    assert gateway.get(THUMBNAIL).status_code == 200


def test_a_client_that_sends_or_rests_too_long_is_cut_off(
    made_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "READ_SECONDS", 0.6)
    monkeypatch.setattr(connections, "CHECKED_EVERY", 0.1)
    with running(made_archive, tmp_path / "cache") as served, ExitStack() as stack:
        assert sent(served, b"GET /a.png.png HTTP/1.1\r\nHost: a\r\nX-Slow: ") == b"", "half a head"
        assert sent(served, b"") == b"", "nothing at all"
        whole = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
        assert sent(served, whole + b"GET /hea").count(b"HTTP/1.1 200") == 1, "half of a second request"
        # One that does not read: far more than the buffers hold is asked for, so that the rest waits in memory.
        host, port = served.address.removeprefix("http://").split(":")
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 400)
        ends_by = time.monotonic() + 30
        deaf.settimeout(30)
        time.sleep(1.5)
        with pytest.raises(ConnectionError):
            while time.monotonic() < ends_by:
                deaf.sendall(b"x" * 65536)
        assert served.get(THUMBNAIL).status_code == 200


def test_more_requests_than_may_run_are_503_and_the_rest_are_served(made_archive: Path, tmp_path: Path) -> None:
    with running(made_archive, tmp_path / "cache", concurrency=2) as served:
        with ThreadPoolExecutor(16) as threads:
            responses = list(threads.map(lambda _: served.get("/?sort=bpp"), range(64)))
        statuses = {response.status_code for response in responses}
        assert 200 in statuses and statuses <= {200, 503}
        refused = [response for response in responses if response.status_code == 503]
        assert all(response.headers["retry-after"] == "1" for response in refused)
        assert served.get("/").status_code == 200, "afterwards all is as before"


def test_a_token_is_asked_for_everywhere_but_by_health(made_archive: Path, tmp_path: Path) -> None:
    with running(made_archive, tmp_path / "cache", token=TOKEN) as served:
        basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
        wrong = base64.b64encode(f"{TOKEN}:".encode()).decode()
        wrong_guesses = (
            *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer"),
            *(f"Basic {wrong}", "Basic ???", f"Digest {TOKEN}"),
        )
        for path in ("/", "/metrics", "/-/style.css", THUMBNAIL, "/2024/photo.jpg.fdc", "/nothing.png"):
            refused = served.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
            for guess in wrong_guesses:
                assert served.get(path, authorization=guess).status_code == 401
            for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
                assert served.get(path, authorization=right).status_code in (200, 404)
            assert served.client.get(path, params={"token": TOKEN}).status_code == 401, "never in an address"
        assert served.get("/health").status_code == 200


def test_guesses_are_compared_as_hashes_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    gate = Gate(TOKEN)
    assert [gate.lets_in(f"Bearer {guess}".encode()) for guess in ("", "a", TOKEN, TOKEN * 9)] == [0, 0, 1, 0]
    assert {(len(one), len(other)) for one, other in compared} == {(32, 32)} and len(compared) == 4


def test_a_page_of_a_stranger_cannot_reach_the_loopback_interface_by_its_own_name(
    made_archive: Path, tmp_path: Path
) -> None:
    with running(made_archive, tmp_path / "cache", hosts=LOOPBACK) as served:
        for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]"):
            assert served.get("/", host=name).status_code == 421
        for name in ("localhost", "LOCALHOST:8420", "127.0.0.1:1", "[::1]:8420"):
            response = served.get("/", host=name)
            assert response.status_code == 200
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert not [header for header in response.headers if header.startswith("access-control")]


def test_figures_name_nothing_that_a_client_chose(gateway: Running) -> None:
    gateway.get("/planted-name.png")
    gateway.get("/?q=planted-name")
    figures = gateway.get("/metrics")
    assert figures.headers["content-type"].startswith("text/plain")
    assert "planted" not in figures.text and "photo" not in figures.text
    assert 'fdc_gateway_requests_total{status="404"}' in figures.text and "fdc_gateway_cache_bytes" in figures.text


def test_no_response_waits_for_an_acknowledgment() -> None:
    with connections.bound("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
