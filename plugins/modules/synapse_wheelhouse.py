#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels for a host without a package index."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_wheelhouse
short_description: Carry wheels to a host that has no package index
description:
  - Takes from a wheelhouse, which M(matrix_fleet.synapse.synapse_wheels) gathers on the controller, what a host with
    this Python, processor and C library needs, carries it there and unpacks it under O(releases_path).
  - Every file's hash is checked on the controller, and again on the host. What is not what the archive's manifest says
    is refused, and nothing is changed.
  - Nothing is carried where it is already there, or where a proven release was already built from the same lock.
  - M(matrix_fleet.synapse.synapse_venv) then builds from RV(path) without asking any index.
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
options:
  src:
    description:
      - The archive on the controller.
    type: path
    required: true
  made_from:
    description:
      - A lock file on the controller. An archive that was made from another lock is refused.
    type: path
  path:
    description:
      - Where the environment that serves is found, as for M(matrix_fleet.synapse.synapse_venv).
    type: path
    default: /var/lib/synapse/venv
  releases_path:
    description:
      - The folder of the releases, as for M(matrix_fleet.synapse.synapse_venv).
      - By default C(releases) beside O(path).
    type: path
  python:
    description:
      - The interpreter that the environment is built from, as for M(matrix_fleet.synapse.synapse_venv).
    type: str
  digest:
    description:
      - The digest of the archive. The action that runs the module fills it in.
    type: str
  lock_digest:
    description:
      - The digest of the lock in the archive. The action that runs the module fills it in.
    type: str
  version:
    description:
      - The version of Synapse in the archive. The action that runs the module fills it in.
    type: str
  carried:
    description:
      - Where on the host the archive lies. The action that runs the module fills it in, and removes the file again.
      - Without it the module only says what the host needs.
    type: path
notes:
  - The wheels stay on the host, so that a damaged release can be built anew, until others take their place.
  - Two runs on one host wait for each other, 90 seconds at most.
seealso:
  - module: matrix_fleet.synapse.synapse_wheels
  - module: matrix_fleet.synapse.synapse_venv
"""

EXAMPLES = r"""
- name: Carry the wheels to the host
  matrix_fleet.synapse.synapse_wheelhouse:
    src: "{{ synapse_wheelhouse }}"
  register: wheels

- name: Build a release from them
  matrix_fleet.synapse.synapse_venv:
    requirements_content: "{{ lookup('matrix_fleet.synapse.wheelhouse_lock', synapse_wheelhouse) }}"
    find_links: ["{{ wheels.path }}"]
    offline: true
"""

RETURN = r"""
path:
  description: The folder with the wheels. It exists unless RV(needed) is false because a release was already built.
  returned: success
  type: str
  sample: /var/lib/synapse/releases/.wheelhouse/2f6d0c1e8b3a-cp311-x86_64-glibc
lock:
  description: The lock on the host; V(null) in check mode where nothing is there yet.
  returned: success
  type: str
  sample: /var/lib/synapse/releases/.wheelhouse/2f6d0c1e8b3a-cp311-x86_64-glibc/lock.txt
digest:
  description: The archive's digest, which is the SHA-256 of its manifest.
  returned: success
  type: str
  sample: 2f6d0c1e8b3a0c6f5f0be6c3d5a7c2b1d1c5b8a9e6d7f4a3b2c1d0e9f8a7b6c5
target:
  description: What of the archive this host takes.
  returned: success
  type: dict
  contains:
    name:
      description: The name of this kind of host.
      type: str
    python:
      description: The minor version of its Python.
      type: str
    architecture:
      description: Its processor.
      type: str
    libc:
      description: Its C library.
      type: str
    glibc:
      description: The version of glibc, empty where it is another C library.
      type: str
  sample: {name: cp311-x86_64-glibc, python: "3.11", architecture: x86_64, libc: glibc, glibc: "2.36"}
needed:
  description: Whether the wheels had to be carried.
  returned: success
  type: bool
  sample: true
"""

import os
import posixpath
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _wheelhouse_host
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, module_runner
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import python_floor

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "src": {"type": "path", "required": True},
    "made_from": {"type": "path"},
    "path": {"type": "path", "default": "/var/lib/synapse/venv"},
    "releases_path": {"type": "path"},
    "python": {"type": "str"},
    "digest": {"type": "str"},
    "lock_digest": {"type": "str"},
    "version": {"type": "str"},
    "carried": {"type": "path"},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Look at the host and, where an archive was carried here, unpack it."""
    given = module.params
    beside = posixpath.join(posixpath.dirname(posixpath.normpath(given["path"])), "releases")
    releases_path = posixpath.normpath(given["releases_path"] or beside)
    for option in ("digest", "lock_digest", "version"):
        if not given[option]:
            raise SynapseError(
                f"The module was run without its action, so {option!r} is missing: run it as "
                "matrix_fleet.synapse.synapse_wheelhouse in a task of its own. Nothing was changed."
            )
    seen = _wheelhouse_host.survey(
        module_runner(module),
        releases_path=releases_path,
        named=given["python"],
        version=given["version"],
        floor=python_floor(given["version"]),
        digest=given["digest"],
        lock_digest=given["lock_digest"],
    )
    lock = seen.lock
    if seen.needed and given["carried"] and not module.check_mode:
        _wheelhouse_host.unpack(given["carried"], releases_path=releases_path, digest=given["digest"], seen=seen)
        lock = os.path.join(seen.path, "lock.txt")
    return {
        "changed": seen.needed and (module.check_mode or bool(given["carried"])),
        "needed": seen.needed,
        "path": seen.path,
        "lock": lock,
        "digest": given["digest"],
        "target": {
            "name": seen.target.name,
            "python": seen.target.python,
            "architecture": seen.target.architecture,
            "libc": seen.target.libc,
            "glibc": seen.glibc,
        },
        "diff": {
            "before_header": releases_path,
            "after_header": releases_path,
            "before": "" if seen.needed else f"{os.path.basename(seen.path)}\n",
            "after": f"{os.path.basename(seen.path)}\n",
        },
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
