# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheelhouses on a host: when one counts as complete, and that unpacking leaves all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_archive, _wheelhouse_host
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import Entry, Manifest, Part, Target
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_host import Survey, libc_of, unpack

if t.TYPE_CHECKING:
    from pathlib import Path

WHEEL = "a-1-py3-none-any.whl"
FILES = {"lock.txt": b"a==1\n", WHEEL: b"a" * 1000}
TARGET = Target("3.11", "x86_64", "glibc")


def manifest_of(files: dict[str, bytes]) -> Manifest:
    entries = {name: Entry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    parts = {TARGET.name: Part("3.11", "x86_64", "glibc", "2.17", (WHEEL,))}
    return Manifest("2.0.0", "0" * 64, "1" * 64, "0.1.0", parts, entries)


def archive(path: Path, manifest: Manifest, files: dict[str, bytes]) -> str:
    content = ((name, len(data), (data,)) for name, data in files.items())
    path.write_bytes(b"".join(_wheelhouse_archive.compose(manifest, content)))
    return str(path)


class Host:
    """A folder of releases with, perhaps, wheelhouses."""

    def __init__(self, root: Path) -> None:
        self.releases = root / "releases"
        self.archive = root / "carried.tar"
        self.manifest = manifest_of(FILES)

    @property
    def houses(self) -> list[str]:
        folder = self.releases / ".wheelhouse"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def seen(self, digest: str) -> Survey:
        path = self.releases / ".wheelhouse" / f"{digest[:12]}-{TARGET.name}"
        complete = _wheelhouse_host._complete(str(path), digest, TARGET.name)
        return Survey(TARGET, "2.36", str(path), complete, "")

    def unpack(self, files: dict[str, bytes] | None = None, manifest: Manifest | None = None) -> Survey:
        manifest = manifest or self.manifest
        archive(self.archive, manifest, files or FILES)
        seen = self.seen(manifest.digest)
        unpack(str(self.archive), releases_path=str(self.releases), digest=manifest.digest, seen=seen)
        return self.seen(manifest.digest)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_was_unpacked_is_complete(host: Host) -> None:
    assert host.seen(host.manifest.digest).needed
    seen = host.unpack()
    assert not seen.needed
    assert seen.lock == os.path.join(seen.path, "lock.txt")
    assert sorted(os.listdir(seen.path)) == ["a-1-py3-none-any.whl", "lock.txt", "manifest.json"]
    assert oct(os.stat(os.path.join(seen.path, WHEEL)).st_mode)[-3:] == "644"


@pytest.mark.parametrize("name", ["a-1-py3-none-any.whl", "lock.txt", "manifest.json"])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_damaged_one_is_needed_again_and_replaced(host: Host, name: str, damage: str) -> None:
    path = os.path.join(host.unpack().path, name)
    if damage == "gone":
        os.remove(path)
    else:
        os.truncate(path, 3)
    assert host.seen(host.manifest.digest).needed
    assert not host.unpack().needed


def test_the_one_before_goes_when_the_next_is_complete(host: Host) -> None:
    first = host.unpack()
    files = {**FILES, WHEEL: b"b" * 10}
    second = host.unpack(files, manifest_of(files))
    assert host.houses == [os.path.basename(second.path)] != [os.path.basename(first.path)]


def test_a_wrong_hash_is_refused_and_nothing_is_changed(host: Host) -> None:
    first = host.unpack()
    files = {**FILES, WHEEL: b"b" * 10}
    with pytest.raises(SynapseError, match=r"a-1-py3-none-any\.whl has another hash"):
        host.unpack({**files, WHEEL: b"c" * 10}, manifest_of(files))
    assert host.houses == [os.path.basename(first.path)]
    assert not host.seen(host.manifest.digest).needed


def test_another_manifest_than_was_promised_is_refused(host: Host) -> None:
    archive(host.archive, manifest_of({**FILES, WHEEL: b""}), {**FILES, WHEEL: b""})
    with pytest.raises(SynapseError, match="changed on its way to this host"):
        unpack(
            str(host.archive),
            releases_path=str(host.releases),
            digest=host.manifest.digest,
            seen=host.seen(host.manifest.digest),
        )
    assert host.houses == []


def test_an_archive_for_others_is_refused(host: Host, tmp_path: Path) -> None:
    archive(host.archive, host.manifest, FILES)
    seen = Survey(Target("3.13", "x86_64", "glibc"), "2.36", str(tmp_path / "x"), False, "")
    with pytest.raises(SynapseError, match=r"has Python 3\.13 on x86_64"):
        unpack(str(host.archive), releases_path=str(host.releases), digest=host.manifest.digest, seen=seen)


def test_what_an_interrupted_run_left_goes(host: Host) -> None:
    left = host.releases / ".wheelhouse" / f"new-{host.manifest.digest[:12]}-{TARGET.name}"
    left.mkdir(parents=True)
    (left / "half.whl").write_text("half")
    seen = host.unpack()
    assert host.houses == [os.path.basename(seen.path)]


@pytest.mark.parametrize(
    ("said", "libc"),
    [("glibc 2.36", ("glibc", "2.36")), ("", ("musl", "")), (None, ("musl", "")), (ValueError, ("musl", ""))],
)
def test_the_c_library(said: t.Any, libc: tuple[str, str]) -> None:
    def confstr(name: str) -> str | None:
        if said is ValueError:
            raise ValueError(name)
        return t.cast("str | None", said)

    assert libc_of(confstr) == libc


def test_a_survey_takes_the_interpreter_that_an_environment_would_be_made_from(host: Host) -> None:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        markers = {"implementation_name": "cpython", "platform_machine": "arm64"}
        answer = {"executable": argv[0], "version": "3.12.1", "ensurepip": True, "markers": markers}
        return CommandResult(0, json.dumps(answer), "")

    seen = _wheelhouse_host.survey(
        run,
        releases_path=str(host.releases),
        named=sys.executable,
        version="2.0.0",
        floor=(3, 10),
        digest="ab" * 32,
        lock_digest="cd" * 32,
    )
    assert (seen.target.python, seen.target.architecture) == ("3.12", "aarch64")
    assert seen.path == str(host.releases / f".wheelhouse/abababababab-{seen.target.name}")
    assert seen.needed
    assert seen.lock is None
