# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import inspect
import json
import os
import re
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _config
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import Problem
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import configuration_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import READ, Access, Item, Node, Who
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.configuration import RULES, Configuration
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import diagnose
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import Identity
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._signing_key import Record

if t.TYPE_CHECKING:
    import pathlib

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Finding

YAML = "/etc/synapse/homeserver.yaml"
LOG = "/etc/synapse/log.yaml"
WORKER = "/etc/synapse/workers/one.yaml"
SETTINGS = Settings((ConfigFile(YAML, size=900, managed=True),), {"server_name": "example.org", "log_config": LOG})
# What every rule that tells of problems of its own name says of nothing but these.
OWN = {"server_name_changed", "name_not_meant", "unasked", "pid_file", "ignored_file", "truth_text", "synapse_says"}


def problem(kind: str, **more: t.Any) -> Problem:
    given: dict[str, t.Any] = {"path": "an.option", "suggestion": "Do so.", "file": YAML, "line": 7}
    return Problem("error", message="It is wrong.", kind=kind, **{**given, **more})


def seen(*problems: Problem, settings: Settings | None = SETTINGS, access: Access | None = None, **more: t.Any) -> Seen:
    request = more.pop("request", Request())
    configuration = Configuration("1.163.2", "synapse", problems, **more)
    return Seen(request=request, settings=settings, configuration=configuration, access=access)


def found(given: Seen) -> list[Finding]:
    return [finding for rule in RULES.rules for finding in rule.findings(given)]


def ids(given: Seen) -> list[str]:
    return [finding.id.partition(".")[2] for finding in found(given)]


NAMES = [rule.id.partition(".")[2] for rule in RULES.rules]


class TestRules:
    @pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN and not name.startswith("worker_i")])
    def test_each_tells_its_own_kind_and_no_other(self, name: str) -> None:
        process = WORKER if name == "worker_refused" else "main"
        kind = "refused" if name == "worker_refused" else name
        assert ids(seen(problem(kind, process=process))) == [name]
        assert ids(seen()) == []

    @pytest.mark.parametrize("name", NAMES)
    def test_says_what_a_person_has_to_do(self, name: str) -> None:
        for finding in found(seen(problem(name))):
            assert finding.remedy.strip()
            assert finding.summary.strip()
            assert finding.evidence == f"{YAML}, line 7"

    def test_every_kind_of_problem_has_a_rule(self) -> None:
        source = inspect.getsource(_config)
        kinds = set(re.findall(r'kind ?= ?"(\w+)"', source)) | set(_config._BY_OPTION.values())
        kinds |= {kind for _words, kind in (*_config._FIRST_WORDS, *_config._LAST_WORDS)}
        assert kinds - set(NAMES) == set()

    def test_what_synapse_refuses_stops_it_and_hides_symptoms(self) -> None:
        book = Rulebook("service")

        @book.rule("failed", severity="critical", cause="?", remedy="?", symptom=True)
        def _failed(_seen: Seen) -> list[Clue]:
            """It failed."""
            return [Clue("The unit failed.")]

        diagnosis = diagnose(seen(problem("value_refused")), [*RULES.rules, *book.rules])
        assert [finding.id for finding in diagnosis.findings] == ["configuration.value_refused"]
        assert diagnosis.findings[0].follows == ("service.failed",)
        typo = diagnose(seen(problem("unknown_option")), [*RULES.rules, *book.rules])
        assert [finding.id for finding in typo.findings] == ["service.failed", "configuration.unknown_option"]

    def test_one_broken_file_is_one_finding(self) -> None:
        broken = seen(problem("empty"), problem("server_name_missing"))
        diagnosis = diagnose(broken, RULES.rules)
        assert [finding.id for finding in diagnosis.findings] == ["configuration.empty"]
        assert diagnosis.findings[0].follows == ("configuration.server_name_missing",)

    def test_the_name_of_a_secret_is_told_and_not_its_value(self) -> None:
        (finding,) = found(seen(problem("secret_not_text", path="form_secret")))
        assert "form_secret" in finding.summary

    def test_a_secret_that_is_a_number_is_told_also_where_synapse_stopped_before_it(self) -> None:
        file = ConfigFile(YAML, size=900, managed=True, numbers=("form_secret", "max_event_size"))
        given = seen(problem("inline_secret", path="form_secret"), settings=replace(SETTINGS, files=(file,)))
        assert [one.id for one in diagnose(given, RULES.rules).findings] == [
            "configuration.secret_not_text",
            "configuration.inline_secret",
        ]
        given = seen(problem("secret_not_text", path="form_secret"), settings=replace(SETTINGS, files=(file,)))
        assert ids(given) == ["secret_not_text"]

    def test_a_database_of_no_kind_is_told(self) -> None:
        file = ConfigFile(YAML, size=900, managed=True, keys=("database",))
        for database, expected in (({"args": {}}, ["database_option"]), ({"name": "sqlite3"}, []), ("x", [])):
            config = {**SETTINGS.config, "database": database}
            assert ids(seen(settings=replace(SETTINGS, files=(file,), config=config))) == expected


class TestRepair:
    def test_what_the_collection_wrote_is_written_anew(self) -> None:
        (finding,) = found(seen(problem("unknown_option"), managed=(YAML,)))
        assert (finding.repair, finding.safe) == ("config", True)
        assert finding.remedy.startswith("ansible-playbook matrix_fleet.synapse.repair --tags config")

    def test_what_it_did_not_write_a_person_edits(self) -> None:
        (finding,) = found(seen(problem("unknown_option")))
        assert (finding.repair, finding.safe) == ("", False)
        assert finding.remedy == f"In {YAML}, line 7: Do so."

    def test_what_the_file_is_not_to_blame_for_is_not_mended_by_writing_it(self) -> None:
        for kind in ("appservice_file", "tls_files", "missing_package", "workers_on_sqlite"):
            assert [finding.repair for finding in found(seen(problem(kind), managed=(YAML,)))] == [""]

    def test_a_kept_copy_is_named(self) -> None:
        copy = "/etc/synapse/.transaction/backups/20260102T030405Z/0"
        (finding,) = found(seen(problem("yaml_syntax"), copies={YAML: copy}))
        assert f"cp {copy} {YAML}" in finding.remedy

    def test_without_one_a_backup_is_what_helps(self) -> None:
        (finding,) = found(seen(problem("yaml_syntax")))
        assert "from a backup" in finding.remedy
        assert "--generate-config" in finding.remedy

    @pytest.mark.parametrize(
        ("option", "repair", "safe"),
        [
            ("registration_shared_secret_path", "config", True),
            ("form_secret_path", "config", True),
            ("macaroon_secret_key_path", "config", False),
            ("turn_shared_secret_path", "", False),
        ],
    )
    def test_secrets_are_made_anew_where_that_signs_nobody_out(self, option: str, repair: str, safe: bool) -> None:
        (finding,) = found(seen(problem("secret_file_missing", path=option), managed=(YAML,)))
        assert (finding.repair, finding.safe) == (repair, safe)

    def test_the_log_configuration_is_a_file_of_its_own(self) -> None:
        (ours,) = found(seen(problem("log_config_missing"), managed=(LOG,)))
        (other,) = found(seen(problem("log_config_missing"), managed=(YAML,)))
        assert (ours.repair, other.repair) == ("config", "")


class TestFiles:
    @pytest.mark.parametrize(
        ("file", "name"),
        [
            (ConfigFile(YAML, "it does not exist", missing=True), "missing"),
            (ConfigFile(YAML, "it is not YAML: found character that cannot start any token", 3), "yaml_syntax"),
            (ConfigFile(YAML, "it is not UTF-8", 3), "yaml_syntax"),
            (ConfigFile(YAML, "it holds zero bytes: what wrote it was cut off"), "yaml_syntax"),
            (ConfigFile(YAML, "it is empty"), "empty"),
            (ConfigFile(YAML, "it holds no options"), "empty"),
            (ConfigFile(YAML, "it is no regular file"), "no_file"),
            (ConfigFile(YAML, "it cannot be read"), "unreadable"),
        ],
    )
    def test_are_judged_without_synapse(self, file: ConfigFile, name: str) -> None:
        given = Seen(Request(), settings=Settings((file,), {}), configuration=Configuration(unasked="It is broken."))
        assert name in ids(given)
        assert found(given)[0].evidence.startswith(YAML)

    def test_a_second_file_may_be_empty(self) -> None:
        files = (ConfigFile(YAML, size=9), ConfigFile("/etc/synapse/more.yaml", "it is empty"))
        (finding,) = found(seen(settings=Settings(files, {})))
        assert (finding.id, finding.severity) == ("configuration.ignored_file", "info")

    def test_a_folder_without_files_is_a_missing_configuration(self) -> None:
        assert ids(seen(settings=Settings(()), request=Request(config_paths=("/etc/synapse",)))) == ["missing"]

    def test_are_told_once(self) -> None:
        files = (ConfigFile(YAML, "it is not YAML: found character", 3),)
        told = replace(problem("yaml_syntax"), path="")
        assert ids(seen(told, settings=Settings(files, {}))) == ["yaml_syntax"]

    def test_that_synapse_was_not_asked_is_told_where_nothing_else_is(self) -> None:
        assert ids(seen(unasked="It is broken.")) == ["unasked"]
        gone = Settings((ConfigFile(YAML, "it does not exist", missing=True),), {})
        assert ids(seen(settings=gone, unasked="there is none")) == ["missing"]

    def test_what_owners_and_modes_tell_is_not_told_twice(self) -> None:
        node = Node(YAML, "file", 0, 0, 0o600, "root", "root")
        folders = tuple(Node(path, "folder", 0, 0, 0o755, "root", "root") for path in ("/", "/etc", "/etc/synapse"))
        access = Access(
            items=(Item("config", YAML, READ, (*folders, node)),), who=Who("synapse", 900, 900, (900,), "synapse")
        )
        assert ids(seen(problem("unreadable"), access=access)) == []
        assert ids(seen(problem("unreadable"))) == ["unreadable"]


class TestName:
    def test_another_name_than_was_meant(self) -> None:
        (finding,) = found(seen(request=Request(server_name="example.com")))
        assert finding.id == "configuration.server_name_changed"
        assert "example.org" in finding.summary

    @pytest.mark.parametrize(
        ("remembered", "name", "safe"),
        [
            (None, "server_name_changed", False),
            ("example.com", "server_name_changed", True),
            ("example.net", "server_name_changed", False),
            ("example.org", "name_not_meant", False),
        ],
    )
    def test_which_of_two_names_is_right(self, remembered: str | None, name: str, safe: bool) -> None:
        given = seen(request=Request(server_name="example.com"), managed=(YAML,))
        (finding,) = found(replace(given, identity=Identity(record=Record(server_name=remembered))))
        assert (finding.id, finding.safe) == (f"configuration.{name}", safe)

    def test_the_name_that_was_meant(self) -> None:
        assert ids(seen(request=Request(server_name="example.org"))) == []
        assert ids(seen()) == []

    def test_where_it_is_missing_it_is_said_what_it_is_meant_to_be(self) -> None:
        settings = Settings(SETTINGS.files, {})
        (finding,) = found(
            seen(problem("server_name_missing"), settings=settings, request=Request(server_name="example.org"))
        )
        assert "example.org" in finding.remedy
        assert "never to the name of the host" in finding.remedy
        nameless = seen(problem("server_name_missing"), settings=settings)
        remembered = replace(nameless, identity=Identity(record=Record(server_name="example.net")))
        assert "example.net" in found(remembered)[0].remedy
        assert "It is meant" not in found(nameless)[0].remedy


class TestWorkers:
    def test_what_stops_the_server_stops_only_a_worker_there(self) -> None:
        (finding,) = found(seen(problem("yaml_syntax", process=WORKER, file=WORKER)))
        assert (finding.id, finding.severity) == ("configuration.worker_refused", "error")
        assert WORKER in finding.summary

    def test_the_way_to_the_main_process_has_a_rule_of_its_own(self) -> None:
        assert ids(seen(problem("instance_map", process=WORKER))) == ["worker_instance_map"]
        assert ids(seen(problem("instance_map"))) == ["instance_map"]


class TestSeverity:
    def test_remarks_are_only_remarks(self) -> None:
        for kind in ("synapse_says", "truth_text"):
            assert [finding.severity for finding in found(seen(replace(problem(kind), severity="warning")))] == ["info"]

    def test_a_pid_file_matters_to_a_daemon_alone(self) -> None:
        idle = replace(problem("pid_file"), severity="info")
        assert ids(seen(idle)) == []
        assert ids(seen(problem("pid_file"))) == ["pid_file"]
        assert ids(seen(idle, request=Request(pid_file="/run/synapse.pid"))) == ["pid_file"]

    def test_an_address_of_another_host(self) -> None:
        (finding,) = found(seen(strangers=(("listeners[0]", "198.51.100.7"),), managed=(YAML,)))
        assert (finding.id, finding.repair) == ("configuration.listener_address", "config")
        assert "198.51.100.7" in finding.summary


class TestLook:
    def context(self, folder: pathlib.Path, answer: dict[str, t.Any] | None, **more: t.Any) -> Context:
        def run(argv: t.Sequence[str], **_options: t.Any) -> CommandResult:
            self.asked = json.loads(_options["stdin"])
            return CommandResult(1, "", "no") if answer is None else CommandResult(0, json.dumps(answer), "")

        path = folder / "homeserver.yaml"
        request = Request(config_paths=(str(path),), python="/nowhere/bin/python", unit=None, **more)
        context = Context(request, run, time.monotonic() + 5)
        managed = path.exists() and path.read_text().startswith("# Managed by Ansible (matrix_fleet.synapse).")
        size = path.stat().st_size if path.exists() else 0
        file = ConfigFile(str(path), missing=not path.exists(), size=size, managed=managed)
        context.settings = Settings((file,), {"listeners": [{"bind_addresses": ["127.0.0.1", "::", "::1"]}]})
        return context

    def journal(self, folder: pathlib.Path, stamp: str, *items: tuple[pathlib.Path, str | None]) -> None:
        place = folder / ".transaction" / "backups" / stamp
        place.mkdir(parents=True)
        entries = []
        for number, (path, text) in enumerate(items):
            entries.append({"path": str(path), "copy": None if text is None else str(number)})
            if text is not None:
                (place / str(number)).write_text(text)
        (place / "journal.json").write_text(json.dumps({"version": 1, "items": entries}))

    def test_a_missing_file_is_not_asked_about(self, tmp_path: pathlib.Path) -> None:
        assert configuration_look.look(self.context(tmp_path, {})).unasked == "there is no configuration to ask about"

    def test_an_environment_that_does_not_answer_is_part_of_what_was_seen(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "homeserver.yaml").write_text("server_name: example.org\n")
        got = configuration_look.look(self.context(tmp_path, None))
        assert got.problems == ()
        assert "did not answer" in (got.unasked or "")

    def test_the_newest_copy_that_holds_anything(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "homeserver.yaml"
        self.journal(tmp_path, "20260101T000000Z", (path, "old"))
        self.journal(tmp_path, "20260102T000000Z", (path, "new"))
        self.journal(tmp_path, "20260103T000000Z", (path, ""))
        self.journal(tmp_path, "20260104T000000Z", (path, None), (tmp_path / "log.yaml", None))
        copies = configuration_look.copies(str(tmp_path / ".transaction"))
        assert copies[str(path)] == str(tmp_path / ".transaction" / "backups" / "20260102T000000Z" / "0")
        assert copies[str(tmp_path / "log.yaml")] is None

    @pytest.mark.parametrize("text", ["", "[]", '{"items": 3}', '{"items": [3, {"path": 4}]}', '{"items', "null"])
    def test_a_damaged_journal_is_no_journal(self, tmp_path: pathlib.Path, text: str) -> None:
        place = tmp_path / ".transaction" / "backups" / "20260101T000000Z"
        place.mkdir(parents=True)
        (place / "journal.json").write_text(text)
        assert configuration_look.copies(str(tmp_path / ".transaction")) == {}

    def test_who_wrote_the_file(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "homeserver.yaml"
        path.write_text("server_name: example.org\n")
        assert configuration_look.look(self.context(tmp_path, None)).managed == ()
        path.write_text("# Managed by Ansible (matrix_fleet.synapse). Yes.\n")
        assert configuration_look.look(self.context(tmp_path, None)).managed == (str(path),)
        path.write_text("")
        assert configuration_look.look(self.context(tmp_path, None)).managed == ()
        self.journal(tmp_path, "20260101T000000Z", (path, None))
        assert configuration_look.look(self.context(tmp_path, None)).managed == (str(path),)

    def test_files_of_workers(self, tmp_path: pathlib.Path) -> None:
        config = tmp_path / "homeserver.yaml"
        config.write_text("worker_name: no\n")
        (tmp_path / "worker.yaml").write_text("worker_app: synapse.app.generic_worker\n")
        (tmp_path / "other.yaml").write_text("a: b\n")
        (tmp_path / "workers").mkdir()
        (tmp_path / "workers" / "one.yaml").write_text("")
        (tmp_path / "workers" / "log.yaml").write_text("version: 1\nhandlers: {}\n")
        os.mkfifo(tmp_path / "workers" / "pipe.yaml")
        (tmp_path / "workers" / "gone.yaml").symlink_to("/nowhere")
        assert configuration_look.worker_files(str(config)) == (
            str(tmp_path / "worker.yaml"),
            str(tmp_path / "workers" / "one.yaml"),
        )

    def test_named_workers_are_all_there_are(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "homeserver.yaml").write_text("server_name: example.org\n")
        (tmp_path / "worker.yaml").write_text("worker_app: synapse.app.generic_worker\n")
        context = self.context(tmp_path, None, worker_configs=("/etc/one.yaml",))
        assert configuration_look.look(context).workers == ("/etc/one.yaml",)
        assert self.asked["workers"] == ["/etc/one.yaml"]

    def test_addresses_of_this_host_are_not_strange(self, tmp_path: pathlib.Path) -> None:
        context = self.context(tmp_path, None)
        assert configuration_look.look(context).strangers == ()
        listeners = [{"bind_addresses": ["198.51.100.7", "name.example", 7]}, {"bind_address": "198.51.100.8"}]
        context.settings = replace(t.cast("Settings", context.settings), config={"listeners": listeners})
        assert configuration_look.look(context).strangers == (
            ("listeners[0]", "198.51.100.7"),
            ("listeners[1]", "198.51.100.8"),
        )
