#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files, made on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_lock
short_description: Resolve a version of Synapse into one lock file for every host
description:
  - Resolves a version of Synapse with the extras and packages that are asked for, for all Pythons and processors of a
    fleet at once, and writes the outcome as a lock file, with one exact version and SHA-256 hashes for each package.
  - Two hosts whose environments M(matrix_fleet.synapse.synapse_venv) builds from one lock have the same packages.
  - Runs on the controller, with Python 3.11 or newer. Resolving is done by uv, which is fetched in one pinned version
    and checked by its hash. pip cannot resolve for other hosts than the one that it runs on.
  - The lock has the hashes of the files alone that its hosts can install. Where one of them has no wheel, the source
    distribution is among them.
  - A lock that was made for the same request is left as it is, and no index is asked.
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Resolves in check mode too, because nothing else tells what would change. Nothing is written to O(path), nor to
        O(cache_path).
  idempotent:
    support: partial
    details:
      - With O(renew=true) the lock changes where the index has something newer.
options:
  path:
    description:
      - The lock file to write. Its folder must exist.
      - A file that is a lock is replaced, any other is not.
    type: path
    required: true
  version:
    description:
      - The version of Synapse, such as V(1.163.2).
      - By default the version that the collection installs by default.
    type: str
  extras:
    description:
      - Optional parts of Synapse, as for O(matrix_fleet.synapse.synapse_venv#module:extras).
      - By default, and where the list is empty, V(cache-memory), V(jwt), V(oidc), V(redis) and V(url-preview).
        The PostgreSQL driver C(psycopg2-binary) is always in the lock.
    type: list
    elements: str
    default: []
  extra_packages:
    description:
      - Further packages, such as plugins, by name and version as the index knows them.
    type: list
    elements: str
    default: []
  pythons:
    description:
      - The versions of CPython that the hosts may have, in quotes.
    type: list
    elements: str
    default: ["3.10", "3.11", "3.12", "3.13", "3.14"]
  architectures:
    description:
      - The processors that the hosts may have, as C(uname -m) prints them.
      - The lock is for glibc and musl alike.
    type: list
    elements: str
    default: [x86_64, aarch64]
  base:
    description:
      - A lock whose versions are kept wherever they fit, such as the one at O(path) before.
      - By default the collection's own lock for the version that this is for, and none for other versions. An empty
        text stands for none.
      - It is not part of the request. Use O(renew) to resolve with another one.
    type: path
  exclude_newer:
    description:
      - The last day whose packages count, such as V(2026-04-14) (UTC).
      - V(auto) is the day after the release for a version of Synapse that is no longer the newest, because most old
        versions do not work with today's dependencies, and no limit for the newest.
      - Needs an index that states upload times.
    type: str
    default: auto
  renew:
    description:
      - Resolve again, although the lock at O(path) is what is asked for.
    type: bool
    default: false
  index_url:
    description:
      - The package index, in the form of the simple API. May hold a user name and a password, which appear in no
        output and no process list.
      - By default the one that the controller's pip or uv is set to in the task's environment or in pip's configuration
        file, else the public one, as pip knows it.
    type: str
  extra_index_urls:
    description:
      - Further indexes, which are asked first.
    type: list
    elements: str
    default: []
  find_links:
    description:
      - Folders on the controller, or pages, with wheels. The password in a page's address is never shown.
    type: list
    elements: str
    default: []
  offline:
    description:
      - Ask no index. Everything comes from O(find_links), uv's own wheel included.
    type: bool
    default: false
  ca_bundle:
    description:
      - A file with the certificates of the authorities to trust, in PEM form, for an index with a private authority.
      - By default the one that the controller's pip is set to, else the system's own.
    type: path
  cache_path:
    description:
      - Where uv and what it fetches are kept. Nobody else may be able to write there, because uv is started from it.
      - What uv fetches is kept in the folder that E(UV_CACHE_DIR) names, where it is set.
    type: path
    default: ~/.cache/matrix_fleet.synapse
notes:
  - Run it with the controller's own Python, that is, with C(ansible_python_interpreter) set to
    C({{ ansible_playbook_python }}), as the playbook C(matrix_fleet.synapse.lock) does.
  - Proxies are taken from the task's environment (C(https_proxy), C(no_proxy)).
seealso:
  - module: matrix_fleet.synapse.synapse_venv
"""

EXAMPLES = r"""
- name: Make a lock beside the inventory
  hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: Lock an older version, with a plugin, for hosts with Debian 12 and 13
      matrix_fleet.synapse.synapse_lock:
        path: "{{ inventory_dir }}/synapse.lock"
        version: 1.150.0
        extra_packages: [matrix-synapse-ldap3]
        pythons: ["3.11", "3.13"]

    - name: Take security updates of dependencies, and keep the version of Synapse
      matrix_fleet.synapse.synapse_lock:
        path: "{{ inventory_dir }}/newest.lock"
        base: ""
        renew: true
"""

RETURN = r"""
path:
  description: The lock file.
  returned: success
  type: str
  sample: /srv/fleet/synapse.lock
version:
  description: The version of Synapse in it.
  returned: success
  type: str
  sample: 1.150.0
digest:
  description:
    - SHA-256 of the lock's packages, versions and hashes, as in
      RV(matrix_fleet.synapse.synapse_venv#module:lock_digest). Its first 12 digits are part of the release's name.
  returned: success
  type: str
  sample: 0fe18e3fa5d751d6b8a602396ddc1554a0cf60e2e35bc29533e611579a72805c
as_of:
  description: The last day whose packages count; V(null) where there was no limit.
  returned: success
  type: str
  sample: "2026-04-15"
packages:
  description: What is in the lock. A package may be there twice, with markers that say which host gets which version.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The package's normalised name.
      type: str
    version:
      description: Its exact version.
      type: str
    marker:
      description: For which hosts; empty for all.
      type: str
  sample:
    - {name: attrs, version: 26.1.0, marker: ""}
    - {name: tomli, version: 2.4.1, marker: python_full_version < '3.11'}
without_wheels:
  description: Packages that some of the hosts have to build from source, which may need a compiler there.
  returned: success
  type: list
  elements: dict
  contains:
    package:
      description: The package's normalised name.
      type: str
    version:
      description: Its exact version.
      type: str
    pythons:
      description: The Pythons that have no wheel.
      type: list
      elements: str
    architectures:
      description: The processors that have no wheel.
      type: list
      elements: str
    libraries:
      description: The C libraries that have no wheel, V(glibc) or V(musl).
      type: list
      elements: str
    source:
      description: Whether there is a source distribution to build it from.
      type: bool
  sample:
    - package: zope-interface
      version: "8.7"
      pythons: ["3.11", "3.12"]
      architectures: [x86_64, aarch64]
      libraries: [musl]
      source: true
"""

import os
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._fetching import fetcher, passwords_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock_task import Options, Task
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, module_runner

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "path": {"type": "path", "required": True},
    "version": {"type": "str"},
    "extras": {"type": "list", "elements": "str", "default": []},
    "extra_packages": {"type": "list", "elements": "str", "default": []},
    "pythons": {"type": "list", "elements": "str", "default": ["3.10", "3.11", "3.12", "3.13", "3.14"]},
    "architectures": {"type": "list", "elements": "str", "default": ["x86_64", "aarch64"]},
    "base": {"type": "path"},
    "exclude_newer": {"type": "str", "default": "auto"},
    "renew": {"type": "bool", "default": False},
    "index_url": {"type": "str", "no_log": True},
    "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "offline": {"type": "bool", "default": False},
    "ca_bundle": {"type": "path"},
    "cache_path": {"type": "path", "default": "~/.cache/matrix_fleet.synapse"},
}


def run(module: DiscreetModule) -> dict[str, t.Any]:
    """Look, resolve where that is needed, and unless only a prediction is wanted, write."""
    options = Options.from_params(module.params)
    task = Task(options, run=module_runner(module), fetcher=fetcher, scratch=str(module.tmpdir))
    result = task.run(apply=not module.check_mode)
    for warning in task.warnings:
        module.warn(warning)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = DiscreetModule(
        # As no_log, find_links would take every one of its folders out of the result.
        unlogged=("find_links",),
        secrets=passwords_of,
        argument_spec=ARGUMENTS,
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
