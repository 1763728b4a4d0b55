# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What README and guides say holds: commands work, examples are right, names exist, links lead somewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor.metrics import METRICS
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._settings import refusals
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import synapse_python

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
ROLE = ROOT / "roles" / "synapse"
OURS = "matrix_fleet.synapse."
BIN = Path(sys.executable).parent
# Extra variables that playbooks read and no role knows, and what playbooks hand on.
OF_PLAYBOOKS = {
    "synapse_batch",
    "synapse_canary",
    "synapse_rollback",
    "synapse_upgrade_failed",
    "synapse_upgrade_proven",
    "synapse_upgrade_unknown",
    "synapse_upgrade_unreachable",
    "synapse_upgrade_untouched",
    "synapse_deployed",
    "synapse_hosts",
    "synapse_lock_architectures",
    "synapse_lock_base",
    "synapse_lock_ca_bundle",
    "synapse_lock_cache_path",
    "synapse_lock_exclude_newer",
    "synapse_lock_find_links",
    "synapse_lock_pythons",
    "synapse_lock_renew",
    "synapse_unhealthy",
    "synapse_wheelhouse_architectures",
    "synapse_wheelhouse_ca_bundle",
    "synapse_wheelhouse_cache_path",
    "synapse_wheelhouse_libcs",
    "synapse_wheelhouse_pythons",
}
TAGS = {"synapse", "synapse_install", "synapse_configure"}
# A program of Synapse's own, and a database that a remedy makes.
OF_OTHERS = {"synapse_port_db", "synapse_c"}
# What the examples take from a vault or from Ansible.
GIVEN = {
    "inventory_dir": "/srv/fleet",
    "vault_form_secret": "a-form-secret-of-32-characters-xx",
    "vault_index_password": "a-password",
    "vault_macaroon_secret_key": "a-macaroon-secret-of-32-characters",
    "vault_registration_shared_secret": "a-shared-secret-of-32-characters",
    "vault_signing_key": f"ed25519 a_0a1b {'A' * 42}E",
}


# ------------------------------------------------------------------------------------------------------------- blocks


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block of a page; ``line`` is that of its first line."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; those inside a list are shifted to the left."""
    opened: tuple[int, str, str] | None = None
    content: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.fullmatch(r"(\s*)```(\w*)", line)
        if opened is None:
            opened = (number + 1, fence[1], fence[2]) if fence else None
            content = []
        elif fence and fence[1] == opened[1]:
            yield Block(str(path.relative_to(ROOT)), opened[0], opened[2], "\n".join(content) + "\n")
            opened = None
        else:
            content.append(line.removeprefix(opened[1]))
    assert opened is None, f"{path.name}, line {opened[0] - 1 if opened else 0}: a block without end"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
CONSOLE = [block for block in BLOCKS if block.language == "console"]
YAML = [block for block in BLOCKS if block.language == "yaml"]
COMMANDS = sorted({line.removeprefix("$ ") for block in CONSOLE for line in block.text.splitlines()})


def named(blocks: list[Block]) -> t.Any:
    """Parametrise a test with blocks, by their places."""
    return pytest.mark.parametrize("block", blocks, ids=str)


def test_every_block_says_what_it_is() -> None:
    known = {"console", "yaml", "json", "text"}
    drawings = {"docs/architecture.md", "docs/environments.md"}
    assert [str(block) for block in BLOCKS if block.language not in known and block.page not in drawings] == []


@named(CONSOLE)
def test_a_console_block_holds_commands_alone(block: Block) -> None:
    assert all(line.startswith("$ ") for line in block.text.splitlines())


# ----------------------------------------------------------------------------------------------------------- commands


def run(*argv: str | Path, folder: Path, **environment: str) -> str:
    """Run a command of the test environment with no settings of the caller's Ansible; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    ended = subprocess.run(
        [str(word) for word in argv],
        cwd=folder,
        env={
            **kept,
            "PATH": f"{BIN}:{kept['PATH']}",
            "HOME": str(folder),
            "NO_COLOR": "1",
            **environment,
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, f"{argv}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    return ended.stdout + ended.stderr


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built as the README says."""
    folder = tmp_path_factory.mktemp("artifact")
    run("ansible-galaxy", "collection", "build", ROOT, "--output-path", folder, folder=folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def installed(artifact: Path) -> Path:
    """A folder of collections with the artifact installed, as the README says."""
    folder = artifact.parent / "collections"
    run(
        *("ansible-galaxy", "collection", "install", artifact, "--offline", "--force", "--collections-path", folder),
        folder=artifact.parent,
    )
    return folder


def check_make(command: str, folder: Path) -> None:
    """The target exists, and make accepts the variables."""
    run(*shlex.split(command), "--dry-run", "--directory", ROOT, folder=folder)


def inventory_of(block_of: str, folder: Path) -> Path:
    """Write the first inventory of a page."""
    block = next(block for block in YAML if block.page == block_of and kind_of(block) == "inventory")
    path = folder / "inventory.yml"
    path.write_text(block.text, encoding="utf-8")
    return path


def check_playbook(command: str, folder: Path) -> None:
    """The playbook exists, finds hosts in the smallest inventory, and has tasks; what is given to it is known."""
    inventory_of("README.md", folder)
    argv = shlex.split(command)
    listed = run(*argv, "--list-hosts", "--list-tasks", folder=folder)
    assert re.search(r"hosts \([1-9]", listed), listed
    assert "TAGS:" in listed
    for word in argv:
        name, _equals, value = word.partition("=")
        assert not value or name in {*SPECIFICATION, *OF_PLAYBOOKS}, word


def check_document(command: str, folder: Path, installed: Path) -> None:
    """The documentation comes out of the installed artifact."""
    text = run(
        *shlex.split(command),
        folder=folder,
        ANSIBLE_COLLECTIONS_PATH=str(installed),
        ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false",
    )
    assert str(installed) in text


def check_on_host(command: str) -> None:
    """Names and places are those of the role's defaults."""
    places = [str(value) for value in DEFAULTS.values() if isinstance(value, str) and value.startswith("/")]
    for word in shlex.split(command):
        if word.startswith("/"):
            assert word.startswith(tuple(places)), word
        if word.startswith("matrix"):
            assert word == DEFAULTS["synapse_service_name"]


# Commands that this file does not run as they stand, with where they are run: a file, and what of them is in it.
ELSEWHERE = {
    "ansible-builder build --tag synapse-ee": ("tests/bin/builder.sh", 'ansible-builder" create'),
    "ansible-galaxy collection build": ("tests/bin/build.sh", "ansible-galaxy collection build"),
    "ansible-galaxy collection install matrix_fleet-synapse-0.1.0.tar.gz": (
        "tests/bin/build.sh",
        "ansible-galaxy collection install",
    ),
    "ansible-playbook docs/awx/load.yml -e awx_organization=Default": (
        "tests/integration/test_awx.py",
        '"docs/awx/load.yml"',
    ),
    "ansible-runner run /srv/fleet -p deploy.yml": ("tests/integration/test_runner.py", '"ansible-runner", "run"'),
    "journalctl -t synapse-monitor": ("molecule/monitor/tests/test_monitor.py", "-t synapse-monitor"),
    "journalctl -u matrix-synapse -n 100": ("molecule/conftest.py", "journalctl"),
    "systemctl list-timers synapse-monitor.timer": ("molecule/monitor/tests/test_monitor.py", "synapse-monitor.timer"),
    "systemctl status matrix-synapse": ("tests/shared/deployed.py", "systemctl show"),
    "systemd-analyze security matrix-synapse": ("molecule/default/tests/test_server.py", "systemd-analyze security"),
    "tail -n 100 /var/log/synapse/homeserver.log": ("molecule/conftest.py", "/var/log/synapse/homeserver.log"),
    "/var/lib/synapse/venv/bin/register_new_matrix_user -c /etc/synapse/homeserver.yaml --admin -u admin "
    "http://127.0.0.1:8008": ("molecule/default/tests/test_clients.py", "register_new_matrix_user -c"),
}
# The commands that the tests below run.
LOCKING = "uv pip compile --universal --python-version 3.10 --generate-hashes --output-file synapse.lock synapse.in"
COLLECTING = "python3 -m pip download --only-binary :all: --require-hashes --dest wheelhouse -r synapse.lock"
# Those that tests/integration/test_synapse_database_backup.py compares with what the module returns, and types.
RESTORING = {
    line.removeprefix("$ ")
    for block in CONSOLE
    if block.page == "docs/database-backups.md"
    for line in block.text.splitlines()
    if not line.startswith("$ ansible")
}
BELOW = {*RESTORING, LOCKING, COLLECTING}


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in BELOW])
def test_a_command_works(command: str, tmp_path: Path, installed: Path) -> None:
    if command in ELSEWHERE:
        place, needle = ELSEWHERE[command]
        assert needle in (ROOT / place).read_text(encoding="utf-8")
        if not command.startswith("ansible") and "synapse-monitor" not in command:
            check_on_host(command)
    elif command.startswith("make "):
        check_make(command, tmp_path)
    elif command.startswith("ansible-doc "):
        check_document(command, tmp_path, installed)
    elif command.startswith(f"ansible-playbook -i inventory.yml {OURS}"):
        check_playbook(command, tmp_path)
    else:
        pytest.fail("no test knows this command: add it to ELSEWHERE, or write a test that runs it")


@pytest.mark.parametrize("command", sorted(RESTORING))
def test_a_command_that_restores_names_what_is_there(command: str) -> None:
    check_on_host(command)


def test_no_command_is_known_that_no_page_has() -> None:
    assert {*ELSEWHERE, *BELOW} - set(COMMANDS) == set()


def test_the_artifact_has_the_name_that_is_documented(artifact: Path) -> None:
    assert f"ansible-galaxy collection install {artifact.name}" in COMMANDS


def test_a_lock_is_made_and_wheels_are_collected_as_documented(tmp_path: Path) -> None:
    wanted = next(block for block in BLOCKS if block.language == "text" and "matrix-synapse[" in block.text)
    (tmp_path / "synapse.in").write_text(wanted.text, encoding="utf-8")
    # The cache stays the caller's; uv must not fetch an interpreter.
    cache = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    run(*shlex.split(LOCKING), folder=tmp_path, UV_CACHE_DIR=cache, UV_PYTHON_DOWNLOADS="never")
    lock = tmp_path / "synapse.lock"
    pins = _lock.parse(lock.read_text(encoding="utf-8"))
    assert [pin.version for pin in pins if pin.name == "matrix-synapse"] == [DEFAULTS["synapse_version"]]
    # A wheelhouse of three packages shows as much as one of seventy-five.
    few = [pin for pin in pins if pin.name in {"attrs", "idna", "unpaddedbase64"}]
    assert len(few) == 3
    lock.write_text("".join(f"{pin.line()}\n" for pin in few), encoding="utf-8")
    run(*shlex.split(COLLECTING), folder=tmp_path)
    assert len(list((tmp_path / "wheelhouse").glob("*.whl"))) == 3


# ----------------------------------------------------------------------------------------------------------- examples


def read_yaml(path: Path) -> t.Any:
    """Parse a document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


SPECIFICATION: dict[str, t.Any] = read_yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]


MONITOR: dict[str, t.Any] = read_yaml(ROOT / "roles" / "synapse_monitor" / "meta" / "argument_specs.yml")[
    "argument_specs"
]["main"]["options"]


def filled(value: t.Any, variables: dict[str, t.Any]) -> t.Any:
    """Replace the templates in a value."""
    if isinstance(value, str) and "{{" in value:
        return filled(jinja2.Template(value, undefined=jinja2.StrictUndefined).render(**variables), variables)
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    return {key: filled(item, variables) for key, item in value.items()} if isinstance(value, dict) else value


def _defaults() -> dict[str, t.Any]:
    raw = read_yaml(ROLE / "defaults" / "main.yml")
    return {name: filled(value, raw) for name, value in raw.items()}


DEFAULTS = _defaults()
# What the role learns from the host.
GATHERED = {"_synapse_service_manager": "systemd"}


def kind_of(block: Block) -> str:
    """Say what an example is: ``playbook``, ``inventory``, ``variables`` or ``fragment`` (of a changelog)."""
    content = yaml.safe_load(block.text)
    if isinstance(content, list):
        return "playbook"
    if any(isinstance(group, dict) and "hosts" in group for group in content.values()):
        return "inventory"
    return "fragment" if "bugfixes" in content else "variables"


def of_kind(*kinds: str) -> list[Block]:
    """Return the examples of some kinds."""
    return [block for block in YAML if kind_of(block) in kinds]


def variables_in(value: t.Any) -> Iterator[dict[str, t.Any]]:
    """Yield the mappings of role variables in a playbook or an inventory."""
    if isinstance(value, list):
        for item in value:
            yield from variables_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "vars":
                yield item
            elif key == "hosts" and isinstance(item, dict):
                yield from (host for host in item.values() if host)
            else:
                yield from variables_in(item)


def sets(block: Block) -> list[dict[str, t.Any]]:
    """Return the mappings of role variables in an example, templates filled in."""
    content = yaml.safe_load(block.text)
    found = [content] if kind_of(block) == "variables" else list(variables_in(content))
    return [filled(mapping, GIVEN) for mapping in found]


def tasks_in(value: t.Any) -> Iterator[dict[str, t.Any]]:
    """Yield every task of a playbook or of a list of tasks."""
    for item in value if isinstance(value, list) else []:
        yield item
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always", "handlers"):
            yield from tasks_in(item.get(key))


def test_there_are_examples_of_each_kind() -> None:
    assert {kind_of(block) for block in YAML} == {"playbook", "inventory", "variables", "fragment"}


@named(YAML)
def test_an_example_is_a_document(block: Block) -> None:
    assert block.text.startswith("---\n")
    assert yaml.safe_load(block.text)


@named(of_kind("playbook"))
def test_a_playbook_passes_the_syntax_check(block: Block, tmp_path: Path) -> None:
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(block.text, encoding="utf-8")
    inventory = inventory_of("README.md", tmp_path)
    run("ansible-playbook", "-i", inventory, "--syntax-check", playbook, folder=tmp_path)


@named(of_kind("inventory"))
def test_an_inventory_has_the_hosts_that_it_shows(block: Block, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(block.text, encoding="utf-8")
    graph = run("ansible-inventory", "-i", inventory, "--graph", folder=tmp_path)
    for host in yaml.safe_load(block.text)["synapse"]["hosts"]:
        assert f"--{host}" in graph


@named(of_kind("playbook", "inventory", "variables"))
def test_variables_exist_and_have_values_that_are_allowed(block: Block) -> None:
    for mapping in sets(block):
        assert set(mapping) <= {*SPECIFICATION, *MONITOR}
        result = ArgumentSpecValidator(MONITOR).validate({key: mapping[key] for key in mapping if key in MONITOR})
        assert result.error_messages == []
        ours = {key: mapping[key] for key in mapping if key in SPECIFICATION}
        whole = {"synapse_server_name": "example.org", **ours}
        result = ArgumentSpecValidator(SPECIFICATION).validate(whole)
        assert result.error_messages == []
        assert refusals({**GATHERED, **DEFAULTS, **whole}) == []


@named([block for block in of_kind("playbook", "inventory", "variables") if "synapse_config:" in block.text])
def test_options_of_synapse_are_known_to_synapse(block: Block, run_module: Callable[..., dict[str, t.Any]]) -> None:
    for mapping in sets(block):
        verdict = run_module(
            "synapse_config_check",
            content=json.dumps(
                {
                    "server_name": "example.org",
                    "report_stats": False,
                    "listeners": DEFAULTS["synapse_listeners"],
                    "signing_key_path": "/srv/synapse/signing.key",
                    "media_store_path": "/srv/synapse/media",
                    "database": {"name": "sqlite3", "args": {"database": "/srv/synapse/homeserver.db"}},
                    **mapping.get("synapse_config", {}),
                }
            ),
            files=[{"path": "/srv/synapse/signing.key"}],
            directories=["/srv/synapse", "/srv/synapse/media"],
            python=synapse_python(),
            fail_on="never",
        )
        assert verdict["checked"] is True
        assert [problem for problem in verdict["problems"] if problem["severity"] == "error"] == []


def options_of(module: str) -> dict[str, t.Any]:
    """Return the documented options of a module of the collection."""
    source = (ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
    text = re.search(r'^DOCUMENTATION = r"""\n(.*?)^"""', source, re.MULTILINE | re.DOTALL)
    assert text is not None
    options: dict[str, t.Any] = yaml.safe_load(text[1])["options"]
    return options


@named([block for block in of_kind("playbook") if "tasks:" in block.text])
def test_modules_and_their_options_exist(block: Block) -> None:
    found = 0
    for task in [inner for outer in yaml.safe_load(block.text) for inner in tasks_in(outer.get("tasks"))]:
        for action in [key for key in task if key.startswith(OURS)]:
            options = options_of(action.removeprefix(OURS))
            assert set(task[action]) <= set(options)
            assert {name for name, option in options.items() if option.get("required")} <= set(task[action])
            found += 1
    assert found > 0


# ------------------------------------------------------------------------------------------------- names, links, tables


MODULES = set(read_yaml(ROOT / "meta" / "runtime.yml")["action_groups"]["synapse"])
KNOWN = {
    *SPECIFICATION,
    *MONITOR,
    "synapse_monitor",
    *(metric[0] for metric in METRICS),
    *OF_PLAYBOOKS,
    *OF_OTHERS,
    *TAGS,
    *MODULES,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_in_the_text_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"(?<![\w./])synapse_\w+", text))
    assert sorted(names - KNOWN) == []
    for inner in re.findall(r"`synapse_config\.(\w+)`", text):
        assert inner not in SPECIFICATION


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_collection(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is ``heading``."""
    rest = page.read_text(encoding="utf-8").partition(f"\n| {heading} |")[2]
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_the_readme_lists_every_module_and_every_playbook() -> None:
    readme = ROOT / "README.md"
    assert {row[0] for row in rows_of(readme, "module")} == MODULES
    playbooks = {f"{OURS}{path.stem}" for path in ROOT.glob("playbooks/*.yml")}
    assert {row[0] for row in rows_of(readme, "playbook")} == playbooks


def test_the_readme_supports_what_the_collection_is_made_for() -> None:
    table = {row[0]: row[1] for row in rows_of(ROOT / "README.md", "what")}
    platforms = read_yaml(ROLE / "meta" / "main.yml")["galaxy_info"]["platforms"]
    assert platforms == [{"name": "Debian", "versions": ["bookworm", "trixie"]}]
    assert table["host"] == "Debian 12, Debian 13"
    assert f">={table['ansible-core'].split()[0]}.0" == read_yaml(ROOT / "meta" / "runtime.yml")["requires_ansible"]
    assert table["Synapse"].startswith(DEFAULTS["synapse_version"])


def test_the_places_in_the_guide_are_the_defaults() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for name, value in DEFAULTS.items():
        if name.endswith("_path"):
            assert f"`{value}" in text, f"{name} is {value}, and the guide does not say so"


def test_the_guide_names_the_uv_that_is_asked_for() -> None:
    assert f"`uv` {UV_VERSION}," in (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


def test_the_options_that_have_variables_are_listed() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    listed = text.partition("A few options have a variable of their own")[2].partition("In `synapse_config`")[0]
    for option in re.findall(r"`(\w+)`", listed):
        settings = {**GATHERED, **DEFAULTS, "synapse_server_name": "example.org", "synapse_config": {option: "x"}}
        assert [line for line in refusals(settings) if f"synapse_config has {option}," in line], option


# ------------------------------------------------------------------------------------------------------------ prompts


PLAYBOOKS = [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("docs/awx/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]


def keys_in(value: t.Any) -> Iterator[str]:
    """Yield every key of every mapping in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from keys_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_in(item)


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_waits_for_somebody_at_a_keyboard(path: Path) -> None:
    asking = {"vars_prompt", "pause", "ansible.builtin.pause", "ansible.legacy.pause"}
    assert asking & set(keys_in(read_yaml(path))) == set()
