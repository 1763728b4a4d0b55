# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services beside the homeserver: PostgreSQL, Redis, the reverse proxy and TURN, where they belong to it. Pure."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.nginx import Route, Site
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Listener", "Neighbour", "Neighbours", "Nginx", "Redis", "Turn", "TurnServer", "parse_turnserver"]

RULES = Rulebook("neighbours")

# What a homeserver has to answer under its public name (docs/reverse_proxy.md, 1.163.2), by the resource it belongs to.
ROUTES: t.Final = {
    "client": ("/_matrix/client/versions", "/_matrix/media/v3/config", "/_synapse/client/pick_idp"),
    "federation": ("/_matrix/federation/v1/version", "/_matrix/key/v2/server"),
}
_UPLOAD = "/_matrix/media/v3/upload"
_MEBI = 1024 * 1024
_TURN_URI = re.compile(r"(?i)(turns?|stuns?):(\[[0-9a-f:]+\]|[^:?\s/]+)(?::(\d{1,5}))?(?:\?transport=(udp|tcp))?$")
_OWN = ("127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "[::]")  # noqa: S104 - compared, not bound


# What others see of a proxy that does not pass requests on as it should; its certificates are another matter.
_OUTSIDE = (
    "public.proxy_routes",
    "public.upstream",
    "public.unreachable",
    "public.baseurl",
    "public.well_known_server",
    "public.well_known_client",
    "public.other_server",
)


@dataclass(frozen=True)
class Neighbour:
    """A unit of another service that belongs to this installation. ``kind``: postgresql, redis, proxy or turn."""

    kind: str
    unit: str
    active: str = "active"
    sub: str = "running"
    result: str = "success"
    file: str = "enabled"
    load: str = "loaded"
    said: str = ""

    @property
    def stopped(self) -> bool:
        """Whether it does not run, and is not on its way up."""
        return self.active in ("inactive", "failed") or self.sub == "auto-restart"

    @property
    def masked(self) -> bool:
        """Whether somebody wanted it never to start."""
        return self.load == "masked" or self.file.startswith("masked")

    @property
    def told(self) -> str:
        """Its name and state; the name stands first, and is what the repair reads."""
        result = f", {self.result}" if self.result not in ("", "success") else ""
        return f"{self.unit} is {self.active} ({self.sub}{result}), {self.file or self.load}" + (
            f": {self.said}" if self.said else ""
        )


@dataclass(frozen=True)
class Redis:
    """What Redis answered. ``stage``: secret, connect, auth, use or done; ``problem``: why it got no further."""

    where: str = ""
    stage: str = "done"
    problem: str | None = None
    version: str | None = None
    role: str | None = None
    loading: bool = False
    memory: int = 0
    memory_limit: int = 0


@dataclass(frozen=True)
class TurnServer:
    """What coturn's configuration says. ``digests`` are those of its secrets, ``bare`` of what is left of them without
    quotes and white space."""

    path: str
    digests: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether an option is set."""
        return name in self.options

    def ports(self, *, tls: bool) -> tuple[int, ...]:
        """Return the ports that it listens at (coturn: 3478 and 5349, and the ones after them for RFC 5780)."""
        name, other = ("tls-listening-port", 5349) if tls else ("listening-port", 3478)
        alternative = self.options.get(f"alt-{name}", ())
        named = [
            int(value) for value in (*self.options.get(name, ()), *alternative) if value.isdigit() and value != "0"
        ]
        return tuple(named) or (other, other + 1)


def parse_turnserver(text: str) -> dict[str, tuple[str, ...]]:
    """Read turnserver.conf: names of options with their values, as they stand there."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _equals, value = line.strip().partition("=")
        found[name.strip()] = (*found.get(name.strip(), ()), value)
    return found


@dataclass(frozen=True)
class Turn:
    """What the homeserver gives to callers. ``kind``: of what type the secret is; ``digest``: keyed, of the secret."""

    uris: tuple[str, ...] = ()
    kind: str = "none"
    digest: str | None = None
    padded: bool = False
    problem: str | None = None
    password: bool = False
    local: bool = False


@dataclass(frozen=True)
class Listener:
    """An HTTP listener of Synapse. ``address`` is ``host:port`` or ``unix:path`` as a proxy on this host names it."""

    port: int | None
    path: str | None = None
    resources: tuple[str, ...] = ()
    forwarded: bool = False
    tls: bool = False
    loopback: bool = False


@dataclass(frozen=True)
class Nginx:
    """nginx's configuration. ``problem``: why it cannot be read; ``refused``: targets where nothing listens."""

    path: str
    sites: tuple[Site, ...] = ()
    problem: str | None = None
    missing: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Neighbours:
    """What was seen. ``names`` are those under which the server is reached: its own, and that of public_baseurl.

    ``managed``: the collection wrote the configuration. ``proxied``: there is, or has to be, a proxy before Synapse.
    """

    units: tuple[Neighbour, ...] = ()
    redis: Redis | None = None
    turn: Turn | None = None
    turnserver: TurnServer | None = None
    nginx: Nginx | None = None
    listeners: tuple[Listener, ...] = ()
    names: tuple[str, ...] = ()
    upload: int = 50 * _MEBI
    workers: bool = False
    managed: bool = False
    proxied: bool = False


# ---------------------------------------------------------------------------------------------------------------- units


def _stopped(seen: Seen, kind: str) -> Iterator[Neighbour]:
    for unit in seen.neighbours.units if seen.neighbours is not None else ():
        if unit.kind == kind and unit.stopped:
            yield unit


def _start(unit: Neighbour, what: str) -> Clue:
    if unit.masked:
        return Clue(
            f"{what} does not run: {unit.unit} is masked.",
            unit.told,
            cause="Somebody masked the unit, so that nothing can start it.",
            remedy=f"systemctl unmask {unit.unit} && systemctl enable --now {unit.unit}",
            repair="",
            safe=False,
        )
    return Clue(
        f"{what} does not run: {unit.unit} is {'failed' if unit.active == 'failed' else 'stopped'}.",
        unit.told,
        remedy=f"systemctl enable --now {unit.unit}; if that fails: journalctl -u {unit.unit} -n 50",
    )


@RULES.rule(
    "postgresql_stopped",
    severity="critical",
    cause="It was stopped, or failed: a full disk, a changed configuration, memory, or an upgrade that did not end.",
    remedy="systemctl start postgresql",
    repair="service",
    safe=True,
    stops=True,
    explains=("database.refused", "database.socket_missing", "database.no_answer", "database.starting"),
)
def _postgresql_stopped(seen: Seen) -> Iterable[Clue]:
    """PostgreSQL belongs to this installation and does not run."""
    for unit in _stopped(seen, "postgresql"):
        yield _start(unit, "PostgreSQL")


@RULES.rule(
    "redis_stopped",
    severity="error",
    cause="It was stopped, or failed: memory, a full disk, or a changed configuration. Synapse goes on serving with "
    "stale "
    "data: the main process and the workers do not hear of each other.",
    remedy="systemctl start redis-server",
    repair="service",
    safe=True,
    explains=("neighbours.redis_unreachable", "words.redis*"),
)
def _redis_stopped(seen: Seen) -> Iterable[Clue]:
    """Redis belongs to this installation and does not run."""
    for unit in _stopped(seen, "redis"):
        redis = seen.neighbours.redis if seen.neighbours is not None else None
        if redis is None or redis.problem is not None:
            clue = _start(unit, "Redis")
            problem = redis.problem if redis is not None else None
            yield Clue(**{**clue.__dict__, "evidence": clue.evidence + (f"; {problem}" if problem else "")})


@RULES.rule(
    "proxy_stopped",
    severity="error",
    cause="It was stopped, or failed: most often its configuration or a certificate was changed and is wrong, or "
    "another "
    "program holds its port.",
    remedy="systemctl start nginx",
    repair="service",
    safe=True,
    explains=_OUTSIDE,
)
def _proxy_stopped(seen: Seen) -> Iterable[Clue]:
    """The reverse proxy belongs to this installation and does not run."""
    for unit in _stopped(seen, "proxy"):
        yield _start(unit, "The reverse proxy")


@RULES.rule(
    "turn_stopped",
    severity="error",
    cause="It was stopped, or failed. Calls then connect only where both sides are in the same network.",
    remedy="systemctl start coturn",
    repair="service",
    safe=True,
)
def _turn_stopped(seen: Seen) -> Iterable[Clue]:
    """The TURN server belongs to this installation and does not run."""
    for unit in _stopped(seen, "turn"):
        yield _start(unit, "The TURN server")


@RULES.rule(
    "not_enabled",
    severity="warning",
    cause="It was started by hand, and nothing starts it with the host.",
    remedy="systemctl enable UNIT",
    repair="service",
    safe=True,
)
def _not_enabled(seen: Seen) -> Iterable[Clue]:
    """A service that belongs to this installation runs, and does not start with the host."""
    for unit in seen.neighbours.units if seen.neighbours is not None else ():
        if not unit.stopped and unit.file == "disabled":
            yield Clue(
                f"{unit.unit} runs, and is not started with the host.",
                unit.told,
                remedy=f"systemctl enable {unit.unit}",
            )


# ---------------------------------------------------------------------------------------------------------------- Redis


@RULES.rule(
    "redis_unreachable",
    severity="error",
    cause="Redis does not run, listens elsewhere, or a firewall is between. Synapse goes on answering /health, and "
    "the main "
    "process and the workers do not hear of each other.",
    remedy="systemctl start redis-server, or correct redis.host, redis.port or redis.path in homeserver.yaml. Do not "
    "switch "
    "redis off where there are workers.",
    explains=("words.redis*",),
)
def _redis_unreachable(seen: Seen) -> Iterable[Clue]:
    """Redis is enabled and cannot be reached."""
    redis = seen.neighbours.redis if seen.neighbours is not None else None
    if redis is not None and redis.stage == "connect" and redis.problem is not None:
        managed = seen.neighbours is not None and seen.neighbours.managed
        yield Clue(
            f"Redis at {redis.where} cannot be reached, and redis.enabled is set.",
            redis.problem,
            repair="config" if managed else "",
            safe=managed,
        )


@RULES.rule(
    "redis_refuses",
    severity="error",
    cause="The password, or the user, in redis: of homeserver.yaml is not the one of Redis (requirepass, or an ACL), "
    "is "
    "missing, or cannot be read by the service. In protected mode Redis only answers its own host.",
    remedy="Make redis.password (or the file of redis.password_path) and requirepass in /etc/redis/redis.conf the "
    "same, then "
    "restart what was changed.",
    explains=("words.redis*",),
)
def _redis_refuses(seen: Seen) -> Iterable[Clue]:
    """Redis does not let the service in."""
    redis = seen.neighbours.redis if seen.neighbours is not None else None
    if redis is None or redis.problem is None or redis.loading or redis.stage not in ("auth", "use", "secret"):
        return
    if redis.problem.startswith("MISCONF"):
        yield Clue(
            f"Redis at {redis.where} takes no writes: it cannot save its data.",
            redis.problem,
            cause="The disk of Redis is full, its folder is not writable, or there is no memory for a fork; it then "
            "refuses everything (stop-writes-on-bgsave-error).",
            remedy="Look at the log of Redis and at df -h /var/lib/redis; then redis-cli BGSAVE",
        )
        return
    what = (
        "The password of Redis cannot be read by the service"
        if redis.stage == "secret"
        else f"Redis at {redis.where} refuses the service"
    )
    yield Clue(f"{what}.", redis.problem)


@RULES.rule(
    "redis_memory",
    severity="warning",
    cause="Another program fills it, or maxmemory is lower than what Synapse keeps there. With maxmemory-policy "
    "noeviction Redis then refuses commands.",
    remedy="redis-cli INFO memory; raise maxmemory in redis.conf, or give Synapse a Redis of its own.",
)
def _redis_memory(seen: Seen) -> Iterable[Clue]:
    """Redis has used up the memory that it may use."""
    redis = seen.neighbours.redis if seen.neighbours is not None else None
    if redis is not None and redis.memory_limit and redis.memory > 0.95 * redis.memory_limit:
        yield Clue(
            f"Redis at {redis.where} has used up its maxmemory.", f"{redis.memory} of {redis.memory_limit} bytes"
        )


@RULES.rule(
    "redis_replica",
    severity="warning",
    cause="It is a copy of another Redis: what is published there does not reach who listens at the other.",
    remedy="Name the primary in redis.host, or on this one: redis-cli REPLICAOF NO ONE",
)
def _redis_replica(seen: Seen) -> Iterable[Clue]:
    """Redis is a replica."""
    redis = seen.neighbours.redis if seen.neighbours is not None else None
    if redis is not None and redis.role == "slave":
        yield Clue(f"Redis at {redis.where} is a replica.", "role:slave")


# ----------------------------------------------------------------------------------------------------------------- TURN


@RULES.rule(
    "turn_secret_mismatch",
    severity="error",
    cause="One side was changed without the other, or quotes or white space have become a part of it. Synapse never "
    "notices; "
    "coturn logs 'Cannot find credentials', and calls connect only within one network.",
    remedy="Copy the value of static-auth-secret in turnserver.conf to turn_shared_secret of homeserver.yaml, or the "
    "other "
    "way round; then restart the one that was changed (systemctl restart coturn). Do not switch authentication off.",
)
def _turn_secret(seen: Seen) -> Iterable[Clue]:
    """turn_shared_secret and coturn's static-auth-secret differ."""
    neighbours = seen.neighbours
    turn, server = (neighbours.turn, neighbours.turnserver) if neighbours is not None else (None, None)
    if turn is None or server is None or turn.digest is None or turn.digest in server.digests:
        return
    if any(server.has(name) for name in ("userdb", "psql-userdb", "mysql-userdb", "mongo-userdb", "redis-userdb")):
        return  # secrets may be there too
    if not server.digests:
        yield Clue(
            "Synapse has a turn_shared_secret, and coturn has no static-auth-secret to compare it with.", server.path
        )
    elif turn.digest in server.bare or turn.padded:
        yield Clue(
            "turn_shared_secret and coturn's static-auth-secret differ in quotes or white space alone.", server.path
        )
    else:
        yield Clue("turn_shared_secret and coturn's static-auth-secret are not the same.", server.path)


def _written(seen: Seen) -> dict[str, t.Any]:
    """Return what is to be done about a wrong setting of Synapse: the collection writes anew what it wrote before."""
    managed = seen.neighbours is not None and seen.neighbours.managed
    return {"repair": "config", "safe": True} if managed else {}


@RULES.rule(
    "turn_secret_missing",
    severity="error",
    cause="turn_uris alone give nobody access: turn_shared_secret is missing, empty, misspelt or cannot be read. "
    "Clients are "
    "answered with {}.",
    remedy="Set turn_shared_secret (with underscores, in quotes) in homeserver.yaml to coturn's static-auth-secret.",
)
def _turn_secret_missing(seen: Seen) -> Iterable[Clue]:
    """TURN is configured without a secret."""
    turn = seen.neighbours.turn if seen.neighbours is not None else None
    if turn is None or not turn.uris or turn.password:
        return
    if turn.problem is not None:
        yield Clue("The file of turn_shared_secret_path cannot be read by the service.", turn.problem)
    elif turn.kind == "none":
        yield Clue("turn_uris is set, and there is no turn_shared_secret.", "turn_uris", **_written(seen))
    elif turn.kind != "str":
        yield Clue(
            "turn_shared_secret is no text but a number or a truth value: YAML may have changed it.",
            "turn_shared_secret",
            remedy="Write turn_shared_secret in quotes.",
            severity="warning",
            **_written(seen),
        )


@RULES.rule(
    "turn_uri",
    severity="error",
    cause="A typo, or a form that clients do not know: turn:HOST:PORT?transport=udp, or turns: for TLS (RFC 7065).",
    remedy="turn_uris: ['turn:turn.example.org?transport=udp', 'turn:turn.example.org?transport=tcp']",
)
def _turn_uri(seen: Seen) -> Iterable[Clue]:
    """An entry of turn_uris is malformed."""
    turn = seen.neighbours.turn if seen.neighbours is not None else None
    for uri in turn.uris if turn is not None else ():
        if not _TURN_URI.match(uri):
            yield Clue(f"The entry {uri[:120]!r} of turn_uris is no TURN address.", "turn_uris")


@RULES.rule(
    "turn_port",
    severity="error",
    cause="coturn listens at listening-port (3478) and tls-listening-port (5349), and speaks TLS only with cert and "
    "pkey.",
    remedy="Make the ports in turn_uris and in turnserver.conf the same, then restart the one that was changed.",
)
def _turn_port(seen: Seen) -> Iterable[Clue]:
    """turn_uris name a port or a protocol that the TURN server does not listen at."""
    neighbours = seen.neighbours
    turn, server = (neighbours.turn, neighbours.turnserver) if neighbours is not None else (None, None)
    if turn is None or server is None or not turn.local:
        return
    for uri in turn.uris:
        match = _TURN_URI.match(uri)
        if match is None:
            continue
        tls = match[1].lower().endswith("s")
        port = int(match[3]) if match[3] else (5349 if tls else 3478)
        # coturn tells TLS from plain by itself, at each of its ports.
        ports = (*server.ports(tls=tls), *server.ports(tls=not tls))
        if tls and (server.has("no-tls") or not (server.has("cert") and server.has("pkey"))):
            yield Clue(
                f"{uri} asks for TLS, and coturn has none: no-tls is set, or cert and pkey are not.", server.path
            )
        elif port not in ports:
            yield Clue(
                f"{uri} names port {port}, and coturn listens at {', '.join(str(one) for one in ports[:1])}.",
                server.path,
                **_written(seen),
            )
        elif (match[4] or "udp").lower() == "tcp" and not tls and server.has("no-tcp"):
            yield Clue(f"{uri} asks for TCP, and coturn has no-tcp.", server.path)
        elif (match[4] or "udp").lower() == "udp" and not tls and server.has("no-udp"):
            yield Clue(f"{uri} asks for UDP, and coturn has no-udp.", server.path)


# ---------------------------------------------------------------------------------------------------------------- nginx


def _serves(target: str, listener: Listener) -> bool:
    if target.startswith("unix:"):
        return listener.path is not None and target[5:].rstrip(":") == listener.path
    host, _colon, port = target.rpartition(":")
    return listener.port is not None and port == str(listener.port) and host in _OWN


def _listener(nginx: Seen, site: Site, route: Route) -> Listener | None:
    """Return the listener that a route leads to."""
    neighbours = nginx.neighbours
    if neighbours is None or route.target is None:
        return None
    addresses = site.addresses(route.target)
    return next((one for one in neighbours.listeners if any(_serves(it, one) for it in addresses)), None)


def _sites(seen: Seen) -> list[Site]:
    """Return the server blocks that pass anything on to Synapse, or are for its name and its paths."""
    neighbours = seen.neighbours
    if neighbours is None or neighbours.nginx is None:
        return []
    every = [path for paths in ROUTES.values() for path in paths]
    return [
        site
        for site in neighbours.nginx.sites
        if any(_listener(seen, site, site.route(path)) is not None for path in every)
    ]


@RULES.rule(
    "proxy_config",
    severity="error",
    cause="A brace or a semicolon is missing, or a file of a certificate is gone. nginx goes on with what it has "
    "loaded, and "
    "does not come up again after a restart.",
    remedy="nginx -t names the line; correct it, then systemctl reload nginx",
    explains=("neighbours.proxy_stopped",),
)
def _proxy_config(seen: Seen) -> Iterable[Clue]:
    """nginx would refuse its configuration."""
    nginx = seen.neighbours.nginx if seen.neighbours is not None else None
    if nginx is None:
        return
    if nginx.problem is not None:
        yield Clue("nginx would refuse its configuration.", nginx.problem)
    elif nginx.missing:
        yield Clue("nginx would refuse its configuration: the file of a certificate does not exist.", nginx.missing[0])


@RULES.rule(
    "proxy_route_missing",
    severity="error",
    cause="The locations of the proxy are narrower than what Synapse serves: /_matrix and /_synapse/client.",
    remedy="In the server block: location ~ ^(/_matrix|/_synapse/client) { proxy_pass http://127.0.0.1:8008; ... }, "
    "then "
    "nginx -t && systemctl reload nginx. Do not expose /_synapse/admin.",
    explains=_OUTSIDE,
)
def _proxy_route(seen: Seen) -> Iterable[Clue]:
    """The reverse proxy does not pass on everything that Synapse serves (key/v2/server, federation)."""
    sites = _sites(seen)
    neighbours = seen.neighbours
    if not sites or neighbours is None:
        return
    served = {name for one in neighbours.listeners for name in one.resources}
    direct = any(one.tls and not one.loopback for one in neighbours.listeners)
    missing = []
    for resource, paths in ROUTES.items():
        # Federation may reach Synapse without the proxy, at a listener with TLS.
        if resource in served and not (resource == "federation" and direct):
            missing += [path for path in paths if not any(site.route(path).target for site in sites)]
    if missing:
        at = sites[0].directive
        yield Clue(
            f"The reverse proxy does not pass on {', '.join(missing)}.",
            f"the server block in {at.path} line {at.line} has no location for them",
        )


@RULES.rule(
    "proxy_upstream",
    severity="error",
    cause="The port in proxy_pass is not one of Synapse's listeners: it was changed on one side alone.",
    remedy="Correct proxy_pass, or the port of the listener in homeserver.yaml; then nginx -t && systemctl reload "
    "nginx",
    explains=_OUTSIDE,
)
def _proxy_upstream(seen: Seen) -> Iterable[Clue]:
    """The reverse proxy passes requests for Synapse on to where nothing listens."""
    neighbours = seen.neighbours
    nginx = neighbours.nginx if neighbours is not None else None
    if nginx is None or neighbours is None:
        return
    told = set()
    for site in nginx.sites:
        for path in ("/_matrix/client/versions", "/_matrix/federation/v1/version"):
            route = site.route(path)
            if route.target is None or _listener(seen, site, route) is not None:
                continue
            dead = [one for one in site.addresses(route.target) if one in nginx.refused]
            if dead and dead[0] not in told:
                told.add(dead[0])
                ports = ", ".join(str(one.port or one.path) for one in neighbours.listeners)
                yield Clue(
                    f"The reverse proxy passes /_matrix on to {dead[0]}, where nothing listens; Synapse's listeners "
                    f"are at "
                    f"{ports}.",
                    f"{route.path} line {route.line}: proxy_pass {route.target}",
                )


@RULES.rule(
    "proxy_path",
    severity="error",
    cause="A path behind the port in proxy_pass, even a single slash, lets nginx rewrite the path of each request: "
    "encoded "
    "characters change, and the signatures of federation requests are wrong.",
    remedy="Write proxy_pass http://127.0.0.1:8008; without anything behind the port, then nginx -t && systemctl "
    "reload nginx",
    explains=_OUTSIDE,
)
def _proxy_path(seen: Seen) -> Iterable[Clue]:
    """The reverse proxy rewrites the paths of requests."""
    told = set()
    for site in _sites(seen):
        for paths in ROUTES.values():
            for path in paths:
                route = site.route(path)
                place = f"{route.path} line {route.line}"
                if route.uri and place not in told:
                    told.add(place)
                    yield Clue(
                        f"proxy_pass has a path behind the port, so that nginx changes the paths of requests ({path}).",
                        f"{place}: proxy_pass {route.target}",
                    )


@RULES.rule(
    "proxy_forwarded",
    severity="warning",
    cause="Without the header X-Forwarded-For, and x_forwarded: true at the listener, all users come from the proxy's "
    "own "
    "address: after a few failed logins of one, all are answered with 429 (M_LIMIT_EXCEEDED).",
    remedy="nginx: proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; and "
    "x_forwarded: true at the listener in homeserver.yaml, where nobody reaches it past the proxy.",
    explains=("words.one_address",),
)
def _proxy_forwarded(seen: Seen) -> Iterable[Clue]:
    """Synapse does not learn the addresses of its users from the proxy (X-Forwarded-For, x_forwarded)."""
    neighbours = seen.neighbours
    if neighbours is None:
        return
    proxied = neighbours.proxied or bool(_sites(seen))
    managed: dict[str, t.Any] = {"repair": "config", "safe": True} if neighbours.managed and proxied else {}
    for one in neighbours.listeners:
        public = {"client", "federation"} & set(one.resources)
        if public and not one.forwarded and not one.tls and (one.loopback or one.path is not None):
            yield Clue(
                "The listener that a proxy reaches has no x_forwarded: true, so that X-Forwarded-For is ignored, and "
                "one "
                "user's failed logins lock everybody out with 429.",
                f"listener at {one.path or one.port}: x_forwarded is not true",
                severity="warning" if proxied else "info",
                **managed,
            )
    told = set()
    for site in _sites(seen):
        route = site.route("/_matrix/client/versions")
        listener = _listener(seen, site, route)
        place = f"{route.path} line {route.line}"
        if listener is not None and listener.forwarded and "x-forwarded-for" not in route.headers and place not in told:
            told.add(place)
            yield Clue(
                "The proxy does not send X-Forwarded-For, so that all users come from its own address (429 for all "
                "after "
                "failed logins of one); the listener has x_forwarded: true.",
                f"{place} has no proxy_set_header X-Forwarded-For",
            )


@RULES.rule(
    "proxy_body_size",
    severity="warning",
    cause="nginx takes requests of up to 1 MB unless it is told otherwise, and answers larger ones with 413 itself.",
    remedy="client_max_body_size 50M; (as much as max_upload_size) in the location or the server block, then nginx -t "
    "&& "
    "systemctl reload nginx",
)
def _proxy_body(seen: Seen) -> Iterable[Clue]:
    """The reverse proxy refuses uploads that Synapse would take (413)."""
    told = set()
    upload = seen.neighbours.upload if seen.neighbours is not None else 0
    for site in _sites(seen):
        route = site.route(_UPLOAD)
        place = f"{route.path} line {route.line}"
        if _listener(seen, site, route) is not None and 0 < route.body < upload and place not in told:
            told.add(place)
            yield Clue(
                f"The reverse proxy takes uploads of up to {route.body // _MEBI} MiB, and Synapse of "
                f"{upload // _MEBI} MiB.",
                f"{place}: client_max_body_size",
            )
