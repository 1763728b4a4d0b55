# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment: what is said of one that was seen, and what is seen of one that is made up."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _venv_build
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis, environment_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.environment import (
    RULES,
    Environment,
    features_of,
    modules_of,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.requirements import Lack
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Service
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._releases import Manifest
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    CommandResult,
    process_runner,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding as Observation

PATH = "/var/lib/synapse/venv"
RELEASE = "/var/lib/synapse/releases/1.163.2-0123456789ab"
ASIDE = "/var/lib/synapse/releases.untrusted-0a1b2c3d/1.163.2-0123456789ab"
HEALTHY = Environment(
    version="1.163.2",
    release="1.163.2-0123456789ab",
    path=PATH,
    kind="release",
    target=RELEASE,
    user="synapse",
    proven=True,
    running="3.11.2",
    prefix=RELEASE,
    libraries=("3.11",),
    packages={"matrix-synapse": "1.163.2", "setuptools": "84.2.1", "psycopg2-binary": "2.9.13"},
    needed=frozenset({"matrix-synapse", "signedjson"}),
    pythons=">=3.10.0, <4.0.0",
    machine="x86_64",
    libc="glibc 2.36",
)
SQLITE = Settings((ConfigFile("/e"),), {"server_name": "a"})
POSTGRESQL = Settings((ConfigFile("/e"),), {"server_name": "a", "database": {"name": "psycopg2"}})


def settings(**config: t.Any) -> Settings:
    return Settings((ConfigFile("/e"),), config)


def observed(*ids: str) -> tuple[Observation, ...]:
    return tuple(Observation(one, f"evidence of {one}") for one in ids)


NOT_THERE = {"running": "", "libraries": (), "packages": {}, "needed": frozenset()}
SIGNEDJSON = Lack("matrix-synapse", "signedjson", ">=1.1.4,<2.0.0", None)
AUTHLIB = Lack("matrix-synapse", "authlib", "", None)
LDAP = "ldap_auth_provider"
# What was seen, the configuration, and what is said: the id, what the summary or the evidence says, and the repair.
CASES: dict[str, tuple[dict[str, t.Any], Settings | None, list[tuple[str, str, str, bool]]]] = {
    "a healthy release": ({}, SQLITE, []),
    "a healthy release for PostgreSQL": ({}, POSTGRESQL, []),
    "nothing is known of the configuration": ({}, None, []),
    "nothing at all": (
        {"kind": "nothing", **NOT_THERE},
        SQLITE,
        [("missing", "No Synapse is installed", "reinstall", True)],
    ),
    "a file": ({"kind": "file", **NOT_THERE}, SQLITE, [("missing", "is a file", "", False)]),
    "moved": (
        {"kind": "nothing", "beside": (f"{PATH}.old",), **NOT_THERE},
        SQLITE,
        [("missing", "venv moved.*shebang", "reinstall", True)],
    ),
    "a dangling link": (
        {"kind": "dangling", **NOT_THERE},
        SQLITE,
        [("link_dangling", "dangling symlink", "reinstall", True)],
    ),
    "no interpreter": (
        {"observed": observed("interpreter_missing"), "running": "", "silence": "rc=127"},
        SQLITE,
        [("interpreter_missing", "interpreter.*dangling symlink", "reinstall", True)],
    ),
    "Debian's own package": (
        {"observed": observed("interpreter_missing"), "running": "", "packaged": "matrix-synapse-py3"},
        SQLITE,
        [("interpreter_missing", "interpreter", "", False)],
    ),
    "an interpreter that does not start": (
        {"running": "", "silence": "Exec format error", "observed": observed("interpreter_broken")},
        SQLITE,
        [("interpreter_broken", "Exec format error", "reinstall", True)],
    ),
    "an interpreter that is slow": (
        {"running": "", "unanswered": "did not answer within 15 s"},
        SQLITE,
        [("unanswered", "no answer", "", False)],
    ),
    "no pyvenv.cfg": (
        {"prefix": "/usr", "absent": {"synapse": "synapse"}},
        SQLITE,
        [("config_missing", "pyvenv.cfg", "reinstall", True)],
    ),
    "another minor version": (
        {
            "running": "3.12.1",
            "absent": {"synapse": "synapse"},
            "observed": observed("interpreter_changed", "extension_mismatch"),
        },
        SQLITE,
        [("interpreter_changed", "Python version mismatch.*3.12.*3.11", "reinstall", True)],
    ),
    "copied under another minor version": (
        {
            "running": "3.12.1",
            "libraries": ("3.11", "3.12"),
            "failed": {f"{RELEASE}/x.so": "OSError"},
            "observed": observed("extension_mismatch", "distribution_duplicate"),
        },
        SQLITE,
        [("extension_mismatch", "compiled extension.*ABI.*rebuild", "reinstall", True)],
    ),
    "noexec": (
        {"observed": observed("noexec"), "failed": {f"{RELEASE}/x.so": "failed to map segment"}},
        SQLITE,
        [("noexec", "noexec", "", False)],
    ),
    "closed to the service": (
        {"unreadable": (f"{RELEASE}/lib",), "absent": {"synapse": "synapse"}},
        SQLITE,
        [("unreadable", "not readable by the service's user synapse", "reinstall", True)],
    ),
    "an interpreter in somebody's home": (
        {"running": "", "silence": "Permission denied", "barrier": "/root"},
        SQLITE,
        [("unreadable", "permission denied", "reinstall", True)],
    ),
    "behind a closed door": (
        {"running": "", "silence": "Permission denied", "barrier": "/var/lib/synapse"},
        SQLITE,
        [("unreadable", "permission denied", "permissions", True)],
    ),
    "no Synapse in it": (
        {"absent": {"synapse": "synapse"}, "packages": {"six": "1"}},
        SQLITE,
        [("synapse_missing", "No module named 'synapse'", "reinstall", True)],
    ),
    "no metadata": ({"packages": {"six": "1"}}, SQLITE, [("metadata_missing", "dist-info", "reinstall", True)]),
    "metadata twice": (
        {"observed": observed("distribution_duplicate")},
        SQLITE,
        [("metadata_duplicate", "duplicated", "reinstall", True)],
    ),
    "damaged files": (
        {
            "damaged": {"matrix-synapse": ("synapse/synapse_rust.abi3.so",)},
            "failed": {f"{RELEASE}/synapse/synapse_rust.abi3.so": "OSError: file too short"},
            "observed": observed("files_altered"),
        },
        SQLITE,
        [("files_damaged", "corrupt.*synapse_rust.*RECORD.*file too short", "reinstall", True)],
    ),
    "damage to what nothing needs": (
        {"damaged": {"oldplugin": ("a.py",)}},
        SQLITE,
        [("files_modified", "oldplugin", "reinstall", False)],
    ),
    "an edited file": (
        {"modified": {"matrix-synapse": ("synapse/a.py",)}},
        SQLITE,
        [("files_modified", "modified.*synapse/a.py", "reinstall", False)],
    ),
    "a missing dependency": (
        {"lacks": (SIGNEDJSON,), "observed": observed("distribution_missing")},
        SQLITE,
        [("dependency_missing", "signedjson.*pip check", "reinstall", True)],
    ),
    "an old dependency": (
        {"lacks": (replace(SIGNEDJSON, found="1.0"),)},
        SQLITE,
        [("dependency_version", "found 1.0", "reinstall", True)],
    ),
    "dependencies that do not fit each other": (
        {"lacks": (replace(SIGNEDJSON, by="treq", found="1.0"),)},
        SQLITE,
        [("dependency_conflict", "treq needs", "reinstall", False)],
    ),
    "no driver": (
        {
            "absent": {"psycopg2": "psycopg2"},
            "failed": {"psycopg2": "ModuleNotFoundError"},
            "packages": {"matrix-synapse": "1"},
        },
        POSTGRESQL,
        [("psycopg2_missing", "psycopg2.*extra postgres", "reinstall", True)],
    ),
    "no driver, and nothing that needs it": (
        {"absent": {"psycopg2": "psycopg2"}, "failed": {"psycopg2": "ModuleNotFoundError"}},
        SQLITE,
        [],
    ),
    "no libpq": (
        {
            "failed": {
                "psycopg2": "ImportError: libpq.so.5: cannot open shared object file",
                f"{RELEASE}/psycopg2/_psycopg.so": "OSError: libpq.so.5: cannot open shared object file",
            }
        },
        POSTGRESQL,
        [("libpq_missing", "shared object libpq.so.5 is missing", "reinstall", True)],
    ),
    "a driver without files": (
        {
            "absent": {"psycopg2": "psycopg2"},
            "failed": {"psycopg2": "ModuleNotFoundError"},
            "damaged": {"psycopg2": ("psycopg2/__init__.py",)},
            "packages": {"matrix-synapse": "1", "psycopg2": "2.9"},
        },
        POSTGRESQL,
        [("psycopg2_conflict", "psycopg2-binary", "reinstall", True)],
    ),
    "two drivers": (
        {"packages": {"matrix-synapse": "1", "psycopg2": "2.9", "psycopg2-binary": "2.9"}},
        POSTGRESQL,
        [("psycopg2_conflict", "own the same files", "reinstall", False)],
    ),
    "an extra that every release has": (
        {"extras": {"jwt": (AUTHLIB,), "oidc": (AUTHLIB,)}},
        settings(jwt_config={"enabled": True}),
        [("extra_missing", "jwt_config.*authlib.*oidc", "reinstall", True)],
    ),
    "an extra that nothing needs": ({"extras": {"jwt": (AUTHLIB,)}}, SQLITE, []),
    "an extra that has to be asked for": (
        {"extras": {"sentry": (replace(AUTHLIB, name="sentry-sdk"),)}},
        settings(sentry={"dsn": "***"}),
        [("extra_missing", "sentry-sdk", "", False)],
    ),
    "a configured module": (
        {"absent": {LDAP: LDAP}, "elsewhere": {LDAP: "/var/lib/synapse/releases/adopted-1"}},
        settings(modules=[{"module": f"{LDAP}.LdapAuthProviderModule"}]),
        [("module_missing", "ModuleNotFoundError.*adopted-1", "", False)],
    ),
    "a library that does not load": (
        {"failed": {f"{RELEASE}/lib/cffi.so": "OSError: libffi.so.7: cannot open"}},
        SQLITE,
        [("extension_broken", "libffi", "reinstall", True)],
    ),
    "the driver's library, where nothing needs it": (
        {"failed": {f"{RELEASE}/psycopg2/_psycopg.so": "OSError"}},
        SQLITE,
        [],
    ),
    "an import that fails": (
        {"failed": {"synapse.app.homeserver": "EOFError: marshal data too short"}},
        SQLITE,
        [("import_failed", "marshal data", "reinstall", True)],
    ),
    "too old a Python": (
        {"running": "3.9.2", "libraries": ("3.9",)},
        SQLITE,
        [("python_too_old", "Requires-Python", "", False), ("python_ends", "3.10", "", False)],
    ),
    "an old Python with an old Synapse": (
        {"running": "3.9.2", "libraries": ("3.9",), "pythons": ">=3.9", "version": "1.141.0"},
        SQLITE,
        [("python_ends", "1.141.0", "", False)],
    ),
    "moved scripts": (
        {"observed": observed("scripts_elsewhere")},
        SQLITE,
        [("scripts_elsewhere", "shebang", "reinstall", True)],
    ),
    "what pip left": (
        {"observed": observed("distribution_leftover")},
        SQLITE,
        [("leftover", "pip", "reinstall", False)],
    ),
    "packages removed": (
        {"observed": observed("distribution_missing")},
        SQLITE,
        [("changed", "distribution_missing", "reinstall", True)],
    ),
    "packages added": (
        {"observed": observed("distribution_foreign")},
        SQLITE,
        [("changed", "distribution_foreign", "reinstall", False)],
    ),
    "unproven": ({"unproven": "no manifest"}, SQLITE, [("unproven", "no manifest", "reinstall", False)]),
    "untrusted": (
        {"untrusted": "owner synapse", "writable": "it", "kind": "link"},
        SQLITE,
        [("untrusted", "owner synapse", "reinstall", True)],
    ),
    "set aside": (
        {"kind": "link", "target": ASIDE, "prefix": ASIDE, "writable": "it"},
        SQLITE,
        [("untrusted", "set aside", "reinstall", True)],
    ),
    "writable": ({"writable": f"{PATH}/lib"}, SQLITE, [("writable", "can change", "reinstall", False)]),
    "pkg_resources that is gone": (
        {"importers": {"oldplugin": False, "pytz": True}},
        SQLITE,
        [("pkg_resources_missing", "oldplugin", "", False)],
    ),
    "pkg_resources that nobody needs": ({"importers": {"pytz": True}}, SQLITE, []),
    "pkg_resources that warns": (
        {"importers": {"oldplugin": False}, "packages": {"matrix-synapse": "1", "setuptools": "80.9.0"}},
        SQLITE,
        [("pkg_resources", "oldplugin.*harmless", "", False)],
    ),
    "another processor": ({"machine": "armv7l"}, SQLITE, [("no_wheels", "armv7l.*Rust", "", False)]),
    "an old C library": ({"libc": "glibc 2.17"}, SQLITE, [("no_wheels", "2.17", "", False)]),
    "another C library": ({"libc": ""}, SQLITE, []),
    "the system's own Python": (
        {"kind": "system", "target": "/usr", "path": "/usr", "prefix": "", "libraries": ()},
        SQLITE,
        [],
    ),
}


def said(environment: Environment, config: Settings | None) -> tuple[diagnosis.Finding, ...]:
    return diagnosis.diagnose(Seen(Request(), environment=environment, settings=config), RULES.rules).findings


@pytest.mark.parametrize(("change", "config", "wanted"), CASES.values(), ids=list(CASES))
def test_what_is_said(
    change: dict[str, t.Any], config: Settings | None, wanted: list[tuple[str, str, str, bool]]
) -> None:
    found = said(replace(HEALTHY, **change), config)
    assert [(one.id, one.repair, one.safe) for one in found] == [(f"environment.{w[0]}", w[2], w[3]) for w in wanted]
    for one, (_name, words, _repair, _safe) in zip(found, wanted, strict=True):
        assert re.search(words, f"{one.summary} {one.evidence}", re.DOTALL), one


def test_each_rule_has_a_case() -> None:
    assert {rule.id for rule in RULES.rules} == {
        f"environment.{wanted[0]}" for _change, _config, many in CASES.values() for wanted in many
    }


def test_nothing_is_said_of_what_was_not_seen() -> None:
    assert diagnosis.diagnose(Seen(Request()), RULES.rules).findings == ()


@pytest.mark.parametrize(
    ("config", "extras"),
    [
        ({}, []),
        ({"jwt_config": {"enabled": False, "secret": "***"}}, ["jwt"]),
        ({"oidc_providers": []}, []),
        ({"oidc_providers": [{"idp_id": "a"}]}, ["oidc"]),
        ({"oidc_config": {"enabled": True}}, ["oidc"]),
        ({"saml2_config": {"sp_config": {}}}, ["saml2"]),
        ({"saml2_config": {"enabled": False}}, []),
        ({"redis": {"enabled": True}}, ["redis"]),
        ({"redis": {"host": "a"}}, []),
        ({"sentry": {"dsn": "***"}}, ["sentry"]),
        ({"opentracing": {"enabled": True}}, ["opentracing"]),
        ({"url_preview_enabled": True, "caches": {"track_memory_usage": True}}, ["url-preview", "cache-memory"]),
        ({"redis": "garbage", "caches": [], "saml2_config": "x"}, []),
    ],
)
def test_which_features_are_on(config: dict[str, t.Any], extras: list[str]) -> None:
    assert [extra for extra, _option in features_of(settings(**config))] == extras


def test_which_modules_are_loaded() -> None:
    config = {
        "modules": [{"module": "a.A"}, {"module": 5}, "garbage", {"module": "not a module"}],
        "password_providers": [{"module": "synapse.util.ldap_auth_provider.LdapAuthProvider"}, {"module": "b.c.B"}],
        "media_storage_providers": [{"module": "file_system"}, {"module": "s3_storage_provider.S3"}],
        "spam_checker": {"module": "d.D"},
        "third_party_event_rules": {"module": "e.E"},
        "oidc_providers": [{"user_mapping_provider": {"module": "f.F"}}],
        "ldap_config": {"enabled": True},
    }
    names = ["a.A", "b.c.B", "s3_storage_provider.S3", "d.D", "e.E", "f.F", "ldap_auth_provider.LdapAuthProvider"]
    assert list(modules_of(settings(**config))) == names
    assert modules_of(None) == {}


# --------------------------------------------------------------------------------------------- environments made up


class Host:
    """A folder with an environment in it that the tests' own Python runs; of Synapse it has only names."""

    def __init__(self, folder: pathlib.Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = os.path.realpath(python)
        words = [self.python, "-c", "import platform; print(platform.python_version())"]
        self.version = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        self.venv = folder / "venv"
        self.config: dict[str, t.Any] = {}

    def make(self, path: pathlib.Path) -> pathlib.Path:
        packages = path / "lib" / f"python3.{self.version.split('.')[1]}" / "site-packages"
        (path / "bin").mkdir(parents=True)
        packages.mkdir(parents=True)
        (path / "bin" / "python").symlink_to(self.python)
        (path / "pyvenv.cfg").write_text(f"home = {os.path.dirname(self.python)}\nversion = {self.version}\n")
        requires = "Requires-Python: >=3.8\nRequires-Dist: signedjson>=1.1\nRequires-Dist: authlib ; extra == 'jwt'\n"
        self.install(
            packages, "matrix-synapse", "1.163.2", {"synapse/__init__.py": "", "synapse/a.py": "x = 1\n"}, requires
        )
        (packages / "synapse" / "app").mkdir()
        self.install(packages, "signedjson", "1.1.4", {"signedjson/__init__.py": "", "signedjson/key.py": "y = 2\n"})
        return packages

    @staticmethod
    def install(packages: pathlib.Path, name: str, version: str, files: dict[str, str], head: str = "") -> None:
        info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        rows = [f"{info.name}/RECORD,,"]
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{head}\n"
        for file, text in {**files, f"{info.name}/METADATA": metadata}.items():
            (packages / file).parent.mkdir(parents=True, exist_ok=True)
            (packages / file).write_text(text)
            digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{file},sha256={digest},{len(text)}")
        (info / "RECORD").write_text("\n".join(rows) + "\n")

    def proven(self) -> pathlib.Path:
        """Make it a release that is live."""
        release = self.folder / "releases" / "1.163.2-0123456789ab"
        packages = self.make(release)
        self.venv.symlink_to(release)
        self.sign(release)
        return packages

    def sign(self, release: pathlib.Path) -> None:
        python = release / "bin" / "python"
        stamp = os.stat(python)
        manifest = Manifest(
            version="1.163.2",
            lock_digest="0" * 64,
            request="0",
            python=os.path.realpath(python),
            python_version=self.version,
            python_stamp=f"{stamp.st_size} {stamp.st_mtime_ns}",
            packages={"matrix-synapse": "1.163.2", "signedjson": "1.1.4"},
            installer="uv",
            proven_at="2026-01-01T00:00:00Z",
            tree=_venv_build.fingerprint_of(str(release)),
        )
        (release / "release.json").write_bytes(manifest.to_json())

    def look(self, run: t.Any = None, *, service: Service | None = None, user: str | None = None) -> Environment:
        request = Request(python=f"{self.venv}/bin/python", user=user)
        context = Context(request, run or process_runner(), time.monotonic() + 60)
        context.settings, context.service = settings(**self.config), service
        return environment_look.look(context)

    def ids(self, **options: t.Any) -> list[str]:
        seen = self.look(**options)
        ids = [one.id.partition(".")[2] for one in said(seen, settings(**self.config))]
        # The sandbox of a test run may be of any platform.
        return [one for one in ids if one != "no_wheels"]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def test_a_proven_release_is_not_read_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.proven()
    monkeypatch.setattr(environment_look._venv_tree, "inspect", lambda *_words: pytest.fail("it was read closely"))
    seen = host.look()
    assert (seen.version, seen.release, seen.kind) == ("1.163.2", "1.163.2-0123456789ab", "release")
    assert seen.proven
    assert seen.running == sys.version.split()[0]
    assert said(seen, SQLITE) == ()


def test_nothing_is_written(host: Host) -> None:
    packages = host.make(host.venv)
    (packages / "synapse" / "app" / "homeserver.py").write_text("")
    before = sorted(str(path) for path in host.folder.rglob("*"))
    host.look(service=Service())
    assert sorted(str(path) for path in host.folder.rglob("*")) == before


def test_a_release_that_changed_is_read_closely(host: Host) -> None:
    packages = host.proven()
    (packages / "signedjson" / "key.py").write_text("")
    assert host.ids() == ["files_damaged"]
    (packages / "signedjson" / "key.py").write_text("y = (\n")
    assert host.ids() == ["files_damaged"]
    (packages / "signedjson" / "key.py").write_text("y = 3  # mine\n")
    assert host.ids() == ["files_modified"]


def test_a_busy_host_compares_by_size(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = host.proven()
    monkeypatch.setattr(environment_look, "_HASHING", -1.0)
    (packages / "signedjson" / "key.py").write_text("z = 3\n")
    assert host.ids() == []
    (packages / "signedjson" / "key.py").write_text("")
    assert host.ids() == ["files_damaged"]


def test_packages_that_were_added_or_removed(host: Host) -> None:
    packages = host.proven()
    host.install(packages, "ldap3", "2.9", {"ldap3.py": ""})
    assert host.ids() == ["changed"]
    shutil.rmtree(packages / "signedjson")
    shutil.rmtree(packages / "signedjson-1.1.4.dist-info")
    assert host.ids() == ["dependency_missing"]


def test_what_a_folder_made_by_hand_lacks(host: Host) -> None:
    packages = host.make(host.venv)
    assert host.ids() == []
    host.config = {"jwt_config": {"enabled": True}, "modules": [{"module": "ldap_auth_provider.Ldap"}]}
    assert host.ids() == ["extra_missing", "module_missing"]
    host.install(packages, "authlib", "1.9", {"authlib/__init__.py": ""})
    (packages / "ldap_auth_provider.py").write_text("")
    assert host.ids() == []
    host.config = {"modules": [{"module": "ldap_auth_provider.inner.Ldap"}]}
    assert host.ids() == ["module_missing"]


def test_a_module_that_another_release_has(host: Host) -> None:
    host.make(host.venv)
    kept = host.make(host.folder / "releases" / "adopted-1.100.0-20260101T000000Z")
    (kept / "shared_secret_authenticator.py").write_text("")
    host.config = {"modules": [{"module": "shared_secret_authenticator.SharedSecretAuthProvider"}]}
    (found,) = said(host.look(), settings(**host.config))
    assert "adopted-1.100.0" in found.evidence
    assert "matrix-synapse-shared-secret-auth" in found.remedy


def test_a_damaged_library_kills_nobody_but_itself(host: Host) -> None:
    packages = host.make(host.venv)
    (packages / "broken.abi3.so").write_bytes(b"\x7fELF" + b"\0" * 100)
    assert host.ids() == ["extension_broken"]
    (packages / "killer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGBUS)\n")
    (packages / "broken.abi3.so").unlink()
    (packages / "synapse" / "app" / "homeserver.py").write_text("import killer\n")
    (packages / "synapse" / "app" / "generic_worker.py").write_text("")
    seen = host.look(service=Service())
    assert seen.failed == {"synapse.app.homeserver": "it ended the interpreter (SIGBUS)"}
    assert [one.id for one in said(seen, SQLITE)] == ["environment.import_failed"]
    # Where it serves, it was imported.
    assert host.look().failed == {}


def test_links_and_what_is_none(host: Host) -> None:
    assert host.ids() == ["missing"]
    host.proven()
    os.rename(host.venv, f"{host.venv}.old")
    seen = host.look()
    assert seen.beside == (f"{host.venv}.old",)
    # What served last is the version to come back to.
    assert (seen.version, seen.release) == ("1.163.2", None)
    host.venv.symlink_to(host.folder / "releases" / "1.150.0-ba9876543210")
    assert host.ids() == ["link_dangling"]
    assert host.look().version == "1.150.0"
    host.venv.unlink()
    host.venv.write_text("")
    assert host.ids() == ["missing"]


def test_interpreters(host: Host) -> None:
    packages = host.make(host.venv)
    python = host.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/opt/python3.10-gone/bin/python3.10")
    assert host.ids() == ["interpreter_missing"]
    python.unlink()
    python.write_text("#!/nowhere/python\n")
    python.chmod(0o755)
    assert host.ids() == ["interpreter_broken"]
    python.unlink()
    python.symlink_to(os.path.realpath(sys.executable))
    os.rename(packages.parent, packages.parent.parent / "python3.5")
    assert host.ids() == ["interpreter_changed"]


def test_a_folder_that_is_no_environment_any_more(host: Host) -> None:
    host.make(host.venv)
    (host.venv / "pyvenv.cfg").unlink()
    assert host.ids() == ["config_missing"]


def test_scripts_that_start_another_place(host: Host) -> None:
    host.make(host.venv)
    (host.venv / "bin" / "synctl").write_text("#!/old/venv/bin/python\n")
    assert host.ids() == ["scripts_elsewhere"]


def test_what_pip_leaves(host: Host) -> None:
    packages = host.make(host.venv)
    (packages / "~ynapse").mkdir()
    shutil.copytree(packages / "signedjson-1.1.4.dist-info", packages / "signedjson-1.0.0.dist-info")
    assert host.ids() == ["metadata_duplicate"]


def test_who_imports_pkg_resources(host: Host) -> None:
    packages = host.make(host.venv)
    host.install(packages, "oldplugin", "1", {"oldplugin/__init__.py": "import pkg_resources\n"})
    host.install(packages, "pytz", "1", {"pytz.py": "try:\n    import pkg_resources\nexcept ImportError:\n    pass\n"})
    assert host.ids() == ["pkg_resources_missing"]
    assert host.look().importers == {"oldplugin": False, "pytz": True}
    host.install(packages, "setuptools", "80.9.0", {"pkg_resources/__init__.py": "import pkg_resources.extern\n"})
    assert host.ids() == ["pkg_resources"]


def test_a_release_without_a_manifest(host: Host) -> None:
    host.proven()
    (host.folder / "releases" / "1.163.2-0123456789ab" / "release.json").unlink()
    assert host.ids() == ["unproven"]


def test_a_slow_host_is_not_broken(host: Host) -> None:
    host.proven()
    assert host.ids(run=lambda *_words, **_options: CommandResult(TIMED_OUT, "", "")) == ["unanswered"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user(request: pytest.FixtureRequest) -> None:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="synapse-environment-"))
    request.addfinalizer(lambda: shutil.rmtree(folder))
    folder.chmod(0o755)
    # The one that the tests run with may lie in a home.
    host = Host(folder, "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable)
    packages = host.proven()
    assert host.ids(user="nobody") == []
    packages.parent.chmod(0o700)
    assert host.ids(user="nobody") == ["unreadable"]
    packages.parent.chmod(0o755)
    host.folder.chmod(0o700)
    seen = host.look(user="nobody")
    assert seen.barrier == str(host.folder)
    host.folder.chmod(0o755)
    host.sign(host.folder / "releases" / "1.163.2-0123456789ab")
    shutil.chown(host.folder / "releases", "nobody")
    assert host.ids(user="nobody") == ["untrusted"]
    shutil.chown(host.folder / "releases", "root")
    packages.chmod(0o757)
    assert "writable" in host.ids(user="nobody")


def test_what_another_user_than_the_service_cannot_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = host.proven()
    (packages / "signedjson" / "key.py").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    refused = CommandResult(127, "", "python: Permission denied")
    assert host.ids(user="root", run=lambda *_words, **_options: refused) == ["unanswered"]


def test_what_is_hidden_is_not_missing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> t.NoReturn:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(environment_look.os, "lstat", refuse)
    assert host.ids() == ["unanswered"]


@pytest.mark.parametrize("answer", ["", "[]", json.dumps({"version": 1}), "x" * 100])
def test_whatever_an_interpreter_says_that_starts(host: Host, answer: str) -> None:
    host.proven()
    assert host.ids(run=lambda *_words, **_options: CommandResult(0, answer, "")) == ["unanswered"]


@pytest.mark.parametrize(
    ("rc", "stderr", "wanted"),
    [
        (127, "python: Exec format error", "interpreter_broken"),
        (1, "Fatal Python error: init_fs_encoding", "interpreter_broken"),
        (-11, "", "interpreter_broken"),
        (-9, "", "unanswered"),
        (127, "python: Cannot allocate memory", "unanswered"),
        (127, "python: Resource temporarily unavailable", "unanswered"),
    ],
)
def test_a_host_without_memory_is_not_a_broken_interpreter(host: Host, rc: int, stderr: str, wanted: str) -> None:
    host.proven()
    assert host.ids(run=lambda *_words, **_options: CommandResult(rc, "", stderr)) == [wanted]
