# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public index as pip knows it."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _public_index
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._public_index import (
    constant_in,
    public_index,
    sources,
)

PLACE = "pip/_internal/models/index.py"
# As in pip 23.2.
SOURCE = """
import urllib.parse


class PackageIndex:
    def __init__(self, url: str, file_storage_domain: str) -> None:
        self.simple_url = urllib.parse.urljoin(url, "simple")


PyPI = PackageIndex("https://index.example/", file_storage_domain="files.example")
TestPyPI = PackageIndex("https://test.index.example/", file_storage_domain="test-files.example")
"""


@pytest.mark.parametrize(
    ("source", "url"),
    [
        (SOURCE, "https://index.example/simple"),
        ("PyPI = PackageIndex(HERE)", ""),
        ("PyPI = PackageIndex(1)", ""),
        ("PyPI = PackageIndex()", ""),
        ("PyPI = 'https://index.example/'", ""),
        ("TestPyPI = PackageIndex('https://test.index.example/')", ""),
        ("def broken(", ""),
        ("\0", ""),
        ("", ""),
    ],
)
def test_the_address_that_pip_s_source_names(source: str, url: str) -> None:
    assert constant_in(source) == url


def test_pip_s_package_is_read_before_a_wheel_and_what_is_damaged_is_passed_over(tmp_path: Path) -> None:
    package, wheels = tmp_path / "site-packages", tmp_path / "wheels"
    (package / PLACE).parent.mkdir(parents=True)
    (package / PLACE).write_text("installed")
    binary = tmp_path / "binary"
    (binary / PLACE).parent.mkdir(parents=True)
    (binary / PLACE).write_bytes(b"\xff\xfe")
    wheels.mkdir()
    for name, member in (("pip-1-py3-none-any.whl", PLACE), ("pip-2-py3-none-any.whl", "pip/other.py")):
        with zipfile.ZipFile(wheels / name, "w") as archive:
            archive.writestr(member, "bundled")
    (wheels / "pip-3-py3-none-any.whl").write_text("no archive")
    (wheels / "setuptools-1-py3-none-any.whl").write_text("no archive")
    folders = [str(tmp_path / "missing"), str(binary), str(package)]
    assert list(sources(folders, [str(tmp_path / "missing"), str(wheels)])) == ["installed", "bundled"]


def test_it_is_what_the_pip_of_this_interpreter_would_ask() -> None:
    pip = pytest.importorskip("pip._internal.models.index")
    assert public_index() == pip.PyPI.simple_url


def test_reading_pip_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in {"pip", "ensurepip"}]:
        monkeypatch.delitem(sys.modules, name)
    public_index()
    assert not [name for name in sys.modules if name.split(".")[0] in {"pip", "ensurepip"}]


def test_without_any_pip_there_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_public_index, "_folders_of", lambda package: [])
    monkeypatch.setattr(_public_index, "_DEBIAN", "/nowhere")
    monkeypatch.setattr(_public_index.sysconfig, "get_config_var", lambda name: None)
    assert public_index() == ""


def test_the_wheel_of_ensurepip_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_bundled").mkdir()
    with zipfile.ZipFile(tmp_path / "_bundled/pip-23.2.1-py3-none-any.whl", "w") as archive:
        archive.writestr(PLACE, SOURCE)
    monkeypatch.setattr(_public_index, "_folders_of", lambda name: [str(tmp_path)] if name == "ensurepip" else [])
    assert public_index() == "https://index.example/simple"
