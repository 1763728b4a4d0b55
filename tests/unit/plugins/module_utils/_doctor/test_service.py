# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a unit, a process and their limits."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _health
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis, manager, service_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import Answers
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.messages import Match
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Path, Running, Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.words import Words
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

# Of what the other parts say of a host that is only partly made up, nothing is known here.
PARTS = ("service", "words", "answers", "public")


def diagnose(seen: Seen) -> diagnosis.Diagnosis:
    return diagnosis.diagnose(seen, [rule for rule in diagnosis.every_rule() if rule.id.split(".")[0] in PARTS])


FRAGMENT = "/etc/systemd/system/matrix-synapse.service"
FILE = """\
# Managed by Ansible (matrix_fleet.synapse). Changes made here are replaced by the next run.
[Unit]
AssertPathExists=/etc/synapse/homeserver.signing.key
[Service]
Type=notify
User=synapse
Group=synapse
WorkingDirectory=/var/lib/synapse
ExecStart=/var/lib/synapse/venv/bin/python -I -m synapse.app.homeserver \\
  --config-path=/etc/synapse/homeserver.yaml
LimitNOFILE=65536
MemoryMax=2G
ProtectSystem=strict
ReadWritePaths=/var/lib/synapse /var/log/synapse
Environment=SECRET=hunter2
"""
# systemd 252: systemctl show -p PROPERTIES, of a healthy server.
SHOWN = """\
Type=notify
Restart=on-failure
NotifyAccess=main
TimeoutStartUSec=infinity
MainPID=107
NRestarts=0
ExecMainCode=0
ExecMainStatus=0
Result=success
StatusText=
ExecStart={ path=/var/lib/synapse/venv/bin/python ; argv[]=/var/lib/synapse/venv/bin/python -I -m synapse.app.homeserver --config-path=/etc/synapse/homeserver.yaml ; ignore_errors=no ; start_time=[Mon 2026-11-23 22:29:12 UTC] ; stop_time=[n/a] ; pid=107 ; code=(null) ; status=0/0 }
Environment=PYTHONUNBUFFERED=1
LimitNOFILE=65536
LimitNOFILESoft=65536
MemoryMax=infinity
MemoryCurrent=102555648
WorkingDirectory=/var/lib/synapse
User=synapse
Group=synapse
DynamicUser=no
ProtectHome=yes
ProtectSystem=strict
PrivateTmp=yes
ReadWritePaths=/var/lib/synapse /var/log/synapse
ReadOnlyPaths=-/var/lib/synapse/releases
RuntimeDirectory=matrix-synapse
Id=matrix-synapse.service
Names=matrix-synapse.service
WantedBy=multi-user.target
LoadState=loaded
ActiveState=active
SubState=running
FragmentPath=/etc/systemd/system/matrix-synapse.service
UnitFileState=enabled
NeedDaemonReload=no
ConditionResult=yes
AssertResult=yes
InvocationID=9900dfce986140258b44c700fe193724
Job=0
"""  # noqa: E501
DOWN = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "ExecMainCode": "1", "MainPID": "0"}
STOPPED = {"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}
PROGRAM = "/var/lib/synapse/venv/bin/python"
CONFIG = {
    "server_name": "hs.test",
    "media_store_path": "/var/lib/synapse/media",
    "database": {"name": "sqlite3", "args": {"database": "/var/lib/synapse/homeserver.db"}},
}
MANAGED = ConfigFile("/etc/synapse/homeserver.yaml", managed=True)


def unit(file: str = FILE, drop_in: str = "", **said: str) -> manager.UnitSeen:
    shown = {**dict(line.split("=", 1) for line in SHOWN.splitlines()), **said}
    text = "".join(f"{key}={value}\n" for key, value in shown.items())
    options = manager.options_of(FRAGMENT, file) + manager.options_of(f"{FRAGMENT}.d/o.conf", drop_in)
    found = manager.parse("matrix-synapse.service", text)
    return replace(
        found, options=options, managed=file == FILE, drop_ins=(f"{FRAGMENT}.d/o.conf",) if drop_in else (), age=1000.0
    )


def seen(
    one: manager.UnitSeen | None, *, config: dict[str, t.Any] | None = None, words: Words | None = None, **given: t.Any
) -> Seen:
    answers = given.pop("answers", None)
    request = given.pop("request", Request())
    running: tuple[Running, ...] = ()
    if one is not None and one.up:
        running = (
            Running(107, ("python",), 998, 1000.0, one.name, 30, 65536, "/var/lib/synapse/releases/a/lib", False),
        )
    values = {
        "user": "synapse",
        "asked": "matrix-synapse.service",
        "unit": one.name if one is not None else None,
        "seen": one,
        "systemd": True,
        "running": running,
        "environment": "/var/lib/synapse/releases/a",
        "config_changed": 900.0,
        **given,
    }
    return Seen(
        request,
        settings=Settings((MANAGED,), {**CONFIG, **(config or {})}),
        service=Service(**values),
        words=words,
        answers=answers,
        now=5000.0,
    )


def found(what: Seen) -> list[str]:
    return [finding.id for finding in diagnose(what).findings]


def only(what: Seen) -> t.Any:
    findings = diagnose(what).findings
    assert len(findings) == 1, [finding.id for finding in findings]
    return findings[0]


def test_of_a_healthy_server_nothing_is_said() -> None:
    assert found(seen(unit())) == []


def test_what_systemd_shows_is_read() -> None:
    one = unit()
    assert one.commands[0].argv[1:4] == ("-I", "-m", "synapse.app.homeserver")
    assert one.writable == ("/var/lib/synapse", "/var/log/synapse")
    assert (one.memory_max, one.files_limit, one.state.pid) == (None, 65536, 107)


def test_secrets_of_a_unit_are_not_kept() -> None:
    assert "hunter2" not in repr(unit())
    assert "hunter2" not in repr(manager.parse("a.service", "Environment=SECRET=hunter2 LD_PRELOAD=/x.so"))
    command = "ExecStart={ path=/x ; argv[]=/x --password=hunter2 ; ignore_errors=no ; pid=0 ; code=exited ; status=1 }"
    assert manager.parse("a.service", command).commands[0].path == "/x"
    assert "hunter2" not in repr(manager.parse("a.service", command))
    assert "hunter2" not in repr(manager.options_of("f", "ExecStartPre=/x --token=hunter2hunter2"))


def test_a_line_that_goes_on_is_one_option_with_the_number_of_its_first_line() -> None:
    option = unit().origin("ExecStart")
    assert option is not None
    assert (option.line, option.value.endswith("homeserver.yaml")) == (9, True)


def test_a_program_that_does_not_exist_is_the_one_cause() -> None:
    one = unit(ExecMainStatus="203", **DOWN)
    what = seen(
        one,
        paths=(Path("program", "/opt/nope/bin/python", "it does not exist"),),
        words=Words(line="Failed to locate executable", start=Match("missing_file", "x")),
    )
    one = replace(one, commands=(replace(one.commands[0], path="/opt/nope/bin/python"),))
    what = replace(what, service=replace(t.cast("Service", what.service), seen=one))
    finding = only(what)
    assert (finding.id, finding.severity, finding.repair, finding.safe) == (
        "service.program_missing",
        "critical",
        "config",
        True,
    )
    assert "203/EXEC" in finding.summary
    assert "line 9: ExecStart=" in finding.evidence


def test_a_program_that_a_drop_in_names_is_not_mended_without_asking() -> None:
    one = unit(
        drop_in="[Service]\nExecStart=/opt/nope/bin/python -m synapse.app.homeserver\n", ExecMainStatus="203", **DOWN
    )
    one = replace(one, commands=(replace(one.commands[0], path="/opt/nope/bin/python"),))
    finding = only(seen(one, paths=(Path("program", "/opt/nope/bin/python", "it does not exist"),)))
    assert (finding.repair, finding.safe) == ("", False)
    assert "o.conf line 2" in finding.evidence


def test_a_broken_interpreter_of_the_environment_is_only_a_symptom() -> None:
    finding = only(seen(unit(ExecMainStatus="203", **DOWN), paths=(Path("program", PROGRAM, "it does not exist"),)))
    assert (finding.id, finding.repair) == ("service.program_broken", "reinstall")
    assert next(rule for rule in diagnosis.every_rule() if rule.id == finding.id).symptom


def path_case(kind: str, path: str, problem: str, **more: t.Any) -> dict[str, t.Any]:
    return {"paths": (Path(kind, path, problem),), **more}


CASES: list[tuple[str, manager.UnitSeen, dict[str, t.Any], tuple[str, str, bool]]] = [
    (
        "a program out of reach",
        unit(ExecMainStatus="203", **DOWN),
        {"paths": (Path("program", PROGRAM, "denied", "/var/lib/synapse"),)},
        ("service.program_unreachable", "permissions", True),
    ),
    (
        "a program that ProtectHome hides",
        unit(
            ExecStart="{ path=/home/s/venv/bin/python ; argv[]=/home/s/venv/bin/python -c /etc/synapse/homeserver.yaml"
            " ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=exited ; status=203 }",
            ExecMainStatus="203",
            **DOWN,
        ),
        {"request": Request(python="/home/s/venv/bin/python"), "environment": "/home/s/venv"},
        ("service.program_unreachable", "config", True),
    ),
    (
        "a program that is no program",
        unit(ExecMainStatus="203", **DOWN),
        {},
        ("service.program_refused", "", False),
    ),
    (
        "a folder that does not exist",
        unit(WorkingDirectory="/srv/nope", ExecMainStatus="200", **DOWN),
        path_case("directory", "/srv/nope", "it does not exist"),
        ("service.directory_missing", "config", True),
    ),
    (
        "a folder that may not be entered",
        unit(ExecMainStatus="200", **DOWN),
        {"paths": (Path("directory", "/var/lib/synapse", "denied", "/var/lib"),)},
        ("service.directory_missing", "permissions", True),
    ),
    (
        "the server's home, which is a mount",
        unit(ExecMainStatus="200", **DOWN),
        path_case("directory", "/var/lib/synapse", "it does not exist", unmounted=("/var/lib",)),
        ("service.home_missing", "", False),
    ),
    (
        "a path of the sandbox",
        unit(FILE.replace("/var/log/synapse", "/var/log/synapse /srv/x"), ExecMainStatus="226", **DOWN),
        path_case("namespace", "/srv/x", "it does not exist"),
        ("service.namespace", "", False),
    ),
    ("an unknown reason of the sandbox", unit(ExecMainStatus="226", **DOWN), {}, ("service.namespace", "", False)),
    (
        "a sandbox without its paths",
        unit(ReadWritePaths="/var/log/synapse", **DOWN),
        {},
        ("service.sandbox", "config", True),
    ),
    (
        "media below a path that is read-only",
        unit(ReadOnlyPaths="/var/lib/synapse/media"),
        {},
        ("service.sandbox", "config", True),
    ),
    (
        "a file of the environment",
        unit(ActiveState="failed", SubState="failed", Result="resources", MainPID="0"),
        path_case("environment", "/etc/default/matrix-synapse", "it does not exist"),
        ("service.environment_file", "config", True),
    ),
    (
        "a preloaded library",
        unit(),
        path_case("preload", "/usr/lib/nope.so", "it does not exist"),
        ("service.preload", "", False),
    ),
    (
        "Type=forking without daemonize",
        unit(Type="forking", **{**DOWN, "Result": "timeout"}),
        {},
        ("service.type", "config", True),
    ),
    (
        "Type=notify with daemonize",
        unit(**{**DOWN, "Result": "protocol"}),
        {"config": {"daemonize": True}},
        ("service.type", "config", True),
    ),
    (
        "Type=simple with synctl",
        unit(
            Type="simple",
            ExecStart="{ path=/opt/bin/synctl ; argv[]=/opt/bin/synctl start /etc/synapse/homeserver.yaml ; "
            "ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=exited ; status=0 }",
            **STOPPED,
        ),
        {"paths": (), "request": Request(python="/opt/bin/python")},
        ("service.type", "config", True),
    ),
    (
        "two pid files",
        unit(Type="forking", PIDFile="/var/lib/synapse/a.pid"),
        {"config": {"daemonize": True, "pid_file": "/var/lib/synapse/b.pid"}},
        ("service.pid_file_differs", "", False),
    ),
    (
        "an account that is gone",
        unit(ExecMainStatus="217", **DOWN),
        {"unknown_account": "User=synapse"},
        ("service.account_missing", "", False),
    ),
    (
        "memory that ran out",
        unit(MemoryMax="62914560", ExecMainStatus="9", **{**DOWN, "Result": "oom-kill", "ExecMainCode": "2"}),
        {},
        ("service.out_of_memory", "config", True),
    ),
    (
        "a kill below a small limit",
        unit(MemoryMax="62914560", ExecMainStatus="9", **{**DOWN, "Result": "signal", "ExecMainCode": "2"}),
        {},
        ("service.out_of_memory", "config", True),
    ),
    (
        "a kill",
        unit(ExecMainStatus="9", **{**DOWN, "Result": "signal", "ExecMainCode": "2"}),
        {},
        ("service.killed", "service", True),
    ),
    (
        "a damaged library",
        unit(ExecMainStatus="11", **{**DOWN, "Result": "core-dump", "ExecMainCode": "3"}),
        {},
        ("service.killed", "reinstall", True),
    ),
    (
        "memory that is nearly used up",
        unit(MemoryMax="1000000000", MemoryCurrent="990000000"),
        {},
        ("service.memory_max", "", False),
    ),
    ("few files", unit(LimitNOFILE="15", **DOWN), {}, ("service.files_limit", "config", True)),
    (
        "files that are nearly used up",
        unit(),
        {"running": (Running(107, (), 998, 1000.0, "matrix-synapse.service", 900, 1000),)},
        ("service.files_limit", "", False),
    ),
    (
        "an assertion",
        unit(AssertResult="no", **STOPPED),
        {"missing": (manager.Option("AssertPathExists", "/mnt/x", FRAGMENT, 3),)},
        ("service.assertion", "", False),
    ),
    (
        "what runs before",
        unit(
            ExecStartPre="{ path=/bin/sh ; argv[]=/bin/sh -c exit 3 ; ignore_errors=no ; start_time=[n/a] ; "
            "stop_time=[n/a] ; pid=9 ; code=exited ; status=3 }",
            **DOWN,
        ),
        {},
        ("service.start_pre", "", False),
    ),
    ("a timeout", unit(**{**DOWN, "Result": "timeout"}), {}, ("service.start_timeout", "config", True)),
    ("its output", unit(ExecMainStatus="209", **DOWN), {}, ("service.output", "config", True)),
    ("another step", unit(ExecMainStatus="228", **DOWN), {}, ("service.step", "", False)),
    ("a stopped one", unit(**STOPPED), {}, ("service.stopped", "service", True)),
    ("a failed one", unit(ExecMainStatus="1", **DOWN), {}, ("service.failed", "service", True)),
    (
        "a start limit",
        unit(**{**DOWN, "Result": "start-limit-hit"}),
        {},
        ("service.failed", "service", True),
    ),
    (
        "a loop",
        unit(
            **{**DOWN, "ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "7", "ExecMainStatus": "1"}
        ),
        {},
        ("service.loop", "", False),
    ),
    ("a start", unit(ActiveState="activating", SubState="start", NRestarts="0"), {}, ("service.starting", "", False)),
    ("a disabled one", unit(UnitFileState="disabled", WantedBy=""), {}, ("service.disabled", "service", True)),
    ("a changed file", unit(NeedDaemonReload="yes"), {}, ("service.reload_needed", "service", True)),
    ("a drop-in", unit(drop_in="[Service]\nMemoryMax=3G\n"), {}, ("service.drop_in", "", False)),
    (
        "a masked one",
        unit(LoadState="masked", UnitFileState="masked", **STOPPED),
        {},
        ("service.masked", "", False),
    ),
    (
        "a refused file",
        unit(LoadState="bad-setting", LoadError='org.x "Unit has a bad unit file setting."', **STOPPED),
        {},
        ("service.unit_refused", "config", True),
    ),
    ("none", unit(LoadState="not-found", **STOPPED), {}, ("service.unit_missing", "config", True)),
    (
        "another name",
        replace(unit(), name="synapse-main.service", names=("synapse-main.service",)),
        {},
        ("service.unit_renamed", "", False),
    ),
    (
        "no watcher",
        unit(LoadState="not-found", **STOPPED),
        {"running": (Running(300, ("python",), 998),)},
        ("service.unwatched", "", False),
    ),
    (
        "one beside the unit",
        unit(**DOWN),
        {"running": (Running(300, ("python",), 998, unit="session-1.scope"),)},
        ("service.stray", "", False),
    ),
    (
        "one beside the unit, whose own tries again",
        unit(ActiveState="activating", SubState="start", MainPID="400"),
        {"running": (Running(300, unit="session-1.scope"), Running(400, unit="matrix-synapse.service"))},
        ("service.stray", "", False),
    ),
    (
        "two at once",
        unit(),
        {"running": (Running(107, unit="matrix-synapse.service"), Running(300, unit="session-1.scope"))},
        ("service.several", "", False),
    ),
    (
        "another configuration",
        unit(),
        {"request": Request(config_paths=("/srv/homeserver.yaml",))},
        ("service.other_config", "config", True),
    ),
    (
        "another environment",
        unit(),
        {"request": Request(python="/opt/synapse/bin/python"), "environment": "/opt/synapse"},
        ("service.other_environment", "config", True),
    ),
    ("root", unit(User="", Group=""), {}, ("service.root", "config", True)),
    ("another user", unit(), {"request": Request(user="matrix")}, ("service.other_user", "config", True)),
    (
        "a release that is gone",
        unit(),
        {"running": (Running(107, unit="matrix-synapse.service", packages="/a/lib", gone=True),)},
        ("service.release_gone", "service", False),
    ),
    ("a changed configuration", unit(), {"config_changed": 2000.0}, ("service.restart_pending", "", False)),
    (
        "another release",
        unit(),
        {"environment": "/var/lib/synapse/releases/b"},
        ("service.restart_pending", "", False),
    ),
    (
        "a worker that is down",
        unit(),
        {"workers": (replace(unit(**DOWN, ExecMainStatus="1"), name="synapse-worker@a.service"),)},
        ("service.worker_down", "service", True),
    ),
    (
        "a key that would be made",
        unit(
            "[Service]\n",
            ExecStartPre=f"{{ path={PROGRAM} ; argv[]={PROGRAM} -m synapse.app.homeserver --generate-keys ; "
            "ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=9 ; code=exited ; status=0 }",
        ),
        {},
        ("service.mints_key", "", False),
    ),
]


@pytest.mark.parametrize(("one", "given", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_fault_is_one_finding(
    one: manager.UnitSeen, given: dict[str, t.Any], wanted: tuple[str, str, bool]
) -> None:
    finding = only(seen(one, **given))
    assert (finding.id, finding.repair, finding.safe) == wanted
    assert finding.remedy
    assert finding.cause


def test_every_rule_has_a_case() -> None:
    rules = {rule.id for rule in diagnosis.every_rule() if rule.id.startswith("service.")}
    assert rules - {case[3][0] for case in CASES} == {"service.program_missing", "service.program_broken"}


def test_an_environment_in_a_home_that_is_gone_is_no_cause_of_its_own() -> None:
    rule = next(rule for rule in diagnosis.every_rule() if rule.id == "service.home_missing")
    assert "environment.*" in rule.explains


def test_a_loop_quotes_the_server() -> None:
    one = unit(**{**DOWN, "ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "7"})
    finding = only(seen(one, words=Words(line="RuntimeError: no")))
    assert finding.id == "service.loop"
    assert "RuntimeError: no" in finding.evidence


@pytest.mark.parametrize("state", [{}, {"ActiveState": "activating", "SubState": "start"}])
@pytest.mark.parametrize(("healthy", "severity"), [(True, "warning"), (False, "critical")])
def test_a_loop_that_led_to_a_server_that_serves_is_no_failure(
    state: dict[str, str], healthy: bool, severity: str
) -> None:
    one = replace(unit(NRestarts="7", **state), age=12.0)
    finding = only(seen(one, answers=Answers(healthy=healthy)))
    assert (finding.id, finding.severity) == ("service.loop", severity)


def test_a_loop_that_is_over_for_long_is_not_told() -> None:
    assert "service.loop" not in found(seen(replace(unit(NRestarts="7"), age=120.0)))


def test_a_known_message_explains_the_failure() -> None:
    words = Words(line="No module named 'x'", start=Match("missing_module", "No module named 'x'"))
    assert found(seen(unit(**DOWN), words=words)) == ["words.missing_module"]


def test_a_unit_without_files_or_facts_breaks_no_rule() -> None:
    empty = manager.parse("a.service", "")
    assert found(Seen(Request(), service=Service(asked="a.service", seen=empty, systemd=True))) == [
        "service.unit_missing"
    ]
    assert found(Seen(Request(), service=Service())) == []


def test_garbage_from_systemd_is_read_as_far_as_it_goes() -> None:
    text = 'ExecStart={ path=x\nEnvironment="unclosed\nMemoryMax=99999999999999999999\nLimitNOFILE=-1\nNRestarts=x\n='
    one = manager.parse("a.service", text)
    assert (one.commands, one.memory_max, one.files_limit, one.state.restarts) == ((), None, None, 0)


# The look


def runner(answers: dict[str, str]) -> t.Any:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        for name, text in answers.items():
            if name in argv:
                return CommandResult(0, text, "")
        return CommandResult(1, "", "System has not been booted with systemd")

    return run


def test_a_host_without_systemd_is_looked_at_too(tmp_path: t.Any) -> None:
    request = Request(config_paths=(str(tmp_path / "homeserver.yaml"),), python=str(tmp_path / "bin" / "python"))
    found_ = service_look.look(Context(request, runner({}), 1e12))
    assert (found_.systemd, found_.seen, found_.running) == (False, None, ())


def test_the_unit_is_looked_at_with_its_files(tmp_path: t.Any) -> None:
    fragment = tmp_path / "matrix-synapse.service"
    fragment.write_text(FILE)
    shown = f"{SHOWN}FragmentPath={fragment}\nWorkingDirectory={tmp_path}/nope\nUser=nobody\nGroup=\n"
    shown += f"EnvironmentFiles={tmp_path}/env (ignore_errors=no)\nEnvironmentFiles={tmp_path}/o (ignore_errors=yes)\n"
    request = Request(config_paths=(str(tmp_path / "homeserver.yaml"),), python=str(tmp_path / "bin" / "python"))
    result = service_look.look(Context(request, runner({"matrix-synapse.service": shown}), 1e12))
    assert result.seen is not None
    assert (result.seen.managed, result.user, result.unit) == (True, "nobody", "matrix-synapse.service")
    problems = {(path.kind, path.path): path.problem for path in result.paths}
    assert problems["directory", f"{tmp_path}/nope"] == "it does not exist"
    assert problems["environment", f"{tmp_path}/env"] == "it does not exist"
    assert ("environment", f"{tmp_path}/o") not in problems
    assert problems["program", PROGRAM] == "it does not exist"


@pytest.fixture
def open_path() -> t.Iterator[pathlib.Path]:
    """Give a folder that everybody may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


def test_programs_are_looked_at_as_the_account_meets_them(open_path: pathlib.Path) -> None:
    one = unit(User="nobody", Group="", WorkingDirectory="")
    program = open_path / "closed" / "hs"
    program.parent.mkdir()
    program.write_text("#!/nope/python\n")

    def problem() -> Path:
        command = manager.Command(str(program), (str(program),))
        paths = service_look.paths_of(replace(one, commands=(command,), writable=(), read_only=()))
        return next((path for path in paths if path.kind == "program"), Path("program", ""))

    assert problem().problem == "it is not executable"
    program.chmod(0o755)
    assert "/nope/python" in problem().problem
    program.write_text("#!/bin/sh\n")
    program.parent.chmod(stat.S_IRWXU)
    assert (problem().problem, problem().blocked) == ("denied", str(program.parent))
    program.parent.chmod(0o755)
    assert problem().problem == ""


def test_a_pid_file_without_a_process_is_a_stopped_server() -> None:
    what = Seen(Request(unit=None, pid_file="/x.pid"), service=Service(daemon=_health.Process("/x.pid", None)))
    assert found(what) == ["service.stopped"]


def test_conditions_that_do_not_hold_are_named(tmp_path: t.Any) -> None:
    text = f"[Unit]\nAssertPathExists={tmp_path}/a\nConditionPathExists=!{tmp_path}\nAssertPathIsDirectory={tmp_path}\n"
    one = replace(unit(), options=manager.options_of("f", text))
    assert [option.key for option in service_look._unmet(one)] == ["AssertPathExists", "ConditionPathExists"]


def test_a_process_is_known_by_its_configuration_also_where_that_is_named_in_its_own_folder(tmp_path: t.Any) -> None:
    config = tmp_path / "homeserver.yaml"
    command = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "synapse.app.homeserver", "-c"]
    with subprocess.Popen([*command, "homeserver.yaml"], cwd=tmp_path) as one:
        try:
            end = time.monotonic() + 20
            # Until it has become the new program, it bears the name of this one.
            while not (found := service_look._processes_of([str(config)])) and time.monotonic() < end:
                time.sleep(0.02)
            (running,) = found
            assert service_look._processes_of([str(tmp_path / "other" / "homeserver.yaml")]) == ()
        finally:
            one.kill()
    assert (running.pid, running.uid) == (one.pid, os.geteuid())
    assert running.started is not None
    assert abs(running.started - time.time()) < 60
    assert running.open_files
    assert running.files_limit
