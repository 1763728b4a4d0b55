# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of the answers on a server's own listeners, and of who gives them."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
import time
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import answers_look, diagnosis
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import Answers, Holder, same_keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import Identity
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Running, Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.words import Words
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

# Of what the other parts say of a host that is only partly made up, nothing is known here.
PARTS = ("service", "words", "answers", "public")


def diagnose(seen: Seen) -> diagnosis.Diagnosis:
    return diagnosis.diagnose(seen, [rule for rule in diagnosis.every_rule() if rule.id.split(".")[0] in PARTS])


URL = "http://127.0.0.1:8008"
UP = Service(running=(Running(107),))


def check(name: str, detail: str, ok: bool = False) -> dict[str, t.Any]:
    return {"name": name, "target": URL, "ok": ok, "detail": detail, "milliseconds": 1.0}


def found(**given: t.Any) -> list[str]:
    what = Seen(
        Request(), service=given.pop("service", UP), **{"settings": Settings((), {"server_name": "hs"}), **given}
    )
    return [finding.id for finding in diagnose(what).findings]


@pytest.mark.parametrize(
    ("checks", "ids"),
    [
        ([check("health", "answers", True), check("federation", "Synapse 1.163.2", True)], []),
        ([check("health", "nobody listens there (connection refused)")], ["answers.refused"]),
        ([check("health", "there is no such socket (no such file or directory)")], ["answers.refused"]),
        ([check("health", "no answer within 8 s")], ["answers.silent"]),
        ([check("health", "status 500")], ["answers.unhealthy"]),
        ([check("federation", "Synapse 1.162.0 is running, 1.163.2 is installed")], ["answers.old_version"]),
        ([check("federation", "Dendrite 0.13 answers there, not Synapse")], ["answers.other_server"]),
        ([check("federation", "404 M_UNRECOGNIZED: this listener does not serve it")], ["answers.unhealthy"]),
        ([check("key", "the server calls itself other.test, not hs")], ["answers.other_name"]),
        ([check("key", "the published key is no longer valid (valid_until_ts): is the clock right?")], ["answers.key"]),
        ([check("key", "nobody listens there"), check("client", "nobody listens there")], ["answers.refused"]),
    ],
)
def test_what_a_check_says_is_one_finding(checks: list[dict[str, t.Any]], ids: list[str]) -> None:
    assert found(answers=Answers(checks=tuple(checks))) == ids


def test_a_port_that_another_process_has_explains_the_silence() -> None:
    answers = Answers(
        checks=(check("health", "status 404"), check("client", "the answer names no versions")),
        holders=(Holder(8008, "127.0.0.1", 4711, "python3 -m http.server"),),
    )
    words = Words(line="Address already in use")
    what = Seen(Request(), service=Service(), answers=answers, words=words)
    first = diagnose(what).findings[0]
    assert first.id == "answers.port_taken"
    assert "4711 (python3 -m http.server)" in first.evidence
    assert found(answers=answers, service=Service()) == ["answers.port_taken"]


def test_a_port_of_ones_own_is_not_taken() -> None:
    assert found(answers=Answers(holders=(Holder(8008, "127.0.0.1", 107, "python", True),))) == []
    # Within many containers nobody may look whose a socket is.
    assert found(answers=Answers(holders=(Holder(8008, "127.0.0.1"),))) == []
    assert found(answers=Answers(holders=(Holder(8008, "127.0.0.1"),)), service=Service()) == ["answers.port_taken"]


def test_another_key_than_that_of_the_file_is_critical() -> None:
    answers = Answers(published={"ed25519:a": "AAAA"})
    identity = Identity(verify_keys={"ed25519:b": "BBBB"})
    what = Seen(Request(), service=UP, answers=answers, identity=identity)
    finding = next(one for one in diagnose(what).findings if one.id == "answers.other_key")
    assert (finding.severity, finding.repair, finding.safe) == ("critical", "key", False)
    assert "AAAA" not in finding.evidence
    same = Identity(verify_keys={"ed25519:a": "AAAA=", "ed25519:b": "BBBB"})
    assert found(answers=answers, identity=same) == []
    assert found(answers=answers, identity=Identity()) == []


def test_keys_are_compared_by_id_and_bytes() -> None:
    assert same_keys({"a": "x"}, {"a": "x=", "b": "y"})
    assert not same_keys({"a": "x"}, {"a": "y"})
    assert not same_keys({"a": "x"}, {})


# The look


@pytest.mark.parametrize(
    "listeners",
    [
        None,
        7,
        "x",
        [None, 7, "x", {}, {"type": "http"}, {"type": "http", "port": "8008"}, {"type": "http", "port": True}],
        [{"type": "http", "port": 99999}, {"type": ["http"], "port": 1, "resources": 7, "bind_addresses": {"a": 1}}],
        [{"type": "http", "port": 8008, "resources": [7, {"names": 7}, {"names": [["client"]]}]}],
    ],
)
def test_garbage_among_the_listeners_is_left_out(listeners: t.Any) -> None:
    for item in answers_look.listeners_of(Settings((), {"listeners": listeners})):
        assert isinstance(item["port"], int)
        assert all(isinstance(name, str) for one in item["resources"] for name in one["names"])


class _Synapse(http.server.BaseHTTPRequestHandler):
    bodies: t.ClassVar[dict[str, t.Any]] = {
        "/health": "OK",
        "/_matrix/client/versions": {"versions": ["v1.15"]},
        "/_matrix/federation/v1/version": {"server": {"name": "Synapse", "version": "1.163.2"}},
        "/_matrix/key/v2/server": {
            "server_name": "hs",
            "valid_until_ts": 99_999_999_999_999,
            "verify_keys": {"ed25519:a": {"key": "AAAA"}},
            "old_verify_keys": {},
        },
    }

    def do_GET(self) -> None:
        body = json.dumps(self.bodies[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: t.Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> t.Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Synapse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def context(port: int, tmp_path: t.Any, **config: t.Any) -> Context:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        return CommandResult(1, "", "")

    made = Context(Request(python=str(tmp_path / "bin" / "python")), run, time.monotonic() + 20)
    listener = {
        "type": "http",
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client", "federation"]}],
    }
    made.settings = Settings((), {"server_name": "hs", "listeners": [listener], **config})
    made.service = Service(running=(Running(os.getpid()),))
    return made


def test_a_server_is_asked_on_its_listeners(tmp_path: t.Any) -> None:
    with serving() as port:
        seen = answers_look.look(context(port, tmp_path))
    assert seen.healthy
    assert (seen.version, seen.published) == ("1.163.2", {"ed25519:a": "AAAA"})
    assert {check["name"] for check in seen.checks} == {"health", "client", "federation", "key"}
    (holder,) = seen.holders
    assert (holder.port, holder.pid, holder.ours) == (port, os.getpid(), True)


def test_a_socket_that_never_answers_holds_nobody_up(tmp_path: t.Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        made = context(mute.getsockname()[1], tmp_path)
        made.deadline = time.monotonic() + 1
        started = time.monotonic()
        seen = answers_look.look(made)
        assert time.monotonic() - started < 5
    assert not seen.healthy


def test_without_settings_nothing_is_asked(tmp_path: t.Any) -> None:
    made = context(1, tmp_path)
    made.settings = None
    assert answers_look.look(made).checks == ()
