# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathering, with a pip that only pretends: what is asked for, what is kept, what is built, what is refused."""

from __future__ import annotations

import hashlib
import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_gather
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import Target
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_gather import Gatherer, find_pip

OLD, NEW = Target("3.11", "x86_64", "glibc"), Target("3.12", "x86_64", "glibc")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class FakePip:
    """Knows wheels by package, version and platform (None: all), each of which holds its own name."""

    def __init__(self) -> None:
        self.wheels: dict[tuple[str, str, str | None], str] = {}
        self.sources: dict[tuple[str, str], str] = {}
        self.calls: list[list[str]] = []
        self.envs: list[dict[str, str]] = []
        self.dies_at = 0

    def add(self, file: str, python: str | None = None) -> Pin:
        name, version = file.split("-")[:2]
        self.wheels[name, version, python] = file
        return Pin(name, version, "", (sha(file),))

    def __call__(self, argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        path = Path(argv[argv.index("--requirement") + 1])
        wanted = re.findall(r"^(\S+)==(\S+) ", path.read_text(), re.MULTILINE)
        self.calls.append([f"{name} {version}" for name, version in wanted])
        self.envs.append(options["env"])
        if len(self.calls) == self.dies_at:
            return CommandResult(1, "", "ERROR: Connection refused")
        if argv[1] == "wheel":
            folder = Path(argv[argv.index("--wheel-dir") + 1])
            found = [self.sources.get(one, "") for one in wanted]
            if not all(found):
                return CommandResult(1, "", "error: command 'gcc' failed")
        else:
            folder = Path(argv[argv.index("--dest") + 1])
            python = argv[argv.index("--python-version") + 1]
            found = []
            for name, version in wanted:
                file = self.wheels.get((name, version, python)) or self.wheels.get((name, version, None))
                if file is None:
                    return CommandResult(1, "", f"ERROR: No matching distribution found for {name}=={version}")
                found.append(file)
        folder.mkdir(parents=True, exist_ok=True)
        for file in found:
            (folder / file).write_text(file)
        return CommandResult(0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    uv = fake.add("uv-1-py3-none-manylinux_2_17_x86_64.whl")
    monkeypatch.setattr(_wheelhouse_gather, "uv_pin", lambda target: uv)
    return fake


@pytest.fixture
def gather(pip: FakePip, tmp_path: Path) -> t.Callable[..., _wheelhouse_gather.Gathered]:
    def run(*pins: Pin, targets: t.Sequence[Target] = (OLD,)) -> _wheelhouse_gather.Gathered:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        gatherer = Gatherer(
            pip,
            ["pip"],
            sources=Sources("https://user:secret@index.test/simple"),
            cache=str(tmp_path / "cache"),
            work=str(work),
            log=lambda message: None,
        )
        return gatherer.gather(pins, targets)

    return run


def test_each_target_gets_its_own_wheel_and_uv(pip: FakePip, gather: t.Callable[..., t.Any]) -> None:
    one = pip.add("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "3.11")
    other = pip.add("a-1-cp312-cp312-manylinux_2_17_x86_64.whl", "3.12")
    pin = Pin("a", "1", "", (*one.hashes, *other.hashes, "0" * 64))
    result = gather(pin, targets=(OLD, NEW))
    assert sorted(result.files[OLD.name]) == [
        "a-1-cp311-cp311-manylinux_2_17_x86_64.whl",
        "uv-1-py3-none-manylinux_2_17_x86_64.whl",
    ]
    assert "a-1-cp312-cp312-manylinux_2_17_x86_64.whl" in result.files[NEW.name]
    entry = result.entries["a-1-cp312-cp312-manylinux_2_17_x86_64.whl"]
    assert (entry.sha256, entry.size) == (other.hashes[0], len("a-1-cp312-cp312-manylinux_2_17_x86_64.whl"))
    assert result.with_hashes([pin]) == (pin,)


def test_a_pure_wheel_that_has_no_rival_is_fetched_once(pip: FakePip, gather: t.Callable[..., t.Any]) -> None:
    lone = pip.add("a-1-py3-none-any.whl")
    found = pip.add("b-1-py3-none-any.whl")
    rivalled = Pin("b", "1", "", (*found.hashes, "0" * 64, "1" * 64))
    result = gather(lone, rivalled, targets=(OLD, NEW))
    assert pip.calls == [["a 1", "b 1", "uv 1"], ["b 1", "uv 1"]]
    assert "a-1-py3-none-any.whl" in result.files[NEW.name]


def test_an_interrupted_run_goes_on_and_fetches_what_was_cut_short_again(
    pip: FakePip, gather: t.Callable[..., t.Any], tmp_path: Path
) -> None:
    pins = [pip.add(f"a{number}-1-py3-none-any.whl") for number in range(20)]
    pip.dies_at = 2
    with pytest.raises(SynapseError, match=r"cannot be reached.*could not gather the wheels for Python 3\.11"):
        gather(*pins)
    cut = tmp_path / "work" / OLD.name / "a3-1-py3-none-any.whl"
    cut.write_text("a3")
    gather(*pins)
    assert pip.calls[2] == ["a3 1", "a16 1", "a17 1", "a18 1", "a19 1", "uv 1"]
    assert cut.read_text() == "a3-1-py3-none-any.whl"


def test_what_the_index_serves_under_a_known_name_counts_by_its_hash_alone(
    pip: FakePip, gather: t.Callable[..., t.Any], tmp_path: Path
) -> None:
    pip.add("a-1-py3-none-any.whl")
    with pytest.raises(SynapseError, match=r"there is no wheel of a 1 for Python 3\.11"):
        gather(Pin("a", "1", "", ("0" * 64,)))
    assert not (tmp_path / "work" / OLD.name / "a-1-py3-none-any.whl").exists()


# ---------------------------------------------------------------------------------------------------------- the sources


def test_a_source_is_built_once_for_all(pip: FakePip, gather: t.Callable[..., t.Any], tmp_path: Path) -> None:
    source = Pin("old", "1", "", ("0" * 64,))
    pip.sources["old", "1"] = "old-1-py3-none-any.whl"
    other = pip.add("a-1-py3-none-any.whl")
    result = gather(other, source, targets=(OLD, NEW))
    assert pip.calls == [["a 1", "old 1", "uv 1"], ["old 1"], ["a 1", "uv 1"], ["uv 1"]]
    assert all("old-1-py3-none-any.whl" in names for names in result.files.values())
    assert result.built == {("old", "1"): sha("old-1-py3-none-any.whl")}
    assert result.with_hashes([other, source]) == (
        other,
        Pin("old", "1", "", tuple(sorted(("0" * 64, sha("old-1-py3-none-any.whl"))))),
    )
    assert pip.envs[1]["SOURCE_DATE_EPOCH"] == "315532800"
    # Another run, and another lock with the same source, get the same wheel.
    before = len(pip.calls)
    gather(source)
    assert pip.calls[before:] == [["old 1"]]


def test_what_needs_a_compiler_is_refused_by_name(pip: FakePip, gather: t.Callable[..., t.Any]) -> None:
    with pytest.raises(SynapseError, match=r"fast 1 has no wheel for Python 3\.11 on x86_64.*cannot be built.*gcc"):
        gather(Pin("fast", "1", "", ("0" * 64,)))


def test_a_wheel_for_this_machine_alone_is_refused_by_name(pip: FakePip, gather: t.Callable[..., t.Any]) -> None:
    pip.sources["fast", "1"] = "fast-1-cp311-cp311-linux_x86_64.whl"
    with pytest.raises(SynapseError, match=r"fast 1 has no wheel.*\(fast-1-cp311.*\) is for this machine alone"):
        gather(Pin("fast", "1", "", ("0" * 64,)))


# -------------------------------------------------------------------------------------------------------------- the pip


def test_addresses_travel_in_the_environment_alone(pip: FakePip, gather: t.Callable[..., t.Any]) -> None:
    gather(pip.add("a-1-py3-none-any.whl"))
    assert pip.envs[0]["PIP_INDEX_URL"] == "https://user:secret@index.test/simple"
    assert pip.envs[0]["PIP_CONFIG_FILE"] == "/dev/null"
    assert "PIP_CERT" not in pip.envs[0]


def test_the_first_interpreter_with_pip_is_taken() -> None:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        return CommandResult(0 if argv[0] == "python3" else 1, "", "")

    assert find_pip(run, None, "/nowhere") == ["python3", "-I", "-m", "pip"]


def test_without_pip_an_environment_is_made_for_one() -> None:
    def run(argv: t.Sequence[str], **options: t.Any) -> CommandResult:
        return CommandResult(0 if "venv" in argv else 1, "", "")

    assert find_pip(run, "/opt/python", "/scratch") == ["/scratch/bin/python", "-I", "-m", "pip"]


def test_without_anything_it_is_said_what_to_install() -> None:
    with pytest.raises(SynapseError, match=r"none of these has pip or ensurepip: /opt/python\. Install pip"):
        find_pip(lambda argv, **options: CommandResult(127, "", ""), "/opt/python", "/scratch")
