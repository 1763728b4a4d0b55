# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check against a real Synapse: what its own parser misses must be found, and a healthy server must pass.

Needs the environment variables SYNAPSE_VENV and SYNAPSE_OLD_VENV: the folders of environments with Synapse in them.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _config
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import config_check as probe
from ansible_collections.matrix_fleet.synapse.tests.integration import module_process
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import old_synapse_python, synapse_python

PYTHON = str(synapse_python())
UID = 23456
ROOT = os.geteuid() == 0

SECRETS = {
    "macaroon_secret_key": "macaroon-Zu7Quah4",
    "registration_shared_secret": "registration-oY0eeth6",
    "form_secret": "form-Aew8ohxi",
}
LOG = {
    "version": 1,
    "formatters": {"precise": {"format": "%(asctime)s - %(name)s - %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "precise",
            "maxBytes": 10000,
            "encoding": "utf8",
        }
    },
    "root": {"level": "INFO", "handlers": ["file"]},
    "disable_existing_loggers": False,
}


def foreign_python(folder: Path, script: str) -> str:
    """What looks like an environment of another user, with a program in the place of its interpreter."""
    program = folder / "foreign" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    for path in (program, program.parent, program.parent.parent):
        path.chmod(0o755)
        os.chown(path, UID, UID)
    for path in list(folder.parents)[:2]:
        path.chmod(path.stat().st_mode | 0o711)
    return str(program)


class Server:
    """A homeserver's files in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        for name in ("etc", "data", "log"):
            (root / name).mkdir()
        self.seed = os.urandom(32)
        self.key = self.write("signing.key", f"ed25519 a_test {b64(self.seed)}\n")
        self.log = self.write_yaml(
            "log.yaml",
            {**LOG, "handlers": {"file": {**LOG["handlers"]["file"], "filename": f"{root}/log/homeserver.log"}}},
        )
        self.config: dict[str, t.Any] = {
            "server_name": "test.local",
            "report_stats": False,
            "pid_file": f"{root}/data/homeserver.pid",
            "listeners": [listener(18008, ["client", "federation"])],
            "database": {"name": "sqlite3", "args": {"database": f"{root}/data/homeserver.db"}},
            "log_config": self.log,
            "media_store_path": f"{root}/data/media",
            "signing_key_path": self.key,
            "trusted_key_servers": [{"server_name": "matrix.org"}],
            "suppress_key_server_warning": True,
            **SECRETS,
        }

    def write(self, name: str, text: str | bytes, mode: int = 0o640) -> str:
        path = self.etc / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return str(path)

    def write_yaml(self, name: str, data: t.Any) -> str:
        return self.write(name, yaml.safe_dump(data, sort_keys=False))

    def distribute(self, *names: str) -> list[str]:
        """Turn the server into one with workers, as it should be, and return the workers' files."""
        self.config.update(
            {
                "database": {"name": "psycopg2", "args": {"user": "synapse", "dbname": "synapse", "host": "127.0.0.1"}},
                "redis": {"enabled": True},
                "instance_map": {"main": {"host": "127.0.0.1", "port": 18034}},
                "worker_replication_secret": "replication-ieLoo1ai",
            }
        )
        self.config["listeners"].append(listener(18034, ["replication"]))
        return [self.worker(name, 18083 + number) for number, name in enumerate(names)]

    def worker(self, name: str, port: int, **options: t.Any) -> str:
        data = {
            "worker_app": "synapse.app.generic_worker",
            "worker_name": name,
            "worker_listeners": [listener(port, ["client", "federation"])],
            "worker_log_config": self.log,
            **options,
        }
        return self.write_yaml(f"{name}-{port}.yaml", {key: value for key, value in data.items() if value is not None})

    def save(self) -> str:
        return self.write_yaml("homeserver.yaml", self.config)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def listener(port: int, names: list[str], **options: t.Any) -> dict[str, t.Any]:
    return {"port": port, "type": "http", "bind_addresses": ["127.0.0.1"], "resources": [{"names": names}], **options}


# Imports Synapse once and answers each request in a child of its own, which the fork leaves as a fresh probe would be.
SERVE = """
import io, json, os, sys
names = {"__name__": "probe"}
exec(compile(sys.argv[1], "probe", "exec"), names)
sys.dont_write_bytecode = True
names["check"](json.loads(sys.argv[2]), names["Redactor"]())
import psycopg2.extensions, OpenSSL.crypto, logging.handlers
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(task["cwd"])
        if task["uid"] is not None:
            os.setgroups([])
            os.setgid(task["uid"])
            os.setuid(task["uid"])
        sys.stdin = io.StringIO(json.dumps(task["request"]))
        try:
            names["main"]()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
"""

# One parse of a server with a bit of everything loads what Synapse only loads when it needs it.
WARM_UP = {
    "main": ["/warm/homeserver.yaml"],
    "workers": [],
    "files": {
        "/warm/homeserver.yaml": yaml.safe_dump(
            {
                "server_name": "warm.up",
                "report_stats": False,
                "signing_key_path": "/warm/key",
                "log_config": "/warm/log.yaml",
                "app_service_config_files": ["/warm/none.yaml"],
                "old_signing_keys": {"ed25519:a": {}},
                "nonsense": True,
            }
        ),
        "/warm/log.yaml": yaml.safe_dump({**LOG, "root": {"handlers": ["file"]}}),
        "/warm/key": None,
    },
    "directories": [],
    "secrets_allowed": True,
}


class Asker:
    """Asks the probe in an interpreter that has Synapse loaded already."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-c", SERVE, inspect.getsource(probe), json.dumps(WARM_UP)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def __call__(self, request: dict[str, t.Any], cwd: Path, uid: int | None) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"request": request, "cwd": str(cwd), "uid": uid}) + "\n")
        stdin.flush()
        printed = ""
        while not printed.rpartition("\n")[0].rpartition("\n")[2].startswith("{"):
            line = stdout.readline()
            assert line, printed
            printed += line
        return printed


ASKERS: list[Asker] = []


@pytest.fixture(scope="module", autouse=True)
def _asker() -> t.Iterator[None]:
    ASKERS.append(Asker())
    yield
    process = ASKERS.pop().process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)


def ask(request: dict[str, t.Any], cwd: Path, *, service: bool = False) -> tuple[dict[str, t.Any], str]:
    """Ask the probe as the module does; return its answer and everything that it printed."""
    request = {"main": [], "workers": [], "files": {}, "directories": [], "secrets_allowed": True, **request}
    printed = ASKERS[-1](request, cwd, UID if service else None)
    return json.loads(printed.splitlines()[-1]), printed


def check(server: Server, *workers: str, service: bool = False, **wanted: t.Any) -> list[_config.Problem]:
    """Check what lies in the server's folder, and look for secrets in all that comes out."""
    answer, printed = ask(
        {
            "main": [server.save() if wanted.pop("save", True) else str(server.etc / "homeserver.yaml")],
            "workers": list(workers),
        },
        server.root,
        service=service,
    )
    assert "broken" not in answer, answer
    problems = _config.judge(answer, _config.Wanted(**wanted))
    shown = printed + "\n".join(_config.render(problem) for problem in problems)
    for secret in SECRETS.values():
        assert secret not in shown
    return problems


def errors(problems: list[_config.Problem]) -> dict[str, str]:
    return {problem.path: _config.render(problem) for problem in problems if problem.severity == "error"}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    made = Server(tmp_path)
    if ROOT:
        for folder in (tmp_path, *tmp_path.parents):
            if folder.parent != folder and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o011)
        for name in ("data", "log"):
            os.chown(tmp_path / name, UID, UID)
        for path in made.etc.iterdir():
            os.chown(path, 0, UID)
        os.chown(made.etc, 0, UID)
    return made


def tree(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


class TestHealthy:
    def test_a_single_process_has_no_problem_at_all(self, server: Server) -> None:
        assert check(server) == []

    def test_main_and_workers_have_no_problem_at_all(self, server: Server) -> None:
        assert check(server, *server.distribute("worker1", "worker2")) == []

    @pytest.mark.skipif(not ROOT, reason="only root can act as the service")
    def test_the_service_itself_sees_no_problem(self, server: Server) -> None:
        server.save()
        os.chown(server.etc / "homeserver.yaml", 0, UID)
        assert check(server, service=True, save=False) == []

    def test_nothing_is_made_on_the_host(self, server: Server) -> None:
        server.save()
        before = tree(server.root)
        check(server)
        assert tree(server.root) == before

    def test_files_that_are_to_come_are_as_good_as_written(self, server: Server, tmp_path: Path) -> None:
        coming = "/nowhere/etc"
        config = {**server.config, "log_config": f"{coming}/log.yaml", "signing_key_path": f"{coming}/key"}
        config.update(media_store_path="/nowhere/media", macaroon_secret_key_path=f"{coming}/macaroon")
        del config["macaroon_secret_key"]
        files = {
            f"{coming}/homeserver.yaml": yaml.safe_dump(config),
            f"{coming}/log.yaml": yaml.safe_dump({"version": 1}),
            f"{coming}/key": None,
            f"{coming}/macaroon": "coming-secret",
        }
        answer, _facts = ask(
            {"main": [f"{coming}/homeserver.yaml"], "files": files, "directories": ["/nowhere/media"]}, tmp_path
        )
        assert _config.judge(answer, _config.Wanted()) == []
        assert not Path("/nowhere").exists()


Fault = t.Callable[[Server], list[str] | None]


def setting(**options: t.Any) -> Fault:
    def inject(server: Server) -> None:
        for name, value in options.items():
            if value is ...:
                server.config.pop(name)
            else:
                server.config[name] = value

    return inject


# Case of the corpus -> what is done to a healthy server, which option the error is about, words in it.
FAULTS: dict[str, tuple[Fault, str, tuple[str, ...]]] = {
    "C08 server_name missing": (setting(server_name=...), "server_name", ("Missing mandatory",)),
    "C13 a quoted no": (setting(report_stats="no"), "report_stats", ('"no" in quotes', "Write false")),
    "C14 a typo": (setting(enable_registratoin=True), "enable_registratoin", ("Did you mean enable_registration?",)),
    "C14 dashes": (setting(**{"turn-shared-secret": "x-8ohngahZ"}), "turn-shared-secret", ("turn_shared_secret?",)),
    "C15 a nested typo": (setting(rc_message={"per_second": 0.5, "burst": 10}), "rc_message.burst", ("burst_count?",)),
    "C15 email": (setting(email={"smtp_hots": "m", "notif_from": "a"}), "email.smtp_hots", ("email.smtp_host?",)),
    "C15 two levels": (
        setting(rc_login={"adress": {"per_second": 1, "burst_count": 2}}),
        "rc_login.adress",
        ("rc_login.address?",),
    ),
    "C15 in a listener": (
        lambda s: s.config["listeners"][0].update(bind_adresses=["::1"]),
        "listeners[0].bind_adresses",
        ("bind_addresses?", "line"),
    ),
    "C15 in a resource": (
        lambda s: s.config["listeners"][0].update(resources=[{"nmaes": ["client"]}]),
        "listeners[0].resources[0].nmaes",
        ("Did you mean listeners[0].resources[0].names?",),
    ),
    "C15 in a model that ignores": (
        setting(matrix_authentication_service={"enabeld": True}),
        "matrix_authentication_service.enabeld",
        ("enabled?",),
    ),
    "C16 a size": (setting(max_upload_size="50MB"), "max_upload_size", ("size", "50M")),
    "C16 a duration": (setting(user_ips_max_age="90x"), "user_ips_max_age", ("durations",)),
    "C17 a number for a secret": (setting(macaroon_secret_key=12345678), "macaroon_secret_key", ("quotes",)),
    "C19 open registration": (setting(enable_registration=True), "enable_registration", ("verification",)),
    "C22 a secret file is missing": (
        setting(macaroon_secret_key=..., macaroon_secret_key_path="/nope/secret"),
        "macaroon_secret_key_path",
        ("does not exist",),
    ),
    "C23 a removed option": (
        setting(experimental_features={"msc3861": {"enabled": True}}),
        "experimental_features.msc3861",
        ("was removed",),
    ),
    "C23 log_file": (setting(log_file="/x"), "log_file", ("1.3.0",)),
    "C26 log configuration missing": (setting(log_config="/nope/log.yaml"), "log_config", ("does not exist",)),
    "C30 no listeners": (setting(listeners=[]), "listeners", ("no listener",)),
    "C34 Synapse's option among the driver's": (
        setting(database={"name": "psycopg2", "args": {"allow_unsafe_locale": True, "user": "x"}}),
        "database.args.allow_unsafe_locale",
        ("one level up, to database.allow_unsafe_locale",),
    ),
    "C35 registration missing": (
        setting(app_service_config_files=["/nope/as.yaml"]),
        "app_service_config_files[0]",
        ("does not exist",),
    ),
    "C36 insecure notary": (
        setting(federation_verify_certificates=False),
        "trusted_key_servers[0].server_name",
        ("key server responses",),
    ),
    "C36 notary as text": (
        setting(trusted_key_servers=["matrix.org"]),
        "trusted_key_servers",
        ("not of type 'object'",),
    ),
    "C37 no scheme": (setting(public_baseurl="matrix.test.local"), "public_baseurl", ("Invalid scheme",)),
    "C37 empty": (setting(public_baseurl=""), "public_baseurl", ("IndexError",)),
    "turn_uris as text": (setting(turn_uris="turn:x"), "turn_uris", ("list",)),
    "a whitelist as text": (setting(federation_domain_whitelist="a.b"), "federation_domain_whitelist", ("list",)),
    "a limit as text": (setting(soft_file_limit="lots"), "soft_file_limit", ("number",)),
    "a rate as text": (setting(rc_message={"per_second": "fast"}), "rc_message.per_second", ("number",)),
    "a number for turn_shared_secret": (setting(turn_shared_secret=12345678), "turn_shared_secret", ("quotes",)),
    "presence as a switch": (setting(presence=True), "presence", ("true or false",)),
    "email as a switch": (setting(email=True), "email", ("true or false",)),
    "a port that is none": (
        setting(listeners=[listener(99999, ["client", "federation"])]),
        "listeners[0].port",
        ("99999",),
    ),
    "one port twice": (
        lambda s: s.config["listeners"].append(listener(18008, ["client"], bind_addresses=["0.0.0.0"])),  # noqa: S104
        "listeners[1]",
        ("port 18008",),
    ),
    "misspelt database engine key": (
        setting(database={"nmae": "sqlite3", "args": {"database": "/x"}}),
        "database.nmae",
        ("database.name?",),
    ),
    "old key without expiry": (
        setting(old_signing_keys={"ed25519:old": {"key": b64(b"\x58" + b"\x66" * 31)}}),
        "old_signing_keys.ed25519:old.expired_ts",
        ("missing",),
    ),
    "expiry in seconds": (
        setting(old_signing_keys={"ed25519:old": {"key": b64(b"\x58" + b"\x66" * 31), "expired_ts": 1700000000}}),
        "old_signing_keys.ed25519:old.expired_ts",
        ("milliseconds",),
    ),
    "W01 main missing in the instance_map": (
        lambda s: [[*s.distribute("worker1"), s.config.pop("instance_map")][0]],
        "instance_map",
        ("include 'main'",),
    ),
    "W03 writer not in the map": (
        lambda s: [*s.distribute("worker1"), s.config.update(stream_writers={"events": "worker9"})][:1],
        "instance_map",
        ("worker9",),
    ),
    "W04 a stream with two writers": (
        lambda s: [
            *s.distribute("worker1"),
            s.config["instance_map"].update(w1={"host": "::1", "port": 1}, w2={"host": "::1", "port": 2}),
            s.config.update(stream_writers={"typing": ["w1", "w2"]}),
        ][:1],
        "stream_writers.typing",
        ("one instance",),
    ),
    "W05 unknown stream": (
        setting(stream_writers={"evnts": ["worker1"]}),
        "stream_writers.evnts",
        ("stream_writers.events?",),
    ),
    "W05 port as text": (
        setting(instance_map={"main": {"host": "127.0.0.1", "port": "18034"}}),
        "instance_map.main.port",
        ("valid integer",),
    ),
    "W06 workers without Redis": (
        lambda s: [*s.distribute("worker1"), s.config.pop("redis")][:1],
        "redis",
        ("redis.enabled",),
    ),
    "W09 misspelt worker_app": (
        lambda s: [s.distribute() or s.worker("worker1", 18083, worker_app="synapse.app.homserver")],
        "worker_app",
        ("generic_worker",),
    ),
    "W09 no worker_app": (
        lambda s: [s.distribute() or s.worker("worker1", 18083, worker_app=None)],
        "worker_app",
        ("generic_worker",),
    ),
    "W11 no replication listener": (
        lambda s: [*s.distribute("worker1"), s.config["listeners"].pop()][:1],
        "instance_map.main",
        ("replication",),
    ),
    "W12 another replication secret": (
        lambda s: [s.distribute() or s.worker("worker1", 18083, worker_replication_secret="other-Eev1ooba")],
        "worker_replication_secret",
        ("another",),
    ),
    "W15 one name twice": (
        lambda s: [*s.distribute("worker1"), s.worker("worker1", 18084)],
        "worker_name",
        ("'worker1'",),
    ),
    "W16 workers on SQLite": (
        lambda s: [*s.distribute("worker1"), s.config.update(database={"name": "sqlite3", "args": {"database": "/x"}})][
            :1
        ],
        "database",
        ("PostgreSQL",),
    ),
    "a port of a worker twice": (
        lambda s: [*s.distribute("worker1"), s.worker("worker2", 18083)],
        "worker_listeners[0]",
        ("port 18083",),
    ),
    "a typo in a worker's file": (
        lambda s: [s.distribute() or s.worker("worker1", 18083, worker_lsiteners=[])],
        "worker_lsiteners",
        ("worker_listeners?", "worker1-18083.yaml line"),
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_found_and_named(server: Server, case: str) -> None:
    inject, path, words = FAULTS[case]
    workers = inject(server) or []
    found = errors(check(server, *workers))
    assert path in found, found
    for word in words:
        assert word in found[path]


class TestFiles:
    def test_c01_broken_yaml_is_named_with_its_line(self, server: Server) -> None:
        server.save()
        with (server.etc / "homeserver.yaml").open("a") as stream:
            stream.write("password_config:\n\tpepper: tab-Shoh4xae\n")
        (problem,) = check(server, save=False)
        assert problem.file == str(server.etc / "homeserver.yaml")
        assert problem.line == len((server.etc / "homeserver.yaml").read_text().splitlines())
        assert "tabs" in _config.render(problem)
        assert "Shoh4xae" not in _config.render(problem)

    def test_c03_an_empty_file_is_an_error(self, server: Server) -> None:
        server.write("homeserver.yaml", "")
        assert "empty" in "".join(_config.render(problem) for problem in check(server, save=False))

    def test_c05_a_missing_file_is_an_error(self, server: Server) -> None:
        assert "does not exist" in "".join(_config.render(problem) for problem in check(server, save=False))

    @pytest.mark.skipif(not ROOT, reason="only root can act as the service")
    def test_c06_a_file_that_the_service_may_not_read_is_an_error(self, server: Server) -> None:
        server.write("homeserver.yaml", yaml.safe_dump(server.config), 0o600)
        (problem,) = check(server, save=False, service=True)
        assert "permission denied" in problem.message
        assert "root, mode 0600" in problem.message

    def test_c07_secrets_that_everybody_can_read_are_a_warning(self, server: Server) -> None:
        for folder in (server.etc, server.root, *server.root.parents):
            folder.chmod(folder.stat().st_mode | 0o001)
        server.write("homeserver.yaml", yaml.safe_dump(server.config), 0o644)
        (problem,) = check(server, save=False)
        assert problem.severity == "warning"
        assert "Every account" in problem.message

    def test_c20_a_missing_macaroon_secret_is_a_warning(self, server: Server) -> None:
        setting(macaroon_secret_key=..., registration_shared_secret=...)(server)
        assert [(problem.severity, problem.path) for problem in check(server)] == [("warning", "macaroon_secret_key")]

    def test_c20_an_empty_secret_file_is_an_error(self, server: Server) -> None:
        setting(macaroon_secret_key=..., macaroon_secret_key_path=server.write("empty", ""))(server)
        assert "is empty" in errors(check(server))["macaroon_secret_key_path"]

    @pytest.mark.skipif(not ROOT, reason="only root can act as the service")
    def test_c22_unreadable_is_told_from_missing(self, server: Server) -> None:
        setting(macaroon_secret_key=..., macaroon_secret_key_path=server.write("secret", "Aishoh7u", 0o600))(server)
        server.save()
        os.chown(server.etc / "homeserver.yaml", 0, UID)
        found = errors(check(server, save=False, service=True))
        assert "permission denied" in found["macaroon_secret_key_path"]
        assert "mode 0600" in found["macaroon_secret_key_path"]

    def test_c24_options_of_the_past_are_warnings(self, server: Server) -> None:
        setting(acme={"enabled": True}, tls_fingerprints=[], uploads_path="/x")(server)
        found = {problem.path: problem for problem in check(server)}
        assert set(found) == {"acme", "tls_fingerprints", "uploads_path"}
        assert {problem.severity for problem in found.values()} == {"warning"}
        assert "1.36 was the last version that read it" in found["acme"].message

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"root": {"level": "INFO", "handlers": ["fil"]}}, "'fil'"),
            ({"version": 2}, "version: 1"),
            ({"root": {"level": "LOUD", "handlers": ["file"]}}, "'LOUD'"),
            ({"handlers": {"file": {"class": "systemd.journal.JournalHandler"}}}, "systemd-python"),
            ({"handlers": {"file": {"class": "logging.FileHandler", "filname": "/x"}}}, "filname"),
            (
                {"handlers": {"file": {"class": "synapse.logging.handlers.PeriodicallyFlushingMemoryHandler"}}},
                "capacity",
            ),
            ({"structured": True}, "1.54.0"),
        ],
    )
    def test_c27_c28_an_unusable_log_configuration_is_an_error(
        self, server: Server, change: dict[str, t.Any], word: str
    ) -> None:
        server.write_yaml("log.yaml", {**yaml.safe_load(Path(server.log).read_text()), **change})
        assert word in errors(check(server))["log_config"]

    def test_c31_no_federation_is_a_warning_unless_it_is_meant(self, server: Server) -> None:
        setting(listeners=[listener(18008, ["client"])])(server)
        assert [problem.severity for problem in check(server)] == ["warning"]
        setting(federation_domain_whitelist=[])(server)
        assert [problem.severity for problem in check(server)] == ["info"]

    def test_c32_a_key_of_another_certificate_is_an_error(self, server: Server) -> None:
        def openssl(*args: str) -> None:
            subprocess.run(["openssl", *args], check=True, capture_output=True)

        names = {name: str(server.etc / name) for name in ("c.pem", "k.pem", "k2.pem")}
        openssl(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test.local",
            "-keyout",
            names["k.pem"],
            "-out",
            names["c.pem"],
        )
        openssl("genrsa", "-out", names["k2.pem"], "2048")
        for name in names:
            (server.etc / name).chmod(0o640)
        setting(
            listeners=[listener(18008, ["client", "federation"], tls=True)],
            tls_certificate_path=names["c.pem"],
            tls_private_key_path=names["k.pem"],
        )(server)
        assert check(server) == []
        setting(tls_private_key_path=names["k2.pem"])(server)
        assert "does not belong" in errors(check(server))["tls_private_key_path"]
        setting(tls_private_key_path="/nope/k.pem")(server)
        assert "does not exist" in errors(check(server))["tls_private_key_path"]

    def test_c35_an_invalid_registration_is_an_error(self, server: Server) -> None:
        good = {
            "id": "bridge",
            "as_token": "as-eeb3Ohre",
            "hs_token": "hs-ooL9neik",
            "sender_localpart": "bot",
            "url": None,
            "namespaces": {},
        }
        first = server.write_yaml("as1.yaml", good)
        setting(app_service_config_files=[first])(server)
        assert check(server) == []
        second = server.write_yaml("as2.yaml", {**good, "id": "other"})
        setting(app_service_config_files=[first, second])(server)
        found = errors(check(server))["app_service_config_files"]
        assert "as_token" in found
        assert "eeb3Ohre" not in found
        server.write_yaml("as2.yaml", {**good, "as_token": None})
        assert "as_token" in errors(check(server))["app_service_config_files[1]"]

    def test_duplicate_keys_are_named_with_both_lines(self, server: Server) -> None:
        server.write("homeserver.yaml", yaml.safe_dump(server.config, sort_keys=False) + "report_stats: true\n")
        found = errors(check(server, save=False))["report_stats"]
        assert "written 2 times (lines 2, " in found

    def test_files_are_merged_as_synapse_merges_them(self, server: Server) -> None:
        folder = server.etc / "conf.d"
        folder.mkdir()
        (folder / "a.yaml").write_text("max_upload_size: 50MB\n")
        (folder / "b.yaml").write_text("max_upload_size: 50M\nserve_server_wellknwon: true\n")
        (folder / "c.txt").write_text("nonsense")
        answer, _facts = ask({"main": [server.save(), str(folder)]}, server.root)
        (problem,) = _config.judge(answer, _config.Wanted())
        assert (problem.path, problem.file, problem.line) == ("serve_server_wellknwon", str(folder / "b.yaml"), 2)

    def test_relative_paths_are_warnings(self, server: Server) -> None:
        setting(pid_file="homeserver.pid")(server)
        assert [(p.severity, p.path) for p in check(server)] == [("warning", "pid_file")]

    @pytest.mark.skipif(not ROOT, reason="only root can act as the service")
    def test_folders_that_the_service_cannot_use_are_errors(self, server: Server) -> None:
        media = server.root / "media"
        media.mkdir()
        setting(media_store_path=str(media))(server)
        server.save()
        os.chown(server.etc / "homeserver.yaml", 0, UID)
        assert "cannot write" in errors(check(server, save=False, service=True))["media_store_path"]
        media.rmdir()
        assert "may not create" in errors(check(server, save=False, service=True))["media_store_path"]


class TestOldSigningKeys:
    def test_the_private_key_is_found_and_not_shown(self, server: Server) -> None:
        setting(old_signing_keys={"ed25519:old": {"key": b64(server.seed), "expired_ts": 1700000000000}})(server)
        found = errors(check(server))["old_signing_keys.ed25519:old"]
        assert "private key ed25519:a_test" in found
        assert b64(server.seed) not in found

    def test_a_value_that_is_no_point_of_the_curve_is_found(self, server: Server) -> None:
        setting(old_signing_keys={"ed25519:old": {"key": b64(b"\x02" + bytes(31)), "expired_ts": 1700000000000}})(
            server
        )
        assert "no verify key" in errors(check(server))["old_signing_keys.ed25519:old"]

    def test_a_verify_key_is_fine(self, server: Server) -> None:
        setting(old_signing_keys={"ed25519:old": {"key": b64(b"\x58" + b"\x66" * 31), "expired_ts": 1700000000000}})(
            server
        )
        assert check(server) == []


class TestSecrets:
    def test_every_inline_secret_is_refused_at_once(self, server: Server) -> None:
        server.config["turn_shared_secret"] = "turn-Phoo9aec"
        answer, printed = ask({"main": [server.save()], "secrets_allowed": False}, server.root)
        found = errors(_config.judge(answer, _config.Wanted()))
        assert set(found) == {*SECRETS, "turn_shared_secret"}
        assert "macaroon_secret_key_path" in found["macaroon_secret_key"]
        assert "Phoo9aec" not in printed

    def test_several_faults_are_told_at_once(self, server: Server) -> None:
        setting(max_upload_size="50MB", rc_login=5, enable_registratoin=True)(server)
        assert set(errors(check(server))) == {"max_upload_size", "rc_login", "enable_registratoin"}

    def test_a_password_that_is_a_common_word_does_not_blur_the_verdict(self, server: Server) -> None:
        workers = server.distribute("worker1", "worker2")
        server.config["database"]["args"]["password"] = "worker"
        server.config["turn_shared_secret"] = "database"
        assert check(server, *workers) == []

    def test_values_of_secrets_stay_out_of_synapses_own_messages(self, server: Server) -> None:
        setting(matrix_authentication_service={"enabled": True, "endpoint": 5, "secret": ["list-ahJ6iere"]})(server)
        answer, printed = ask({"main": [server.save()]}, server.root)
        assert errors(_config.judge(answer, _config.Wanted()))
        assert "ahJ6iere" not in printed


class TestChoices:
    def test_unknown_options_can_be_warnings_ignored_or_allowed(self, server: Server) -> None:
        setting(my_module={"a": 1}, **{"x-anchors": {"b": 2}})(server)
        assert [p.severity for p in check(server)] == ["error"]
        assert [p.severity for p in check(server, unknown_options="warning")] == ["warning"]
        assert check(server, unknown_options="ignore") == []
        assert check(server, allow_unknown=("my_module",)) == []

    def test_an_option_of_a_feature_that_is_off_is_only_mentioned(self, server: Server) -> None:
        setting(redis={"enabled": False, "host": "localhost"})(server)
        assert [(p.severity, p.path) for p in check(server)] == [("info", "redis.host")]


@pytest.fixture
def module(tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    """Run the module in a process of its own, and return its answer."""

    def run(**arguments: t.Any) -> dict[str, t.Any]:
        return module_process.run("synapse_config_check", {"python": PYTHON, **arguments}, tmp_path / "output")

    return run


Module = t.Callable[..., dict[str, t.Any]]


class TestModule:
    @pytest.mark.parametrize("said", ["{}", '{"version": 1, "account": "x", "runs": []}', '{"runs": [1]}'])
    def test_an_environment_that_answers_nonsense_is_named(
        self, server: Server, module: Module, tmp_path: Path, said: str
    ) -> None:
        python = tmp_path / "nonsense"
        python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{said}'\n")
        python.chmod(0o755)
        path = server.write_yaml("homeserver.yaml", server.config)
        answer = module(path=[str(path)], python=str(python))
        assert answer["failed"]
        assert f"{python} was asked" in answer["msg"]
        # The release that is only compared with is no reason to fail.
        answer = module(path=[str(path)], compare_python=str(python))
        assert not answer.get("failed"), answer
        assert "cannot be understood" in str(answer["upgrade_summary"])

    def test_it_fails_with_one_readable_message(self, server: Server, module: Module) -> None:
        setting(rc_login={"adress": {"per_second": 1, "burst_count": 2}})(server)
        content = yaml.safe_dump(server.config, sort_keys=False)
        answer = module(content=content, config_path=str(server.etc / "homeserver.yaml"))
        assert answer["failed"]
        assert not answer["changed"]
        headline, line = answer["msg"].splitlines()
        assert headline == f"Synapse {answer['version']} would not run as meant with this configuration: 1 error."
        assert line.startswith(f"ERROR rc_login.adress ({server.etc}/homeserver.yaml line ")
        assert line.endswith("does not know this option. Did you mean rc_login.address?")
        for secret in SECRETS.values():
            assert secret not in json.dumps(answer)
        assert not (server.etc / "homeserver.yaml").exists()

    def test_it_can_be_told_not_to_fail(self, server: Server, module: Module) -> None:
        setting(enable_registratoin=True)(server)
        answer = module(path=[server.save()], fail_on="never")
        assert "failed" not in answer
        assert (answer["valid"], answer["checked"], answer["changed"]) == (False, True, False)
        assert [problem["path"] for problem in answer["problems"]] == ["enable_registratoin"]

    def test_the_same_verdict_in_check_mode(self, server: Server, module: Module) -> None:
        answer = module(path=[server.save()], _ansible_check_mode=True)
        assert (answer["valid"], answer["checked"], answer["problems"]) == (True, True, [])

    def test_a_fresh_host_is_not_checked_in_check_mode(self, module: Module) -> None:
        answer = module(content="server_name: a", python="/nope/bin/python", _ansible_check_mode=True)
        assert (answer["valid"], answer["checked"], answer["changed"]) == (None, False, False)
        assert "was not checked" in str(answer["warnings"])

    def test_a_missing_environment_is_an_error_that_says_what_to_do(self, module: Module) -> None:
        answer = module(content="server_name: a", python="/nope/bin/python")
        assert answer["failed"]
        assert "synapse_venv" in answer["msg"]

    def test_an_environment_without_synapse_is_an_error(self, module: Module) -> None:
        answer = module(content="server_name: a", python="/usr/bin/python3")
        assert answer["failed"]
        assert "synapse_venv" in answer["msg"]

    def test_an_account_that_is_not_there_yet_is_a_warning(self, server: Server, module: Module) -> None:
        answer = module(path=[server.save()], user="no-such-account")
        assert answer["valid"]
        assert "no user 'no-such-account'" in str(answer["warnings"][0]["event"]["msg"])

    @pytest.mark.skipif(not ROOT, reason="needs root to give files away")
    @pytest.mark.parametrize("user", [None, "no-such-account"])
    def test_root_does_not_run_an_environment_of_another_user(
        self, module: Module, tmp_path: Path, user: str | None
    ) -> None:
        python = foreign_python(tmp_path, f"echo $(id -u) > {tmp_path}/ran-as")
        os.chmod(tmp_path, 0o777)
        module(content="server_name: a", python=python, user=user)
        assert (tmp_path / "ran-as").read_text() == f"{UID}\n"

    def test_nothing_is_left_of_the_scratch_folder(self, server: Server, module: Module, tmp_path: Path) -> None:
        before = {server.save(), *tree(server.root)}
        module(path=[str(server.etc / "homeserver.yaml")])
        assert [path for path in tmp_path.rglob("*") if path.is_file() and str(path) not in before] == [
            tmp_path / "output"
        ]
        assert list(tmp_path.rglob("synapse-probe-*")) == []


def named(report: dict[str, t.Any], kind: str) -> list[str]:
    return [option["path"] for option in report[kind]]


class TestUpgrade:
    """From the old release to the new. What each reads is taken from synapse/config/*.py of 1.150.0 and 1.163.2."""

    def test_what_the_new_release_does_not_read_and_what_it_reads_first(self, server: Server, module: Module) -> None:
        setting(
            experimental_features={"msc2666_enabled": True, "msc3881_enabled": True, "msc4242_enabled": True},
            redaction_allowed_period="1d",
            redis={"enabled": True, "username": "synapse", "password": SECRETS["form_secret"]},
            enable_registratoin=True,
            my_module={"a": 1},
            retention={"enabled": False},
        )(server)
        old = str(old_synapse_python())
        answer = module(
            path=[server.save()], compare_python=old, allow_unknown=["my_module"], no_secrets_in_config=True
        )
        assert answer["failed"], "what neither knows is refused, and the report is there all the same"
        report = answer["upgrade_report"]
        assert (report["from"], report["to"], report["problem"]) == ("1.150.0", answer["version"], None)
        assert named(report, "no_longer_read") == ["experimental_features.msc2666_enabled"]
        assert set(named(report, "newly_read")) == {
            "experimental_features.msc4242_enabled",
            "redaction_allowed_period",
            "redis.username",
        }
        assert named(report, "unknown_to_both") == ["enable_registratoin"]
        [lost] = report["no_longer_read"]
        assert lost["suggestion"] == "The experiment has ended in this version: remove the option."
        written = (server.etc / "homeserver.yaml").read_text().splitlines()
        assert (lost["file"], written[lost["line"] - 1].strip()) == (
            f"{server.etc}/homeserver.yaml",
            "msc2666_enabled: true",
        )
        assert answer["upgrade_summary"][-1].startswith("Neither 1.150.0 nor 1.163.2 knows enable_registratoin (")
        for secret in SECRETS.values():
            assert secret not in json.dumps(answer)

    def test_what_only_the_new_release_refuses(self, server: Server, module: Module) -> None:
        provider = {
            "enabled": True,
            "issuer": "https://id.test.local/",
            "client_id": "one",
            "client_secret": "pa55word",
        }
        provider.update(client_auth_method="client_secret_basic", admin_token="t0ken-eeNgie5u")
        setting(
            experimental_features={"msc3861": provider}, enable_registration=False, password_config={"enabled": False}
        )(server)
        answer = module(path=[server.save()], compare_python=str(old_synapse_python()))
        assert answer["failed"]
        [refused] = answer["upgrade_report"]["newly_refused"]
        assert refused["path"] == "experimental_features.msc3861"
        assert "matrix_authentication_service" in refused["suggestion"]
        assert "which 1.150.0 takes" in answer["upgrade_summary"][0]
        assert "t0ken-eeNgie5u" not in json.dumps(answer)
        assert answer["upgrade_report"]["no_longer_read"] == []

    def test_a_healthy_server_with_workers_loses_nothing(self, server: Server, module: Module) -> None:
        workers = server.distribute("worker1")
        answer = module(path=[server.save()], workers=workers, compare_python=str(old_synapse_python()))
        assert "failed" not in answer
        assert all(not named(answer["upgrade_report"], kind) for kind in ("no_longer_read", "newly_refused"))

    @pytest.mark.parametrize("kind", ["missing", "dangling", "without Synapse", "silent"])
    def test_an_old_release_that_cannot_be_asked_fails_nothing(
        self, server: Server, module: Module, kind: str, tmp_path: Path
    ) -> None:
        programs = tmp_path / "old" / "bin"
        programs.mkdir(parents=True)
        (tmp_path / "old").chmod(0o755)
        python = programs / "python"
        if kind == "dangling":
            python.symlink_to("/usr/bin/python2.6")
        elif kind == "without Synapse":
            python.symlink_to("/usr/bin/python3")
        elif kind == "silent":
            python.write_text("#!/bin/sh\nexit 3\n")
            python.chmod(0o755)
        answer = module(path=[server.save()], compare_python=str(python))
        assert "failed" not in answer
        assert answer["valid"]
        report = answer["upgrade_report"]
        assert (report["from"], report["no_longer_read"]) == (None, [])
        assert str(python) in report["problem"]
        [line] = answer["upgrade_summary"]
        assert report["problem"] in line

    def test_the_same_environment_under_another_name_is_not_asked_twice(
        self, server: Server, module: Module, tmp_path: Path
    ) -> None:
        (tmp_path / "venv").symlink_to(Path(PYTHON).parent.parent)
        answer = module(path=[server.save()], compare_python=f"{tmp_path}/venv/bin/python")
        report = answer["upgrade_report"]
        assert report["from"] == report["to"] == answer["version"]
        assert answer["upgrade_summary"] == [
            f"Synapse {report['to']} reads all of this configuration that {report['to']} reads, and nothing more."
        ]

    def test_without_a_release_to_compare_with_there_is_no_report(self, server: Server, module: Module) -> None:
        assert not {"upgrade_report", "upgrade_summary"} & set(module(path=[server.save()]))
