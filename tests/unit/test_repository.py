# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that the repository as a whole keeps."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# REUSE-IgnoreStart
LICENCE = (
    "# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)",
    "# SPDX-License-Identifier: GPL-3.0-or-later",
)
# REUSE-IgnoreEnd
ROLES = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))

# Written in pieces, so that this file keeps its own rule.
FOREIGN = tuple(
    "".join(pieces)
    for pieces in (
        ("pypi", ".org"),
        ("python", "hosted"),
        ("galaxy", ".ansible.com"),
        ("ghcr", ".io"),
        ("quay", ".io"),
        ("docker", ".io/"),
        ("hub.", "docker.com"),
        ("github", "usercontent"),
        ("/wo", "rk/"),
        ("/opt/", "wheels"),
        ("/root/", ".pyenv"),
        ("/tmp/", "lab"),
    )
)


def tracked() -> list[Path]:
    """Every file of the checkout that is, or would be, under version control."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def read_yaml(path: Path) -> Any:
    """Parse one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FOREIGN if word in text]
    assert not found


def test_sanity_has_no_ignore_files() -> None:
    assert not (ROOT / "tests" / "sanity").exists()


def test_the_action_group_holds_every_module_and_nothing_else() -> None:
    group = read_yaml(ROOT / "meta" / "runtime.yml")["action_groups"]["synapse"]
    modules = {path.stem for path in ROOT.glob("plugins/modules/*.py")} - {"__init__"}
    assert set(group) == modules
    assert group == sorted(group)


def test_the_whole_test_run_holds_every_scenario() -> None:
    steps = subprocess.run(
        ["bash", "tests/bin/test.sh", "--list"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.splitlines()
    scenarios = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    assert {step.split()[1] for step in steps if step.startswith("molecule ")} == scenarios


def test_every_plugin_file_states_its_licence() -> None:
    lacking = []
    for path in ROOT.glob("plugins/**/*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines and tuple(lines[lines[0].startswith("#!") :][:2]) != LICENCE:
            lacking.append(str(path.relative_to(ROOT)))
    assert not lacking


def test_the_licence_is_here_in_full() -> None:
    text = (ROOT / "COPYING").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert text == (ROOT / "LICENSES" / "GPL-3.0-or-later.txt").read_text(encoding="utf-8")


def test_the_execution_environment_takes_the_artifact_of_this_version() -> None:
    galaxy = read_yaml(ROOT / "galaxy.yml")
    artifact = f"{galaxy['namespace']}-{galaxy['name']}-{galaxy['version']}.tar.gz"
    definition = read_yaml(ROOT / "execution-environment.yml")
    assert [one["name"] for one in definition["dependencies"]["galaxy"]["collections"]] == [artifact]
    assert artifact in [one["src"] for one in definition["additional_build_files"]]


def test_the_artifact_leaves_out_what_version_control_leaves_out() -> None:
    unpacked = read_yaml(ROOT / "galaxy.yml")["build_ignore"]
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        name = line.strip("/")
        # ansible-galaxy itself leaves out byte code and tests/output.
        if name and not line.startswith("#") and name not in ("__pycache__", "tests/output"):
            assert name in unpacked


def test_every_role_has_a_specification_and_defaults() -> None:
    for role in ROOT.glob("roles/*"):
        assert (role / "meta" / "argument_specs.yml").is_file(), role.name
        assert (role / "defaults" / "main.yml").is_file(), role.name


def main_options(role: Path) -> dict[str, Any]:
    """The options of the role's main entry point."""
    specs = read_yaml(role / "meta" / "argument_specs.yml")["argument_specs"]
    options: dict[str, Any] = specs["main"].get("options", {})
    return options


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_are_what_the_specification_says(role: Path) -> None:
    specified = {name: option["default"] for name, option in main_options(role).items() if "default" in option}
    # Ansible only checks values against the specification; it is defaults/main.yml that sets them.
    assert read_yaml(role / "defaults" / "main.yml") == specified


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_of_a_role_carries_its_name(role: Path) -> None:
    assert [name for name in main_options(role) if not name.startswith(f"{role.name}_")] == []


def undocumented(options: dict[str, Any], path: str = "") -> list[str]:
    """Names of options, nested ones too, that lack a description or a type."""
    found = []
    for name, option in options.items():
        where = f"{path}{name}"
        if not option.get("description") or "type" not in option:
            found.append(where)
        if option.get("type") == "list" and "elements" not in option:
            found.append(f"{where} (elements)")
        found += undocumented(option.get("options", {}), f"{where}.")
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_of_a_role_is_documented_and_typed(role: Path) -> None:
    for entry in read_yaml(role / "meta" / "argument_specs.yml")["argument_specs"].values():
        assert entry.get("short_description")
        assert undocumented(entry.get("options", {})) == []
