# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installers: what they are told, what they may not see, what their errors mean. Errors are recorded from real runs."""

from __future__ import annotations

import io
import json
import typing as t
import zipfile
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _installer
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import (
    UV_VERSION,
    Pip,
    Sources,
    UnavailableError,
    Uv,
    bootstrap_uv,
    explain,
    host_sources,
    keep_hashes,
    lock_of_report,
    requirements_for,
    stray_variables,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, SynapseError

SOURCES = Sources("https://user:pa55word@index.example/simple", ("https://tok3n@more.example/x",), ("/srv/wheels",))


class Recorder:
    """A runner that keeps what it was given."""

    def __init__(self, result: CommandResult) -> None:
        self.result = result
        self.calls: list[tuple[list[str], dict[str, str], str | None]] = []

    def __call__(self, argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        self.calls.append((list(argv), dict(options.get("env") or {}), options.get("stdin")))
        return self.result


def test_addresses_with_passwords_travel_in_the_environment_alone(tmp_path: Path) -> None:
    run = Recorder(CommandResult(0, f"a==1 --hash=sha256:{'0' * 64}\n", ""))
    uv = Uv(run, program="/uv", python="/py", sources=SOURCES, cache="/c", scratch=str(tmp_path))
    uv.resolve(["a"], constraints="b<2\n", before="2025-01-01T00:00:00Z")
    uv.create("/r")
    uv.install("/r", "/r/lock.txt", binary_only=True)
    pip = Pip(run, python="/py", sources=SOURCES, cache="/c", scratch=str(tmp_path))
    pip.create("/r")
    pip.install("/r", str(tmp_path / "lock.txt"), binary_only=True)
    for argv, env, _unused in run.calls:
        assert "pa55word" not in " ".join(argv)
        assert "tok3n" not in " ".join(argv)
        assert SOURCES.index_url in env.values()
    assert run.calls[0][2] == "a\n"
    assert "--exclude-newer" in run.calls[0][0]
    install = run.calls[2][0]
    assert {"--require-hashes", "--no-deps", "--no-build", "--find-links"} <= set(install)


def test_a_lock_for_all_is_resolved_once_and_its_files_are_looked_up_in_the_cache(tmp_path: Path) -> None:
    locked = f"a==1 ; python_version < '3.11' \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\nb==2\n"
    seen: list[tuple[list[str], str]] = []

    def run(argv: t.Sequence[str], *, stdin: str = "", **unused: t.Any) -> CommandResult:
        seen.append((list(argv), stdin))
        if "--output-file" in argv:
            output = Path(argv[argv.index("--output-file") + 1])
            assert output.read_text() == "b==1\n", "what is preferred lies there"
            output.write_text(locked)
        return CommandResult(0, "files", "")

    uv = Uv(run, program="/uv", python="/py", sources=SOURCES, cache="/c", scratch=str(tmp_path))
    made = uv.resolve_for_all(["a", "b"], floor="3.10", preferred=["b==1"], before="2025-01-01T00:00:00Z")
    assert made == (locked, "files")
    for argv, _stdin in seen:
        assert {"--universal", "--exclude-newer", "--find-links"} <= set(argv)
        assert argv[argv.index("--python-version") + 1] == "3.10"
        assert "pa55word" not in " ".join(argv)
    assert [stdin for _argv, stdin in seen] == ["a\nb\n", "a==1 ; python_version < '3.11'\nb==2\n"]
    assert {"--offline", "--no-deps", "pylock.toml"} <= set(seen[1][0])


@pytest.mark.parametrize(("links", "no_index"), [((), False), (("/srv/wheels",), True)])
def test_offline_asks_no_index(links: tuple[str, ...], no_index: bool, tmp_path: Path) -> None:
    run = Recorder(CommandResult(0, "", ""))
    sources = Sources("https://index.example/simple", find_links=links, offline=True)
    Uv(run, program="/uv", python="/py", sources=sources, cache="/c", scratch=str(tmp_path)).install(
        "/r", "/l", binary_only=False
    )
    argv, env, _unused = run.calls[0]
    assert env["UV_OFFLINE"] == "1"
    assert ("--no-index" in argv) is no_index


def test_a_bundle_of_authorities_reaches_both() -> None:
    run = Recorder(CommandResult(0, "", ""))
    sources = Sources("https://index.example/simple", ca_bundle="/ca.pem")
    Uv(run, program="/uv", python="/py", sources=sources, cache="/c", scratch="/").create("/r")
    Pip(run, python="/py", sources=sources, cache="/c", scratch="/").create("/r")
    assert run.calls[0][1]["SSL_CERT_FILE"] == "/ca.pem"
    assert run.calls[1][1]["PIP_CERT"] == "/ca.pem"


def test_the_host_s_own_settings_do_not_reach_an_installer() -> None:
    names = [
        "PATH",
        "HOME",
        "https_proxy",
        "PIP_EXTRA_INDEX_URL",
        "UV_INDEX",
        "UV_CACHE_DIR",
        "PYTHONPATH",
        "VIRTUAL_ENV",
    ]
    assert stray_variables(names) == ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "PYTHONPATH", "VIRTUAL_ENV")


CONF = "[global]\nindex-url = https://a.example/simple\ncert = /a.pem\nextra-index-url = https://evil.example\n"


@pytest.mark.parametrize(
    ("environ", "files", "expected"),
    [
        ({}, [], ("", "")),
        ({}, [CONF], ("https://a.example/simple", "/a.pem")),
        ({}, [CONF, "[install]\nindex-url=https://b.example\n"], ("https://b.example", "/a.pem")),
        ({"PIP_INDEX_URL": "https://c.example", "PIP_CERT": "/c.pem"}, [CONF], ("https://c.example", "/c.pem")),
        ({"UV_DEFAULT_INDEX": "https://d.example", "PIP_INDEX_URL": "x"}, [], ("https://d.example", "")),
        ({"SSL_CERT_FILE": "/s.pem"}, [], ("", "/s.pem")),
        ({}, ["not a configuration", CONF], ("https://a.example/simple", "/a.pem")),
        ({}, ["[global]\ncert = %(x)s\n"], ("", "%(x)s")),
    ],
)
def test_index_and_authorities_come_from_the_host(
    environ: dict[str, str], files: list[str], expected: tuple[str, str]
) -> None:
    assert host_sources(environ, files) == expected


@pytest.mark.parametrize(
    ("extras", "packages", "expected"),
    [
        ((), (), ["matrix-synapse==1.0", "psycopg2-binary"]),
        (("redis", "postgres", "redis"), (), ["matrix-synapse[redis]==1.0", "psycopg2-binary"]),
        (("postgres",), ("psycopg2==2.9",), ["matrix-synapse==1.0", "psycopg2==2.9"]),
        ((), ("b>1", "a==1"), ["matrix-synapse==1.0", "a==1", "b>1", "psycopg2-binary"]),
    ],
)
def test_what_is_resolved(extras: tuple[str, ...], packages: tuple[str, ...], expected: list[str]) -> None:
    assert requirements_for("1.0", extras, packages, ()) == expected


def test_all_extras_leave_psycopg2_out() -> None:
    (line, *_rest) = requirements_for("1.0", ["all"], [], [])
    assert "saml2" in line
    assert "postgres" not in line


def test_what_a_lock_has_stays_as_it_is() -> None:
    base = parse(f"twisted==26 --hash=sha256:{'1' * 64}\na==1 ; os_name == 'posix' --hash=sha256:{'2' * 64}\n")
    assert requirements_for("1.0", [], ["twisted==27"], base)[-1] == "a==1 ; os_name == 'posix'"
    assert "twisted==27" in requirements_for("1.0", [], ["twisted==27"], base)
    resolved = (Pin("twisted", "26", "", ("f" * 64,)), Pin("new", "1", "", ("e" * 64,)))
    assert [pin.hashes for pin in keep_hashes(resolved, base)] == [("1" * 64,), ("e" * 64,)]


UV_HASH = """error: Failed to install: light_a-1.0-py3-none-any.whl (light-a==1.0)
  Caused by: Hash mismatch for `light-a==1.0`

Expected:
  sha256:0000

Computed:
  sha256:8c1f"""
UV_DNS = """error: Failed to fetch: `https://user:pa55word@index.example/simple/a/`
  Caused by: error sending request for url
  Caused by: dns error
  Caused by: failed to lookup address information"""
UV_TLS = """  Caused by: client error (Connect)
  Caused by: invalid peer certificate: UnknownIssuer"""
UV_FULL = "error: failed to write to file `/r/x`: No space left on device (os error 28)"
UV_NO_WHEEL = "error: Distribution `a==1` is marked as `--no-build` but has no usable wheels"
UV_MISSING = """error: No solution found when resolving dependencies:
  Because a was not found in the provided package locations, your requirements are unsatisfiable."""
UV_CONTRADICTION = """error: No solution found when resolving dependencies for split (markers: python_version >= '3')
  cause: Because matrix-synapse==1.150.0 depends on twisted[tls]>=21.2.0 and you require matrix-synapse==1.150.0, we
         can conclude that you require twisted>=21.2.0.
         And because you require twisted<20, we can conclude that your requirements are unsatisfiable.

hint: While the active Python version is 3.11, the resolution failed for other Python versions."""
PIP_HASH = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated them,
    light-a==1.0 from file:///w/light_a-1.0-py3-none-any.whl (from -r l (line 2)):
        Expected sha256 0000
             Got        8c1f"""
PIP_REFUSED = """WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError: Failed to establish a
new connection: [Errno 111] Connection refused'"""
PIP_TLS = "Could not fetch URL https://h/: There was a problem confirming the ssl certificate: SSLError("
PIP_FULL = "OSError: [Errno 28] No space left on device"
OTHER = "something nobody has seen"
ERRORS = {
    UV_HASH: "Wrong hash: what the index served for light-a==1.0 is",
    UV_DNS: "index.example, more.example cannot be reached",
    UV_TLS: "'ca_bundle'",
    UV_FULL: "The disk is full",
    UV_NO_WHEEL: "has no wheel",
    UV_CONTRADICTION: "install the packages. Because matrix-synapse==1.150.0 depends on twisted[tls]>=21.2.0 and "
    "you require matrix-synapse==1.150.0, we can conclude that you require twisted>=21.2.0. And because you require "
    "twisted<20, we can conclude that your requirements are unsatisfiable. Correct the version",
    PIP_HASH: "Wrong hash: what the index served for light-a==1.0 is",
    PIP_REFUSED: "cannot be reached",
    PIP_TLS: "'ca_bundle'",
    PIP_FULL: "The disk is full",
    OTHER: "the installer ended with 2. It said: something nobody has seen",
}


@pytest.mark.parametrize("stderr", ERRORS)
def test_an_error_says_what_to_do(stderr: str) -> None:
    message = explain(CommandResult(2, "", stderr), doing="install the packages", sources=SOURCES).msg
    assert ERRORS[stderr] in message
    assert "\n" not in message
    assert "pa55word" not in message


def test_a_wheel_that_is_missing_offline_is_told_from_an_unreachable_index() -> None:
    offline = Sources("https://index.example/simple", find_links=("/w",), offline=True)
    result = CommandResult(1, "", UV_MISSING)
    assert "find_links" in explain(result, doing="install the packages", sources=offline).msg


def test_a_report_of_pip_becomes_a_lock() -> None:
    report = {
        "install": [
            {
                "metadata": {"name": "Zope.Interface", "version": "8.7"},
                "download_info": {
                    "url": "x",
                    "archive_info": {"hash": f"sha256={'a' * 64}", "hashes": {"sha256": "a" * 64}},
                },
            },
            {
                "metadata": {"name": "attrs", "version": "26.1.0"},
                "download_info": {"url": "x", "archive_info": {"hash": f"sha256={'b' * 64}"}},
            },
        ]
    }
    pins = parse(lock_of_report(json.dumps(report)))
    assert [(pin.name, pin.version, pin.hashes[0][0]) for pin in pins] == [
        ("attrs", "26.1.0", "b"),
        ("zope-interface", "8.7", "a"),
    ]


# ---------------------------------------------------------------------------------------------------------- bootstrap


def archive(text: bytes = b"#!/bin/sh\n") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        wheel.writestr(f"uv-{UV_VERSION}.data/scripts/uv", text)
    return stream.getvalue()


def test_uv_is_taken_from_the_index_once_and_its_hash_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    data = archive()
    name = f"uv-{UV_VERSION}-test.whl"
    monkeypatch.setitem(_installer._UV_WHEELS, ("x86_64", "glibc"), (name, hashlib.sha256(data).hexdigest()))
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return data if url.endswith(".whl") else f'<a href="files/{name}#sha256=x">x</a>'.encode()

    def boot() -> str:
        sources = Sources("https://index.example/simple")
        return bootstrap_uv(str(tmp_path), machine="x86_64", glibc=True, sources=sources, fetch=fetch)

    program = Path(boot())
    assert program.read_bytes() == b"#!/bin/sh\n"
    assert program.stat().st_mode & 0o777 == 0o755
    assert asked == ["https://index.example/simple/uv/", f"https://index.example/simple/uv/files/{name}"]
    boot()
    assert len(asked) == 2
    program.unlink()
    data = archive(b"evil")
    with pytest.raises(SynapseError, match="Wrong hash"):
        boot()
    assert not program.exists()


def missing(url: str) -> bytes:
    raise FileNotFoundError(url)


@pytest.mark.parametrize(
    ("machine", "offline", "complaint"),
    [
        ("riscv64", False, "the processor riscv64"),
        ("x86_64", False, "is not in index.example"),
        ("arm64", True, "find_links"),
    ],
)
def test_uv_that_cannot_be_had_is_told_from_other_failures(
    tmp_path: Path, machine: str, offline: bool, complaint: str
) -> None:
    sources = Sources("https://index.example/simple", offline=offline)
    with pytest.raises(UnavailableError, match=complaint):
        bootstrap_uv(str(tmp_path), machine=machine, glibc=True, sources=sources, fetch=missing)


def test_without_a_known_index_uv_says_so_and_installers_ask_their_own(tmp_path: Path) -> None:
    unknown = Sources("", find_links=(str(tmp_path),))

    def fetch(url: str) -> bytes:
        raise AssertionError(url)

    with pytest.raises(UnavailableError, match=r"no package index is known .*: set 'index_url'"):
        bootstrap_uv(str(tmp_path), machine="x86_64", glibc=True, sources=unknown, fetch=fetch)
    seen = Recorder(CommandResult(0, "", ""))
    Uv(seen, program="/uv", python="/p", sources=unknown, cache="/c", scratch="/s").create("/new")
    Pip(seen, python="/p", sources=unknown, cache="/c", scratch="/s").create("/new")
    for argv, env, _unused in seen.calls:
        assert not {"UV_DEFAULT_INDEX", "PIP_INDEX_URL"} & set(env), argv
    assert unknown.hosts() == "its default place"
