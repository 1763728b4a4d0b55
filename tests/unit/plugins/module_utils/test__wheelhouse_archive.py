# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives on real files: the same bytes each time, read by tar, refused where a single one is wrong."""

from __future__ import annotations

import hashlib
import subprocess
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_archive as archive
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import Entry, Manifest, Part

if t.TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "lock.txt": b"a==1 --hash=sha256:00\n",
    "a-1-py3-none-any.whl": b"a" * 700,
    "b-1-cp311-cp311-manylinux_2_17_x86_64.whl": b"b" * (3 * 1024 * 1024 + 1),
    "b-1-cp312-cp312-manylinux_2_17_x86_64.whl": b"c" * 512,
    f"{'long_' * 30}-1-py3-none-any.whl": b"",
}


def manifest_of(files: dict[str, bytes]) -> Manifest:
    names = tuple(name for name in files if name != "lock.txt")
    parts = {
        "cp311-x86_64-glibc": Part("3.11", "x86_64", "glibc", "2.17", tuple(x for x in names if "cp312" not in x)),
        "cp312-x86_64-glibc": Part("3.12", "x86_64", "glibc", "2.17", tuple(x for x in names if "cp311" not in x)),
    }
    entries = {name: Entry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    return Manifest("2.0.0", "0" * 64, "1" * 64, "0.1.0", parts, entries)


def write(path: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    content = ((name, len(data), (data,)) for name, data in files.items())
    path.write_bytes(b"".join(archive.compose(manifest, content)))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "whole.tar", manifest_of(FILES), FILES)


def test_tar_reads_it(whole: Path) -> None:
    listed = subprocess.run(["tar", "-tf", whole], capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["manifest.json", *FILES]
    assert whole.stat().st_size % 10240 == 0


def test_the_same_files_are_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    assert write(tmp_path / "again.tar", manifest_of(FILES), FILES).read_bytes() == whole.read_bytes()


def test_its_head_tells_what_is_in_it(whole: Path) -> None:
    head = archive.head_of(str(whole))
    assert head.manifest == manifest_of(FILES)
    assert head.lock == FILES["lock.txt"].decode()


def test_a_part_holds_what_one_kind_of_host_takes(whole: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.tar"
    part.write_bytes(b"".join(archive.part_of(str(whole), manifest_of(FILES), "cp312-x86_64-glibc")))
    listed = subprocess.run(["tar", "-tf", part], capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) == {"manifest.json"} | {name for name in FILES if "cp311" not in name}
    assert archive.head_of(str(part)).manifest.digest == manifest_of(FILES).digest


def test_no_part_of_a_file_is_larger_than_a_chunk(whole: Path) -> None:
    assert max(map(len, archive.part_of(str(whole), manifest_of(FILES), "cp311-x86_64-glibc"))) <= 1024 * 1024


def test_a_whole_one_passes(whole: Path) -> None:
    archive.verify(str(whole), manifest_of(FILES))


def test_a_file_on_disk_is_checked_on_its_way_in(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"right")
    entry = Entry(hashlib.sha256(b"right").hexdigest(), 5)
    _name, size, content = archive.of_file(str(path), "a-1-py3-none-any.whl", entry)
    assert (size, b"".join(content)) == (5, b"right")
    path.write_bytes(b"wrong")
    with pytest.raises(SynapseError, match="another hash"):
        list(archive.of_file(str(path), "a-1-py3-none-any.whl", entry)[2])
    path.unlink()
    with pytest.raises(SynapseError, match="Cannot read"):
        list(archive.of_file(str(path), "a-1-py3-none-any.whl", entry)[2])


# ---------------------------------------------------------------------------------------------------------- the damage


def test_one_changed_byte_is_found(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    data[data.index(b"a" * 700) + 350] ^= 1
    whole.write_bytes(data)
    with pytest.raises(
        SynapseError, match=r"a-1-py3-none-any\.whl has another hash than the manifest says.*nothing was changed"
    ):
        archive.verify(str(whole), manifest_of(FILES))


@pytest.mark.parametrize("keep", [0, 100, 5000, 0.3, 0.9])
def test_a_truncated_one_is_refused_wherever_it_ends(whole: Path, keep: float) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(SynapseError, match="is damaged"):
        archive.verify(str(whole), archive.head_of(str(whole)).manifest)


def test_a_shorter_wheel_is_refused(tmp_path: Path) -> None:
    files = {**FILES, "a-1-py3-none-any.whl": b"a" * 600}
    path = write(tmp_path / "short.tar", manifest_of(FILES), files)
    with pytest.raises(SynapseError, match="has 600 bytes instead of 700"):
        archive.verify(str(path), manifest_of(FILES))


def test_a_missing_wheel_is_refused(tmp_path: Path) -> None:
    files = {name: data for name, data in FILES.items() if "cp312" not in name}
    path = write(tmp_path / "less.tar", manifest_of(FILES), files)
    with pytest.raises(SynapseError, match=r"b-1-cp312.*is missing"):
        archive.verify(str(path), manifest_of(FILES))


def test_another_lock_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "lock.tar", manifest_of(FILES), {**FILES, "lock.txt": b"b==1 --hash=sha256:00\n"})
    with pytest.raises(SynapseError, match=r"lock\.txt has another hash"):
        archive.head_of(str(path))


def test_files_in_another_order_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "order.tar", manifest_of(FILES), dict(reversed(FILES.items())))
    with pytest.raises(SynapseError, match=r"lock\.txt is not where it should be"):
        archive.head_of(str(path))


@pytest.mark.parametrize("data", [b"", b"no archive", bytes(10240), b"x" * 10240])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none.tar"
    path.write_bytes(data)
    with pytest.raises(SynapseError, match="is damaged"):
        archive.head_of(str(path))


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    path = tmp_path / "other.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", path, "manifest.json"], check=True)
    with pytest.raises(SynapseError, match="none of this collection's"):
        archive.head_of(str(path))


def test_where_there_is_none_the_way_to_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(SynapseError, match="make it with the playbook 'wheelhouse'"):
        archive.head_of(str(tmp_path / "none"))
    with pytest.raises(SynapseError, match="Cannot read"):
        archive.head_of(str(tmp_path))
