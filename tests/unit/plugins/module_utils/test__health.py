# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a server is well: the tables of decision. Nothing here needs Ansible or a server."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _health
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health import Check, Listener, Process, Unit
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError, Response
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

URL = "http://127.0.0.1:8008"
REFUSED = NoAnswerError("nobody listens there (connection refused)", refused=True)
NOW_MS = 1_800_000_000_000


def response(body: t.Any, status: int = 200, **headers: str) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, headers, data, 2.0)


# Synapse 1.163.2: GET /_matrix/key/v2/server, shortened.
DOCUMENT = {
    "server_name": "hs.test",
    "valid_until_ts": NOW_MS + 86_400_000,
    "verify_keys": {"ed25519:a_1": {"key": "lyu9e9FSYu9KaFiqegMk4tMwASkijaUFC6xBGJ1SVQc"}},
    "old_verify_keys": {},
    "signatures": {"hs.test": {"ed25519:a_1": "x"}},
}
KEYS = {"ed25519:a_1": "lyu9e9FSYu9KaFiqegMk4tMwASkijaUFC6xBGJ1SVQc"}
UNRECOGNIZED = response({"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}, 404)


def test_listeners_are_merged_by_url() -> None:
    assert _health.listeners(
        [f"{URL}/", {"url": "unix:/run/s.sock", "resources": ["federation"]}], [URL, "http://127.0.0.1:8101"]
    ) == (
        Listener(URL, frozenset({"client", "federation", "health"})),
        Listener("unix:/run/s.sock", frozenset({"federation"})),
        Listener("http://127.0.0.1:8101", frozenset({"health"})),
    )


def test_the_key_is_asked_for_where_federation_is_served() -> None:
    assert [name for name, _path in _health.paths_of(Listener(URL, frozenset({"federation"})))] == ["federation", "key"]
    assert [name for name, _path in _health.paths_of(Listener(URL, frozenset({"client"})))] == ["client"]


@pytest.mark.parametrize(
    ("check", "ok", "detail"),
    [
        (_health.judge_health(URL, response(b"OK")), True, "answers"),
        (_health.judge_health(URL, REFUSED), False, "nobody listens there (connection refused)"),
        (_health.judge_health(URL, response(b"", 502)), False, "status 502"),
        (_health.judge_client(URL, response({"versions": ["r0.0.1", "v1.15"]})), True, "client API up to v1.15"),
        (_health.judge_client(URL, response({})), False, "the answer names no versions"),
        (_health.judge_client(URL, response(b"<html>")), False, "the answer names no versions"),
        (_health.judge_client(URL, UNRECOGNIZED), False, "404 M_UNRECOGNIZED: this listener does not serve it"),
        (_health.judge_metrics(URL, response(b"synapse_x 1")), True, "serves metrics"),
        (_health.judge_metrics(URL, response(b"hello")), False, "no metric of Synapse is in the answer"),
    ],
)
def test_simple_checks(check: Check, ok: bool, detail: str) -> None:
    assert (check.ok, check.detail) == (ok, detail)


@pytest.mark.parametrize(
    ("body", "expected", "ok", "detail"),
    [
        ({"server": {"name": "Synapse", "version": "1.163.2"}}, "1.163.2", True, "Synapse 1.163.2"),
        ({"server": {"name": "Synapse", "version": "1.163.2"}}, None, True, "Synapse 1.163.2"),
        ({"server": {"name": "Synapse", "version": "1.163.2 (b=x)"}}, "1.163.2", True, "Synapse 1.163.2 (b=x)"),
        (
            {"server": {"name": "Synapse", "version": "1.162.0"}},
            "1.163.2",
            False,
            "Synapse 1.162.0 is running, 1.163.2 is installed",
        ),
        ({"server": {"name": "Dendrite", "version": "0.1"}}, None, False, "Dendrite 0.1 answers there, not Synapse"),
        ({"server": []}, None, False, "the answer names no version"),
        ([], None, False, "the answer names no version"),
    ],
)
def test_federation(body: t.Any, expected: str | None, ok: bool, detail: str) -> None:
    check = _health.judge_federation(URL, response(body), expected)
    assert (check.ok, check.detail) == (ok, detail)


def judge_key(document: t.Any, **changes: t.Any) -> Check:
    arguments: dict[str, t.Any] = {
        "server_name": "hs.test",
        "expected": KEYS,
        "source": "/etc/synapse/homeserver.signing.key",
        "signatures": {"ed25519:a_1": ""},
        "problem": None,
        "now_ms": NOW_MS,
    }
    return _health.judge_key(URL, response(document), **{**arguments, **changes})


@pytest.mark.parametrize(
    ("document", "changes", "detail"),
    [
        ({}, {}, None),
        ({}, {"expected": None, "signatures": None}, None),
        ({}, {"expected": {"ed25519:a_1": KEYS["ed25519:a_1"] + "="}}, None),
        ({}, {"server_name": "other.test"}, "the server calls itself hs.test, not other.test"),
        ({"verify_keys": {}}, {}, "the server publishes no key"),
        ({"verify_keys": []}, {}, "the answer is not a key document"),
        ({"verify_keys": {"a": 1}}, {}, "the answer is not a key document"),
        (
            {},
            {"expected": {"ed25519:a_1": "other"}},
            "the server publishes another key under the id ed25519:a_1 than /etc/synapse/homeserver.signing.key holds",
        ),
        (
            {},
            {"expected": {"ed25519:b": "other"}},
            "the server publishes the key ed25519:a_1, but /etc/synapse/homeserver.signing.key holds ed25519:b",
        ),
        (
            {"valid_until_ts": NOW_MS},
            {},
            "the published key is no longer valid (valid_until_ts): is the clock of the host right?",
        ),
        (
            {"old_verify_keys": {"ed25519:o": {"key": "x"}}},
            {},
            "the old key ed25519:o is published without the time at which it expired",
        ),
        (
            {"old_verify_keys": {"ed25519:o": {"key": "x", "expired_ts": NOW_MS * 1000}}},
            {},
            "the old key ed25519:o is published with an expiry in the future: expired_ts is in milliseconds",
        ),
        (
            {},
            {"signatures": {"ed25519:a_1": "bad"}},
            "the published key ed25519:a_1 did not sign the answer: bad",
        ),
        ({}, {"signatures": {}}, "the published key ed25519:a_1 did not sign the answer: no signature"),
        ({}, {"problem": "no interpreter", "signatures": None}, "no interpreter"),
    ],
)
def test_key(document: dict[str, t.Any], changes: dict[str, t.Any], detail: str | None) -> None:
    check = judge_key({**DOCUMENT, **document}, **changes)
    assert check.ok == (detail is None)
    assert detail is None or check.detail == detail


def test_a_healthy_key_names_its_old_ones() -> None:
    old = {"ed25519:o": {"key": "x", "expired_ts": NOW_MS - 1}}
    assert judge_key({**DOCUMENT, "old_verify_keys": old}).detail == (
        "publishes ed25519:a_1, signature verified; old: ed25519:o"
    )


@pytest.mark.parametrize(
    ("kind", "answer", "detail"),
    [
        ("client", response({"m.homeserver": {"base_url": "https://a"}}, **{"access-control-allow-origin": "*"}), None),
        ("client", response({"m.homeserver": {}}), "the answer has no m.homeserver.base_url"),
        (
            "client",
            response({"m.homeserver": {"base_url": "https://a"}}),
            "the header Access-Control-Allow-Origin: * is missing, so that web clients cannot read it",
        ),
        ("server", response({"m.server": "a:443"}), None),
        (
            "server",
            response(b"404. Is anything ever truly *well* known?\n", 404),
            "404: this listener does not serve it",
        ),
        ("server", response(b"not json"), "the answer has no m.server"),
    ],
)
def test_well_known(kind: str, answer: Response, detail: str | None) -> None:
    check = _health.judge_well_known(kind, "https://hs.test", answer)
    assert check.ok == (detail is None)
    assert detail is None or check.detail == detail


@pytest.mark.parametrize(
    ("days", "ok", "detail"),
    [
        (90.4, True, "certificate valid for 90 days"),
        (13.2, False, "the certificate expires in 13.2 days, fewer than 14"),
        (NoAnswerError("the certificate is not accepted: certificate has expired"), False, None),
    ],
)
def test_certificate(days: float | NoAnswerError, ok: bool, detail: str | None) -> None:
    check = _health.judge_certificate("hs.test:443", days, 14, 1.0)
    assert check.ok == ok
    assert detail is None or check.detail == detail


ACTIVE = Unit("s.service", "loaded", "active", "running", "success", "0", "0", pid=7, active_since=10.0)


def unit(**changes: t.Any) -> Unit:
    return Unit(**{**ACTIVE.__dict__, **changes})


@pytest.mark.parametrize(
    ("seen", "before", "detail", "patience"),
    [
        (unit(), 0, None, None),
        (unit(active="reloading", sub="reload"), 0, None, None),
        # A queued restart: the old process still answers, and must not pass for the new one.
        (unit(job=17), 0, "systemd is still at a job that was asked for (the service is active)", None),
        (
            unit(active="failed", job=17),
            0,
            "systemd is still at a job that was asked for (the service is failed)",
            None,
        ),
        (unit(restarts=7), 7, None, None),
        (
            unit(load="not-found", active="inactive", sub="dead"),
            0,
            "systemd has no usable unit s.service (not-found)",
            0,
        ),
        (unit(load="masked", active="inactive"), 0, "systemd has no usable unit s.service (masked)", 0),
        (
            unit(active="failed", sub="failed", result="exit-code", exit_code="1", exit_status="1"),
            0,
            "the service has failed (result exit-code, exit status 1)",
            0,
        ),
        (
            unit(active="failed", sub="failed", result="oom-kill", exit_code="2", exit_status="9"),
            0,
            "the service has failed (result oom-kill, signal 9)",
            0,
        ),
        (unit(active="inactive", sub="dead"), 0, "the service is not running", 2.0),
        (unit(active="activating", sub="start"), 0, "the service is activating (start)", None),
        (unit(active="deactivating", sub="stop-sigterm"), 0, "the service is deactivating (stop-sigterm)", None),
        (
            unit(active="activating", sub="auto-restart", restarts=1, result="exit-code", exit_status="1"),
            0,
            "the service has ended (result exit-code, exit status 1), and systemd is about to start it again",
            None,
        ),
        (
            unit(active="activating", sub="auto-restart", restarts=2, result="exit-code", exit_status="1"),
            0,
            "the service keeps ending: it was restarted 2 times (result exit-code, exit status 1)",
            0,
        ),
        (
            unit(active="activating", sub="start", restarts=5),
            3,
            "the service keeps ending: it was restarted 5 times",
            0,
        ),
        (
            unit(restarts=3, active_since=60.0),
            3,
            "the service keeps ending: it was restarted 3 times, and is up since moments ago",
            0,
        ),
    ],
)
def test_unit(seen: Unit, before: int, detail: str | None, patience: float | None) -> None:
    check = _health.judge_unit(seen, restarts_before=before, now=100.0)
    assert check.ok == (detail is None)
    assert detail is None or (check.detail, check.patience) == (detail, patience)


# systemctl show (systemd 252) of a Synapse whose port was taken, between two starts.
SHOWN = """\
MainPID=0
StatusText=
Result=exit-code
NRestarts=0
ExecMainCode=1
ExecMainStatus=1
LoadState=loaded
ActiveState=activating
SubState=auto-restart
ActiveEnterTimestampMonotonic=0
InvocationID=3d0172db646c47449ce816c6e969597f
"""


def test_the_output_of_systemctl_show_is_read() -> None:
    assert _health.parse_unit("s.service", SHOWN) == Unit(
        "s.service",
        "loaded",
        "activating",
        "auto-restart",
        "exit-code",
        "1",
        "1",
        invocation="3d0172db646c47449ce816c6e969597f",
    )


def test_no_output_of_systemctl_show_is_no_running_service() -> None:
    assert not _health.judge_unit(_health.parse_unit("s.service", ""), restarts_before=0, now=1.0).ok


@pytest.mark.parametrize(
    ("seen", "detail"),
    [
        (Process("/run/s.pid", 7, True, "/srv/venv/bin/python -m synapse.app.homeserver -D"), None),
        (Process("/run/s.pid", 7, True, None), None),
        (Process("/run/s.pid", 7, True, "sshd"), "process 7 is not Synapse: the pid file is stale"),
        (Process("/run/s.pid", 7), "process 7 is gone"),
        (Process("/run/s.pid", 0), "the pid file holds no number"),
        (Process("/run/s.pid", None), "there is no pid file"),
    ],
)
def test_process(seen: Process, detail: str | None) -> None:
    check = _health.judge_process(seen)
    assert check.ok == (detail is None)
    assert detail is None or check.detail == detail


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        (response({"server": {"name": "Synapse", "version": "1.2"}}), "1.2"),
        (response({"versions": []}, server="Synapse/1.3"), "1.3"),
        (response({"versions": []}, server="nginx"), None),
        (response(b"x", 404, server="Synapse/1.3"), None),
        (REFUSED, None),
    ],
)
def test_running_version(answer: Response | NoAnswerError, version: str | None) -> None:
    assert _health.running_version(answer) == version


def test_a_healthy_server_needs_no_words() -> None:
    assert _health.explain([Check("health", URL, True, "answers")], None, None) is None


def test_the_message_begins_with_the_root_cause_and_ends_with_what_to_do() -> None:
    checks = [
        Check("health", URL, False, "nobody listens there"),
        Check("client", URL, False, "nobody listens there"),
        Check("process", "s.service", False, "the service has failed"),
        Check("tls", "a:443", True, "fine"),
    ]
    assert _health.explain(checks, "ValueError: x.", 4.2) == (
        "The homeserver is not healthy after 4 s: the service has failed (process s.service). "
        f"Also failing: health, client {URL}: nobody listens there. "
        "Its own words: ValueError: x. "
        "To do: mend what the server says, then start it again."
    )


@pytest.mark.parametrize("given", [{}, {"key": ""}, {"key": 5}, "", None, []])
def test_a_public_key_that_is_none_is_named(given: object) -> None:
    assert _health.plain_keys({"ed25519:a": "A", "ed25519:b": {"key": "B"}}) == {"ed25519:a": "A", "ed25519:b": "B"}
    with pytest.raises(SynapseError, match="ed25519:c"):
        _health.plain_keys({"ed25519:a": "A", "ed25519:c": given})


def test_a_server_that_was_stopped_is_to_be_started() -> None:
    stopped = Unit("s.service", "loaded", "inactive", "dead", "success", exit_status="0")
    check = _health.judge_unit(stopped, restarts_before=0, now=1.0)
    assert check.stopped
    assert str(_health.explain([check], None, None)).endswith("To do: start the server.")
    no_pid = _health.judge_process(Process("/run/s.pid", None))
    assert str(_health.explain([no_pid], None, None)).endswith("To do: start the server.")
    assert "mend what it says" in str(_health.explain([no_pid], "ValueError: x", None))


@pytest.mark.parametrize(
    "unit",
    [
        Unit("s.service", "loaded", "failed", "failed", "exit-code", exit_status="1"),
        Unit("s.service", "loaded", "inactive", "dead", "success", exit_status="1"),
        Unit("s.service", "not-found", "inactive", "dead"),
    ],
)
def test_a_server_that_failed_was_not_just_stopped(unit: Unit) -> None:
    check = _health.judge_unit(unit, restarts_before=0, now=1.0)
    assert not check.ok
    assert "start the server" not in str(_health.explain([check], None, None))
