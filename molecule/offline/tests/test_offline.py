"""A host without a network was deployed from a wheelhouse, and is deployed anew from another one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from deployed import UNIT, VERSION, Controller, ask, started

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_archive as archive
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import digest_of, parse, text_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import LOCK_NAME, Entry

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

RELEASES = "/var/lib/synapse/releases"
WHEELHOUSE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], ".cache/offline/synapse.wheelhouse")
Files = dict[str, bytes]


def everything(host: Host) -> str:
    """What lies under the folder of releases, with sizes and times; uv's cache and byte code apart."""
    return str(host.check_output(f"find {RELEASES} -name __pycache__ -prune -o -printf '%p %s %T@ %m\\n' | sort"))


def another(path: Path, change: Callable[[Files], None]) -> Path:
    """Write a wheelhouse that differs: its lock lacks one of many hashes. ``change`` is made after the manifest."""
    head = archive.head_of(str(WHEELHOUSE))
    pins = list(parse(head.lock))
    # The hash of a wheel for other hosts, so that the lock still installs.
    held = {entry.sha256 for entry in head.manifest.files.values()}
    index = next(i for i, pin in enumerate(pins) if len(set(pin.hashes) - held) > 2)
    spare = next(value for value in pins[index].hashes if value not in held)
    pins[index] = replace(pins[index], hashes=tuple(value for value in pins[index].hashes if value != spare))
    lock = text_of(pins).encode()
    files = {LOCK_NAME: Entry(hashlib.sha256(lock).hexdigest(), len(lock))}
    manifest = replace(head.manifest, lock_digest=digest_of(pins), files={**head.manifest.files, **files})
    parts = archive.members(str(WHEELHOUSE), manifest, set(manifest.files) - {LOCK_NAME})
    content = {name: b"".join(data) for name, _size, data in parts}
    whole = {LOCK_NAME: lock, **dict(sorted(content.items()))}
    change(whole)
    path.write_bytes(b"".join(archive.compose(manifest, ((name, len(data), (data,)) for name, data in whole.items()))))
    return path


def synapse_wheel(files: Files) -> str:
    return next(name for name in files if name.startswith("matrix_synapse-"))


def truncated(files: Files) -> None:
    name = synapse_wheel(files)
    files[name] = files[name][:-1000]


def changed(files: Files) -> None:
    name = synapse_wheel(files)
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def test_the_host_has_no_network(host: Host) -> None:
    assert host.check_output("ls /sys/class/net").split() == ["lo"]
    assert host.run("ls /root/.cache/uv").rc != 0


def test_the_homeserver_serves(host: Host) -> None:
    assert host.service(UNIT).is_running
    assert ask(host, "/_matrix/federation/v1/version")["server"] == {"name": "Synapse", "version": VERSION}


def test_nothing_is_wrong_with_it(controller: Controller) -> None:
    assert controller.ailments() == []


def test_uv_installed_the_lock_of_the_archive(host: Host) -> None:
    manifest = json.loads(host.check_output("cat /var/lib/synapse/venv/release.json"))
    assert manifest["installer"] == f"uv {UV_VERSION}"
    assert manifest["lock_digest"] == archive.head_of(str(WHEELHOUSE)).manifest.lock_digest


def test_the_wheels_are_there_once_and_nobody_else_writes_to_them(host: Host) -> None:
    manifest = archive.head_of(str(WHEELHOUSE)).manifest
    (target,) = manifest.targets
    folder = f"{RELEASES}/.wheelhouse/{manifest.digest[:12]}-{target}"
    assert host.check_output(f"ls {RELEASES}/.wheelhouse").split() == [Path(folder).name]
    assert set(host.check_output(f"ls {folder}").split()) == {"manifest.json", *manifest.names_for(target)}
    assert host.check_output(f"find {RELEASES}/.wheelhouse ! -user root -o -perm /022") == ""
    assert host.run("find /root/.ansible/tmp /tmp /var/tmp -name '*.tar' -o -name '*.whl'").stdout == ""


def test_deploying_again_carries_and_changes_nothing(host: Host, controller: Controller) -> None:
    before = started(host), everything(host)
    run = controller.play("deploy", "-vvv")
    assert run.returncode == 0, run.stdout
    assert "changed=0 " in run.stdout
    assert "wheelhouse.tar" not in run.stdout
    assert (started(host), everything(host)) == before


@pytest.mark.parametrize(
    ("damage", "told"), [(truncated, "has [0-9]+ bytes instead of"), (changed, "another hash than the manifest says")]
)
def test_a_damaged_archive_is_refused_and_nothing_changes(
    host: Host, controller: Controller, tmp_path: Path, damage: Callable[[Files], None], told: str
) -> None:
    before = started(host), everything(host)
    run = controller.play("deploy", synapse_wheelhouse=str(another(tmp_path / "bad.wheelhouse", damage)))
    assert run.returncode == 2, run.stdout
    said = " ".join(run.stdout.split())
    assert re.search(told, said), run.stdout
    assert "matrix_synapse" in said
    assert (started(host), everything(host)) == before


def test_an_archive_that_is_not_there_is_refused_at_once(controller: Controller) -> None:
    run = controller.play("deploy", synapse_wheelhouse="/nowhere/synapse.wheelhouse")
    assert run.returncode == 2
    assert "the controller has no such file; the playbook wheelhouse makes it" in " ".join(run.stdout.split())


def test_another_archive_takes_the_place_of_the_one_before(host: Host, controller: Controller, tmp_path: Path) -> None:
    path = another(tmp_path / "next.wheelhouse", lambda files: None)
    manifest = archive.head_of(str(path)).manifest
    run = controller.play("deploy", synapse_wheelhouse=str(path))
    assert run.returncode == 0, run.stdout
    (target,) = manifest.targets
    assert host.check_output(f"ls {RELEASES}/.wheelhouse").split() == [f"{manifest.digest[:12]}-{target}"]
    assert f"-{manifest.lock_digest[:12]}" in host.check_output("readlink /var/lib/synapse/venv")
    assert ask(host, "/_matrix/federation/v1/version")["server"]["version"] == VERSION
