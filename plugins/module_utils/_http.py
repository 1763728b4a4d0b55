# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the collection speaks HTTP: over TCP, TLS or a unix socket, never longer or larger than told.

Requests go straight to the address that is named: no proxy of the environment stands between a check and
the server it checks. Imports nothing from Ansible.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import typing as t
import urllib.parse
from dataclasses import dataclass, field

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = ["NoAnswerError", "Response", "Target", "certificate_days", "parse_target", "request", "tls_context"]

_LIMIT = 1024 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)


class NoAnswerError(Exception):
    """No answer came. ``str()`` says why in a clause: ``connection refused``; ``refused`` tells that nobody listens."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class Target:
    """Where a server listens. ``socket_path`` is set for unix sockets alone; ``prefix`` has no slash at its end."""

    url: str
    scheme: str
    host: str
    port: int
    prefix: str = ""
    socket_path: str | None = None


@dataclass(frozen=True)
class Response:
    """An answer: status, headers by lower-case name, body, and how long it took in milliseconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    milliseconds: float

    def json(self) -> t.Any:
        """Return the body as JSON; raises ``ValueError`` where it is none."""
        return json.loads(self.body.decode("utf-8"))


def parse_target(url: str) -> Target:
    """Read a base URL: ``http://host:port``, ``https://host``, ``unix:/path`` or ``http+unix://%2Fpath``.

    Raises ``SynapseError`` for anything else.
    """
    if url.startswith("unix:"):
        path = url[len("unix:") :]
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path.startswith("/"):
            raise SynapseError(f"{url!r} is not the address of a unix socket: write it as unix:/run/synapse/main.sock.")
        return Target(url, "http", "localhost", 0, socket_path=path)
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SynapseError(f"{url!r} is not a URL: {error}. Write it as http://127.0.0.1:8008.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise SynapseError(
            f"{url!r} is not the base URL of a server: write it as http://127.0.0.1:8008, "
            "https://matrix.example.org or unix:/run/synapse/main.sock."
        )
    default = 443 if parts.scheme == "https" else 80
    return Target(url, parts.scheme, parts.hostname, default if port is None else port, parts.path.rstrip("/"))


def tls_context(ca_bundle: str | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Return a context that verifies, with the host's authorities and those of ``ca_bundle``.

    One that does not ``verify`` is for nothing but to see what a server answers. Raises ``SynapseError`` where the
    bundle cannot be used.
    """
    context = ssl.create_default_context()
    # Python 3.13 asks more of a certificate than the formats' practice, and than other servers and clients do.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except OSError as error:
            raise SynapseError(
                f"Cannot use the certificates of {ca_bundle}: {error.strerror or error}. "
                "Name a readable file of PEM certificates in ca_bundle."
            ) from error
    return context


def _connect(target: Target, timeout: float) -> socket.socket:
    if target.socket_path is None:
        return socket.create_connection((target.host, target.port), timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(target.socket_path)
    except BaseException:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that is already there."""

    def __init__(self, target: Target, connection: socket.socket) -> None:
        super().__init__(target.host, target.port or None)
        self.sock = connection


def _hang_up(connection: socket.socket) -> None:
    # The method of the plain socket, for TLS too: it wakes the thread that waits, and takes no TLS state along.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _reason(error: BaseException, timeout: float, overdue: bool) -> NoAnswerError:
    """Say in a clause why no answer came."""
    if overdue or isinstance(error, socket.timeout):
        return NoAnswerError(f"no answer within {timeout:.3g} s")
    if isinstance(error, ssl.SSLCertVerificationError):
        return NoAnswerError(f"the certificate is not accepted: {error.verify_message.rstrip('.')}")
    if isinstance(error, ssl.SSLError):
        return NoAnswerError(f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}")
    if isinstance(error, socket.gaierror):
        return NoAnswerError(f"the name does not resolve: {error.strerror}")
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        text = "nobody listens there" if isinstance(error, ConnectionRefusedError) else "there is no such socket"
        return NoAnswerError(f"{text} ({(error.strerror or 'refused').lower()})", refused=True)
    if isinstance(error, http.client.RemoteDisconnected):
        return NoAnswerError("the connection was closed without an answer")
    if isinstance(error, OSError):
        return NoAnswerError((error.strerror or str(error) or type(error).__name__).lower())
    return NoAnswerError(f"the answer is not HTTP ({type(error).__name__})")


@contextlib.contextmanager
def _opened(
    target: Target, timeout: float, context: ssl.SSLContext | None, name: str | None
) -> Iterator[socket.socket]:
    """Connect, TLS included, and hang up at the end of ``timeout`` seconds whatever then goes on."""
    started = time.monotonic()
    overdue = threading.Event()
    timer: threading.Timer | None = None
    connection: socket.socket | None = None
    try:
        connection = _connect(target, timeout)

        def stop(plain: socket.socket = connection) -> None:
            overdue.set()
            _hang_up(plain)

        left = max(timeout - (time.monotonic() - started), 0.001)
        if target.scheme == "https":
            connection.settimeout(left)
            connection = (context or tls_context()).wrap_socket(connection, server_hostname=name or target.host)
            left = max(timeout - (time.monotonic() - started), 0.001)
            wrapped = connection

            def stop(plain: socket.socket = wrapped) -> None:
                overdue.set()
                _hang_up(plain)

        timer = threading.Timer(left, stop)
        timer.daemon = True
        timer.start()
        yield connection
        if overdue.is_set():
            raise NoAnswerError(f"no answer within {timeout:.3g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _reason(error, timeout, overdue.is_set()) from error
    finally:
        if timer is not None:
            timer.cancel()
        if connection is not None:
            connection.close()


def _once(
    target: Target,
    path: str,
    *,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout: float,
    context: ssl.SSLContext | None,
    name: str | None,
    limit: int,
) -> Response:
    started = time.monotonic()
    with _opened(target, timeout, context, name) as connection:
        client = _Connection(target, connection)
        client.request(method, target.prefix + path, body=body, headers=dict(headers))
        answer = client.getresponse()
        data = answer.read(limit + 1)
        found = {key.lower(): value for key, value in answer.getheaders()}
    if len(data) > limit:
        raise NoAnswerError(f"the answer is larger than {limit} bytes")
    return Response(answer.status, found, data, (time.monotonic() - started) * 1000)


def request(
    target: Target,
    path: str,
    *,
    method: str = "GET",
    json_body: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    context: ssl.SSLContext | None = None,
    tls_name: str | None = None,
    redirects: int = 0,
    limit: int = _LIMIT,
) -> Response:
    """Ask ``target`` for ``path`` and return the answer, whatever its status.

    ``timeout`` is in seconds and bounds the whole request (each hop where ``redirects`` are followed); ``limit`` is in
    bytes. ``tls_name`` is the name that the certificate has to carry where it is not the host of the URL.
    Raises ``NoAnswerError`` where no HTTP answer comes.
    """
    sent = {"Accept": "application/json", "User-Agent": "matrix_fleet.synapse", "Connection": "close"}
    sent.update(headers or {})
    body = None
    if json_body is not None:
        body = json.dumps(json_body).encode("utf-8")
        sent["Content-Type"] = "application/json"
    for _hop in range(redirects + 1):
        answer = _once(
            target,
            path,
            method=method,
            body=body,
            headers=sent,
            timeout=timeout,
            context=context,
            name=tls_name,
            limit=limit,
        )
        location = answer.headers.get("location")
        if not redirects or answer.status not in _REDIRECTS or location is None:
            return answer
        try:
            following = parse_target(urllib.parse.urljoin(target.url + path, location))
        except SynapseError:
            raise NoAnswerError("it redirects to something that is not a web address") from None
        target, path, tls_name = following, "", None
    raise NoAnswerError(f"it redirects more than {redirects} times")


def certificate_days(
    host: str, port: int, *, name: str | None = None, timeout: float = 10.0, context: ssl.SSLContext | None = None
) -> float:
    """Return for how many more days the certificate served at ``host:port`` is valid.

    Raises ``NoAnswerError`` where there is none, or where it is not valid for ``name`` (default: ``host``).
    """
    target = Target(f"https://{host}:{port}", "https", host, port)
    with _opened(target, timeout, context, name) as connection:
        certificate = t.cast("ssl.SSLSocket", connection).getpeercert()
    if not certificate:
        raise NoAnswerError("no certificate was served")
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
