# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real homeservers for the tests of whole modules, and a way to run a module as Ansible does."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver
from ansible_collections.matrix_fleet.synapse.tests.integration.module_process import run_apart

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# With several workers, what takes long begins first: the last file to end is then a short one. A file that is not named
# here comes after these, and costs a little time at worst.
_LONGEST_FIRST = (
    "test_synapse_config_check.py",
    "test_synapse_database_backup.py",
    "test_synapse_wheelhouse.py",
    "test_synapse_signing_key.py",
    "test_synapse_upgrade_gate.py",
    "test_synapse_venv.py",
    "test_runner.py",
    "test_documentation.py",
    "test_synapse_venv_interrupted.py",
    "test_synapse_signing_key_interrupted.py",
    "test_synapse_files_interrupted.py",
    "test_synapse_venv_plugins.py",
    "test_synapse_lock.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker its own folder for temporary files, where no other worker's are met."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{worker}-"))
        folder.chmod(0o1777)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest."""
    order = {name: number for number, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test by what a file holds: keys are made anew in each process, and all workers need the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _way_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users pass through pytest's folders, however deep they lie; a test's own folder stays closed."""
    base = tmp_path_factory.getbasetemp()
    for folder in (base, *base.parents):
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.fixture(scope="session")
def make_homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Homeserver]]:
    """Make homeservers that are configured but not started; each is stopped at the end of the session at the latest."""
    made: list[Homeserver] = []

    def make(**config: t.Any) -> Homeserver:
        made.append(Homeserver.configured(tmp_path_factory.mktemp("homeserver"), **config))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def _prepared_database(make_homeserver: Callable[..., Homeserver]) -> pathlib.Path:
    """An SQLite file that has its schema, which takes a new server most of its start."""
    server = make_homeserver()
    server.start()
    server.stop()
    return server.database_path


@pytest.fixture
def homeserver(
    make_homeserver: Callable[..., Homeserver], _prepared_database: pathlib.Path
) -> Iterator[Callable[..., Homeserver]]:
    """Make and start homeservers; keyword arguments are options of Synapse. They are stopped when the test ends."""
    started: list[Homeserver] = []

    def make(*, start: bool = True, **config: t.Any) -> Homeserver:
        server = make_homeserver(**config)
        shutil.copyfile(_prepared_database, server.database_path)
        started.append(server)
        if start:
            server.start()
        else:
            server.write()
        return server

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def shared_homeserver(make_homeserver: Callable[..., Homeserver], _prepared_database: pathlib.Path) -> Homeserver:
    """A running homeserver that tests share: whoever uses it leaves it as it is, accounts of their own apart."""
    server = make_homeserver()
    shutil.copyfile(_prepared_database, server.database_path)
    server.start()
    return server


@pytest.fixture
def run_module() -> Callable[..., dict[str, t.Any]]:
    """Run a module of the collection in a process of its own; return its result, with what it wrote in ``_output``."""

    def run(module: str, /, *, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {
            **{key: str(value) if isinstance(value, pathlib.Path) else value for key, value in options.items()},
            "_ansible_check_mode": check,
            "_ansible_diff": diff,
        }
        ended = run_apart(module, arguments)
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if not lines:
            pytest.fail(f"{module} returned nothing: {ended.stdout[-2000:]}{ended.stderr[-4000:]}")
        result: dict[str, t.Any] = json.loads(lines[-1])
        result["_output"] = ended.stdout + ended.stderr
        return result

    return run
