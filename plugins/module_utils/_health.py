# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a running homeserver is well: each check as a pure function over what was observed. No I/O, no Ansible.

``_health_observe`` does the observing. Times are in seconds, durations of requests in milliseconds, dates of the
Matrix protocol (``valid_until_ts``, ``expired_ts``) in milliseconds since 1970.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError, Response
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "RESOURCES",
    "Check",
    "Listener",
    "Process",
    "Unit",
    "explain",
    "judge_certificate",
    "judge_client",
    "judge_federation",
    "judge_health",
    "judge_key",
    "judge_metrics",
    "judge_process",
    "judge_unit",
    "judge_well_known",
    "listeners",
    "parse_unit",
    "paths_of",
    "plain_keys",
    "running_version",
]

RESOURCES = ("health", "client", "federation", "metrics")

# How long a fault that waiting does not mend may be seen before the wait ends: the old process may still be answering.
_SETTLE = 3.0
# A service that was started this often within one wait, or before this uptime, does not come up.
_RESTARTS_IN_WAIT = 2
_RESTARTS = 3
_YOUNG = 60.0


@dataclass(frozen=True)
class Check:
    """One check. ``patience``: for how many seconds waiting may still mend it, ``None`` for as long as one likes.

    ``stopped``: as far as one can see, the server was stopped, or never started, and did not fail.
    """

    name: str
    target: str
    ok: bool
    detail: str
    milliseconds: float = 0.0
    patience: float | None = None
    stopped: bool = False

    def result(self) -> dict[str, t.Any]:
        """Return the check as the module returns it."""
        return {
            "name": self.name,
            "target": self.target,
            "ok": self.ok,
            "detail": self.detail,
            "milliseconds": round(self.milliseconds, 1),
        }


@dataclass(frozen=True)
class Listener:
    """A base URL, and what is served there."""

    url: str
    resources: frozenset[str]


@dataclass(frozen=True)
class Unit:
    """What systemd knows of a service (``systemctl show``)."""

    name: str
    load: str = ""
    active: str = ""
    sub: str = ""
    result: str = ""
    exit_code: str = ""
    exit_status: str = ""
    pid: int = 0
    restarts: int = 0
    invocation: str = ""
    active_since: float | None = None
    status_text: str = ""
    job: int = 0


@dataclass(frozen=True)
class Process:
    """What a pid file leads to. ``pid`` is ``None`` where there is no pid file, 0 where no number is in it."""

    pid_file: str
    pid: int | None
    alive: bool = False
    command: str | None = None


@dataclass(frozen=True)
class Published:
    """What ``/_matrix/key/v2/server`` published, as far as it could be read."""

    verify_keys: Mapping[str, str] = field(default_factory=dict)
    old_verify_keys: Mapping[str, t.Any] = field(default_factory=dict)


def listeners(urls: Sequence[t.Any], health_urls: Sequence[str] | None) -> tuple[Listener, ...]:
    """Merge the options ``urls`` (strings, or mappings with ``url`` and ``resources``) and ``health_urls``.

    A plain URL serves clients, federation and ``/health``. One URL named several times is asked once.
    """
    found: dict[str, set[str]] = {}
    for item in urls:
        url, resources = (item, None) if isinstance(item, str) else (item["url"], item.get("resources"))
        found.setdefault(url.rstrip("/"), set()).update(resources or ("client", "federation", "health"))
    for url in health_urls or ():
        found.setdefault(url.rstrip("/"), set()).add("health")
    return tuple(Listener(url, frozenset(resources)) for url, resources in found.items())


def paths_of(listener: Listener) -> tuple[tuple[str, str], ...]:
    """Return what to ask a listener for, as (name of the check, path).

    The paths are those of synapse/app/homeserver.py and synapse/rest (1.163.2); ``/health`` is on each HTTP listener,
    and a listener of type ``metrics`` answers on every path.
    """
    paths = {
        "health": "/health",
        "client": "/_matrix/client/versions",
        "federation": "/_matrix/federation/v1/version",
        "metrics": "/_synapse/metrics",
    }
    found = [(name, paths[name]) for name in RESOURCES if name in listener.resources]
    if "federation" in listener.resources:
        found.append(("key", "/_matrix/key/v2/server"))
    return tuple(found)


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms"


def _unexpected(answer: Response) -> str:
    """Say what a status other than 200 means."""
    try:
        body = answer.json()
        code = str(body.get("errcode", "")) if isinstance(body, dict) else ""
    except ValueError:
        code = ""
    if answer.status == 404:
        return f"404 {code}: this listener does not serve it".replace("404 :", "404:")
    return f"status {answer.status} {code}".rstrip()


def _answered(name: str, target: str, answer: Response | NoAnswerError) -> Check | None:
    """The check that failed because there was no answer or a wrong status, else ``None``."""
    if isinstance(answer, NoAnswerError):
        return Check(name, target, False, str(answer))
    if answer.status != 200:
        patience = _SETTLE if 400 <= answer.status < 500 else None
        return Check(name, target, False, _unexpected(answer), answer.milliseconds, patience)
    return None


def _object(answer: Response) -> dict[str, t.Any] | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def judge_health(target: str, answer: Response | NoAnswerError) -> Check:
    """``/health``: 200 says that the process answers there, and no more than that."""
    bad = _answered("health", target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check("health", target, False, str(answer))
    return Check("health", target, True, "answers", answer.milliseconds)


def judge_client(target: str, answer: Response | NoAnswerError) -> Check:
    """``/_matrix/client/versions`` names the versions of the client API."""
    bad = _answered("client", target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check("client", target, False, str(answer))
    versions = (_object(answer) or {}).get("versions")
    if not isinstance(versions, list) or not versions:
        return Check("client", target, False, "the answer names no versions", answer.milliseconds, _SETTLE)
    return Check("client", target, True, f"client API up to {versions[-1]}", answer.milliseconds)


def _same_version(running: str, expected: str) -> bool:
    # A checkout of Synapse adds " (b=branch,...)" (matrix_common.versionstring).
    return running.split(" ", 1)[0] == expected.split(" ", 1)[0]


def running_version(answer: Response | NoAnswerError) -> str | None:
    """Return the version that a server says it runs: in its federation answer, or in its header ``Server``."""
    if isinstance(answer, NoAnswerError) or answer.status != 200:
        return None
    server = (_object(answer) or {}).get("server")
    if isinstance(server, dict) and isinstance(server.get("version"), str):
        # A Synapse inside a checkout adds the checkout's revision in brackets (matrix_common.versionstring).
        return str(server["version"]).split(" ", 1)[0]
    match = re.match(r"Synapse/(\S+)", answer.headers.get("server", ""))
    return match.group(1) if match else None


def judge_federation(target: str, answer: Response | NoAnswerError, expected: str | None) -> Check:
    """``/_matrix/federation/v1/version``: the code that runs is the code that is installed."""
    bad = _answered("federation", target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check("federation", target, False, str(answer))
    server = (_object(answer) or {}).get("server")
    running = server.get("version") if isinstance(server, dict) else None
    if not isinstance(running, str):
        return Check("federation", target, False, "the answer names no version", answer.milliseconds, _SETTLE)
    name = str(server.get("name")) if isinstance(server, dict) else ""
    if name != "Synapse":
        detail = f"{name} {running} answers there, not Synapse"
        return Check("federation", target, False, detail, answer.milliseconds, _SETTLE)
    if expected is not None and not _same_version(running, expected):
        detail = f"Synapse {running} is running, {expected} is installed"
        return Check("federation", target, False, detail, answer.milliseconds, _SETTLE)
    return Check("federation", target, True, f"Synapse {running}", answer.milliseconds)


def judge_metrics(target: str, answer: Response | NoAnswerError) -> Check:
    """A listener for Prometheus serves Synapse's metrics."""
    bad = _answered("metrics", target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check("metrics", target, False, str(answer))
    if b"synapse_" not in answer.body:
        return Check("metrics", target, False, "no metric of Synapse is in the answer", answer.milliseconds, _SETTLE)
    return Check("metrics", target, True, "serves metrics", answer.milliseconds)


def published_keys(document: t.Any) -> Published | None:
    """Read the key document; ``None`` where it is none."""
    if not isinstance(document, dict):
        return None
    keys, old = document.get("verify_keys"), document.get("old_verify_keys", {})
    if not isinstance(keys, dict) or not isinstance(old, dict):
        return None
    plain: dict[str, str] = {}
    for key_id, entry in keys.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            return None
        plain[key_id] = entry["key"]
    return Published(plain, old)


def plain_keys(given: Mapping[str, t.Any]) -> dict[str, str]:
    """Return public keys by id, given plainly or each in a mapping with ``key``. Raises ``SynapseError``."""
    found: dict[str, str] = {}
    for key_id, item in given.items():
        value = item.get("key") if isinstance(item, dict) else item
        if not isinstance(value, str) or not value:
            raise SynapseError(
                f"verify_keys holds no public key under {key_id}: give it in base64, as synapse_signing_key returns "
                "it, or as a mapping with key."
            )
        found[key_id] = value
    return found


def _key_difference(published: Mapping[str, str], expected: Mapping[str, str], source: str) -> str | None:
    """Say how the published keys differ from the expected ones."""
    if {key: value.rstrip("=") for key, value in published.items()} == {
        key: value.rstrip("=") for key, value in expected.items()
    }:
        return None
    served, wanted = ", ".join(sorted(published)) or "none", ", ".join(sorted(expected)) or "none"
    if set(published) == set(expected):
        return f"the server publishes another key under the id {served} than {source} holds"
    return f"the server publishes the key {served}, but {source} holds {wanted}"


def _key_fault(
    document: Mapping[str, t.Any],
    published: Published,
    *,
    server_name: str | None,
    expected: Mapping[str, str] | None,
    source: str,
    now_ms: float,
) -> str | None:
    """What is wrong with a key document, signatures apart."""
    named = document.get("server_name")
    if server_name is not None and named != server_name:
        return f"the server calls itself {named}, not {server_name}"
    if not published.verify_keys:
        return "the server publishes no key"
    if expected is not None:
        difference = _key_difference(published.verify_keys, expected, source)
        if difference is not None:
            return difference
    until = document.get("valid_until_ts")
    if not isinstance(until, int) or until <= now_ms:
        return "the published key is no longer valid (valid_until_ts): is the clock of the host right?"
    for key_id, entry in published.old_verify_keys.items():
        expired = entry.get("expired_ts") if isinstance(entry, dict) else None
        if not isinstance(expired, int):
            return f"the old key {key_id} is published without the time at which it expired"
        if expired > now_ms + 86_400_000:
            return f"the old key {key_id} is published with an expiry in the future: expired_ts is in milliseconds"
    return None


def _signature_fault(signatures: Mapping[str, str] | None, published: Published) -> str | None:
    if signatures is None:
        return None
    for key_id in published.verify_keys:
        fault = signatures.get(key_id, "no signature")
        if fault:
            return f"the published key {key_id} did not sign the answer: {fault}"
    return None


def judge_key(
    target: str,
    answer: Response | NoAnswerError,
    *,
    server_name: str | None,
    expected: Mapping[str, str] | None,
    source: str,
    signatures: Mapping[str, str] | None,
    problem: str | None,
    now_ms: float,
) -> Check:
    """``/_matrix/key/v2/server``: the server's own name, the key of the key file, signed with it, still valid.

    ``expected`` maps key ids to unpadded base64 as ``source`` has them (``None``: not compared); ``signatures`` maps
    key ids to what is wrong with the signature (``None``: not verified); ``problem`` says why keys could not be
    compared, or signatures not be verified, although that was asked for.
    """
    bad = _answered("key", target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check("key", target, False, str(answer))
    document = _object(answer)
    published = published_keys(document)
    if document is None or published is None:
        return Check("key", target, False, "the answer is not a key document", answer.milliseconds, _SETTLE)
    fault = _key_fault(document, published, server_name=server_name, expected=expected, source=source, now_ms=now_ms)
    fault = fault or _signature_fault(signatures, published) or problem
    if fault is not None:
        return Check("key", target, False, fault, answer.milliseconds, _SETTLE)
    detail = f"publishes {', '.join(sorted(published.verify_keys))}"
    if signatures is not None:
        detail += ", signature verified"
    if published.old_verify_keys:
        detail += f"; old: {', '.join(sorted(published.old_verify_keys))}"
    return Check("key", target, True, detail, answer.milliseconds)


def judge_well_known(kind: str, target: str, answer: Response | NoAnswerError) -> Check:
    """``/.well-known/matrix/client`` and ``.../server`` are JSON objects that name the server. ``kind`` says which."""
    name = f"well_known_{kind}"
    bad = _answered(name, target, answer)
    if bad is not None or isinstance(answer, NoAnswerError):
        return bad or Check(name, target, False, str(answer))
    body = _object(answer) or {}
    if kind == "client":
        entry = body.get("m.homeserver")
        value = entry.get("base_url") if isinstance(entry, dict) else None
        wanted = "m.homeserver.base_url"
    else:
        value, wanted = body.get("m.server"), "m.server"
    if not isinstance(value, str) or not value:
        return Check(name, target, False, f"the answer has no {wanted}", answer.milliseconds, _SETTLE)
    if kind == "client" and answer.headers.get("access-control-allow-origin") != "*":
        detail = "the header Access-Control-Allow-Origin: * is missing, so that web clients cannot read it"
        return Check(name, target, False, detail, answer.milliseconds, _SETTLE)
    return Check(name, target, True, f"points to {value}", answer.milliseconds)


def judge_certificate(target: str, days: float | NoAnswerError, min_days: float, milliseconds: float) -> Check:
    """A certificate is valid for its name, and stays so for ``min_days``."""
    if isinstance(days, NoAnswerError):
        return Check("tls", target, False, str(days), milliseconds, None if days.refused else _SETTLE)
    if days < min_days:
        detail = f"the certificate expires in {days:.1f} days, fewer than {min_days:g}"
        return Check("tls", target, False, detail, milliseconds, _SETTLE)
    return Check("tls", target, True, f"certificate valid for {days:.0f} days", milliseconds)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def parse_unit(name: str, text: str) -> Unit:
    """Read the output of ``systemctl show`` (``Name=value`` lines)."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    since = _number(found.get("ActiveEnterTimestampMonotonic", ""))
    return Unit(
        name=name,
        load=found.get("LoadState", ""),
        active=found.get("ActiveState", ""),
        sub=found.get("SubState", ""),
        result=found.get("Result", ""),
        exit_code=found.get("ExecMainCode", ""),
        exit_status=found.get("ExecMainStatus", ""),
        pid=_number(found.get("MainPID", "")),
        restarts=_number(found.get("NRestarts", "")),
        invocation=found.get("InvocationID", ""),
        active_since=since / 1e6 if since else None,
        status_text=found.get("StatusText", ""),
        job=_number(found.get("Job", "")),
    )


def _ended(unit: Unit) -> str:
    """How the main process ended, as far as systemd says."""
    parts = [] if unit.result in ("", "success") else [f"result {unit.result}"]
    if unit.exit_status not in ("", "0"):
        # ExecMainCode is CLD_KILLED (2) or CLD_DUMPED (3) where a signal ended the process.
        parts.append(f"{'signal' if unit.exit_code in ('2', '3') else 'exit status'} {unit.exit_status}")
    return f" ({', '.join(parts)})" if parts else ""


def _down(unit: Unit, *, loops: bool) -> tuple[str, float | None]:
    """Why a unit that is not up is not."""
    if unit.active == "failed":
        return f"the service has failed{_ended(unit)}", 0.0
    if loops and unit.active != "active":
        return f"the service keeps ending: it was restarted {unit.restarts} times{_ended(unit)}", 0.0
    if unit.sub == "auto-restart":
        return f"the service has ended{_ended(unit)}, and systemd is about to start it again", None
    if unit.active in ("inactive", ""):
        return f"the service is not running{_ended(unit)}", 2.0
    return f"the service is {unit.active} ({unit.sub})", None


def _unit_fault(unit: Unit, restarts_before: int, now: float) -> tuple[str, float | None] | None:
    """What is wrong with a unit, and the patience it deserves."""
    if unit.load in ("not-found", "masked", "bad-setting", "error"):
        return f"systemd has no usable unit {unit.name} ({unit.load})", 0.0
    loops = unit.restarts - restarts_before >= _RESTARTS_IN_WAIT
    if unit.job and not loops:
        # A queued restart leaves the old process in place for a while: what answers now is not what is to be proven.
        return f"systemd is still at a job that was asked for (the service is {unit.active})", None
    up = unit.active in ("active", "reloading", "refreshing") and unit.sub != "auto-restart"
    if not up or (loops and unit.active != "active"):
        return _down(unit, loops=loops)
    young = unit.active_since is not None and now - unit.active_since < _YOUNG
    if loops or (unit.restarts >= _RESTARTS and young):
        return f"the service keeps ending: it was restarted {unit.restarts} times, and is up since moments ago", 0.0
    return None


def judge_unit(unit: Unit, *, restarts_before: int, now: float, milliseconds: float = 0.0) -> Check:
    """A service is active and does not restart over and over.

    ``restarts_before`` is its count of restarts when the wait began (without a wait: the present count), ``now`` the
    monotonic clock in seconds.
    """
    fault = _unit_fault(unit, restarts_before, now)
    if fault is not None:
        # Not one that waits for its next start: that ended by itself.
        stopped = unit.load == "loaded" and unit.active == "inactive" and not unit.job and not _ended(unit)
        return Check("process", unit.name, False, fault[0], milliseconds, fault[1], stopped)
    detail = f"{unit.active}, pid {unit.pid}"
    if unit.restarts:
        detail += f", restarted {unit.restarts} times"
    return Check("process", unit.name, True, detail, milliseconds)


def judge_process(process: Process, milliseconds: float = 0.0) -> Check:
    """The process that a pid file names is alive, and is Synapse."""
    if process.pid is None:
        return Check("process", process.pid_file, False, "there is no pid file", milliseconds, 5.0, True)
    if process.pid == 0:
        return Check("process", process.pid_file, False, "the pid file holds no number", milliseconds, 5.0)
    if not process.alive:
        return Check("process", process.pid_file, False, f"process {process.pid} is gone", milliseconds, 1.0)
    if process.command is not None and "synapse" not in process.command:
        detail = f"process {process.pid} is not Synapse: the pid file is stale"
        return Check("process", process.pid_file, False, detail, milliseconds, 1.0)
    return Check("process", process.pid_file, True, f"pid {process.pid}", milliseconds)


_ORDER = (
    "process",
    "health",
    "client",
    "federation",
    "key",
    "metrics",
    "well_known_client",
    "well_known_server",
    "tls",
)

_ADVICE = {
    "process": "mend what the server says, then start it again",
    "health": "see whether the server listens there: the option listeners, and who else holds that port",
    "client": "see that this listener has the resource client",
    "federation": (
        "restart the server if another version was installed, and see that this listener has the resource federation"
    ),
    "key": (
        "compare the key file with signing_key_path in the configuration, and restart the server if the file is right; "
        "do not make a new key"
    ),
    "metrics": "set enable_metrics, and see that this listener is of type metrics",
    "well_known_client": "see what serves /.well-known/matrix/ for the server's name",
    "well_known_server": "see what serves /.well-known/matrix/ for the server's name",
    "tls": "renew the certificate and reload whoever serves it",
}


def explain(checks: Sequence[Check], reason: str | None, waited: float | None) -> str | None:
    """Return the one paragraph about an unhealthy server: root cause, failing checks, its own words, what to do.

    ``waited`` is the time in seconds that was spent waiting, ``None`` without a wait. ``None`` for a healthy server.
    """
    failing = sorted((check for check in checks if not check.ok), key=lambda check: _ORDER.index(check.name))
    if not failing:
        return None
    root = failing[0]
    after = "" if waited is None else f" after {waited:.0f} s"
    sentences = [f"The homeserver is not healthy{after}: {root.detail} ({root.name} {root.target})."]
    others: dict[tuple[str, str], list[str]] = {}
    for check in failing[1:]:
        others.setdefault((check.target, check.detail), []).append(check.name)
    if others:
        texts = [f"{', '.join(names)} {target}: {detail}" for (target, detail), names in others.items()]
        sentences.append(f"Also failing: {'; '.join(texts)}.")
    if reason is not None:
        sentences.append(f"Its own words: {reason.rstrip('.')}.")
    advice = _ADVICE[root.name]
    if root.name == "key" and "could not be" in root.detail:
        advice = (
            "see that python names the interpreter of Synapse's environment, and that its user may read the key file"
        )
    if root.stopped:
        advice = "start the server" if reason is None else "start the server, and mend what it says if it does not stay"
    elif root.name == "process" and reason is None:
        advice = "read the journal of the unit or the server's log, mend what it says, then start it again"
    sentences.append(f"To do: {advice}.")
    return " ".join(sentences)
