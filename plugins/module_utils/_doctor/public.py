# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as others meet it: its public name, delegation, certificates, reverse proxy. Pure.

How servers find each other: Server-Server API of the Matrix specification 1.16, "Resolving server names".
"""

from __future__ import annotations

import typing as t
import urllib.parse
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import same_keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Certificate", "Public", "Reply"]

RULES = Rulebook("public")

_DISCOVERY = (
    "Other servers look for https://NAME/.well-known/matrix/server (m.server, delegation), then for the SRV record "
    "_matrix-fed._tcp.NAME, then at NAME:8448."
)
_UPSTREAM = (502, 503, 504)


@dataclass(frozen=True)
class Reply:
    """What came back from a public address. ``problem``: why no answer came; ``value`` is what was asked for.

    ``kind``: ``well_known_server`` (m.server), ``well_known_client`` (base_url), ``client`` (a version),
    ``federation`` (the version) or ``key`` (the server's name). ``keys`` are published ones by id.
    """

    kind: str
    url: str
    status: int | None = None
    problem: str = ""
    value: str | None = None
    software: str = ""
    html: bool = False
    cors: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether the answer is what was asked for."""
        return self.status == 200 and self.value is not None

    @property
    def told(self) -> str:
        """What came back, in a few words."""
        if self.status is None:
            return self.problem
        if self.good:
            return f"{self.status} {self.value}"
        return f"status {self.status}{', a page of HTML' if self.html else ''}"


@dataclass(frozen=True)
class Certificate:
    """A certificate. ``place`` is ``HOST:PORT``, or a file; ``days`` until it ends, ``age`` since it began to be valid.

    ``fault`` is what a client says that verifies it: ``expired``, ``name``, ``self-signed``, ``issuer``, ``chain``,
    ``early``, ``other``; of a file also ``missing``, ``unreadable`` and ``pair`` (it does not belong to its key).
    """

    place: str
    name: str = ""
    days: float | None = None
    age: float | None = None
    names: tuple[str, ...] = ()
    issuer: str = ""
    fault: str = ""
    detail: str = ""
    served: bool = True


@dataclass(frozen=True)
class Public:
    """What was seen. ``certificate_days``: how long the shortest certificate is still valid.

    ``target`` is where other servers look for this one, ``via`` how they find that; ``unresolved`` are names without an
    address; ``mute`` are addresses of a name that do not answer while others do.
    """

    certificate_days: float | None = None
    replies: tuple[Reply, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    target: str | None = None
    via: str = ""
    unresolved: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()

    def reply(self, kind: str) -> Reply | None:
        """Return the answer to a question."""
        return next((reply for reply in self.replies if reply.kind == kind), None)


def _replies(seen: Seen, *kinds: str) -> list[Reply]:
    return [reply for reply in (seen.public.replies if seen.public is not None else ()) if reply.kind in kinds]


def _certificates(seen: Seen, *faults: str) -> Iterator[Certificate]:
    for certificate in seen.public.certificates if seen.public is not None else ():
        if certificate.fault in faults:
            yield certificate


def _valid(certificate: Certificate) -> str:
    days = f", {certificate.days:.1f} days left" if certificate.days is not None else ""
    names = ", ".join(certificate.names[:5]) or "no names"
    issuer = f", issued by {certificate.issuer}" if certificate.issuer else ""
    return f"{certificate.place}: {names}{issuer}{days}{f' ({certificate.detail})' if certificate.detail else ''}"


def _where(certificate: Certificate) -> str:
    return "The TLS certificate served at" if certificate.served else "The TLS certificate in"


@RULES.rule(
    "certificate_expired",
    severity="error",
    cause="The renewal failed, or whoever serves the certificate was not reloaded after it: clients and other servers "
    "refuse the connection.",
    remedy="certbot renew (or what renews here), then reload who serves it: systemctl reload nginx; of Synapse's own "
    "TLS "
    "listener: systemctl reload UNIT. Never federation_verify_certificates: false.",
    explains=("public.unreachable", "public.baseurl", "public.certificate_expiring", "configuration.tls_expired"),
)
def _certificate_expired(seen: Seen) -> Iterator[Clue]:
    """A TLS certificate has expired."""
    found = list(_certificates(seen, "expired"))
    fresh = [one for one in (seen.public.certificates if seen.public else ()) if not one.served and not one.fault]
    for certificate in found:
        ago = f"{-certificate.days:.1f} days ago" if certificate.days is not None else "already"
        file = (
            next((one for one in fresh if set(one.names) & set(certificate.names)), None)
            if certificate.served
            else None
        )
        renewed = f"; {file.place} is renewed: a reload is missing" if file is not None else ""
        yield Clue(f"{_where(certificate)} {certificate.place} has expired, {ago}{renewed}.", _valid(certificate))


@RULES.rule(
    "certificate_early",
    severity="error",
    cause="The clock of this host, or of the one that issued it, is wrong.",
    remedy="timedatectl; then issue the certificate again if it still begins later.",
    explains=("public.unreachable", "public.baseurl"),
)
def _certificate_early(seen: Seen) -> Iterator[Clue]:
    """A TLS certificate is not valid yet."""
    for certificate in _certificates(seen, "early"):
        yield Clue(f"{_where(certificate)} {certificate.place} is not valid yet.", _valid(certificate))


@RULES.rule(
    "certificate_name",
    severity="error",
    cause="The certificate was issued for other names, or the proxy serves that of its default site.",
    remedy="Issue one that holds this name too (certbot certonly -d NAME), and name it in the proxy's site for NAME.",
    explains=("public.unreachable", "public.baseurl"),
)
def _certificate_name(seen: Seen) -> Iterator[Clue]:
    """A TLS certificate does not hold the name that others ask for."""
    for certificate in _certificates(seen, "name"):
        yield Clue(
            f"{_where(certificate)} {certificate.place} is not for the name {certificate.name}.", _valid(certificate)
        )


@RULES.rule(
    "certificate_chain",
    severity="error",
    cause="The server sends its own certificate alone. Browsers often know the intermediate one, other servers do not.",
    remedy="Serve fullchain.pem instead of cert.pem, then reload the proxy.",
    explains=("public.unreachable", "public.baseurl"),
)
def _certificate_chain(seen: Seen) -> Iterator[Clue]:
    """The chain of a TLS certificate is incomplete: the intermediate one is missing."""
    for certificate in _certificates(seen, "chain"):
        yield Clue(
            f"The chain of the TLS certificate served at {certificate.place} is incomplete: the intermediate "
            "certificate "
            "is missing.",
            _valid(certificate),
        )


@RULES.rule(
    "certificate_untrusted",
    severity="error",
    cause="Other servers trust public authorities alone: a self-signed certificate, or one of a private authority, "
    "ends "
    "federation with them.",
    remedy="Get one of a public authority (certbot). For an authority of one's own: federation_custom_ca_list at the "
    "other servers, and ca_bundle here.",
    explains=("public.unreachable", "public.baseurl"),
)
def _certificate_untrusted(seen: Seen) -> Iterator[Clue]:
    """A TLS certificate is self-signed, or of an unknown issuer."""
    for certificate in _certificates(seen, "self-signed", "issuer", "other"):
        what = {"self-signed": "is self-signed", "issuer": "is of an unknown issuer"}.get(
            certificate.fault, f"is refused: {certificate.detail}"
        )
        yield Clue(f"{_where(certificate)} {certificate.place} {what}.", _valid(certificate))


@RULES.rule(
    "certificate_file",
    severity="error",
    cause="The file was moved, is no PEM certificate, or was renewed without its key: a TLS listener of Synapse cannot "
    "be opened with it.",
    remedy="Compare: openssl x509 -noout -pubkey -in CERTIFICATE and openssl pkey -pubout -in KEY must print the same. "
    "Then systemctl restart UNIT.",
    symptom=True,
    explains=("words.tls", "words.missing_file"),
)
def _certificate_file(seen: Seen) -> Iterator[Clue]:
    """The certificate file of a TLS listener cannot be used, or does not belong to its private key."""
    for certificate in _certificates(seen, "missing", "unreadable", "pair"):
        yield Clue(
            f"The certificate of the TLS listener, {certificate.place}, cannot be used: {certificate.detail}.",
            f"tls_certificate_path: {certificate.place}",
        )


@RULES.rule(
    "certificate_expiring",
    severity="warning",
    cause="Certificates are usually renewed a month before they end: the renewal does not work.",
    remedy="systemctl list-timers; certbot renew --dry-run; then reload who serves it.",
)
def _certificate_expiring(seen: Seen) -> Iterator[Clue]:
    """A TLS certificate expires soon."""
    for certificate in seen.public.certificates if seen.public is not None else ():
        days = certificate.days
        if days is not None and 0 <= days < seen.request.certificate_days and certificate.fault != "expired":
            yield Clue(f"{_where(certificate)} {certificate.place} expires in {days:.1f} days.", _valid(certificate))


@RULES.rule(
    "name",
    severity="error",
    cause="DNS has no address (A, AAAA) for the name, or this host's name server does not answer.",
    remedy="getent hosts NAME; dig NAME A; dig NAME AAAA; correct the zone, or /etc/resolv.conf.",
    explains=("public.unreachable", "public.baseurl", "public.well_known_server", "public.well_known_client"),
)
def _name(seen: Seen) -> Iterator[Clue]:
    """A public name of the server does not resolve (DNS)."""
    for name in seen.public.unresolved if seen.public is not None else ():
        yield Clue(f"The public name {name} does not resolve (DNS).", name)


@RULES.rule(
    "address",
    severity="warning",
    cause="A record in DNS, often the AAAA of an older host, leads to where nobody listens: who tries that one first "
    "waits, or fails.",
    remedy="dig NAME A; dig NAME AAAA; remove the stale record, or open the port there too.",
)
def _address(seen: Seen) -> Iterator[Clue]:
    """Of several addresses in DNS, one does not answer."""
    for address in seen.public.mute if seen.public is not None else ():
        yield Clue(f"An address of the public name does not answer: {address}.", address)


@RULES.rule(
    "other_key",
    severity="critical",
    cause="Behind the public name another server, or a server with another key, answers in this one's name.",
    remedy="See where the name leads (dig NAME, the proxy's site). Stop the other one; never let two run with one "
    "name.",
)
def _other_key(seen: Seen) -> Iterator[Clue]:
    """By its public name, the server publishes another signing key than the key file holds."""
    identity = seen.identity
    expected = getattr(identity, "verify_keys", None) if identity is not None else None
    if not expected and seen.answers is not None:
        expected = seen.answers.published
    for reply in _replies(seen, "key"):
        if reply.keys and isinstance(expected, dict) and expected and not same_keys(reply.keys, expected):
            yield Clue(
                "By its public name, the server publishes another signing key than its key file holds.",
                f"{reply.url}: {', '.join(sorted(reply.keys))}; here: {', '.join(sorted(expected))}",
            )


@RULES.rule(
    "other_server",
    severity="error",
    cause="DNS, the delegation (m.server) or the proxy leads to another homeserver.",
    remedy="dig NAME; curl https://NAME/.well-known/matrix/server; the proxy's site for NAME: proxy_pass.",
    explains=("public.other_key", "public.proxy_routes"),
)
def _other_server(seen: Seen) -> Iterator[Clue]:
    """A different server answers by this server's public name."""
    name = seen.settings.server_name if seen.settings is not None else None
    for reply in _replies(seen, "key"):
        if reply.good and name is not None and reply.value != name:
            yield Clue(f"By the public name of {name}, the server {reply.value} answers.", f"{reply.url}: {reply.told}")
    for reply in _replies(seen, "federation"):
        if reply.good and reply.software != "Synapse":
            yield Clue(
                f"By the public name, {reply.software} answers instead of Synapse.", f"{reply.url}: {reply.told}"
            )


@RULES.rule(
    "upstream",
    severity="error",
    cause="The proxy reaches nobody: Synapse is down or still starting, or proxy_pass names another port.",
    remedy="curl http://127.0.0.1:8008/health on this host; compare proxy_pass with the port of the listener.",
    symptom=True,
    explains=("public.proxy_routes", "public.baseurl", "public.unreachable"),
)
def _upstream(seen: Seen) -> Iterator[Clue]:
    """The reverse proxy gets no answer from Synapse (502, 503, 504)."""
    for reply in _replies(seen, "client", "federation", "key"):
        if reply.status in _UPSTREAM:
            yield Clue(f"The reverse proxy gets no answer from Synapse: {reply.status} at {reply.url}.", reply.told)
            return


@RULES.rule(
    "proxy_routes",
    severity="error",
    cause="The reverse proxy hands on a part of the paths alone, such as /_matrix/client: other servers cannot verify "
    "signatures of this one, nor send to it.",
    remedy="nginx: location ~ ^(/_matrix|/_synapse/client) { proxy_pass http://127.0.0.1:8008; } and not "
    "/_synapse/admin; "
    "then nginx -t && systemctl reload nginx.",
    explains=("public.baseurl",),
)
def _proxy_routes(seen: Seen) -> Iterator[Clue]:
    """The reverse proxy does not hand on the paths of federation (/_matrix/key/v2/server)."""
    replies = _replies(seen, "federation", "key")
    wrong = [one for one in replies if one.status is not None and not one.good and one.status not in _UPSTREAM]
    if wrong:
        paths = " and ".join(urllib.parse.urlsplit(one.url).path for one in wrong)
        yield Clue(
            f"The reverse proxy does not hand on {paths}: federation does not work.",
            "; ".join(f"{one.url}: {one.told}" for one in wrong),
        )


@RULES.rule(
    "unreachable",
    severity="error",
    cause=f"A firewall, a missing port forwarding, or no delegation. {_DISCOVERY}",
    remedy="Open the port in the firewall (8448, or the delegated one), or delegate to 443: let "
    "https://NAME/.well-known/"
    'matrix/server answer {"m.server": "matrix.NAME:443"}. Where this host alone cannot reach its own public address '
    "(hairpin NAT), ask from outside.",
    symptom=True,
)
def _unreachable(seen: Seen) -> Iterator[Clue]:
    """Other servers find nobody at the public name (8448 or the delegated port)."""
    public = seen.public
    for reply in _replies(seen, "federation"):
        if reply.status is None and public is not None and not reply.problem.startswith("the certificate"):
            yield Clue(
                f"Other servers find nobody at {public.target}: {reply.problem} (port closed by a firewall, or DNS or "
                "SRV "
                "points elsewhere).",
                f"{reply.url}, found by {public.via}: {reply.problem}",
            )


@RULES.rule(
    "well_known_server",
    severity="error",
    cause=f"Another web server has the name and answers with a page of its own. {_DISCOVERY}",
    remedy='Serve {"m.server": "matrix.NAME:443"} as JSON at https://NAME/.well-known/matrix/server. Never change '
    "server_name to the delegated host.",
)
def _well_known_server(seen: Seen) -> Iterator[Clue]:
    """/.well-known/matrix/server is not what other servers understand (delegation)."""
    for reply in _replies(seen, "well_known_server"):
        if reply.status == 200 and reply.value is None:
            yield Clue(
                ".well-known/matrix/server names no m.server: the delegation does not work.",
                f"{reply.url}: {reply.told}",
            )
        elif reply.good and ("/" in str(reply.value) or " " in str(reply.value)):
            yield Clue(
                f".well-known/matrix/server names {reply.value} as m.server, which is no HOST or HOST:PORT: the "
                "delegation does not work.",
                f"{reply.url}: {reply.told}",
            )


@RULES.rule(
    "well_known_client",
    severity="warning",
    cause="Apps that are given a user's id ask https://NAME/.well-known/matrix/client where the server is; web apps "
    "may "
    "read it only with the header Access-Control-Allow-Origin: *.",
    remedy='Serve {"m.homeserver": {"base_url": "https://matrix.NAME"}} as JSON with the header '
    "Access-Control-Allow-Origin: * there.",
)
def _well_known_client(seen: Seen) -> Iterator[Clue]:
    """/.well-known/matrix/client is missing or wrong: apps do not find the server."""
    settings = seen.settings
    wanted = settings.text("public_baseurl") if settings is not None else None
    for reply in _replies(seen, "well_known_client"):
        here = f"{reply.url}: {reply.told}"
        if reply.status == 200 and reply.value is None:
            yield Clue(".well-known/matrix/client names no m.homeserver.base_url.", here)
        elif reply.good and not reply.cors:
            yield Clue(".well-known/matrix/client lacks the header Access-Control-Allow-Origin (CORS).", here)
        elif reply.good and wanted is not None and str(reply.value).rstrip("/") != wanted.rstrip("/"):
            yield Clue(f".well-known/matrix/client names {reply.value}, and public_baseurl is {wanted}.", here)


@RULES.rule(
    "baseurl",
    severity="error",
    cause="public_baseurl is not where clients reach this server, or the proxy does not hand the path on.",
    remedy="curl -sS BASEURL/_matrix/client/versions; correct public_baseurl, or the proxy.",
    symptom=True,
)
def _baseurl(seen: Seen) -> Iterator[Clue]:
    """At public_baseurl, no client API answers."""
    for reply in _replies(seen, "client"):
        if not reply.good and reply.status not in _UPSTREAM:
            yield Clue(f"No client API answers at public_baseurl ({reply.told}).", f"{reply.url}: {reply.told}")
