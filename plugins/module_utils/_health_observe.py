# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a running homeserver: its process, its listeners, its key, its certificates. Changes nothing. No Ansible."""

from __future__ import annotations

import inspect
import os
import re
import threading
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _health, _http, _logs
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health import Check, Listener, Process, Unit
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._http import NoAnswerError, Response
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import verify_key
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, ask_python

if t.TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Account, Runner

__all__ = ["Certificate", "Outcome", "Wanted", "installed_version", "observe_process", "observe_unit", "prove"]

_UNIT_PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,MainPID,NRestarts,InvocationID,"
    "ActiveEnterTimestampMonotonic,StatusText,Job"
)
_REQUEST = 10.0  # seconds for one request of a server that was asked without a wait
_PROBE = 20.0  # seconds for the start of Synapse's interpreter
_LOG_TAIL = 256 * 1024  # bytes
_MINUTE = 60.0
# The folder of the package matrix-synapse, not of matrix-synapse-ldap3.
_METADATA = re.compile(r"(?i)matrix[-_.]synapse-([^-]+)\.dist-info$")
_SERVED = ("health", "client", "federation", "key", "metrics")

T = t.TypeVar("T")
Answer = t.Union[Response, NoAnswerError]


@dataclass(frozen=True)
class Certificate:
    """A certificate to look at: where it is served, for which name, and how many days it has to be valid."""

    host: str
    port: int = 443
    server_name: str | None = None
    min_days: float = 14.0


@dataclass(frozen=True)
class Wanted:
    """What a healthy server has to show. Times are in seconds; ``None`` leaves that part unchecked.

    Without ``verify_tls`` any certificate will do: for who judges the certificates apart.
    """

    listeners: tuple[Listener, ...] = ()
    server_name: str | None = None
    key_file: str | None = None
    verify_keys: Mapping[str, str] | None = None
    python: str | None = None
    account: Account | None = None
    version: str | None = None
    unit: str | None = None
    pid_file: str | None = None
    log_file: str | None = None
    well_known_url: str | None = None
    certificates: tuple[Certificate, ...] = ()
    ca_bundle: str | None = None
    verify_tls: bool = True
    wait: bool = False
    timeout: float = 60.0
    interval: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """What was seen. ``reason`` is the server's own decisive line, ``waited`` in seconds."""

    checks: tuple[Check, ...]
    reason: str | None
    version: str | None
    verify_keys: Mapping[str, str] = field(default_factory=dict)
    old_verify_keys: Mapping[str, t.Any] = field(default_factory=dict)
    waited: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether every check is ok."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True)
class _Question:
    name: str
    target: str
    ask: Callable[[float], t.Any]


def installed_version(python: str) -> str | None:
    """Return the version of Synapse that an environment holds, read from its metadata without starting anything."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    found = set()
    for lib in ("lib", "lib64"):
        for series in _names(os.path.join(root, lib)):
            packages = os.path.join(root, lib, series, "site-packages")
            if not series.startswith("python"):
                continue
            for name in _names(packages):
                match = _METADATA.match(name)
                if match is not None:
                    found.add(match.group(1))
    return found.pop() if len(found) == 1 else None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def observe_unit(run: Runner, unit: str) -> Unit:
    """Ask systemd about a service. Raises ``SynapseError`` where there is no systemd to ask."""
    result = run(["systemctl", "show", "--property", _UNIT_PROPERTIES, "--", unit], timeout=15.0)
    if result.rc != 0:
        raise SynapseError(
            f"systemctl cannot say anything about {unit}: {_last(result.stderr) or f'rc={result.rc}'} "
            "(where there is no systemd, give pid_file instead of unit)."
        )
    return _health.parse_unit(unit, result.stdout)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def observe_process(pid_file: str) -> Process:
    """Look at the process that a pid file names."""
    try:
        data = _files.read(pid_file, limit=64)
    except SynapseError:  # no regular file, or one that is too long
        return Process(pid_file, 0)
    if data is None:
        return Process(pid_file, None)
    text = data.decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) == 0:
        return Process(pid_file, 0)
    pid = int(text)
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return Process(pid_file, pid)
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            # A zombie is dead although its number is taken; the state follows the command in parentheses.
            if stream.read().rpartition(")")[2].split()[:1] == ["Z"]:
                return Process(pid_file, pid)
        with open(f"/proc/{pid}/cmdline", "rb") as commands:
            command = commands.read(4096).replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return Process(pid_file, pid, True)
    return Process(pid_file, pid, True, command)


def _in_parallel(questions: list[_Question], timeout: float) -> dict[tuple[str, str], t.Any]:
    """Ask everything at once; what has not answered in time is a failure, and is not waited for."""
    answers: dict[tuple[str, str], t.Any] = {}

    def work(question: _Question) -> None:
        try:
            answers[question.name, question.target] = question.ask(timeout)
        except NoAnswerError as failure:
            answers[question.name, question.target] = failure

    threads = [threading.Thread(target=work, args=(question,), daemon=True) for question in questions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + 0.5
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    overdue = NoAnswerError(f"no answer within {timeout:.3g} s")
    return {(item.name, item.target): answers.get((item.name, item.target), overdue) for item in questions}


class _Watch:
    """One wait: what to ask, and what systemd's counter of restarts said at its beginning."""

    def __init__(self, run: Runner, wanted: Wanted) -> None:
        self.run = run
        self.wanted = wanted
        self.unit: Unit | None = None
        self.restarts_before: int | None = None
        self.unit_seen = 0.0
        self.process: Check | None = None
        self.context: ssl.SSLContext | None = None
        self.questions = self._questions()

    def _tls(self) -> ssl.SSLContext:
        if self.context is None:
            self.context = _http.tls_context(self.wanted.ca_bundle, verify=self.wanted.verify_tls)
        return self.context

    def _request(self, base: str, path: str, redirects: int = 0) -> Callable[[float], Response]:
        target = _http.parse_target(base)
        context = self._tls() if target.scheme == "https" or redirects else None
        name = self.wanted.server_name
        # A listener of one's own is asked by its address, while its certificate carries the server's name.
        inward = target.host in ("localhost", "::1") or target.host.replace(".", "").isdigit()
        tls_name = name.partition(":")[0] if name and inward else None

        def ask(timeout: float) -> Response:
            return _http.request(target, path, timeout=timeout, context=context, tls_name=tls_name, redirects=redirects)

        return ask

    def _questions(self) -> list[_Question]:
        found = []
        for listener in self.wanted.listeners:
            for name, path in _health.paths_of(listener):
                found.append(_Question(name, listener.url, self._request(listener.url, path)))
        base = self.wanted.well_known_url
        if base is not None:
            for kind in ("client", "server"):
                ask = self._request(base, f"/.well-known/matrix/{kind}", redirects=5)
                found.append(_Question(f"well_known_{kind}", base, ask))
        found.extend(
            _Question("tls", f"{item.host}:{item.port}", self._certificate(item)) for item in self.wanted.certificates
        )
        return found

    def _certificate(self, item: Certificate) -> Callable[[float], tuple[float, float]]:
        context = self._tls()

        def ask(timeout: float) -> tuple[float, float]:
            started = time.monotonic()
            days = _http.certificate_days(item.host, item.port, name=item.server_name, timeout=timeout, context=context)
            return days, (time.monotonic() - started) * 1000

        return ask

    def _look_at_process(self) -> Check | None:
        started = time.monotonic()
        if self.wanted.unit is not None:
            if self.process is not None and started - self.unit_seen < 0.4:
                return self.process
            self.unit_seen = started
            try:
                self.unit = observe_unit(self.run, self.wanted.unit)
            except SynapseError as error:
                self.process = Check("process", self.wanted.unit, False, error.msg.rstrip("."), 0.0, 0.0)
                return self.process
            if self.restarts_before is None:
                self.restarts_before = self.unit.restarts
            now = time.monotonic()
            self.process = _health.judge_unit(
                self.unit, restarts_before=self.restarts_before, now=now, milliseconds=(now - started) * 1000
            )
        elif self.wanted.pid_file is not None:
            process = observe_process(self.wanted.pid_file)
            self.process = _health.judge_process(process, (time.monotonic() - started) * 1000)
        return self.process

    def look(self, timeout: float) -> tuple[list[Check], dict[tuple[str, str], Answer]]:
        """Look at everything but the signatures; return the checks and the answers to the question for the key."""
        process = self._look_at_process()
        if process is not None and process.patience is not None:
            # The server is dead: whoever answers at its address need not be given long.
            timeout = min(timeout, 2.0)
        answers = _in_parallel(self.questions, timeout)
        checks = [] if process is None else [process]
        for (name, target), answer in answers.items():
            if name == "tls":
                checks.append(self._judge_certificate(target, answer))
            elif name != "key":
                checks.append(self._judge(name, target, answer))
        keys = {key: answer for key, answer in answers.items() if key[0] == "key"}
        self.version = self._version(answers)
        return checks, keys

    def _version(self, answers: Mapping[tuple[str, str], t.Any]) -> str | None:
        for wanted in ("federation", "client"):
            for (name, _target), answer in answers.items():
                version = _health.running_version(answer) if name == wanted else None
                if version is not None:
                    return version
        return None

    def _judge(self, name: str, target: str, answer: Answer) -> Check:
        if name == "federation":
            return _health.judge_federation(target, answer, self.wanted.version)
        if name.startswith("well_known_"):
            return _health.judge_well_known(name[len("well_known_") :], target, answer)
        judges = {"health": _health.judge_health, "client": _health.judge_client, "metrics": _health.judge_metrics}
        return judges[name](target, answer)

    def _judge_certificate(self, target: str, answer: tuple[float, float] | NoAnswerError) -> Check:
        limit = next(item.min_days for item in self.wanted.certificates if f"{item.host}:{item.port}" == target)
        if isinstance(answer, NoAnswerError):
            return _health.judge_certificate(target, answer, limit, 0.0)
        return _health.judge_certificate(target, answer[0], limit, answer[1])

    def judge_keys(self, answers: Mapping[tuple[str, str], Answer], verify: bool) -> list[Check]:
        """Judge the published keys, with their signatures if ``verify``: that starts Synapse's interpreter once."""
        wanted = self.wanted
        documents = _documents(answers)
        problem: str | None = None
        found: dict[str, t.Any] = {}
        if verify and documents and wanted.python is not None:
            request = {"documents": documents, "key_file": wanted.key_file}
            try:
                found = ask_python(
                    self.run,
                    wanted.python,
                    inspect.getsource(verify_key),
                    request,
                    account=wanted.account,
                    timeout=_PROBE,
                )
            except SynapseError as error:
                stderr = str(error.details.get("stderr", ""))
                cause = _logs.decisive_line(stderr) or _logs.redact(_last(stderr))
                problem = f"the signature could not be verified: {error.msg}{f': {cause}' if cause else ''}"
        if found.get("key_error"):
            problem = f"the key file {wanted.key_file} could not be compared: {found['key_error']}"
        expected, source = wanted.verify_keys, "verify_keys"
        if found.get("verify_keys") is not None:
            expected, source = found["verify_keys"], str(wanted.key_file)
        signatures = found.get("signatures", {})
        return [
            _health.judge_key(
                target,
                answer,
                server_name=wanted.server_name,
                expected=expected,
                source=source,
                signatures=signatures.get(target),
                problem=problem,
                now_ms=time.time() * 1000,
            )
            for (_name, target), answer in answers.items()
        ]


def _documents(answers: Mapping[tuple[str, str], Answer]) -> dict[str, t.Any]:
    """The key documents among the answers, by URL."""
    found = {}
    for (_name, target), answer in answers.items():
        if isinstance(answer, NoAnswerError) or answer.status != 200:
            continue
        try:
            document = answer.json()
        except ValueError:
            continue
        if _health.published_keys(document) is not None:
            found[target] = document
    return found


def _hopeless(checks: list[Check], failing_since: dict[tuple[str, str], float], now: float) -> bool:
    """Whether waiting longer mends nothing: some fault has outlived the patience that it deserves.

    While systemd is still starting the service, whoever answers in its place proves nothing: the start itself will
    tell, with the server's own reason.
    """
    if any(check.name == "process" and not check.ok and check.patience is None for check in checks):
        failing_since.clear()
        return False
    current = {(check.name, check.target) for check in checks if not check.ok and check.patience is not None}
    for key in list(failing_since):
        if key not in current:
            del failing_since[key]
    for check in checks:
        if not check.ok and check.patience is not None:
            since = failing_since.setdefault((check.name, check.target), now)
            if now - since >= check.patience:
                return True
    return False


def prove(run: Runner, wanted: Wanted) -> Outcome:
    """Look at the server, with ``wanted.wait`` until it is well, until it is past hope or until the time is over.

    Raises ``SynapseError`` where a URL or the certificate bundle cannot be used at all.
    """
    started = time.monotonic()
    watch = _Watch(run, wanted)
    deadline = started + wanted.timeout
    failing_since: dict[tuple[str, str], float] = {}
    pause = min(0.05, wanted.interval)
    while True:
        left = max(deadline - time.monotonic(), 0.2)
        checks, keys = watch.look(min(_REQUEST, left))
        now = time.monotonic()
        well = all(check.ok for check in checks)
        last = not wanted.wait or now >= deadline
        checks += watch.judge_keys(keys, verify=well or last)
        if all(check.ok for check in checks) or last:
            break
        if _hopeless(checks, failing_since, now):
            if not well:
                checks = [check for check in checks if check.name != "key"] + watch.judge_keys(keys, verify=True)
            break
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
        pause = min(pause * 1.5, wanted.interval)
    waited = time.monotonic() - started
    published = next(filter(None, map(_health.published_keys, _documents(keys).values())), _health.Published())
    healthy = all(check.ok for check in checks)
    # Of a server that was stopped, earlier starts say nothing.
    dead = watch.process is not None and not watch.process.ok and not watch.process.stopped
    reason = None if healthy or not _own_fault(checks) else _reason(run, wanted, watch.unit, waited, dead=dead)
    return Outcome(tuple(checks), reason, watch.version, published.verify_keys, published.old_verify_keys, waited)


def _journal(run: Runner, arguments: list[str]) -> str:
    result = run(["journalctl", "--no-pager", "--quiet", "--output", "cat", "--lines", "400", *arguments], timeout=10.0)
    return result.stdout if result.rc == 0 else ""


def _own_fault(checks: list[Check]) -> bool:
    """Whether the server itself is silent or gone, so that its log may say why; of a certificate it says nothing."""
    silent = any(not check.ok and check.patience is None for check in checks if check.name in _SERVED)
    return silent or any(not check.ok for check in checks if check.name == "process")


def _reason(run: Runner, wanted: Wanted, unit: Unit | None, waited: float, *, dead: bool) -> str | None:
    """The server's own decisive line: from the journal of its latest start, of those before it, from its log."""
    line: str | None = None
    if unit is not None and unit.invocation:
        line = _logs.latest_words(_journal(run, [f"_SYSTEMD_INVOCATION_ID={unit.invocation}"]))
    if unit is not None and line is None and dead:
        # A server that restarts over and over may have said nothing yet in its latest life.
        line = _logs.latest_words(_journal(run, ["--boot", *_logs.of_unit(unit.name)]))
    if line is not None:
        return line
    if wanted.log_file is None:
        return None
    try:
        age = time.time() - os.stat(wanted.log_file).st_mtime
    except OSError:
        return None
    # A log that was not written to since the start that is waited for speaks of an older failure.
    if wanted.wait and age > waited + _MINUTE:
        return None
    return _logs.decisive_line(_logs.latest_start(_files.tail(wanted.log_file, _LOG_TAIL).decode("utf-8", "replace")))
