# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a server as others meet it, with real certificates on a real socket."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import pathlib
import socket
import ssl
import struct
import threading
import time
import typing as t

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis, public_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import Identity
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.public import Certificate, Public, Reply
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

# Of what the other parts say of a host that is only partly made up, nothing is known here.
PARTS = ("service", "words", "answers", "public")


def diagnose(seen: Seen) -> diagnosis.Diagnosis:
    return diagnosis.diagnose(seen, [rule for rule in diagnosis.every_rule() if rule.id.split(".")[0] in PARTS])


HOME = "https://hs.test"
KEY = f"{HOME}:8448/_matrix/key/v2/server"
FEDERATION = f"{HOME}:8448/_matrix/federation/v1/version"
GOOD_KEY = Reply("key", KEY, 200, value="hs.test", keys={"ed25519:a": "AAAA"})
GOOD_FEDERATION = Reply("federation", FEDERATION, 200, value="1.163.2", software="Synapse")


def found(public: Public, **given: t.Any) -> list[str]:
    settings = Settings((), {"server_name": "hs.test", "public_baseurl": f"{HOME}/"})
    what = Seen(Request(), settings=settings, public=public, **given)
    assert not any("{" in f"{one.summary}{one.evidence}" for one in diagnose(what).findings)
    return [one.id for one in diagnose(what).findings]


def replies(*some: Reply) -> Public:
    return Public(replies=some, target="hs.test:8448", via="its own name")


@pytest.mark.parametrize(
    ("public", "ids"),
    [
        (Public(), []),
        (replies(GOOD_KEY, GOOD_FEDERATION, Reply("client", HOME, 200, value="v1.15")), []),
        (replies(Reply("well_known_server", HOME, 404), Reply("well_known_client", HOME, 404)), []),
        (replies(Reply("well_known_server", HOME, 200, html=True)), ["public.well_known_server"]),
        (replies(Reply("well_known_server", HOME, 200, value="https://m.hs.test")), ["public.well_known_server"]),
        (replies(Reply("well_known_client", HOME, 200)), ["public.well_known_client"]),
        (replies(Reply("well_known_client", HOME, 200, value=HOME, cors=False)), ["public.well_known_client"]),
        (replies(Reply("well_known_client", HOME, 200, value="https://x.test")), ["public.well_known_client"]),
        (replies(Reply("well_known_client", HOME, 200, value=HOME)), []),
        (replies(Reply("key", KEY, 404), Reply("federation", FEDERATION, 404)), ["public.proxy_routes"]),
        (replies(Reply("key", KEY, 200, html=True), GOOD_FEDERATION), ["public.proxy_routes"]),
        (replies(Reply("key", KEY, 502), Reply("client", HOME, 502)), ["public.upstream"]),
        (replies(Reply("federation", FEDERATION, problem="no answer within 5 s")), ["public.unreachable"]),
        (replies(Reply("client", HOME, 404)), ["public.baseurl"]),
        (replies(Reply("key", KEY, 200, value="other.test", keys={"a": "x"})), ["public.other_server"]),
        (replies(Reply("federation", FEDERATION, 200, value="0.1", software="Dendrite")), ["public.other_server"]),
        (Public(unresolved=("hs.test",)), ["public.name"]),
        (Public(mute=("[::1]:8448",)), ["public.address"]),
        (Public(certificates=(Certificate("a:443", days=60.0),)), []),
        (Public(certificates=(Certificate("a:443", days=3.0),)), ["public.certificate_expiring"]),
        (Public(certificates=(Certificate("a:443", days=-3.0, fault="expired"),)), ["public.certificate_expired"]),
        (Public(certificates=(Certificate("a:443", days=60.0, fault="early"),)), ["public.certificate_early"]),
        (Public(certificates=(Certificate("a:443", "a", 60.0, fault="name"),)), ["public.certificate_name"]),
        (Public(certificates=(Certificate("a:443", days=60.0, fault="chain"),)), ["public.certificate_chain"]),
        (Public(certificates=(Certificate("a:443", fault="self-signed"),)), ["public.certificate_untrusted"]),
        (Public(certificates=(Certificate("/c.pem", fault="pair", served=False),)), ["public.certificate_file"]),
    ],
)
def test_one_fault_is_one_finding(public: Public, ids: list[str]) -> None:
    assert found(public) == ids


def test_another_key_behind_the_public_name_is_critical() -> None:
    assert found(replies(GOOD_KEY), identity=Identity(verify_keys={"ed25519:a": "BBBB"})) == ["public.other_key"]
    assert found(replies(GOOD_KEY), identity=Identity(verify_keys={"ed25519:a": "AAAA"})) == []


def test_every_rule_fires_in_a_case() -> None:
    rules = {rule.id for rule in diagnosis.every_rule() if rule.id.startswith("public.")}
    cases = test_one_fault_is_one_finding.pytestmark[0].args[1]
    assert rules - {one for _public, ids in cases for one in ids} == {"public.other_key"}


def test_a_renewed_file_beside_an_expired_answer_means_a_reload() -> None:
    wire = Certificate("hs.test:443", days=-1.0, names=("hs.test",), fault="expired")
    file = Certificate("/etc/c.pem", days=80.0, names=("hs.test",), served=False)
    what = Seen(Request(), public=Public(certificates=(file, wire)))
    (finding,) = diagnose(what).findings
    assert "a reload is missing" in finding.summary


# Where other servers look


@pytest.mark.parametrize(
    ("name", "delegated", "records", "place"),
    [
        ("hs.test", None, {}, ("hs.test", 8448, "hs.test", "hs.test")),
        ("hs.test:1234", "m.hs.test", {}, ("hs.test", 1234, "hs.test", "hs.test:1234")),
        ("192.0.2.1", "m.hs.test", {}, ("192.0.2.1", 8448, "192.0.2.1", "192.0.2.1")),
        ("[2001:db8::1]:80", None, {}, ("2001:db8::1", 80, "2001:db8::1", "[2001:db8::1]:80")),
        ("hs.test", "m.hs.test:443", {}, ("m.hs.test", 443, "m.hs.test", "m.hs.test:443")),
        ("hs.test", "m.hs.test", {}, ("m.hs.test", 8448, "m.hs.test", "m.hs.test")),
        ("hs.test", None, {"_matrix-fed._tcp.hs.test": [("a.test", 1)]}, ("a.test", 1, "hs.test", "hs.test")),
        ("hs.test", None, {"_matrix._tcp.hs.test": [("b.test", 2)]}, ("b.test", 2, "hs.test", "hs.test")),
        ("hs.test", "m.test", {"_matrix-fed._tcp.m.test": [("c.test", 3)]}, ("c.test", 3, "m.test", "m.test")),
    ],
)
def test_servers_are_found_as_the_specification_says(
    name: str, delegated: str | None, records: dict[str, t.Any], place: tuple[str, int, str, str]
) -> None:
    result = public_look.resolve(name, delegated, lambda service: records.get(service, []))
    assert (result.host, result.port, result.name, result.header) == place


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:0", "a:99999", "https://a", "[::1"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        public_look.split_name(name)


def test_an_answer_of_dns_is_read() -> None:
    question = public_look.srv_question("_matrix-fed._tcp.hs.test", 7)
    record = (
        b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 60, 6 + 8) + struct.pack(">HHH", 10, 5, 8448) + b"\x01m\x04test\0"
    )
    answer = struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0) + question[12:] + record
    assert public_look.srv_answer(answer, 7) == [("m.test", 8448)]
    for size in range(len(answer)):
        with contextlib.suppress(ValueError):
            public_look.srv_answer(answer[:size], 7)
    with pytest.raises(ValueError, match="another"):
        public_look.srv_answer(answer, 8)
    with pytest.raises(ValueError, match="itself"):
        public_look.srv_answer(struct.pack(">HHHHHH", 7, 0, 0, 1, 0, 0) + b"\xc0\x0c", 7)


# Certificates, and a server that has them


def certificate(
    folder: pathlib.Path,
    name: str,
    *,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    begins: float = -30,
    ends: float = 60,
    authority: bool = False,
    hint: bool = False,
) -> tuple[pathlib.Path, pathlib.Path, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
    """Make a certificate; days count from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "127.0.0.1":
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if hint:
        where = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.test/ca.der")
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([where]), critical=False)
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    path, secret = folder / f"{name}-{made.serial_number}.pem", folder / f"{name}-{made.serial_number}.key"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path, secret, (made, key)


class _Public(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_address[1]
        bodies: dict[str, t.Any] = {
            "/.well-known/matrix/server": {"m.server": f"localhost:{port}"},
            "/.well-known/matrix/client": {"m.homeserver": {"base_url": f"https://localhost:{port}"}},
            "/_matrix/client/versions": {"versions": ["v1.15"]},
            "/_matrix/federation/v1/version": {"server": {"name": "Synapse", "version": "1.163.2"}},
            "/_matrix/key/v2/server": {"server_name": "localhost", "verify_keys": {"ed25519:a": {"key": "AAAA"}}},
        }
        body = json.dumps(bodies[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: t.Any) -> None:
        pass


@contextlib.contextmanager
def serving(path: pathlib.Path, secret: pathlib.Path) -> t.Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Public)
    server.handle_error = lambda *_arguments: None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path, secret)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def look(
    port: int, bundle: pathlib.Path | None, public: bool | None = True, seconds: float = 20, **config: t.Any
) -> Public:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        return CommandResult(1, "", "")

    request = Request(
        public=public, public_url=f"https://localhost:{port}", ca_bundle=str(bundle) if bundle is not None else None
    )
    made = Context(request, run, time.monotonic() + seconds)
    listeners = [{"type": "http", "port": 8008, "resources": [{"names": ["client", "federation"]}]}]
    base = {"server_name": "localhost", "listeners": listeners, "public_baseurl": f"https://localhost:{port}/"}
    made.settings = Settings((), {**base, **config})
    return public_look.look(made)


def test_a_server_is_found_by_its_public_name(tmp_path: pathlib.Path) -> None:
    bundle, _key, authority = certificate(tmp_path, "ca", authority=True)
    path, secret, _made = certificate(tmp_path, "localhost", issuer=authority)
    with serving(path, secret) as port:
        seen = look(port, bundle)
    assert {reply.kind: reply.value for reply in seen.replies} == {
        "well_known_server": f"localhost:{port}",
        "well_known_client": f"https://localhost:{port}",
        "client": "v1.15",
        "federation": "1.163.2",
        "key": "localhost",
    }
    assert seen.target == f"localhost:{port}"
    (served,) = seen.certificates
    assert (served.fault, served.names, served.issuer) == ("", ("localhost",), "ca")
    assert seen.certificate_days is not None
    assert 59 < seen.certificate_days < 61
    settings = Settings((), {"server_name": "localhost", "public_baseurl": f"https://localhost:{port}/"})
    assert diagnose(Seen(Request(), settings=settings, public=seen)).findings == ()


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("localhost", {"ends": -2}, "expired"),
        ("localhost", {"begins": 2}, "early"),
        ("other.test", {}, "name"),
    ],
)
def test_a_fault_of_a_certificate_that_is_served(
    tmp_path: pathlib.Path, name: str, options: dict[str, t.Any], fault: str
) -> None:
    bundle, _key, authority = certificate(tmp_path, "ca", authority=True)
    path, secret, _made = certificate(tmp_path, name, issuer=authority, **options)
    with serving(path, secret) as port:
        seen = look(port, bundle)
    assert [one.fault for one in seen.certificates] == [fault]
    assert all(reply.good for reply in seen.replies)


def test_who_issued_a_certificate_counts(tmp_path: pathlib.Path) -> None:
    _bundle, _key, authority = certificate(tmp_path, "ca", authority=True)
    alone = certificate(tmp_path, "localhost")
    private = certificate(tmp_path, "localhost", issuer=authority)
    cut = certificate(tmp_path, "localhost", issuer=authority, hint=True)
    faults = []
    for path, secret, _made in (alone, private, cut):
        with serving(path, secret) as port:
            faults += [one.fault for one in look(port, None).certificates]
    assert faults == ["self-signed", "issuer", "chain"]


def test_the_file_of_a_tls_listener_is_read_without_asking_anybody(tmp_path: pathlib.Path) -> None:
    path, secret, _made = certificate(tmp_path, "hs.test", ends=-5)
    fresh, key, _other = certificate(tmp_path, "hs.test")
    listeners = [{"type": "http", "port": 8448, "tls": True, "resources": []}]

    def fault(certificate_path: pathlib.Path, private: pathlib.Path) -> list[str]:
        config = {"tls_certificate_path": str(certificate_path), "tls_private_key_path": str(private)}
        seen = look(1, None, False, listeners=listeners, **config)
        assert seen.replies == ()
        return [one.fault for one in seen.certificates]

    assert fault(path, secret) == ["expired"]
    assert fault(fresh, key) == [""]
    assert fault(fresh, secret) == ["pair"]
    assert fault(tmp_path / "none.pem", secret) == ["missing"]
    assert fault(key, secret) == ["unreadable"]
    (tmp_path / "cut.pem").write_bytes(path.read_bytes()[:100])
    assert fault(tmp_path / "cut.pem", secret) == ["unreadable"]


@pytest.mark.parametrize(
    "base", [None, "http://127.0.0.1:8008/", "https://localhost:1/", "https://10.0.0.1/", "x", "//"]
)
def test_without_being_asked_nothing_is_asked_where_there_is_no_public_address(base: str | None) -> None:
    assert look(1, None, None, public_baseurl=base) == Public()


def test_a_name_that_is_garbage_holds_nobody_up() -> None:
    assert look(1, None, True, server_name="a b/c").replies == ()


def test_a_server_that_hangs_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        seen = look(mute.getsockname()[1], None, seconds=2)
        assert time.monotonic() - started < 6
    assert all(reply.status is None for reply in seen.replies)
