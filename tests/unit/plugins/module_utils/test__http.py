# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP over TCP and unix sockets: within its time, within its size, past every proxy."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import pathlib
import socket
import socketserver
import ssl
import threading
import time
import typing as t

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _http
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError, Target
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Iterator


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a few paths, each in its own way."""

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            with contextlib.suppress(OSError):
                for _line in range(100):
                    self.wfile.write(b"X-Drip: 1\r\n")
                    time.sleep(0.05)
            return
        if self.path == "/garbage":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            return
        if self.path == "/nothing":
            return
        self.send_response(302 if self.path == "/loop" else 200)
        if self.path == "/loop":
            self.send_header("Location", "/loop")
        self.end_headers()
        self.wfile.write(b"x" * 5000 if self.path == "/big" else b'{"path": "%s"}' % self.path.encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


class UnixServer(socketserver.ThreadingUnixStreamServer):
    """The same over a unix socket."""

    daemon_threads = True


@contextlib.contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def target() -> Iterator[Target]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with served(server):
        yield _http.parse_target(f"http://127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://127.0.0.1:8008", ("http", "127.0.0.1", 8008, "", None)),
        ("https://a.example/", ("https", "a.example", 443, "", None)),
        ("http://a.example/x/", ("http", "a.example", 80, "/x", None)),
        ("http://[::1]:8008", ("http", "::1", 8008, "", None)),
        ("unix:/run/s.sock", ("http", "localhost", 0, "", "/run/s.sock")),
        ("unix:///run/s.sock", ("http", "localhost", 0, "", "/run/s.sock")),
    ],
)
def test_addresses(url: str, wanted: tuple[object, ...]) -> None:
    found = _http.parse_target(url)
    assert (found.scheme, found.host, found.port, found.prefix, found.socket_path) == wanted


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8008", "ftp://a", "http://", "unix:s.sock", "http://a:x", "http://u:p@a", "http://[::1"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(SynapseError):
        _http.parse_target(url)


def test_an_answer(target: Target) -> None:
    answer = _http.request(target, "/a")
    assert (answer.status, answer.json()) == (200, {"path": "/a"})
    assert answer.milliseconds > 0


def test_a_body_is_sent_as_json(target: Target) -> None:
    assert _http.request(target, "/", method="POST", json_body={"a": "ü"}).json() == {"a": "ü"}


def test_no_proxy_of_the_environment_is_used(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert _http.request(target, "/a").status == 200


def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s.sock")
    with served(UnixServer(path, Handler)):
        assert _http.request(_http.parse_target(f"unix:{path}"), "/a").json() == {"path": "/a"}
    pathlib.Path(path).unlink()
    with pytest.raises(NoAnswerError, match="there is no such socket"):
        _http.request(_http.parse_target(f"unix:{path}"), "/a")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/drip", "no answer within 0.5 s"),
        ("/garbage", "the answer is not HTTP"),
        ("/nothing", "the connection was closed without an answer"),
        ("/big", "the answer is larger than 1000 bytes"),
    ],
)
def test_what_is_no_answer_says_so(target: Target, path: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match=reason):
        _http.request(target, path, timeout=0.5, limit=1000)
    assert time.monotonic() - started < 2


def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(NoAnswerError, match="nobody listens there") as caught:
            _http.request(_http.parse_target(f"http://127.0.0.1:{port}"), "/")
    assert caught.value.refused


def test_a_silent_listener_costs_no_more_than_the_time_given() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for scheme in ("http", "https"):
            started = time.monotonic()
            with pytest.raises(NoAnswerError, match="no answer within"):
                _http.request(_http.parse_target(f"{scheme}://127.0.0.1:{port}"), "/", timeout=0.3)
            assert time.monotonic() - started < 2


def test_redirects_are_followed_only_where_asked_for(target: Target) -> None:
    assert _http.request(target, "/loop").status == 302
    with pytest.raises(NoAnswerError, match="redirects more than 2 times"):
        _http.request(target, "/loop", redirects=2)


def certificate(folder: pathlib.Path, days: int) -> tuple[str, str]:
    """Make a key and a certificate for localhost that signs itself; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=90))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = str(folder / "cert.pem"), str(folder / "key.pem")
    pathlib.Path(paths[0]).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pathlib.Path(paths[1]).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@contextlib.contextmanager
def served_with_tls(folder: pathlib.Path, days: int) -> Iterator[tuple[int, str]]:
    paths = certificate(folder, days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with served(server):
        yield server.server_port, paths[0]


def test_a_certificate_is_verified_for_its_name(tmp_path: pathlib.Path) -> None:
    with served_with_tls(tmp_path, 30) as (port, bundle):
        context = _http.tls_context(bundle)
        days = _http.certificate_days("127.0.0.1", port, name="localhost", timeout=5, context=context)
        assert 29.9 < days <= 30
        target = _http.parse_target(f"https://127.0.0.1:{port}")
        assert _http.request(target, "/a", context=context, tls_name="localhost").status == 200
        with pytest.raises(NoAnswerError, match="the certificate is not accepted: Hostname mismatch"):
            _http.certificate_days("127.0.0.1", port, name="other.test", timeout=5, context=context)
        with pytest.raises(NoAnswerError, match="the certificate is not accepted: self-signed certificate"):
            _http.certificate_days("127.0.0.1", port, name="localhost", timeout=5)


def test_a_certificate_that_has_expired_is_not_accepted(tmp_path: pathlib.Path) -> None:
    with served_with_tls(tmp_path, -1) as (port, bundle):
        context = _http.tls_context(bundle)
        with pytest.raises(NoAnswerError, match="the certificate is not accepted: certificate has expired"):
            _http.certificate_days("127.0.0.1", port, name="localhost", timeout=5, context=context)


def test_plain_http_where_tls_is_expected(target: Target) -> None:
    with pytest.raises(NoAnswerError, match="TLS failed"):
        _http.certificate_days("127.0.0.1", target.port, timeout=2)


def test_a_missing_bundle_of_certificates_is_named() -> None:
    with pytest.raises(SynapseError, match=r"/nowhere\.pem"):
        _http.tls_context("/nowhere.pem")
