# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read in journal and log. Lines are as the programs write them."""

from __future__ import annotations

import os
import time
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis, messages, words_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.manager import parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.messages import Entry, Match
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.words import Words
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

# Of what the other parts say of a host that is only partly made up, nothing is known here.
PARTS = ("service", "words", "answers", "public")


def diagnose(seen: Seen) -> diagnosis.Diagnosis:
    return diagnosis.diagnose(seen, [rule for rule in diagnosis.every_rule() if rule.id.split(".")[0] in PARTS])


NOW = 1_800_000_000.0

# The decisive line of a server that does not start, and the kind of message that it is.
LINES = {
    "Generating signing key file /etc/synapse/hs.signing.key": "key_generated",
    "Cannot create PostgresEngine -- psycopg2 module is not installed": "psycopg2",
    "ImportError: libpq.so.5: cannot open shared object file: No such file or directory": "psycopg2",
    "ModuleNotFoundError: No module named 'encodings'": "python_broken",
    "ModuleNotFoundError: No module named 'signedjson'": "missing_module",
    "importlib.metadata.PackageNotFoundError: No package metadata was found for matrix-synapse": "missing_module",
    "ImportError: cannot import name 'JsonDict' from 'synapse.types'": "broken_library",
    "ImportError: /v/synapse_rust.abi3.so: file too short": "broken_library",
    "python: error while loading shared libraries: libpython3.11.so.1.0: wrong ELF class": "broken_library",
    "synapse.util.check_dependencies.DependencyException: ['authlib']": "dependency",
    "Synapse 1.163.2 needs python-multipart>=0.0.9, but got python-multipart==0.0.5": "dependency",
    "ValueError: Cannot use this database as it is too new for the server to understand": "database_too_new",
    "Postgres sequence 'events_stream_seq' is inconsistent with associated stream position": "database_sequence",
    "IncorrectDatabaseSetup: Database has incorrect collation of 'C.UTF-8'. Should be 'C'": "database_locale",
    'psycopg2.OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused': (
        "database_refused"
    ),
    "psycopg2.OperationalError: FATAL:  the database system is starting up": "database_refused",
    'FATAL:  password authentication failed for user "synapse"': "database_login",
    'FATAL:  Peer authentication failed for user "synapse"': "database_login",
    'FATAL:  database "synapse" does not exist': "database_missing",
    "FATAL:  sorry, too many clients already": "database_connections",
    "psycopg2.errors.InsufficientPrivilege: permission denied for schema public": "database_privilege",
    "sqlite3.DatabaseError: database disk image is malformed": "database_damaged",
    'psycopg2.errors.DuplicateTable: relation "background_updates" already exists': "database_schema",
    "sqlite3.OperationalError: no such table: schema_version": "database_schema",
    "sqlite3.OperationalError: attempt to write a readonly database": "database_readonly",
    "sqlite3.OperationalError: unable to open database file": "database_readonly",
    "sqlite3.OperationalError: database is locked": "database_locked",
    "OSError: [Errno 28] No space left on device: '/var/log/synapse/homeserver.log'": "disk_full",
    "OSError: [Errno 30] Read-only file system: '/var/log/synapse/homeserver.log'": "disk_failed",
    "MemoryError": "memory",
    "OSError: [Errno 24] Too many open files": "too_many_files",
    "Unable to create the pidfile.": "pid_file",
    "Unable to lock on the pidfile.": "pid_file_locked",
    "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008: [Errno 98] Address already in use.": (
        "port_in_use"
    ),
    "CannotListenError: Couldn't listen on 10.0.0.9:8008: [Errno 99] Cannot assign requested address.": "cannot_bind",
    "yaml.scanner.ScannerError: mapping values are not allowed here": "yaml",
    "ValueError: Unable to configure handler 'file'": "log_config",
    "PermissionError: [Errno 13] Permission denied: '/etc/synapse/homeserver.yaml'": "config_denied",
    "Error in configuration: Missing mandatory `server_name` config option.": "config",
    "ValueError: invalid literal for int() with base 10: '50MB' (while reading the option max_upload_size)": "config",
    "PermissionError: [Errno 13] Permission denied: '/var/lib/synapse/media'": "denied",
    "FileNotFoundError: [Errno 2] No such file or directory: '/srv/as/bridge'": "missing_file",
    "OpenSSL.SSL.Error: [('x509 certificate routines', '', 'key values mismatch')]": "tls",
    "Instance 'worker9' is configured to write events but does not appear in `instance_map` config.": "workers",
    'could not translate host name "db.internal" to address: Name or service not known': "dns",
    "Connection to redis server localhost:6379 failed: Connection was refused by other side": "redis",
}


@pytest.mark.parametrize(("line", "name"), LINES.items())
def test_a_decisive_line_is_recognised(line: str, name: str) -> None:
    match = messages.recognise([], line)
    assert match is not None
    assert match.name == name


def test_every_kind_of_a_failed_start_has_a_line() -> None:
    assert {message.name for message in messages.STARTING} == set(LINES.values())


def test_a_line_that_nobody_knows_is_of_no_kind() -> None:
    assert messages.recognise([Entry("OSError: [Errno 28] No space left on device")], "RuntimeError: the moon") is None


def test_without_a_decisive_line_any_line_may_tell() -> None:
    match = messages.recognise([Entry("fine"), Entry("x - INFO - Unable to create the pidfile.")], None)
    assert match is not None
    assert match.name == "pid_file"


def test_secrets_are_masked_in_what_is_quoted() -> None:
    match = messages.recognise([], "yaml.scanner.ScannerError: macaroon_secret_key: hunter2hunter2")
    assert match is not None
    assert "hunter2" not in match.line


# What a running server complains of: one line of each kind.
RUNNING = {
    "disk_full_running": "OSError: [Errno 28] No space left on device",
    "disk_failed_running": "OSError: [Errno 5] Input/output error",
    "too_many_files": "2026-11-23 14:45:01,123 - twisted - 1 - INFO - - EMFILE encountered; releasing reserved file",
    "media_unwritable": "PermissionError: [Errno 13] Permission denied: '/var/lib/synapse/media/local_content'",
    "database_damaged_running": "sqlite3.DatabaseError: database disk image is malformed",
    "database_readonly_running": "sqlite3.OperationalError: attempt to write a readonly database",
    "database_connections_running": "FATAL:  remaining connection slots are reserved",
    "database_lost": "psycopg2.OperationalError: server closed the connection unexpectedly",
    "database_locked_running": "sqlite3.OperationalError: database is locked",
    "database_privilege_running": "permission denied for table events",
    "events_refused": "synapse.storage - 1 - ERROR - - Error persisting event",
    "statement_timeout": "canceling statement due to statement timeout",
    "background_update": "synapse.storage.background_updates - 1 - ERROR - - Error doing update",
    "redis_lost": "Connection to redis server localhost:6379 failed: refused",
    "replication": "send_events request connection failed; retrying in 1s",
    "proxy_headers": "forwarded request lacks an x-forwarded-proto header: assuming https",
    "metrics_off": "Metrics listener configured, but enable_metrics is not True!",
    "mail": "twisted.mail.smtp.SMTPConnectError: Unable to connect to server.",
    "oidc": "Error while preloading OIDC provider 'x'. Login may be broken!",
    "appservice": "push_bulk to http://127.0.0.1:9000 threw exception(refused)",
    "soft_limit": "Failed to set file or core limit: not allowed",
    "memory_running": "MemoryError",
    "pkg_resources": "UserWarning: pkg_resources is deprecated as an API.",
    "preload": "ERROR: ld.so: object '/x.so' from LD_PRELOAD cannot be preloaded: ignored.",
}


@pytest.mark.parametrize(("name", "line"), RUNNING.items())
def test_what_a_running_server_complains_of_is_told_with_its_number(name: str, line: str) -> None:
    (match,) = messages.recurring([Entry(line, NOW - 1)] * 30, NOW)
    assert (match.name, match.count) == (name, 30)
    what = Seen(Request(), words=Words(recurring=(match,)))
    (finding,) = diagnose(what).findings
    assert finding.id == f"words.{name}"
    assert "30 times" in finding.evidence


def test_every_kind_of_complaint_has_a_line() -> None:
    assert {message.name for message in messages.RUNNING} == {*RUNNING, "trust"}


def test_what_is_long_past_or_rare_is_not_told() -> None:
    assert messages.recurring([Entry("OSError: [Errno 28] No space left on device", NOW - 3600)], NOW) == ()
    assert messages.recurring([Entry("sqlite3.OperationalError: database is locked", NOW)], NOW) == ()


def test_one_broken_server_elsewhere_is_no_fault_here() -> None:
    line = "{GET-O-1} [%s] Request failed: GET matrix://x: ResponseNeverReceived: certificate verify failed"
    assert messages.recurring([Entry(line % "a.example", NOW)] * 500, NOW) == ()
    many = [Entry(line % f"h{number}.example", NOW) for number in range(25)]
    assert [match.name for match in messages.recurring(many, NOW)] == ["trust"]


def test_lines_of_a_healthy_server_say_nothing() -> None:
    lines = [
        "2026-11-23 14:45:01,123 - synapse.access.http.8008 - 515 - INFO - GET-1 - 127.0.0.1 - 8008 - {@a:hs} "
        "Processed "
        'request: 0.001sec/0.000sec (0.001sec, 0.000sec) (0.000sec/0.000sec/1) 200B 200 "GET /_matrix/client '
        'HTTP/1.1"',
        "2026-11-23 14:45:01,123 - synapse.app._base - 515 - INFO - sentinel - Synapse now listening on TCP port 8008",
        "2026-11-23 14:45:01,123 - root - 515 - WARNING - main - ***** STARTING SERVER *****",
    ]
    assert messages.recurring([Entry(line, NOW) for line in lines * 100], NOW) == ()


def test_a_known_kind_hides_the_generic_one() -> None:
    words = Words(line="No module named 'x'", start=Match("missing_module", "No module named 'x'"))
    assert [one.id for one in diagnose(Seen(Request(), words=words)).findings] == ["words.missing_module"]


def test_what_nobody_knows_is_quoted() -> None:
    (finding,) = diagnose(Seen(Request(), words=Words(line="RuntimeError: the moon is full"))).findings
    assert (finding.id, finding.evidence) == ("words.last_error", "RuntimeError: the moon is full")


def test_a_module_that_never_existed_is_no_fault() -> None:
    (finding,) = diagnose(Seen(Request(), words=Words(bogus="No module named 'synapse.crypto.x'"))).findings
    assert (finding.id, finding.severity) == ("words.bogus_module", "info")


def test_all_users_at_one_address() -> None:
    prefix = "2026-11-23 14:45:01,123 - synapse.access.http.8008 - 515 - INFO - GET-1"
    line = f"{prefix} - %s - 8008 - {{@%s:hs}} Processed request: 1"
    here = [Entry(line % ("127.0.0.1", user)) for user in "abc" * 20]
    assert words_look.access_address(here) == "127.0.0.1"
    assert words_look.access_address([*here, Entry(line % ("203.0.113.7", "a"))]) is None
    assert words_look.access_address(here[:9]) is None
    assert words_look.access_address([Entry(line % ("203.0.113.7", user)) for user in "abc" * 20]) is None
    (finding,) = diagnose(Seen(Request(), words=Words(one_address="127.0.0.1"))).findings
    assert (finding.id, "X-Forwarded-For" in finding.summary) == ("words.one_address", True)


# The look


def test_a_journal_is_read_with_its_times() -> None:
    text = (
        "1795474837.25 host systemd[1]: Starting x.service...\n1795474838.0 host python[7]: two\n    lines\n-- Boot\n"
    )
    entries = words_look.entries_of_journal(text)
    assert [entry.text for entry in entries] == ["Starting x.service...", "two", "lines", "-- Boot"]
    assert entries[2].time == 1795474838.0


def test_a_log_is_read_with_its_times() -> None:
    text = "a line of before\n2026-11-23 14:45:01,123 - x - 1 - ERROR - - y\nTraceback\n2026-99-99 14:45:01 z\n"
    entries = words_look.entries_of_log(text, 5.0)
    assert entries[0].time == 5.0
    assert entries[1].time == entries[2].time == time.mktime((2026, 11, 23, 14, 45, 1, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("handlers:\n  file:\n    filename: /var/log/a.log\n    when: midnight\n", ["/var/log/a.log"]),
        ('  file: {class: x.Y, filename: "/var/log/a b.log", when: midnight}', ["/var/log/a b.log"]),
        ("  filename: logs/hs.log  # here\n#  filename: /no.log\n", ["/srv/logs/hs.log"]),
        ("\0\xff:", []),
        ("  filename: /var/log/a\0.log\n  filename: /var/log/b.log\n", ["/var/log/b.log"]),
    ],
)
def test_the_files_of_a_log_configuration(text: str, paths: list[str]) -> None:
    assert words_look.log_paths(text, "/srv") == paths


def context(tmp_path: t.Any, shown: str, journal: str = "", **config: t.Any) -> Context:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        return CommandResult(0, "" if "--grep" in argv else journal, "")

    unit = parse("matrix-synapse.service", f"Id=matrix-synapse.service\nLoadState=loaded\n{shown}")
    found = Context(Request(log_files=(str(tmp_path / "hs.log"),)), run, time.monotonic() + 60)
    found.service = Service(seen=unit, unit=unit.name, systemd=True)
    found.settings = Settings((), config)
    return found


FAILED = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=1\n"
START = "1795474837.0 h systemd[1]: Starting matrix-synapse.service - Synapse...\n"


def test_of_a_dead_server_the_decisive_line_of_its_latest_start_is_told(tmp_path: t.Any) -> None:
    journal = (
        START
        + "1795474838.0 h python[7]: Traceback (most recent call last):\n"
        + '1795474838.0 h python[7]:   File "x", line 1\n'
        + "1795474838.0 h python[7]: ModuleNotFoundError: No module named 'signedjson'\n"
        + "1795474839.0 h systemd[1]: matrix-synapse.service: Main process exited, code=exited, status=1/FAILURE\n"
    )
    found = words_look.look(context(tmp_path, FAILED, journal))
    assert found.line == "ModuleNotFoundError: No module named 'signedjson'"
    assert found.start is not None
    assert found.start.name == "missing_module"


def test_of_a_server_that_was_stopped_nothing_is_told(tmp_path: t.Any) -> None:
    journal = START + "1795474838.0 h python[7]: OSError: [Errno 28] No space left on device\n"
    found = words_look.look(context(tmp_path, "ActiveState=inactive\nResult=success\n", journal))
    assert (found.line, found.start, found.recurring) == (None, None, ())


def test_a_first_start_is_not_blamed_for_an_earlier_one(tmp_path: t.Any) -> None:
    journal = START + "1795474838.0 h python[7]: RuntimeError: yesterday\n" + START.replace("837", "999")
    found = words_look.look(context(tmp_path, "ActiveState=activating\nSubState=start\n", journal))
    assert found.line is None


@pytest.mark.parametrize(
    ("restarts", "starts", "told"),
    [
        (1, 1, True),
        (5, 2, False),
        (0, 1, False),  # somebody has started it anew
    ],
)
def test_a_kill_for_memory_is_told_while_the_next_start_is_under_way(
    tmp_path: t.Any, restarts: int, starts: int, told: bool
) -> None:
    kill = "1795474838.0 h systemd[1]: matrix-synapse.service: Failed with result 'oom-kill'.\n"
    shown = f"ActiveState=activating\nSubState=start\nNRestarts={restarts}\n"
    found = words_look.look(context(tmp_path, shown, START + kill + START * starts))
    assert (found.killed is not None) is told


def test_of_a_running_server_only_what_it_said_since_its_start_counts(tmp_path: t.Any) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 60))
    full = "OSError: [Errno 28] No space left on device\n"
    start = f"{stamp},1 - root - 1 - WARNING - main - ***** STARTING SERVER *****\n"
    (tmp_path / "hs.log").write_text(f"{stamp},1 - x - 1 - ERROR - - x\n{full}{start}")
    up = "ActiveState=active\nSubState=running\n"
    assert words_look.look(context(tmp_path, up)).recurring == ()
    (tmp_path / "hs.log").write_text(f"{start}{stamp},1 - x - 1 - ERROR - - x\n{full}")
    assert [match.name for match in words_look.look(context(tmp_path, up)).recurring] == ["disk_full_running"]


def test_a_log_that_was_just_rotated_is_read_with_the_one_before(tmp_path: t.Any) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 60))
    (tmp_path / "hs.log").write_text("")
    (tmp_path / "hs.log.2026-11-22").write_text(
        f"{stamp},1 - x - 1 - ERROR - - OSError: [Errno 5] Input/output error\n"
    )
    found = words_look.look(context(tmp_path, "ActiveState=active\nSubState=running\n"))
    assert [match.name for match in found.recurring] == ["disk_failed_running"]


def test_what_is_no_log_holds_nobody_up(tmp_path: t.Any) -> None:
    os.mkfifo(tmp_path / "hs.log")
    (tmp_path / "log.yaml").write_bytes(b"\xff\x00")
    started = time.monotonic()
    found = words_look.look(context(tmp_path, FAILED, "\x00\xff", log_config=str(tmp_path / "log.yaml")))
    assert found.line is None
    assert time.monotonic() - started < 5
