#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module synapse_monitor_app: the doctor as one file that a host runs by itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_monitor_app
short_description: Put the doctor on a host as one file that needs no Ansible
version_added: 0.1.0
description:
  - Packs the very code that M(matrix_fleet.synapse.synapse_doctor) runs, with what makes metrics and messages of its
    report, into one executable Python archive. There is no second copy of any rule.
  - The archive needs a Python 3.8 or newer and nothing else. It is the same, byte for byte, for the same release of
    this collection.
  - The role C(synapse_monitor) runs it from a timer.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description: Where the archive is put.
    type: path
    default: /usr/local/lib/synapse-monitor/synapse-monitor.pyz
  interpreter:
    description: The interpreter that its first line names. The default is the one that the module runs with.
    type: path
  state:
    description: Whether it shall be there.
    type: str
    choices: [present, absent]
    default: present
author:
  - Matrix Fleet maintainers (@matrix-fleet)
"""

EXAMPLES = r"""
---
- name: Put the monitor on the host
  matrix_fleet.synapse.synapse_monitor_app:
    path: /usr/local/lib/synapse-monitor/synapse-monitor.pyz
"""

RETURN = r"""
path:
  description: Where the archive is.
  returned: always
  type: str
  sample: /usr/local/lib/synapse-monitor/synapse-monitor.pyz
digest:
  description: The SHA-256 of the archive.
  returned: when O(state=present)
  type: str
  sample: 0fe18e3fa5d7b2b6e8d8f4a3c1d2e3f4a5b6c7d8e9f00112233445566778899a
files:
  description: How many of the collection's files it holds.
  returned: when O(state=present)
  type: int
  sample: 60
"""

import hashlib
import os
import sys
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor import archive, command
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

_LARGEST = 64 * 1024 * 1024  # bytes


def absent(module: AnsibleModule) -> dict[str, t.Any]:
    """Remove the archive; raises ``SynapseError``."""
    path = module.params["path"]
    there = os.path.lexists(path)
    if there and not module.check_mode:
        _files.remove(path)
    state = {"before": {"state": "present" if there else "absent"}, "after": {"state": "absent"}}
    return {"changed": there, "path": path, "diff": state}


def present(module: AnsibleModule) -> dict[str, t.Any]:
    """Put the archive in place; raises ``SynapseError``."""
    path = module.params["path"]
    sources = archive.sources_of(command.__name__.rpartition(".plugins.")[0])
    data = archive.pack(sources, command.__name__, module.params["interpreter"] or sys.executable)
    digest = hashlib.sha256(data).hexdigest()
    before = _files.read(path, limit=_LARGEST)
    mode = os.stat(path).st_mode & 0o7777 if before is not None else None
    changed = before != data or mode != 0o755
    if changed and not module.check_mode:
        _files.make_directory(os.path.dirname(path), mode=0o755)
        _files.write(path, data, mode=0o755)
    known = {} if before is None else {"digest": hashlib.sha256(before).hexdigest(), "mode": f"{mode:04o}"}
    return {
        "changed": changed,
        "path": path,
        "digest": digest,
        "files": len(sources),
        "diff": {"before": known, "after": {"digest": digest, "mode": "0755"}},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/usr/local/lib/synapse-monitor/synapse-monitor.pyz"},
            "interpreter": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = present(module) if module.params["state"] == "present" else absent(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
