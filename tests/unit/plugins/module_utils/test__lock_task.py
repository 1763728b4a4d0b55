# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of ``synapse_lock``: what is asked for, when an index is asked, what is refused, what is written."""

from __future__ import annotations

import json
import os
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock, _installer, _lock_task
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import digest_of, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock_task import Options, Task
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
PARAMS: dict[str, t.Any] = {
    "path": "/srv/synapse.lock",
    "version": "1.150.0",
    "extras": [],
    "extra_packages": [],
    "pythons": ["3.10", "3.11", "3.12", "3.13", "3.14"],
    "architectures": ["x86_64", "aarch64"],
    "base": None,
    "exclude_newer": "auto",
    "renew": False,
    "index_url": "https://index.example/simple",
    "extra_index_urls": [],
    "find_links": [],
    "offline": False,
    "ca_bundle": None,
    "cache_path": "/srv/cache",
}


def options(**params: t.Any) -> Options:
    return Options.from_params({**PARAMS, **params})


def test_nothing_said_is_the_shipped_lock() -> None:
    asked = options(version=None, extras=[], pythons=[], architectures=[])
    assert (asked.version, asked.extras) == (_default_lock.VERSION, _default_lock.EXTRAS)
    assert asked.pythons == ("3.10", "3.11", "3.12", "3.13", "3.14")


def test_the_order_in_which_things_are_asked_for_does_not_count() -> None:
    old: dict[str, t.Any] = {"version": "1.100.0"}
    first = options(extras=["redis", "jwt"], pythons=["3.9", "3.10"], architectures=["arm64", "amd64"], **old)
    second = options(
        extras=["jwt", "redis", " "], pythons=["3.10", "3.9", "3.9"], architectures=["aarch64", "x86_64"], **old
    )
    assert first.request() == second.request()
    assert first.pythons[0] == "3.9", "versions are no text"


REFUSED = {
    "a path from nowhere": ({"path": "synapse.lock"}, "'path' is 'synapse.lock': give an absolute path"),
    "a cache from nowhere": ({"cache_path": "cache"}, "'cache_path' is 'cache': give an absolute path"),
    "a version that is none": ({"version": "newest"}, "'version' is 'newest'"),
    "a package that is none": ({"extra_packages": ["https://x"]}, "'extra_packages' has 'https://x'"),
    "a number of YAML": ({"pythons": ["3.1"]}, "YAML reads 3.10 without quotes as the number 3.1"),
    "a Python that is none": ({"pythons": ["three"]}, "'pythons' has 'three'"),
    "a Python that is too old": ({"pythons": ["3.9"]}, "Synapse 1.150.0 needs Python 3.10 or newer"),
    "a processor that is none": ({"architectures": ["x86-64"]}, "'architectures' has 'x86-64'"),
    "a day that is none": ({"exclude_newer": "soon"}, "'exclude_newer' is 'soon'"),
    "a day that never was": ({"exclude_newer": "2026-02-30"}, "'exclude_newer' is '2026-02-30'"),
    "the end of all days": ({"exclude_newer": "9999-12-31"}, "'exclude_newer' is '9999-12-31'"),
    "an address that is none": ({"index_url": "https://user:pa55@h:x/"}, "'index_url' holds something"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name: str) -> None:
    params, message = REFUSED[name]
    with pytest.raises(SynapseError) as refused:
        options(**params)
    assert message in refused.value.msg
    assert "pa55" not in refused.value.msg


# ---------------------------------------------------------------------------------------------------------- whole runs


LOCK = f"""\
matrix-synapse==1.150.0 --hash=sha256:{A} --hash=sha256:{B}
pywin32==1 ; sys_platform == 'win32' --hash=sha256:{C}
"""
FILES = {A: "matrix_synapse-1.150.0-cp310-abi3-manylinux_2_28_x86_64.whl", B: "matrix_synapse-1.150.0.tar.gz"}
RELEASED = ({"1.150.0": "2026-03-24T12:00:00Z"}, {"1.150.0": "2026-03-24T12:00:00Z", "1.151.0": "2026-04-07T12:00:00Z"})


class Site:
    """A folder for a lock, an index and a uv that resolves to what it is told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "synapse.lock"
        self.released = RELEASED[1]
        self.lock, self.files = LOCK, dict(FILES)
        self.asked: list[dict[str, t.Any]] = []
        self.fetched: list[str] = []
        self.task: Task | None = None

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        listing = [
            {"filename": f"matrix_synapse-{version}.tar.gz", "url": "x", "upload-time": time}
            for version, time in self.released.items()
        ]
        return json.dumps({"files": listing}).encode()

    def resolve_for_all(self, wanted: t.Sequence[str], **how: t.Any) -> tuple[str, str]:
        self.asked.append({"wanted": list(wanted), **how})
        entries = [
            f'[[packages]]\nwheels = [{{ name = "{name}", hashes = {{ sha256 = "{digest}" }} }}]'
            for digest, name in self.files.items()
        ]
        return self.lock, "\n".join(entries)

    def run(self, *, apply: bool = True, **params: t.Any) -> dict[str, t.Any]:
        asked = options(
            **{"path": str(self.path), "cache_path": str(self.root / "cache"), "architectures": ["x86_64"], **params}
        )
        unused = t.cast("t.Any", None)
        scratch = self.root / "scratch"
        scratch.mkdir(exist_ok=True)
        self.task = Task(asked, run=unused, fetcher=lambda sources: self.fetch, scratch=str(scratch))
        return self.task.run(apply=apply)

    def warnings(self) -> list[str]:
        assert self.task is not None
        return self.task.warnings


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    one = Site(tmp_path)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    monkeypatch.setattr(_installer, "bootstrap_uv", lambda tools, **unused: f"{tools}/uv")
    monkeypatch.setattr(_installer, "Uv", lambda run, **unused: one)
    return one


def test_a_lock_is_made_once_and_then_left_alone(site: Site) -> None:
    predicted = site.run(apply=False)
    assert not site.path.exists()
    assert not (site.root / "cache").exists()
    made = site.run()
    assert made == predicted
    assert made["changed"]
    assert made["as_of"] == "2026-03-25"
    assert [one["name"] for one in made["packages"]] == ["matrix-synapse"]
    assert made["digest"] == digest_of(parse(site.path.read_text()))
    assert site.path.stat().st_mode & 0o777 == 0o644
    asked, fetched = len(site.asked), len(site.fetched)
    again = site.run()
    assert not again["changed"]
    assert {**again, "changed": True, "diff": made["diff"]} == made
    assert again["diff"]["before"] == again["diff"]["after"]
    assert (len(site.asked), len(site.fetched)) == (asked, fetched), "nobody is asked where nothing is to be done"


def test_what_is_resolved_is_what_is_asked_for(site: Site) -> None:
    site.run(extras=["redis"], extra_packages=["b", "a==1"], pythons=["3.12", "3.11"], exclude_newer="2026-03-30")
    asked = site.asked[0]
    assert asked["wanted"] == ["matrix-synapse[redis]==1.150.0", "a==1", "b", "psycopg2-binary"]
    assert (asked["floor"], asked["before"]) == ("3.11", "2026-03-31T00:00:00Z")
    assert asked["preferred"] == []


def test_the_newest_version_has_no_limit(site: Site) -> None:
    site.released = RELEASED[0]
    assert site.run()["as_of"] is None
    assert site.asked[0]["before"] == ""


def test_it_is_told_where_the_index_knows_no_days(site: Site) -> None:
    site.released = {"1.150.0": "", "1.151.0": ""}
    assert site.run()["as_of"] is None
    assert "does not say when Synapse 1.150.0 was released" in site.warnings()[0]


def test_pins_of_the_base_are_preferred_without_their_hashes(site: Site) -> None:
    base = site.root / "base.lock"
    base.write_text(f"attrs==1 ; python_version < '3.12' --hash=sha256:{C}\n")
    site.run(base=str(base))
    assert site.asked[0]["preferred"] == ["attrs==1 ; python_version < '3.12'"]
    with pytest.raises(SynapseError, match=r"'base' is /no/such.lock, which does not exist"):
        site.run(base="/no/such.lock", renew=True)


def test_the_shipped_lock_is_the_base_of_its_own_version(site: Site) -> None:
    site.released = {_default_lock.VERSION: ""}
    site.run(version=None)
    site.run(version=None, base="", renew=True)
    assert f"matrix-synapse=={_default_lock.VERSION}" in site.asked[0]["preferred"]
    assert site.asked[1]["preferred"] == []


def test_another_request_or_an_edited_lock_is_resolved_again(site: Site) -> None:
    site.run()
    assert site.run(extra_packages=["a"])["changed"]
    made = site.path.read_text()
    site.path.write_text(made.replace(A, C))
    assert site.run(extra_packages=["a"])["changed"]
    assert site.path.read_text() == made
    assert len(site.asked) == 3


def test_renewing_changes_nothing_where_nothing_is_newer(site: Site) -> None:
    site.run()
    assert not site.run(renew=True)["changed"]
    site.lock = LOCK.replace("1.150.0 -", "1.150.0 ; python_version > '3.10' -")
    assert site.run(renew=True)["changed"]


def test_mode_and_link_of_the_file_stay(site: Site) -> None:
    real = site.root / "real.lock"
    real.write_text(LOCK)
    real.chmod(0o600)
    site.path.symlink_to(real)
    assert site.run()["changed"]
    assert site.path.is_symlink()
    assert real.read_text().startswith("# Synapse 1.150.0")
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_another_tool_made_is_replaced_and_another_file_is_not(site: Site) -> None:
    site.path.write_text(LOCK)
    assert site.run()["changed"]
    site.path.write_text("- hosts: all\n")
    with pytest.raises(SynapseError, match="is no lock file, so it is not replaced"):
        site.run()
    assert site.path.read_text() == "- hosts: all\n"
    site.path.write_text("")
    assert site.run()["changed"]


def test_a_folder_that_is_missing_or_closed_is_told_before_anybody_is_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SynapseError, match="there is no folder"):
        site.run(path=str(site.root / "none" / "synapse.lock"))
    monkeypatch.setattr(os, "access", lambda *unused: False)
    with pytest.raises(SynapseError, match="nothing can be written in"):
        site.run()
    assert site.fetched == []


def test_a_version_after_the_last_day_is_told(site: Site) -> None:
    with pytest.raises(SynapseError, match=r"1\.150\.0 was not released by then"):
        site.run(exclude_newer="2026-03-23")
    assert site.run(exclude_newer="2026-03-24")["as_of"] == "2026-03-24"


def test_a_package_to_be_built_is_warned_of_and_one_without_any_file_refused(site: Site) -> None:
    made = site.run(pythons=["3.11"], architectures=["x86_64", "aarch64"])
    common = {"package": "matrix-synapse", "version": "1.150.0", "pythons": ["3.11"], "source": True}
    assert made["without_wheels"] == [
        {**common, "architectures": ["x86_64", "aarch64"], "libraries": ["musl"]},
        {**common, "architectures": ["aarch64"], "libraries": ["glibc"]},
    ]
    assert "matrix-synapse 1.150.0 for Python 3.11 on aarch64 with glibc: such" in site.warnings()[0]
    assert "builds it from source" in site.warnings()[0]
    assert site.run(pythons=["3.11"], architectures=["x86_64", "aarch64"])["without_wheels"] == made["without_wheels"]
    before = site.path.read_text()
    del site.files[B]
    with pytest.raises(SynapseError, match=r"No file exists of .* for Python 3\.11 on aarch64 with glibc, and nothing"):
        site.run(pythons=["3.11"], architectures=["x86_64", "aarch64"], renew=True)
    assert site.path.read_text() == before


def test_only_musl_without_a_wheel_is_no_warning(site: Site) -> None:
    made = site.run(pythons=["3.11"])
    assert [one["libraries"] for one in made["without_wheels"]] == [["musl"]]
    assert site.warnings() == []


def test_without_uv_it_is_said_that_pip_will_not_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(*unused: t.Any, **more: t.Any) -> t.NoReturn:
        raise _installer.UnavailableError("uv 1 is not known for the processor x")

    monkeypatch.setattr(_installer, "bootstrap_uv", boot)
    with pytest.raises(SynapseError, match=r"only uv can resolve for other Pythons and processors.*pip cannot"):
        site.run()
    assert not site.path.exists()


def test_a_cache_that_others_can_write_in_is_refused(site: Site) -> None:
    cache = site.root / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(SynapseError, match=r"'cache_path' is .*/cache, which another user can write in"):
        site.run()


def test_an_old_python_is_told_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    with pytest.raises(SynapseError, match=r"Python 3.11 or newer.*ansible_playbook_python"):
        site.run()
    assert site.fetched == []


def test_this_machine_has_a_c_library() -> None:
    assert isinstance(_lock_task.glibc(), bool)
