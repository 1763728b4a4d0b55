# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules about the services beside the server, and the looks at Redis and TURN."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
import typing as t
from dataclasses import replace

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import neighbours as part
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import neighbours_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.neighbours import (
    Listener,
    Neighbour,
    Neighbours,
    Nginx,
    Redis,
    Turn,
    TurnServer,
    parse_turnserver,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.nginx import parse, sites_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import neighbours as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

if t.TYPE_CHECKING:
    from pathlib import Path

SITE = """
http { server {
    listen 443 ssl;
    server_name hs.test;
    location ~ ^(/_matrix|/_synapse/client) {
        proxy_pass http://127.0.0.1:8008;
        proxy_set_header X-Forwarded-For $remote_addr;
        client_max_body_size 50M;
    }
} }
"""
LISTENER = Listener(8008, None, ("client", "federation"), True, False, True)


def nginx(text: str = SITE, **changes: t.Any) -> Nginx:
    """Return nginx with a configuration."""
    return replace(
        Nginx("/etc/nginx/nginx.conf", sites_of(parse(text, "/etc/nginx/x", lambda _pattern: []))), **changes
    )


HEALTHY = Neighbours(
    units=(
        Neighbour("postgresql", "postgresql@15-main.service", file="enabled-runtime"),
        Neighbour("redis", "redis-server.service"),
        Neighbour("proxy", "nginx.service"),
        Neighbour("turn", "coturn.service"),
    ),
    redis=Redis("localhost:6379", "done", None, "7.0.15", "master"),
    turn=Turn(("turn:hs.test?transport=udp", "turn:hs.test:3478?transport=tcp"), "str", "d1", local=True),
    turnserver=TurnServer("/etc/turnserver.conf", ("d1",), ("d1",), {"listening-port": ("3478",)}),
    nginx=nginx(),
    listeners=(LISTENER,),
    names=("hs.test",),
    managed=True,
)


def found(neighbours: Neighbours | None) -> list[tuple[str, str]]:
    """Return the ids without their part, and the severities, of what is found."""
    seen = Seen(request=Request(), neighbours=neighbours)
    return [(one.id.partition(".")[2], one.severity) for rule in part.RULES.rules for one in rule.findings(seen)]


@pytest.mark.parametrize("neighbours", [HEALTHY, Neighbours(), None])
def test_healthy_neighbours_are_not_talked_about(neighbours: Neighbours | None) -> None:
    assert found(neighbours) == []


def stopped(kind: str, unit: str, **changes: t.Any) -> tuple[Neighbour, ...]:
    return (replace(Neighbour(kind, unit, "failed", "failed", "exit-code"), **changes),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"units": stopped("postgresql", "postgresql.service")}, [("postgresql_stopped", "critical")]),
        ({"units": stopped("proxy", "nginx.service")}, [("proxy_stopped", "error")]),
        ({"units": stopped("turn", "coturn.service", active="inactive", sub="dead")}, [("turn_stopped", "error")]),
        ({"units": stopped("redis", "redis.service")}, []),  # it answers: it is started in another way
        (
            {"units": stopped("redis", "redis.service"), "redis": Redis("x", "connect", "refused")},
            [("redis_stopped", "error"), ("redis_unreachable", "error")],
        ),
        ({"units": (Neighbour("redis", "redis.service", file="disabled"),)}, [("not_enabled", "warning")]),
        ({"redis": Redis("x", "connect", "timed out")}, [("redis_unreachable", "error")]),
        ({"redis": Redis("x", "auth", "NOAUTH Authentication required.")}, [("redis_refuses", "error")]),
        ({"redis": Redis("x", "secret", "Permission denied")}, [("redis_refuses", "error")]),
        ({"redis": Redis("x", "auth", "LOADING", loading=True)}, []),
        ({"redis": Redis("x", "auth", "MISCONF Redis is configured to save")}, [("redis_refuses", "error")]),
        ({"redis": Redis("x", memory=99, memory_limit=100)}, [("redis_memory", "warning")]),
        ({"redis": Redis("x", memory=99)}, []),
        ({"redis": Redis("x", "done", None, "7", "slave")}, [("redis_replica", "warning")]),
        ({"turn": replace(HEALTHY.turn, digest="d2")}, [("turn_secret_mismatch", "error")]),
        ({"turnserver": TurnServer("/t", ("d3",), ("d1",))}, [("turn_secret_mismatch", "error")]),
        ({"turnserver": TurnServer("/t")}, [("turn_secret_mismatch", "error")]),
        ({"turnserver": TurnServer("/t", (), (), {"redis-userdb": ("***",)})}, []),
        ({"turn": Turn(("turn:hs.test",))}, [("turn_secret_missing", "error")]),
        ({"turn": Turn(("turn:hs.test",), password=True)}, []),
        ({"turn": Turn(("turn:hs.test",), "int", "d1")}, [("turn_secret_missing", "warning")]),
        ({"turn": Turn(("turn:hs.test",), problem="Permission denied")}, [("turn_secret_missing", "error")]),
        ({"turn": Turn(("hs.test:3478",), "str", "d1")}, [("turn_uri", "error")]),
        ({"turn": Turn(("turn:hs.test:3999",), "str", "d1", local=True)}, [("turn_port", "error")]),
        ({"turn": Turn(("turn:hs.test:3999",), "str", "d1")}, []),  # on another host
        ({"turn": Turn(("turns:hs.test",), "str", "d1", local=True)}, [("turn_port", "error")]),
        ({"nginx": nginx(problem="/etc/nginx/x line 3: ...")}, [("proxy_config", "error")]),
        ({"nginx": nginx(missing=("/etc/nginx/x line 3: /a.pem",))}, [("proxy_config", "error")]),
        (
            {"nginx": nginx(SITE.replace("~ ^(/_matrix|/_synapse/client)", "/_matrix/client"))},
            [("proxy_route_missing", "error")],
        ),
        ({"nginx": nginx(SITE.replace("8008", "8009"), refused=("127.0.0.1:8009",))}, [("proxy_upstream", "error")]),
        ({"nginx": nginx(SITE.replace("8008", "8009"))}, []),  # a worker, perhaps
        ({"nginx": nginx(SITE.replace("8008;", "8008/;"))}, [("proxy_path", "error")]),
        ({"nginx": nginx(SITE.replace("X-Forwarded-For", "X-Real-IP"))}, [("proxy_forwarded", "warning")]),
        ({"nginx": nginx(SITE.replace("client_max_body_size 50M;", ""))}, [("proxy_body_size", "warning")]),
        ({"listeners": (replace(LISTENER, forwarded=False),)}, [("proxy_forwarded", "warning")]),
        (
            {"listeners": (replace(LISTENER, forwarded=False),), "managed": False, "nginx": None},
            [("proxy_forwarded", "info")],
        ),
        ({"listeners": (replace(LISTENER, resources=("metrics",)),)}, []),
        ({"listeners": (LISTENER, replace(LISTENER, forwarded=False, loopback=False, tls=True, port=8448))}, []),
    ],
)
def test_a_fault_of_a_neighbour_is_named(changes: dict[str, t.Any], expected: list[tuple[str, str]]) -> None:
    assert found(replace(HEALTHY, **changes)) == expected


def test_federation_may_reach_synapse_past_the_proxy() -> None:
    narrow = nginx(SITE.replace("~ ^(/_matrix|/_synapse/client)", "~ ^/(_matrix/(client|media)|_synapse/client)"))
    direct = Listener(8448, None, ("federation",), False, True, False)
    assert found(replace(HEALTHY, nginx=narrow)) == [("proxy_route_missing", "error")]
    assert found(replace(HEALTHY, nginx=narrow, listeners=(LISTENER, direct))) == []


@pytest.mark.parametrize(("masked", "expected"), [(True, ("", False)), (False, ("service", True))])
def test_what_somebody_masked_is_not_started(masked: bool, expected: tuple[str, bool]) -> None:
    units = stopped("redis", "redis.service", file="masked" if masked else "enabled")
    seen = Seen(request=Request(), neighbours=replace(HEALTHY, units=units, redis=Redis("x", "connect", "refused")))
    (one,) = (it for rule in part.RULES.rules if rule.id == "neighbours.redis_stopped" for it in rule.findings(seen))
    assert (one.repair, one.safe) == expected


def test_the_evidence_of_a_stopped_unit_begins_with_its_name() -> None:
    for kind, unit in (("postgresql", "postgresql@15-main.service"), ("proxy", "nginx.service")):
        seen = Seen(request=Request(), neighbours=Neighbours(stopped(kind, unit)))
        (one,) = (it for rule in part.RULES.rules for it in rule.findings(seen))
        assert one.evidence.startswith(f"{unit} is failed (failed, exit-code), enabled")


def test_turnservers_configuration_is_read() -> None:
    text = "# a remark\nlistening-port=3478\n\n use-auth-secret\nstatic-auth-secret=a=b\nstatic-auth-secret=c\n"
    assert parse_turnserver(text) == {
        "listening-port": ("3478",),
        "use-auth-secret": ("",),
        "static-auth-secret": ("a=b", "c"),
    }


@pytest.mark.parametrize(
    "turn",
    [
        Turn(("turn:hs.test",)),
        Turn(("turn:hs.test",), "int", "d1"),
        Turn(("turn:hs.test:3999",), "str", "d1", local=True),
    ],
)
def test_a_wrong_setting_for_calls_is_written_anew_where_the_collection_wrote_it(turn: Turn) -> None:
    for managed, expected in ((True, ("config", True)), (False, ("", False))):
        seen = Seen(request=Request(), neighbours=replace(HEALTHY, turn=turn, managed=managed))
        (finding,) = (one for rule in part.RULES.rules for one in rule.findings(seen))
        assert (finding.repair, finding.safe) == expected


# ------------------------------------------------------------------------------------------------------------ the probe


class FakeRedis:
    """Answers each command with the next of its lines."""

    def __init__(self, *answers: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.heard = b""
        self.answers = answers
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        stream, _address = self.socket.accept()
        with stream:
            for answer in self.answers:
                self.heard += stream.recv(4096)
                stream.sendall(answer)


def test_redis_is_asked_with_its_password() -> None:
    server = FakeRedis(b"+OK\r\n", b"+PONG\r\n", b"$43\r\n# Server\r\nredis_version:7.0.15\r\nrole:master\r\n\r\n")
    facts = probe.redis_facts({"host": "127.0.0.1", "port": server.port, "password": "s3cret"}, 2.0)
    assert (facts["stage"], facts["problem"], facts["redis_version"]) == ("done", None, "7.0.15")
    assert b"AUTH" in server.heard
    assert b"s3cret" in server.heard


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled: s3cret\r\n", "auth"),
        (b"HTTP/1.1 400 Bad Request\r\n", "auth"),
        (b"", "auth"),
    ],
)
def test_what_redis_says_no_to_is_told_without_the_secret(answer: bytes, stage: str) -> None:
    server = FakeRedis(answer)
    facts = probe.redis_facts({"host": "127.0.0.1", "port": server.port, "password": "s3cret"}, 2.0)
    assert facts["stage"] == stage
    assert facts["problem"]
    assert "s3cret" not in json.dumps(facts)


@pytest.mark.parametrize(
    "settings", [{"port": 1}, {"port": "x"}, {"path": "/nonexistent"}, {"password_path": "/nonexistent"}, {"host": 7}]
)
def test_redis_that_is_not_there_is_no_exception(settings: dict[str, t.Any]) -> None:
    assert probe.redis_facts({"host": "127.0.0.1", **settings}, 1.0)["problem"]


def test_the_secret_of_turn_is_told_as_a_keyed_digest_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n", encoding="utf-8")
    nonce = "00" * 32
    wanted = hmac.new(bytes(32), b"s3cret", hashlib.sha256).hexdigest()
    for config in ({"turn_shared_secret": "s3cret"}, {"turn_shared_secret_path": str(path)}):
        facts = probe.turn_facts(config, nonce)
        assert facts["digest"] == wanted
        assert "s3cret" not in json.dumps(facts)
    assert probe.turn_facts({"turn_shared_secret_path": str(tmp_path / "none")}, nonce)["problem"]
    assert probe.turn_facts({}, nonce)["kind"] == "none"


def test_a_look_at_settings_without_neighbours_starts_nothing() -> None:
    def run(_argv: t.Sequence[str], **_options: t.Any) -> CommandResult:
        raise AssertionError("nothing was to be started")

    text = "server_name: hs.test\nlisteners: [{type: http, port: 8008, resources: 7}, {type: http}, 5]\nturn_uris: x"
    config = yaml.safe_load(text)
    config.pop("turn_uris")
    context = Context(
        Request(), run, time.monotonic() + 20, settings=Settings((ConfigFile("/x"),), config), texts={"/x": text}
    )
    look = neighbours_look.look(context)
    assert look.redis is None
    assert look.turn is None
