# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at: the server as others meet it: its public name, delegation, certificates, reverse proxy.

Server names are resolved as the Server-Server API of the Matrix specification 1.16 says ("Resolving server names").
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import re
import secrets
import socket
import ssl
import struct
import threading
import time
import typing as t
from dataclasses import dataclass, replace
from functools import partial

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _health, _http
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers_look import listeners_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.public import Certificate, Public, Reply
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import Response

__all__ = ["Place", "look", "read_certificate", "resolve", "split_name", "srv_answer", "srv_question"]

_STEP = 5.0  # seconds for one question
_LARGEST = 256 * 1024  # bytes of a certificate file
_FEDERATION = 8448
# X509_V_ERR_* of openssl/x509_vfy.h
_FAULTS = {
    9: "early",
    10: "expired",
    18: "self-signed",
    19: "issuer",
    20: "issuer",
    21: "chain",
    62: "name",
    64: "name",
}


@dataclass(frozen=True)
class Place:
    """Where other servers look: the address to connect to, the name in certificate and header ``Host``."""

    host: str
    port: int
    name: str
    header: str
    via: str


def split_name(text: str) -> tuple[str, int | None]:
    """Split a server name into host and port; an IPv6 address is in brackets."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/\s]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError(text)
    port = int(match.group(2)) if match.group(2) else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(text)
    return match.group(1).strip("[]"), port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# DNS: one question, for who has no library for it


def srv_question(name: str, number: int) -> bytes:
    """Return the DNS message that asks for the SRV records of a name (RFC 1035, RFC 2782). Raises ``ValueError``."""
    labels = name.encode("idna" if not name.startswith("_") else "ascii").split(b".")
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(name)
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack(">HH", 33, 1)
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question


def _dns_name(data: bytes, offset: int) -> tuple[str, int]:
    labels: list[str] = []
    end, hops = 0, 0
    while hops < 64:
        hops += 1
        length = data[offset]
        if length >= 0xC0:
            end = end or offset + 2
            offset = (length & 0x3F) << 8 | data[offset + 1]
        elif length == 0:
            return ".".join(labels), end or offset + 1
        else:
            labels.append(data[offset + 1 : offset + 1 + length].decode("ascii", "replace"))
            offset += 1 + length
    raise ValueError("a name that leads to itself")


def srv_answer(data: bytes, number: int) -> list[tuple[str, int]]:
    """Return targets and ports out of a DNS answer, the preferred first. Raises ``ValueError`` for what is none."""
    try:
        told, _flags, questions, answers = struct.unpack(">HHHH", data[:8])
        if told != number:
            raise ValueError("an answer to another question")
        offset = 12
        for _question in range(questions):
            offset = _dns_name(data, offset)[1] + 4
        found = []
        for _answer in range(answers):
            offset = _dns_name(data, offset)[1]
            kind, _class, _ttl, length = struct.unpack(">HHIH", data[offset : offset + 10])
            if kind == 33:
                priority, weight, port = struct.unpack(">HHH", data[offset + 10 : offset + 16])
                found.append((priority, -weight, _dns_name(data, offset + 16)[0], port))
            offset += 10 + length
    except (IndexError, struct.error) as error:
        raise ValueError("a cut answer") from error
    return [(target, port) for _priority, _weight, target, port in sorted(found) if target]


def _srv(name: str) -> list[tuple[str, int]]:
    """Ask the host's first name servers for SRV records; best effort, none where nobody answers."""
    try:
        text = (_files.read("/etc/resolv.conf", limit=65536) or b"").decode("utf-8", "replace")
    except SynapseError:
        return []
    for server in re.findall(r"(?m)^\s*nameserver\s+([0-9A-Fa-f.:]+)\s*$", text)[:2]:
        number = secrets.randbelow(65536)
        try:
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as connection:
                connection.settimeout(1.0)
                connection.connect((server, 53))
                connection.send(srv_question(name, number))
                return srv_answer(connection.recv(4096), number)
        except (OSError, ValueError, UnicodeError):
            continue
    return []


def resolve(server_name: str, delegated: str | None, srv: Callable[[str], list[tuple[str, int]]] = _srv) -> Place:
    """Return where other servers look for ``server_name``, given what its .well-known says. Raises ``ValueError``."""
    via = "its own name"
    host, port = split_name(server_name)
    name = server_name
    if not _is_address(host) and port is None and delegated is not None:
        name, via = delegated, f".well-known/matrix/server ({delegated})"
        host, port = split_name(delegated)
    if _is_address(host) or port is not None:
        return Place(host, port or _FEDERATION, host, name, via)
    for service in ("_matrix-fed._tcp", "_matrix._tcp"):
        records = srv(f"{service}.{host}")
        if records:
            target, number = records[0]
            return Place(target, number, host, name, f"{via}, then the SRV record {service}.{host}")
    return Place(host, _FEDERATION, host, name, f"{via}, port {_FEDERATION}")


# Certificates


def _decode(pem: str) -> dict[str, t.Any]:
    """Return what the interpreter's own TLS module reads in a certificate. Raises ``OSError`` or ``ValueError``."""
    decode = getattr(importlib.import_module("_ssl"), "_test_decode_cert", None)
    if decode is None:
        raise ValueError("this interpreter cannot read certificates")
    handle = os.memfd_create("certificate")
    try:
        os.write(handle, pem.encode("ascii"))
        found: dict[str, t.Any] = decode(f"/proc/self/fd/{handle}")
    except (ssl.SSLError, UnicodeError) as error:
        raise ValueError("it is no certificate") from error
    finally:
        os.close(handle)
    return found


def _attribute(name: t.Any, wanted: str) -> str:
    return next((value for part in name or () for key, value in part if key == wanted), "")


def read_certificate(pem: str, place: str, name: str, now: float) -> Certificate:
    """Return what a certificate says of itself. Raises ``OSError`` or ``ValueError``."""
    found = _decode(pem)
    ends, begins = (ssl.cert_time_to_seconds(found[key]) for key in ("notAfter", "notBefore"))
    names = tuple(value for _kind, value in found.get("subjectAltName", ()))
    common = _attribute(found.get("subject"), "commonName")
    issuer = found.get("issuer")
    certificate = Certificate(
        place,
        name,
        (ends - now) / 86400,
        (now - begins) / 86400,
        names or ((common,) if common else ()),
        _attribute(issuer, "commonName") or _attribute(issuer, "organizationName"),
    )
    if ends <= now:
        return replace(certificate, fault="expired")
    return replace(certificate, fault="early") if begins > now + 60 else certificate


def _fault(error: ssl.SSLCertVerificationError, pem: str) -> str:
    fault = _FAULTS.get(error.verify_code, "other")
    if fault in ("issuer", "chain"):
        try:
            found = _decode(pem)
        except (OSError, ValueError):
            return fault
        if found.get("subject") == found.get("issuer"):
            return "self-signed"
        # An authority that says where its own certificate is found is a public one: it was not sent along.
        return "chain" if found.get("caIssuers") and error.verify_code != 19 else "issuer"
    return fault


def _served(place: Place, verifying: ssl.SSLContext, timeout: float, now: float) -> Certificate | None:
    """Look at the certificate that is served; ``None`` where there is no TLS to look at."""
    shown = f"{place.host}:{place.port}"
    anybody = _http.tls_context(verify=False)
    try:
        with socket.create_connection((place.host, place.port), timeout) as plain:
            plain.settimeout(timeout)
            with anybody.wrap_socket(plain, server_hostname=place.name) as connection:
                der = connection.getpeercert(binary_form=True)
    except (OSError, ValueError):
        return None
    if not der:
        return None
    pem = ssl.DER_cert_to_PEM_cert(der)
    try:
        certificate = read_certificate(pem, shown, place.name, now)
    except (OSError, ValueError, KeyError) as error:
        return Certificate(shown, place.name, fault="other", detail=str(error))
    try:
        with socket.create_connection((place.host, place.port), timeout) as plain:
            plain.settimeout(timeout)
            with verifying.wrap_socket(plain, server_hostname=place.name):
                return certificate
    except ssl.SSLCertVerificationError as error:
        return replace(certificate, fault=certificate.fault or _fault(error, pem), detail=error.verify_message)
    except (OSError, ValueError):
        return certificate


def _file(settings: Settings, now: float) -> Certificate | None:
    """Look at the certificate file, where a listener of Synapse's own uses it."""
    path, key = settings.text("tls_certificate_path"), settings.text("tls_private_key_path")
    used = any(listener.get("tls") is True for listener in settings.mappings("listeners"))
    if path is None or not used or not path.startswith("/"):
        return None
    bad = Certificate(path, served=False)
    try:
        data = _files.read(path, limit=_LARGEST)
    except SynapseError as error:
        return replace(bad, fault="unreadable", detail=error.msg.rstrip("."))
    if data is None:
        return replace(bad, fault="missing", detail="it does not exist")
    match = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", data.decode("ascii", "replace"), re.S)
    if match is None:
        return replace(bad, fault="unreadable", detail="no PEM certificate is in it")
    try:
        certificate = replace(read_certificate(match.group(0) + "\n", path, "", now), served=False)
    except (OSError, ValueError, KeyError) as error:
        return replace(bad, fault="unreadable", detail=str(error) or "it cannot be read")
    if certificate.fault or key is None or not os.path.isfile(key):
        return certificate
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password=lambda: "")
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        if "mismatch" in reason:
            return replace(certificate, fault="pair", detail=f"its private key {key} belongs to another one ({reason})")
    except (OSError, ValueError):
        pass
    return certificate


# Questions


def _reply(kind: str, url: str, answer: Response) -> Reply:
    """Read an answer."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    html = "html" in answer.headers.get("content-type", "") or answer.body[:200].lstrip()[:1] == b"<"
    value: t.Any = None
    software, keys = "", {}
    if kind == "well_known_server":
        value = body.get("m.server")
    elif kind == "well_known_client":
        found = body.get("m.homeserver")
        value = found.get("base_url") if isinstance(found, dict) else None
    elif kind == "client":
        versions = body.get("versions")
        value = str(versions[-1]) if isinstance(versions, list) and versions else None
    elif kind == "federation":
        server = body.get("server")
        value = str(server.get("version")) if isinstance(server, dict) and server.get("version") else None
        software = str(server.get("name", ""))[:80] if isinstance(server, dict) else ""
    else:
        published = _health.published_keys(body)
        keys = dict(published.verify_keys) if published is not None else {}
        value = body.get("server_name") if keys else None
    cors = answer.headers.get("access-control-allow-origin") == "*"
    return Reply(
        kind,
        url,
        answer.status,
        value=value[:200] if isinstance(value, str) and value else None,
        software=software,
        html=html,
        cors=cors,
        keys=keys,
    )


def _ask(kind: str, base: str, path: str, *, place: Place | None = None, timeout: float = _STEP) -> Reply:
    """Ask one question; certificates are judged apart, so that one that is wrong does not hide what is behind it."""
    url = f"{base.rstrip('/')}{path}"
    try:
        answer = _http.request(
            _http.parse_target(base),
            path,
            timeout=timeout,
            context=_http.tls_context(verify=False),
            tls_name=place.name if place is not None else None,
            headers={"Host": place.header} if place is not None else None,
            redirects=5 if kind.startswith("well_known") else 0,
        )
    except NoAnswerError as error:
        return Reply(kind, url, problem=str(error))
    except SynapseError:
        return Reply(kind, url, problem="it is no web address")
    return _reply(kind, url, answer)


def _addresses(place: Place) -> list[tuple[t.Any, ...]] | None:
    """Return the addresses of a name, ``None`` where it has none."""
    try:
        return [item[4] for item in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return None


def _known(place: Place) -> bool:
    """Whether the name has an address."""
    return bool(_addresses(place))


def _mute(place: Place, timeout: float) -> list[str]:
    """Return the addresses of a name that refuse, or do not answer, while another one does."""
    addresses = list(dict.fromkeys(address[0] for address in _addresses(place) or ()))
    if len(addresses) < 2:
        return []
    bad = []
    for address in addresses[:4]:
        try:
            socket.create_connection((address, place.port), timeout).close()
        except (ConnectionRefusedError, socket.timeout):
            bad.append(f"[{address}]:{place.port}" if ":" in address else f"{address}:{place.port}")
        except OSError:
            continue  # this host has no way there, which says nothing about others
    return bad if len(bad) < len(addresses) else []


class _Work:
    """Questions under way at once, each in a thread; what has not answered in time is left alone."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.threads: list[threading.Thread] = []
        self.found: dict[str, t.Any] = {}

    def start(self, name: str, ask: Callable[[], t.Any]) -> None:
        def work() -> None:
            try:
                self.found[name] = ask()
            except (OSError, ValueError, SynapseError, UnicodeError):
                self.found.setdefault(name, None)

        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def wait(self) -> dict[str, t.Any]:
        for thread in self.threads:
            thread.join(max(self.deadline - time.monotonic(), 0.0))
        return dict(self.found)


def _place_of(base: str) -> Place | None:
    try:
        target = _http.parse_target(base)
    except SynapseError:
        return None
    return None if target.scheme != "https" else Place(target.host, target.port, target.host, target.host, "")


def _base(place: Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return f"https://{host}:{place.port}"


def _federates(context: Context, settings: Settings) -> bool:
    """Whether this server is meant to be reached by others."""
    if settings.get("federation_domain_whitelist") == []:
        return False
    names = {name for listener in listeners_of(settings) for one in listener["resources"] for name in one["names"]}
    return "federation" in names or bool(context.request.worker_configs)


def _wanted(context: Context, settings: Settings) -> bool:
    """Whether anybody is to be asked: where that was said, or where the configuration has an address for everybody."""
    if context.request.public is not None:
        return context.request.public
    place = _place_of(settings.text("public_baseurl") or "")
    if place is None or place.host == "localhost":
        return False
    return not _is_address(place.host) or ipaddress.ip_address(place.host).is_global


def _discover(context: Context, settings: Settings, end: float) -> tuple[Place | None, tuple[Reply, ...]]:
    """Ask for the .well-known documents and in DNS; return where other servers look for this one."""
    name = settings.server_name or ""
    host = split_name(name)[0]
    home = context.request.public_url or f"https://{f'[{host}]' if ':' in host else host}"
    now = time.monotonic()
    work = _Work(now + (end - now) * 0.4)
    for kind in ("server", "client"):
        work.start(kind, partial(_ask, f"well_known_{kind}", home, f"/.well-known/matrix/{kind}"))
    found = work.wait()
    replies = tuple(found[kind] for kind in ("server", "client") if found.get(kind) is not None)
    server = found.get("server")
    delegated = server.value if server is not None and server.good else None
    for answer in (delegated, None):
        names = _Work(min(end, time.monotonic() + 2.5))
        names.start("place", partial(resolve, name, answer))
        place: Place | None = names.wait().get("place")
        if place is not None:
            return place, replies
        try:  # DNS hangs, or what is delegated to is no name
            return resolve(name, answer, lambda _service: []), replies
        except ValueError:
            continue
    return None, replies


def _expected_certificates(places: Sequence[Place | None]) -> dict[tuple[str, int], Place]:
    return {(place.host, place.port): place for place in reversed(places) if place is not None}


def _days(certificates: Sequence[Certificate]) -> float | None:
    return min((one.days for one in certificates if one.days is not None), default=None)


def look(context: Context) -> Public:
    """Ask everything at once that can be asked at once, as other servers and clients would."""
    settings = context.settings
    if settings is None or not settings.config:
        return Public()
    now = time.time()
    file = _file(settings, now)
    own = [file] if file is not None else []
    if not _wanted(context, settings) or settings.server_name is None:
        return Public(_days(own), certificates=tuple(own))
    try:
        split_name(settings.server_name)
    except ValueError:
        return Public(_days(own), certificates=tuple(own))
    # Less than what is left, so that what was found by then is told.
    end = time.monotonic() + max(context.left(15.0) - 1.5, 0.5)
    place, replies = _discover(context, settings, end)
    work = _Work(end)
    base = settings.text("public_baseurl")
    federates = _federates(context, settings)
    if base is not None:
        work.start("client", partial(_ask, "client", base, "/_matrix/client/versions"))
    if place is not None and federates:
        where = _base(place)
        work.start("federation", partial(_ask, "federation", where, "/_matrix/federation/v1/version", place=place))
        work.start("key", partial(_ask, "key", where, "/_matrix/key/v2/server", place=place))
        work.start("mute", partial(_mute, place, 3.0))
    try:
        verifying = _http.tls_context(context.request.ca_bundle)
    except SynapseError:
        verifying = _http.tls_context()
    home = _place_of(context.request.public_url) if context.request.public_url else None
    if home is None and any(reply.status is not None for reply in replies):
        home = _place_of(f"https://{split_name(settings.server_name)[0]}")
    looked = _expected_certificates([place if federates else None, _place_of(base) if base else None, home])
    for key, one in looked.items():
        work.start(f"tls {key}", partial(_served, one, verifying, _STEP, now))
        work.start(f"dns {key}", partial(_known, one))
    found = work.wait()
    asked = (*replies, *(found[kind] for kind in ("client", "federation", "key") if found.get(kind) is not None))
    served = [found[f"tls {key}"] for key in looked if found.get(f"tls {key}") is not None]
    certificates = (*own, *served)
    return Public(
        certificate_days=_days(certificates),
        replies=asked,
        certificates=certificates,
        target=f"{place.host}:{place.port}" if place is not None and federates else None,
        via=place.via if place is not None else "",
        unresolved=tuple(dict.fromkeys(one.host for key, one in looked.items() if found.get(f"dns {key}") is False)),
        mute=tuple(found.get("mute") or ()),
    )
