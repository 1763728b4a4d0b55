#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wheelhouse, gathered on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_wheels
short_description: Gather a lock's wheels into one archive, for hosts without a package index
description:
  - Runs on the controller, or another machine that reaches a package index. It gathers every wheel that a lock names
    for some versions of Python, processors and C libraries, and the wheel of uv that
    M(matrix_fleet.synapse.synapse_venv) installs with, into one tar archive.
  - M(matrix_fleet.synapse.synapse_wheelhouse) carries what a host needs of it there.
  - The archive begins with C(manifest.json), which holds the hash of every other file, and C(lock.txt). It appears when
    it is complete, and has the same bytes for the same request.
  - An archive that is whole and that the same request made is left alone, without asking any index.
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Nothing is fetched in check mode, so whether every wheel is to be had is not known then.
options:
  path:
    description:
      - The archive.
    type: path
    required: true
  requirements:
    description:
      - The lock file, with one exact version and SHA-256 hashes for each package.
      - By default the collection's own lock, for its default version of Synapse.
    type: path
  requirements_content:
    description:
      - The text of the lock instead.
    type: str
  pythons:
    description:
      - The minor versions of Python that the hosts have.
    type: list
    elements: str
    default: ["3.10", "3.11", "3.12", "3.13", "3.14"]
  architectures:
    description:
      - The processors that the hosts have.
    type: list
    elements: str
    choices: [x86_64, aarch64]
    default: [x86_64, aarch64]
  libcs:
    description:
      - The C libraries that the hosts have. V(musl) is that of Alpine Linux.
      - Wheels for glibc 2.36 and older are gathered, rather those for an older one. A host whose glibc is too old for
        one of them is refused when the archive is to be carried there.
    type: list
    elements: str
    choices: [glibc, musl]
    default: [glibc]
  index_url:
    description:
      - The package index, in the form of the simple API. May hold a user name and a password, which are not shown.
      - By default the one that the controller's pip or uv is set to, else the public index.
    type: str
  extra_index_urls:
    description:
      - Further indexes.
    type: list
    elements: str
    default: []
  ca_bundle:
    description:
      - A file with the certificates of the authorities to trust, in PEM form.
      - By default the one that the controller's pip is set to, else the system's own.
    type: path
  python:
    description:
      - An interpreter that has pip, or at least C(ensurepip).
      - By default the one that runs the module, then C(python3).
    type: str
  cache_path:
    description:
      - Where is kept what an interrupted run has fetched, so that the next one goes on where it was, what was built
        from source, and pip's own cache. May be removed at any time.
    type: path
    default: ~/.cache/matrix_fleet.synapse
notes:
  - A package that has no wheel is built from its source, on the controller and only once, where that gives a wheel for
    every host. The lock in the archive then has that wheel's hash, too. What needs a compiler is refused by its name.
    Building runs the package's own code, and fetches what it is built with from the index.
  - A lock that tells bug-fix releases of Python apart is gathered for each of them.
  - Proxies are taken from the task's environment (C(https_proxy), C(no_proxy)).
seealso:
  - module: matrix_fleet.synapse.synapse_wheelhouse
"""

EXAMPLES = r"""
- name: Gather wheels of the default version for Debian 12 and 13 on x86-64
  matrix_fleet.synapse.synapse_wheels:
    path: "{{ playbook_dir }}/synapse.wheelhouse"
    pythons: ["3.11", "3.13"]
    architectures: [x86_64]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
path:
  description: The archive.
  returned: success
  type: str
  sample: /srv/synapse.wheelhouse
digest:
  description: SHA-256 of the archive's manifest; V(null) in check mode where the archive is yet to be made.
  returned: success
  type: str
  sample: 2f6d0c1e8b3a0c6f5f0be6c3d5a7c2b1d1c5b8a9e6d7f4a3b2c1d0e9f8a7b6c5
version:
  description: The version of Synapse in the lock.
  returned: success
  type: str
  sample: 1.163.2
lock_digest:
  description: SHA-256 of what the lock in the archive says; V(null) in check mode where the archive is yet to be made.
  returned: success
  type: str
  sample: 0fe18e3fa5d751d6b8a602396ddc1554a0cf60e2e35bc29533e611579a72805c
targets:
  description: The kinds of hosts that the archive is for.
  returned: success
  type: list
  elements: str
  sample: [cp311-x86_64-glibc, cp313-x86_64-glibc]
files:
  description: How many wheels are in the archive.
  returned: success, and the archive exists
  type: int
  sample: 96
size:
  description: The archive's size in bytes.
  returned: success, and the archive exists
  type: int
  sample: 92160000
built:
  description: The packages that were built from source.
  returned: changed
  type: list
  elements: str
  sample: [threadloop 1.0.2]
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import (
    _default_lock,
    _files,
    _index,
    _installer,
    _public_index,
    _venv_build,
    _wheelhouse_archive,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UV_VERSION, Sources
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import Pin, digest_of, parse, text_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, module_runner
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import (
    ARCHITECTURES,
    LIBCS,
    LOCK_NAME,
    PYTHONS,
    Entry,
    Manifest,
    Part,
    Target,
    glibc_floor,
    synapse_in,
    targets_of,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_gather import (
    Gathered,
    Gatherer,
    find_pip,
)

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "path": {"type": "path", "required": True},
    "requirements": {"type": "path"},
    "requirements_content": {"type": "str"},
    "pythons": {"type": "list", "elements": "str", "default": list(PYTHONS)},
    "architectures": {
        "type": "list",
        "elements": "str",
        "choices": list(ARCHITECTURES),
        "default": list(ARCHITECTURES),
    },
    "libcs": {"type": "list", "elements": "str", "choices": list(LIBCS), "default": ["glibc"]},
    "index_url": {"type": "str", "no_log": True},
    "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "ca_bundle": {"type": "path"},
    "python": {"type": "str"},
    "cache_path": {"type": "path", "default": "~/.cache/matrix_fleet.synapse"},
}


def _lock_text(given: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """Return the lock's text and how messages call it."""
    if given["requirements_content"]:
        return str(given["requirements_content"]), "The lock in 'requirements_content'"
    path = given["requirements"]
    if not path:
        return _default_lock.LOCK, "The collection's lock"
    data = _files.read(path)
    if data is None:
        raise SynapseError(f"'requirements' is {path}, which does not exist: make the lock first. Nothing was changed.")
    return data.decode("utf-8", "replace"), path


def _sources(given: t.Mapping[str, t.Any]) -> Sources:
    """Say where packages come from; afterwards no setting of pip is left in the environment."""
    index, bundle = _installer.host_sources(os.environ, _installer.pip_configurations(os.environ))
    for name in _installer.stray_variables(os.environ):
        del os.environ[name]
    for option, url in (
        ("index_url", given["index_url"]),
        *(("extra_index_urls", x) for x in given["extra_index_urls"]),
    ):
        _index.check_address(repr(option), url or "")
    if given["ca_bundle"] and not os.path.isfile(given["ca_bundle"]):
        raise SynapseError(f"'ca_bundle' is {given['ca_bundle']}, which does not exist. Nothing was changed.")
    return Sources(
        index_url=given["index_url"] or index or _public_index.public_index(),
        extra_index_urls=tuple(given["extra_index_urls"]),
        ca_bundle=given["ca_bundle"] or (bundle if os.path.isfile(bundle) else ""),
    )


def _whole(path: str, made_from: str, targets: t.Sequence[Target]) -> Manifest | None:
    """Return the manifest of the archive that is there, if it is what is asked for and every byte of it is right."""
    if not os.path.exists(path):
        return None
    try:
        manifest = _wheelhouse_archive.head_of(path).manifest
        same = manifest.made_from == made_from and manifest.uv == UV_VERSION
        if not same or set(manifest.targets) != {target.name for target in targets}:
            return None
        _wheelhouse_archive.verify(path, manifest)
    except SynapseError:
        return None
    return manifest


def _write(
    path: str, gathered: Gathered, pins: t.Sequence[Pin], made_from: str, targets: t.Sequence[Target]
) -> Manifest:
    """Compose the archive from what was gathered."""
    locked = gathered.with_hashes(pins)
    lock = text_of(locked).encode()
    entries = {**gathered.entries, LOCK_NAME: Entry(_wheelhouse_archive.sha256_of(lock), len(lock))}
    parts = {}
    for target in targets:
        names = tuple(sorted(gathered.files[target.name]))
        parts[target.name] = Part(target.python, target.architecture, target.libc, glibc_floor(names), names)
    manifest = Manifest(synapse_in(pins), digest_of(locked), made_from, UV_VERSION, parts, entries)
    paths = {name: file for found in gathered.files.values() for name, file in found.items()}
    content = [(LOCK_NAME, len(lock), (lock,))]
    wheels = (_wheelhouse_archive.of_file(paths[name], name, entries[name]) for name in sorted(paths))
    _files.make_directory(os.path.dirname(path), mode=0o755)
    _files.write(path, _wheelhouse_archive.compose(manifest, (*content, *wheels)), mode=0o644)
    return manifest


def _gather(
    module: AnsibleModule, path: str, pins: tuple[Pin, ...], made_from: str, targets: tuple[Target, ...]
) -> dict[str, t.Any]:
    given = module.params
    cache = given["cache_path"]
    sources = _sources(given)
    with _venv_build.held(cache) as lock:
        run = module_runner(module, pass_fds=(lock,))
        work = os.path.join(cache, f"gathering-{made_from[:12]}-{UV_VERSION}")
        _files.make_directory(work, mode=0o755)
        pip = find_pip(run, given["python"], os.path.join(cache, "environment"))
        gatherer = Gatherer(run, pip, sources=sources, cache=cache, work=work, log=module.log)
        gathered = gatherer.gather(pins, targets)
        manifest = _write(path, gathered, pins, made_from, targets)
        _venv_build.run_down(work)
    built = [f"{name} {version}" for name, version in sorted(gathered.built)]
    return {**_facts(path, manifest), "built": built}


def _facts(path: str, manifest: Manifest) -> dict[str, t.Any]:
    return {
        "digest": manifest.digest,
        "lock_digest": manifest.lock_digest,
        "files": len(manifest.files) - 1,
        "size": os.path.getsize(path),
    }


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """See whether the archive is what is asked for, and gather it where it is not."""
    given = module.params
    path = os.path.abspath(given["path"])
    if os.path.isdir(path):
        raise SynapseError(f"'path' is {path}, which is a folder: give the name of a file. Nothing was changed.")
    pins = parse(*_lock_text(given))
    version, made_from = synapse_in(pins), digest_of(pins)
    targets = targets_of(given["pythons"], given["architectures"], given["libcs"])
    manifest = _whole(path, made_from, targets)
    result: dict[str, t.Any] = {
        "changed": manifest is None,
        "path": path,
        "version": version,
        "targets": [target.name for target in targets],
        "digest": None,
        "lock_digest": None,
    }
    after = "".join(f"{line}\n" for line in (f"Synapse {version}", f"lock {made_from}", *result["targets"]))
    result["diff"] = {"before_header": path, "after_header": path, "before": after if manifest else "", "after": after}
    if manifest is not None:
        result.update(_facts(path, manifest))
    elif not module.check_mode:
        result.update(_gather(module, path, pins, made_from, targets))
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("requirements", "requirements_content")],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
