# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict on a configuration, from recorded facts; and the parts of the probe that need no Synapse."""

from __future__ import annotations

import errno
import json
import os
import string
import typing as t
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _config
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import (
    Problem,
    Wanted,
    distance,
    dotted,
    is_allowed,
    judge,
    render,
    suggest,
    summary,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import config_check as probe

# A part of what Synapse 1.163.2 asks for at the top of its configuration.
NAMES = [
    "account_threepid_delegates",
    "enable_registration",
    "enable_registration_captcha",
    "enable_registration_without_verification",
    "form_secret",
    "listeners",
    "macaroon_secret_key",
    "macaroon_secret_key_path",
    "max_upload_size",
    "media_store_path",
    "pid_file",
    "public_baseurl",
    "rc_login",
    "rc_message",
    "redis",
    "registration_shared_secret",
    "report_stats",
    "server_name",
    "signing_key_path",
    "turn_shared_secret",
    "turn_shared_secret_path",
    "turn_uris",
]
words = st.text(alphabet=string.ascii_lowercase + "_", min_size=1, max_size=24)
steps = st.one_of(st.integers(0, 99), st.from_regex(r"[a-z][a-z_]{0,12}", fullmatch=True))


class TestSuggestions:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("enable_registratoin", "enable_registration"),
            ("max_uplaod_size", "max_upload_size"),
            ("turn-shared-secret", "turn_shared_secret"),
            ("Turn_URIs", "turn_uris"),
            ("server-name", "server_name"),
            ("servername", "server_name"),
            ("listners", "listeners"),
            ("reddis", "redis"),
            ("signing_key", "signing_key_path"),
            ("media_store", "media_store_path"),
            ("rc_logni", "rc_login"),
            ("public_base_url", "public_baseurl"),
            ("my_module", None),
            ("acme", None),
            ("x", None),
            ("tls", None),
            ("registration_shared_secret_file", "registration_shared_secret"),
            ("tls_crt_redis", None),
        ],
    )
    def test_a_slip_of_the_hand_is_told_from_another_word(self, name: str, meant: str | None) -> None:
        assert suggest(name, NAMES) == meant

    @pytest.mark.parametrize(
        ("name", "siblings", "meant"),
        [
            ("burst", ["per_second", "burst_count"], "burst_count"),
            ("nmaes", ["names", "compress"], "names"),
            ("adress", ["address", "account", "failed_attempts"], "address"),
            ("smtp_hots", ["smtp_host", "smtp_port", "notif_from"], "smtp_host"),
            ("prot", ["port", "path", "type"], "port"),
            ("evnts", ["events", "typing", "receipts"], "events"),
            ("key", ["secret_key", "other_key"], None),
        ],
    )
    def test_nested_names_are_compared_with_their_siblings(
        self, name: str, siblings: list[str], meant: str | None
    ) -> None:
        assert suggest(name, siblings) == meant

    @given(st.sampled_from([name for name in NAMES if len(name) >= 6]), st.integers(0, 40), st.sampled_from("qzx"))
    def test_one_wrong_letter_never_hides_what_was_meant(self, name: str, position: int, letter: str) -> None:
        position %= len(name)
        wrong = name[:position] + letter + name[position + 1 :]
        assume(wrong != name)
        assert suggest(wrong, NAMES) == name

    @given(words, st.lists(words, max_size=8))
    def test_a_suggestion_is_one_of_the_candidates_and_another_word(self, name: str, candidates: list[str]) -> None:
        found = suggest(name, candidates)
        assert found is None or (found in candidates and found != name)

    @given(words, st.lists(words, max_size=8), st.randoms())
    def test_the_order_of_the_candidates_does_not_matter(self, name: str, candidates: list[str], random: t.Any) -> None:
        shuffled = list(candidates)
        random.shuffle(shuffled)
        assert suggest(name, shuffled) == suggest(name, candidates)

    @given(words, words, words)
    def test_distance_is_a_distance(self, one: str, other: str, third: str) -> None:
        assert distance(one, one) == 0
        assert distance(one, other) == distance(other, one)
        assert (distance(one, other) == 0) == (one == other)
        assert abs(len(one) - len(other)) <= distance(one, other) <= max(len(one), len(other))
        assert distance(one + third, other + third) <= distance(one, other)

    def test_two_neighbours_in_the_wrong_order_are_one_edit(self) -> None:
        assert distance("prot", "port") == 1


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            (("server_name",), "server_name"),
            (("listeners", 0, "resources", 1, "names"), "listeners[0].resources[1].names"),
            (("old_signing_keys", "ed25519:a_x"), "old_signing_keys.ed25519:a_x"),
            ((), ""),
        ],
    )
    def test_paths_are_written_as_operators_read_them(self, path: tuple[str | int, ...], text: str) -> None:
        assert dotted(path) == text

    @given(st.lists(steps, max_size=6))
    def test_probe_and_judge_write_the_same_path(self, path: list[str | int]) -> None:
        assert dotted(path) == probe.dotted(tuple(path))

    @pytest.mark.parametrize(
        ("path", "allowed", "verdict"),
        [
            (("my_module",), ["my_module"], True),
            (("my_module", "deep"), ["my_module"], True),
            (("my_module2",), ["my_module"], False),
            (("listeners", 3, "extra"), ["listeners.extra"], True),
            (("listeners", 3, "extra"), ["listeners[].extra"], True),
            (("listeners", 3, "extra"), ["listeners[3].extra"], True),
            (("a", "b", "c"), ["a.*.c"], True),
            (("a", "b"), ["a.b.c"], False),
            (("x-anchors",), [], True),
            (("redis", "x-y"), [], False),
        ],
    )
    def test_the_operator_can_vouch_for_options(
        self, path: tuple[str | int, ...], allowed: list[str], verdict: bool
    ) -> None:
        assert is_allowed(path, allowed) is verdict

    @pytest.mark.parametrize(
        ("path", "raw", "free"),
        [
            (("database", "args", "sslmode"), {}, True),
            (("database", "nmae"), {}, False),
            (("modules", 0, "config", "a"), {"modules": [{"module": "a.B", "config": {"a": 1}}]}, True),
            (("modules", 0, "confgi"), {"modules": [{"module": "a.B", "confgi": {}}]}, False),
            (
                ("oidc_providers", 0, "user_mapping_provider", "config", "a"),
                {"oidc_providers": [{"user_mapping_provider": {"config": {"a": 1}}}]},
                False,
            ),
            (("listeners", 0, "additional_resources", "/x"), {}, True),
            (("extra_well_known_client_content", "a", "b"), {}, True),
        ],
    )
    def test_keys_that_are_data_are_nobodys_option(
        self, path: tuple[str | int, ...], raw: dict[str, t.Any], free: bool
    ) -> None:
        assert probe.is_free(path, raw) is free


secrets = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())
names_of_secrets = st.sampled_from(
    ["macaroon_secret_key", "password", "turn_shared_secret", "pepper", "as_token", "client_secret", "form_secret"]
)


class TestSecrets:
    @given(names_of_secrets, secrets)
    def test_a_secret_does_not_survive_redaction(self, name: str, secret: str) -> None:
        redact = probe.Redactor()
        redact.add_all({"outer": [{name: secret}]})
        for shown in (secret, repr(secret), json.dumps(secret), ascii(secret)):
            text = redact(f"< {shown} >")
            assert probe.HIDDEN in text
            assert secret.strip() not in text or secret.strip() in f'< "{probe.HIDDEN}" >'

    @given(names_of_secrets, st.text(alphabet=string.ascii_letters + string.digits, min_size=8, max_size=40))
    def test_exceptions_of_a_parser_show_no_secret(self, name: str, secret: str) -> None:
        redact = probe.Redactor()
        config = {name: secret, "other": {"nested": [{name: [secret]}]}}
        redact.add_all(config)
        with pytest.raises(ValueError, match=secret) as caught:
            int(secret + "x")
        assert secret not in redact(probe.describe(caught.value))
        assert secret not in redact(repr(config))
        assert secret not in json.dumps(redact.tree({"a": [{"message": repr(config), "causes": [repr(config)]}]}))
        assert redact.tree({"path": [secret]}) == {"path": [secret]}

    def test_passwords_in_addresses_are_secrets(self) -> None:
        redact = probe.Redactor()
        redact.add_all({"http_proxy": "http://user:hunter2-aa@proxy:3128", "x": "host=a password='top secret' user=b"})
        assert redact("hunter2-aa top secret") == "*** ***"

    def test_numbers_are_secrets_too(self) -> None:
        redact = probe.Redactor()
        redact.add_all({"turn_shared_secret": 12345})
        assert redact("input_value=12345") == "input_value=***"

    def test_a_short_secret_is_hidden_where_it_stands_alone(self) -> None:
        redact = probe.Redactor()
        redact.add("pw")
        assert redact("'pw' in httpw") == "'***' in httpw"

    @pytest.mark.parametrize(
        ("name", "secret"),
        [
            ("macaroon_secret_key", True),
            ("recaptcha_private_key", True),
            ("smtp_pass", True),
            ("signing_key", True),
            ("pepper", True),
            ("macaroon_secret_key_path", False),
            ("refresh_token_lifetime", False),
            ("registration_requires_token", False),
            ("server_name", False),
            ("signing_key_path", False),
        ],
    )
    def test_secrets_are_known_by_their_names(self, name: str, secret: bool) -> None:
        assert probe.is_secret_name(name) is secret


class TestRecording:
    def test_reads_are_noted_with_their_place(self) -> None:
        trace = probe.Trace()
        config = probe.recorded({"a": {"b": 1, "c": 2}, "l": [{"n": 1}]}, (), trace)
        config.get("a").get("missing")
        config["l"][0]["n"]
        assert "b" in config["a"]
        assert trace.read == {("a",), ("a", "b"), ("l",), ("l", 0, "n")}
        assert trace.asked[("a",)] == {"missing", "b"}
        assert trace.last_present == ("a", "b")

    @pytest.mark.parametrize(
        "look", [dict, list, lambda d: dict(**d), lambda d: {**d}, lambda d: list(d.items()), lambda d: d.copy().keys()]
    )
    def test_a_look_at_the_whole_reads_every_key(self, look: t.Callable[[t.Any], object]) -> None:
        trace = probe.Trace()
        look(probe.recorded({"a": 1, "b": 2}, (), trace))
        assert trace.read == {("a",), ("b",)}

    @given(
        st.recursive(
            st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=12,
        )
    )
    def test_a_recorded_configuration_equals_the_original(self, value: t.Any) -> None:
        assert probe.recorded(value, (), probe.Trace()) == value


class TestStage:
    def test_coming_files_are_seen_and_nothing_is_written(self, tmp_path: Path) -> None:
        coming = str(tmp_path / "etc" / "a.yaml")
        stage = probe.Stage({coming: "a: 1\n"}, [])
        with stage.set():
            assert Path(coming).read_text() == "a: 1\n"
            assert os.path.isfile(coming)
            assert os.path.isdir(tmp_path / "etc")
            assert os.listdir(tmp_path / "etc") == ["a.yaml"]
            os.makedirs(tmp_path / "media")
            assert os.path.isdir(tmp_path / "media")
            with pytest.raises(OSError, match="writes nothing"):
                open(tmp_path / "new", "w")  # noqa: SIM115
        assert list(tmp_path.iterdir()) == []
        assert not os.path.exists(coming)

    def test_a_file_of_unknown_content_reads_as_a_key(self) -> None:
        stage = probe.Stage({"/etc/x": None}, [])
        algorithm, version, seed = stage.text("/etc/x").split()
        assert (algorithm, version, len(seed)) == ("ed25519", "a_pending", 43)


# ---------------------------------------------------------------------------------------------------------------
# From facts to problems

FILE = "/etc/synapse/homeserver.yaml"


def listener(port: int | None = 8008, addresses: t.Sequence[str] = ("127.0.0.1",), **facts: t.Any) -> dict[str, t.Any]:
    return {
        "option": ["listeners", 0],
        "type": "http",
        "port": port,
        "addresses": list(addresses),
        "socket": None,
        "tls": False,
        "resources": ["client", "federation"],
        **facts,
    }


def run_of(process: str = "main", **facts: t.Any) -> dict[str, t.Any]:
    settings = {
        "engines": ["psycopg2"],
        "redis": True,
        "worker_app": None,
        "worker_name": None,
        "instance_map": {},
        "metrics": False,
        "federation_off": False,
        "media_given": True,
        "media_used": True,
        "inline_secrets": [],
        **facts.pop("settings", {}),
    }
    document = {"path": FILE, "coming": False, "failure": None, "mapping": True, "duplicates": [], "exposed": False}
    return {
        "process": process,
        "documents": [document],
        "failures": [],
        "notes": [],
        "unread": [],
        "vocabulary": {},
        "words": [],
        "options": [],
        "paths": [],
        "listeners": [listener()],
        "settings": settings,
        "lines": {"rc_login": [0, 7], "rc_login.adress": [0, 8]},
        **facts,
    }


def answer_of(*runs: dict[str, t.Any], **facts: t.Any) -> dict[str, t.Any]:
    return {
        "version": "1.163.2",
        "account": "synapse",
        "runs": list(runs) or [run_of()],
        "logs": {},
        "app_services": [],
        "tls": None,
        "old_keys": [],
        "driver": [],
        "same_secret": [True] * max(1, len(runs)),
        "apps": {},
        **facts,
    }


def failure(**facts: t.Any) -> dict[str, t.Any]:
    return {
        "kind": "crash",
        "type": "TypeError",
        "path": [],
        "message": "",
        "causes": [],
        "errno": None,
        "known": [],
        "missing": False,
        **facts,
    }


def one(answer: dict[str, t.Any], **wanted: t.Any) -> Problem:
    (problem,) = judge(answer, Wanted(**wanted))
    return problem


class TestUnknownOptions:
    UNREAD: t.ClassVar = {
        "unread": [{"path": ["rc_login", "adress"], "known": False, "siblings": ["account", "address"]}],
        "vocabulary": {"": ["rc_login"], "rc_login": ["account", "address"]},
    }

    def test_the_line_for_the_terminal(self) -> None:
        assert render(one(answer_of(run_of(**self.UNREAD)))) == (
            f"ERROR rc_login.adress ({FILE} line 8): Synapse 1.163.2 does not know this option. "
            "Did you mean rc_login.address?"
        )

    @pytest.mark.parametrize(("choice", "severity"), [("error", "error"), ("warning", "warning")])
    def test_the_operator_says_how_grave_it_is(self, choice: str, severity: str) -> None:
        assert one(answer_of(run_of(**self.UNREAD)), unknown_options=choice).severity == severity

    def test_or_that_it_is_nothing(self) -> None:
        assert judge(answer_of(run_of(**self.UNREAD)), Wanted(unknown_options="ignore")) == []
        assert judge(answer_of(run_of(**self.UNREAD)), Wanted(allow_unknown=("rc_login.adress",))) == []

    @pytest.mark.parametrize(
        ("path", "facts", "severity", "words"),
        [
            (["acme"], {}, "warning", "1.36 was the last version"),
            (["experimental_features", "msc1_enabled"], {}, "warning", "experiment has ended"),
            (["something"], {}, "error", "allow_unknown"),
            (["smtp_host"], {"known": True}, "error", "belongs at email.smtp_host"),
            (["smtp-host"], {}, "error", "Did you mean email.smtp_host?"),
            (["redis", "host"], {"known": True}, "info", "does not read it with these settings"),
            (["rc_login", "per_second"], {"known": True}, "error", "belongs at rc_login.address.per_second"),
            (["metrics_flags"], {"known": True}, "info", "with these settings"),
            (["database_path_x"], {}, "error", "Did you mean database_path?"),
        ],
    )
    def test_classes_of_unread_options(
        self, path: list[str], facts: dict[str, t.Any], severity: str, words: str
    ) -> None:
        vocabulary = {
            "": ["email", "rc_login", "redis", "database_path"],
            "email": ["smtp_host"],
            "instance_map.main": ["host", "port"],
            "redis": ["enabled"],
            "rc_login": ["address"],
            "rc_login.address": ["per_second", "burst_count"],
        }
        entry = {"path": path, "known": False, "siblings": vocabulary.get(".".join(path[:-1]), []), **facts}
        problem = one(answer_of(run_of(unread=[entry], vocabulary=vocabulary)))
        assert problem.severity == severity
        assert words in render(problem)

    def test_after_a_failure_a_known_name_says_nothing(self) -> None:
        entry = {"path": ["metrics_flags"], "known": True, "siblings": []}
        broken = failure(path=["x"], message="x")
        problems = judge(answer_of(run_of(unread=[entry], failures=[broken])), Wanted())
        assert [problem.path for problem in problems] == ["x"]


class TestFailures:
    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"message": "invalid literal for int() with base 10: '50MB'", "type": "ValueError"}, "30d"),
            ({"message": "'int' object has no attribute 'encode'", "type": "AttributeError"}, "quotes"),
            ({"message": "'expired_ts'", "type": "KeyError", "missing": True}, "is missing"),
            ({"message": "No module named 'a'", "type": "ModuleNotFoundError"}, "extra_packages"),
            ({"message": 'Missing Requirements: "x"', "type": "DependencyException"}, "extra"),
            ({"message": "string indices must be integers"}, "cannot use the value of this option (a text)"),
            (
                {"message": "W.__init__() got an unexpected keyword argument 'evnts'", "known": ["events"]},
                "Known here: events.",
            ),
        ],
    )
    def test_a_traceback_becomes_a_sentence_about_an_option(self, facts: dict[str, t.Any], words: str) -> None:
        options = [{"path": ["the_option"], "kind": "str", "free": False}]
        problem = one(answer_of(run_of(failures=[failure(path=["the_option"], **facts)], options=options)))
        assert problem.path == "the_option"
        assert words in render(problem)
        assert str(facts["message"]) in render(problem)

    @pytest.mark.parametrize(
        ("number", "facts", "words"),
        [
            (errno.ENOENT, {}, "the file does not exist"),
            (errno.EACCES, {"owner": "root", "mode": 0o600}, "permission denied for the account synapse (owner root"),
            (errno.EACCES, {"blocked": "/etc/synapse"}, "may not enter /etc/synapse"),
            (errno.EISDIR, {"folder": True}, "it is a folder"),
        ],
    )
    def test_the_reason_that_synapse_drops_is_told(self, number: int, facts: dict[str, t.Any], words: str) -> None:
        path_facts = {
            "option": ["form_secret_path"],
            "path": "/x",
            "given": "/x",
            "coming": False,
            "relative": False,
            "secret": True,
            "folder_option": False,
            "empty": False,
            "errno": number,
            **facts,
        }
        broken = failure(kind="config", path=["form_secret_path"], message="Error accessing file '/x'", errno=number)
        problems = judge(answer_of(run_of(failures=[broken], paths=[path_facts])), Wanted())
        assert words in render(problems[0])

    def test_an_inline_secret_names_the_option_for_a_file(self) -> None:
        problem = one(answer_of(run_of(failures=[failure(kind="inline", path=["redis", "password"])])))
        assert "redis.password_path" in render(problem)


class TestKinds:
    @pytest.mark.parametrize(
        ("facts", "kind"),
        [
            ({"path": ["server_name"], "message": "Missing", "missing": True}, "server_name_missing"),
            ({"path": ["server_name"], "message": "Invalid server name 'x y'"}, "server_name_invalid"),
            ({"message": "You have enabled open registration without any verification."}, "open_registration"),
            ({"path": ["macaroon_secret_key"], "message": "Conflicting options are both defined"}, "conflict"),
            ({"path": ["invite_3pid_guest"], "message": "it is no longer supported"}, "removed_option"),
            ({"path": ["public_baseurl"], "message": "Invalid scheme"}, "public_baseurl"),
            ({"path": ["instance_map"], "message": "it does not appear in `instance_map` config"}, "stream_writers"),
            ({"path": ["instance_map"], "message": "Missing data for a worker"}, "instance_map"),
            ({"message": "Unsupported database type 'x'"}, "database_option"),
            ({"path": ["x_path"], "message": "Error accessing file 'x'", "errno": errno.ENOENT}, "secret_file_missing"),
            ({"path": ["x_path"], "message": "Error accessing file 'x'", "errno": errno.EACCES}, "file_unreadable"),
            ({"path": ["signing_key"], "message": "Error accessing file 'x'", "errno": errno.ENOENT}, "signing_key"),
            ({"path": ["jwt_config"], "message": "jwt_config is not as it should be"}, "refused"),
            ({"path": []}, "refused"),
        ],
    )
    def test_of_what_synapse_refuses(self, facts: dict[str, t.Any], kind: str) -> None:
        told = {"kind": "config", "type": "ConfigError", **facts}
        assert one(answer_of(run_of(failures=[failure(**told)]))).kind == kind

    @pytest.mark.parametrize(
        ("facts", "kind"),
        [
            ({"path": ["max_upload_size"], "message": "invalid literal for int() with base 10"}, "value_refused"),
            ({"path": ["form_secret"], "message": "'int' object has no attribute 'encode'"}, "secret_not_text"),
            ({"path": ["modules"], "type": "ModuleNotFoundError", "message": "No module named 'x'"}, "missing_package"),
            ({"path": ["listeners", 0, "type"], "type": "KeyError", "missing": True}, "listener_invalid"),
            ({"path": ["email", "x"], "type": "KeyError", "missing": True}, "option_missing"),
            ({"path": ["email"], "message": "'bool' object has no attribute 'get'"}, "value_refused"),
            (
                {"path": ["stream_writers", "evnts"], "message": "X() got an unexpected keyword argument 'evnts'"},
                "stream_writers",
            ),
        ],
    )
    def test_of_what_synapse_stops_at(self, facts: dict[str, t.Any], kind: str) -> None:
        assert one(answer_of(run_of(failures=[failure(**facts)]))).kind == kind

    def test_a_missing_database_is_not_told_beside_the_reason(self) -> None:
        failures = [
            failure(kind="config", path=["database", "name"], message="Unsupported database type 'x'"),
            failure(kind="config", message="No database config provided"),
        ]
        assert one(answer_of(run_of(failures=failures))).path == "database.name"
        assert one(answer_of(run_of(failures=failures[1:]))).kind == "refused"

    def test_what_pydantic_adds_is_left_out(self) -> None:
        text = "Input should be a valid integer [type=int_type, input_value='9', input_type=str]"
        text += " For further information visit https://x/y"
        failures = [failure(kind="config", path=["instance_map"], message=text)]
        assert one(answer_of(run_of(failures=failures))).message == "Input should be a valid integer"

    def test_another_secret_that_stands_in_is_named(self) -> None:
        registration = {"path": ["registration_shared_secret"], "kind": "str", "free": False}
        problem = one(answer_of(run_of(options=[registration])))
        assert (problem.kind, problem.severity) == ("macaroon_missing", "warning")
        macaroon = {"path": ["macaroon_secret_key_path"], "kind": "str", "free": False}
        assert judge(answer_of(run_of(options=[registration, macaroon])), Wanted()) == []

    @pytest.mark.parametrize(("daemonize", "severity"), [(True, "error"), (False, "info")])
    def test_a_pid_file_matters_to_a_daemon(self, daemonize: bool, severity: str) -> None:
        facts = {
            **{"option": ["pid_file"], "path": "/run/x/x.pid", "given": "/run/x/x.pid", "coming": False},
            **{"errno": errno.ENOENT, "creatable": False, "parent": "/run", "relative": False, "secret": False},
            "folder_option": False,
        }
        problem = one(answer_of(run_of(paths=[facts], settings={"daemonize": daemonize})))
        assert (problem.kind, problem.severity) == ("pid_file", severity)

    def test_the_process_is_told(self) -> None:
        bad = run_of("/etc/synapse/w1.yaml", failures=[failure(path=["x"], message="no")])
        answer = answer_of(run_of(), bad, apps={"/etc/synapse/w1.yaml": True})
        assert {problem.process for problem in judge(answer, Wanted())} == {"/etc/synapse/w1.yaml"}

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "log.yaml")
        with probe.Stage({}, []).set():
            document = probe.Document.load(str(tmp_path / "log.yaml"))
        assert document.failure is not None
        assert document.failure["message"] == "it is neither a file nor a folder"


class TestListeners:
    @pytest.mark.parametrize(
        ("first", "second", "clash"),
        [
            (("127.0.0.1",), ("127.0.0.1",), True),
            (("127.0.0.1",), ("0.0.0.0",), True),  # noqa: S104
            (("127.0.0.1",), ("::",), True),
            (("127.0.0.1",), ("::1",), False),
            (("::1",), ("0.0.0.0",), False),  # noqa: S104
            (("localhost",), ("::1",), True),
            (("10.0.0.1",), ("10.0.0.2",), False),
            (("::", "0.0.0.0"), ("10.0.0.2",), True),  # noqa: S104
        ],
    )
    def test_two_on_one_port_clash_where_their_addresses_meet(
        self, first: tuple[str, ...], second: tuple[str, ...], clash: bool
    ) -> None:
        for one_side, other in ((first, second), (second, first)):
            listeners = [listener(8008, one_side), listener(8008, other, option=["listeners", 1])]
            problems = judge(answer_of(run_of(listeners=listeners)), Wanted())
            assert [problem.path for problem in problems] == (["listeners[1]"] if clash else [])

    def test_one_listener_on_both_families_is_fine(self) -> None:
        assert judge(answer_of(run_of(listeners=[listener(8008, ("::", "0.0.0.0"))])), Wanted()) == []  # noqa: S104

    @pytest.mark.parametrize("port", [0, -1, 65536])
    def test_numbers_that_are_no_ports(self, port: int) -> None:
        assert one(answer_of(run_of(listeners=[listener(port)]))).path == "listeners[0].port"

    def test_two_sockets_of_one_path_clash(self) -> None:
        sockets = [listener(None, (), socket="/s"), listener(None, (), socket="/s", option=["listeners", 1])]
        assert "/s" in one(answer_of(run_of(listeners=sockets))).message

    def test_a_metrics_listener_needs_its_switch(self) -> None:
        metrics = listener(9000, type="metrics", resources=[], option=["listeners", 1])
        assert one(answer_of(run_of(listeners=[listener(), metrics]))).severity == "warning"
        assert judge(answer_of(run_of(listeners=[listener(), metrics], settings={"metrics": True})), Wanted()) == []


class TestValues:
    @pytest.mark.parametrize(
        ("entry", "severity"),
        [
            ({"path": ["report_stats"], "kind": "str", "word": "no"}, "error"),
            ({"path": ["report_stats"], "kind": "str", "word": "yes"}, "warning"),
            ({"path": ["enable_registration"], "kind": "str", "word": "no"}, None),
            ({"path": ["encryption_enabled_by_default_for_room_type"], "kind": "str", "word": "off"}, None),
            ({"path": ["database", "args", "x"], "kind": "str", "word": "no", "free": True}, None),
            ({"path": ["database", "args", "password"], "kind": "int", "free": True}, "error"),
            ({"path": ["turn_uris"], "kind": "str"}, "error"),
            ({"path": ["turn_uris"], "kind": "list"}, None),
            ({"path": ["rc_login", "address", "per_second"], "kind": "str"}, "error"),
            ({"path": ["rc_login", "address", "per_second"], "kind": "float"}, None),
            ({"path": ["form_secret"], "kind": "int"}, "error"),
            ({"path": ["form_secret"], "kind": "str"}, None),
            ({"path": ["form_secret"], "kind": "NoneType"}, None),
        ],
    )
    def test_types_that_synapse_takes_without_a_word(self, entry: dict[str, t.Any], severity: str | None) -> None:
        problems = judge(answer_of(run_of(options=[{"free": False, **entry}])), Wanted())
        assert [problem.severity for problem in problems] == ([severity] if severity else [])


class TestWorkers:
    def worker(self, name: str = "w1", process: str = "/etc/synapse/w1.yaml", **settings: t.Any) -> dict[str, t.Any]:
        made = run_of(
            process,
            listeners=[],
            options=[{"path": ["worker_app"], "kind": "str", "free": False}],
            settings={"worker_app": "synapse.app.generic_worker", "worker_name": name, **settings},
        )
        made["documents"] = [*made["documents"], {**made["documents"][0], "path": process}]
        return made

    def judged(self, main: dict[str, t.Any], *workers: dict[str, t.Any], **facts: t.Any) -> list[str]:
        apps = {worker["process"]: True for worker in workers}
        return [problem.path for problem in judge(answer_of(main, *workers, **{"apps": apps, **facts}), Wanted())]

    def test_a_good_pair_has_no_problem(self) -> None:
        assert self.judged(run_of(), self.worker()) == []

    def test_sqlite_redis_names_and_secrets(self) -> None:
        assert self.judged(run_of(settings={"engines": ["sqlite3"]}), self.worker()) == ["database"]
        assert self.judged(run_of(settings={"redis": False}), self.worker()) == ["redis"]
        second = self.worker("w1", "/etc/synapse/w2.yaml")
        assert self.judged(run_of(), self.worker(), second) == ["worker_name"]
        assert self.judged(run_of(), self.worker(), same_secret=[True, False]) == ["worker_replication_secret"]
        assert self.judged(run_of(), self.worker(), apps={}) == ["worker_app"]

    def test_main_has_to_listen_where_the_map_says(self) -> None:
        place = {"instance_map": {"main": {"host": "127.0.0.1", "port": 9093, "path": None}}}
        assert self.judged(run_of(settings=place), self.worker()) == ["instance_map.main"]
        replication = listener(9093, resources=["replication"], option=["listeners", 1])
        assert self.judged(run_of(settings=place, listeners=[listener(), replication]), self.worker()) == []

    def test_a_writer_has_to_listen_where_the_map_says(self) -> None:
        place = {
            "main": {"host": "127.0.0.1", "port": 9093, "path": None},
            "w1": {"host": "127.0.0.1", "port": 9094, "path": None},
        }
        main = run_of(
            settings={"instance_map": place},
            listeners=[listener(), listener(9093, resources=["replication"], option=["listeners", 1])],
        )
        worker = self.worker(instance_map=place)
        assert self.judged(main, worker) == ["worker_listeners"]
        offers = {**listener(9094, resources=["replication"]), "option": ["worker_listeners", 0]}
        assert self.judged(main, {**worker, "listeners": [offers]}) == []


class TestWords:
    def test_the_verdict_counts(self) -> None:
        error, warning = Problem("error", "a", "b"), Problem("warning", "a", "b")
        assert summary([], "1.163.2") == "Synapse 1.163.2 accepts this configuration."
        assert summary([warning], "1.163.2") == "Synapse 1.163.2 accepts this configuration, with 1 warning."
        assert summary([error, error, warning], "1.163.2").endswith("with this configuration: 2 errors.")

    def test_the_gravest_comes_first_and_nothing_twice(self) -> None:
        options = [
            {"path": ["b"], "kind": "str", "word": "yes", "free": False},
            {"path": ["a"], "kind": "str", "word": "no", "free": False},
        ]
        problems = judge(answer_of(run_of(options=[*options, *options])), Wanted())
        assert [(problem.severity, problem.path) for problem in problems] == [("error", "a"), ("warning", "b")]

    @given(st.text(max_size=20), st.text(max_size=20), st.none() | st.text(max_size=9), st.none() | st.integers(1, 9))
    def test_a_problem_is_one_line(self, path: str, message: str, file: str | None, line: int | None) -> None:
        text = render(Problem("error", path, message, file=file, line=line))
        assert text.startswith("ERROR")
        assert message in text

    def test_removed_options_are_spelt_like_options(self) -> None:
        for name, (version, advice) in _config.REMOVED.items():
            assert name.replace("_", "").isalnum()
            assert version == "none" or version.replace(".", "").isdigit()
            assert advice == "" or advice.endswith(".")
