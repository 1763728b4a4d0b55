# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where the collection starts a process, and the one error that it raises."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ansible.module_utils.basic import AnsibleModule

__all__ = [
    "TIMED_OUT",
    "Account",
    "CommandResult",
    "Runner",
    "SynapseError",
    "ask_python",
    "module_runner",
    "probe_source",
    "process_runner",
]

# What a process that its time limit ended reports: killed by SIGALRM (signal(7)).
TIMED_OUT = -14

# Lowers privileges, sets time limit and standard streams, then becomes the command. An alarm survives execve(2),
# so neither setpriv nor timeout has to be installed on the host, and no shell is involved. The account's
# HOME and name replace root's, which it may not even look into; what the caller set itself stays.
_LAUNCH = """
import json, os, pwd, signal, sys
import warnings  # which os.execvp wants, and as another user may not be able to read
spec = json.loads(sys.argv[1])
if not spec["stdin"]:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
if spec["parent"] is not None:
    # Loaded while this interpreter's own files can be read.
    import ctypes
    library = ctypes.CDLL(None)
if spec["account"] is not None:
    uid, gid, groups = spec["account"]
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        identity = {"HOME": "/"}
    else:
        identity = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    for name, value in identity.items():
        if name not in spec["named"]:
            os.environ[name] = value
if spec["parent"] is not None:
    # PR_SET_PDEATHSIG of linux/prctl.h; a change of the user takes it back, so it comes after that.
    library.prctl(1, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != spec["parent"]:
        raise SystemExit(143)
for stream, descriptor in spec["streams"]:
    os.dup2(descriptor, stream)
    os.close(descriptor)
if spec["timeout"] is not None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, spec["timeout"])
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\\n")
    raise SystemExit(127)
"""


class SynapseError(Exception):
    """A failure that the operator can act on; ``main()`` turns it into ``fail_json``.

    ``msg`` says what happened, where, and what to do; ``details`` are returned beside it and never hold a secret.
    """

    def __init__(self, msg: str, **details: t.Any) -> None:
        super().__init__(msg)
        self.msg = msg
        self.details = details


@dataclass(frozen=True)
class CommandResult:
    """How a process ended. ``rc`` is negative where a signal ended it, 127 where it could not be started.

    Bytes that are not UTF-8 are replaced in ``stdout`` and ``stderr``.
    """

    rc: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Account:
    """The identity under which a process runs: numeric user, primary group and supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Runner(t.Protocol):
    """Starts one process and waits for it. ``timeout`` is in seconds; past it the result is ``TIMED_OUT``.

    The arguments reach the process as they are: no shell, no ``~``, no ``$NAME``. The time limit ends the process
    itself, not what it forked. Without ``stdin``, a process with an account or a time limit reads nothing.
    ``meanwhile`` is called once, when the process has been started: nothing forks after that, so it may start a thread.
    """

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        account: Account | None = None,
        timeout: float | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> CommandResult:
        """Run ``argv`` to its end."""
        raise NotImplementedError


def module_runner(
    module: AnsibleModule,
    *,
    pass_fds: Sequence[int] = (),
    streams: Mapping[int, int] | None = None,
    ends_with_us: bool = False,
) -> Runner:
    """Return the runner that starts processes through ``module.run_command``.

    They, and what they start in turn, inherit ``pass_fds``: a lock held by one of these outlives a killed module.
    ``streams`` are descriptors of this process by the number of the standard stream that they become. With
    ``ends_with_us`` the kernel kills a process when this one ends, even if that is killed.
    """
    given = dict(streams or {})
    run_command: Callable[..., tuple[int, str, str]] = module.run_command

    def run(
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        account: Account | None = None,
        timeout: float | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> CommandResult:
        command = list(argv)
        if cwd is not None and not os.path.isdir(cwd):
            return CommandResult(127, "", f"{cwd}: there is no such folder to work in")
        if account is not None or timeout is not None or given or ends_with_us:
            identity = None if account is None else [account.uid, account.gid, list(account.groups)]
            spec = json.dumps(
                {
                    "account": identity,
                    "timeout": timeout,
                    "stdin": bool(stdin),
                    "named": sorted(env or {}),
                    "parent": os.getpid() if ends_with_us else None,
                    "streams": list(given.items()),
                }
            )
            command = [sys.executable, "-I", "-S", "-c", _LAUNCH, spec, *command]
        try:
            result = run_command(
                command,
                data=stdin,
                environ_update=dict(env or {}),
                cwd=cwd,
                handle_exceptions=False,
                binary_data=True,
                expand_user_and_vars=False,  # a probe's source may well hold "~" or "$"
                errors="replace",
                pass_fds=(*pass_fds, *given.values()),
                **({} if meanwhile is None else {"before_communicate_callback": lambda _process: meanwhile()}),
            )
        except OSError as error:
            return CommandResult(127, "", f"{command[0]}: {error.strerror}")
        return CommandResult(*result)

    return run


def process_runner() -> Runner:
    """Return the runner that needs no Ansible: for what a host runs by itself, and for several threads at once."""

    def run(
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        account: Account | None = None,
        timeout: float | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> CommandResult:
        if cwd is not None and not os.path.isdir(cwd):
            return CommandResult(127, "", f"{cwd}: there is no such folder to work in")
        spec = json.dumps(
            {
                "account": None if account is None else [account.uid, account.gid, list(account.groups)],
                "timeout": timeout,
                "stdin": bool(stdin),
                "named": sorted(env or {}),
                "parent": os.getpid(),
                "streams": [],
            }
        )
        try:
            # The one place that starts processes: without a module there is no run_command, and no shell sees this.
            # pylint: disable-next=ansible-bad-function
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", "-c", _LAUNCH, spec, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", **(env or {})},
                cwd=cwd,
                close_fds=True,
            )
        except OSError as error:
            return CommandResult(127, "", f"{argv[0]}: {error.strerror}")
        with process:
            if meanwhile is not None:
                meanwhile()
            try:
                # What a process forked may hold its output open: the limit counts for that too.
                patience = None if timeout is None else timeout + 1.0
                out, err = process.communicate((stdin or "").encode(), timeout=patience)
            except subprocess.TimeoutExpired:
                process.kill()
                return CommandResult(TIMED_OUT, "", "")
        return CommandResult(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    return run


def probe_source(name: str) -> str:
    """Return the source of a probe in this collection, without importing it: it runs elsewhere."""
    spec = importlib.util.find_spec(f"{__name__.rpartition('.')[0]}._probes.{name}")
    # On a managed host the probe lies in an archive, whose loader can tell the source as well.
    get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
    source: str | None = get_source(spec.name) if spec is not None and get_source is not None else None
    if source is None:
        raise SynapseError(f"The collection's own part {name!r} did not come along to this host: install it anew.")
    return source


def ask_python(
    run: Runner,
    python: str,
    source: str,
    request: Mapping[str, object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    account: Account | None = None,
    timeout: float | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> dict[str, t.Any]:
    """Run ``source`` under another interpreter; JSON goes in on stdin and comes back as the last line of stdout.

    Raises ``SynapseError`` with ``rc`` and ``stderr`` where no JSON object comes back.
    """
    result = run(
        [python, "-I", "-c", source],
        stdin=json.dumps(request),
        env=env,
        cwd=cwd,
        account=account,
        timeout=timeout,
        **({} if meanwhile is None else {"meanwhile": meanwhile}),
    )
    lines = result.stdout.splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        if result.rc == TIMED_OUT:
            msg = f"{python} did not answer within {timeout:g} s"
        else:
            msg = f"{python} did not answer the probe (rc={result.rc})"
        raise SynapseError(msg, rc=result.rc, stderr=result.stderr[-4000:]) from None
    if not isinstance(answer, dict):
        raise SynapseError(f"{python} answered the probe with {type(answer).__name__}, not an object", rc=result.rc)
    return answer
