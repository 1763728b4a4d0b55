#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python environment that Synapse runs in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_venv
short_description: Build, prove and switch the Python environment that Synapse runs in
description:
  - Keeps releases, which are virtual environments that lie side by side in O(releases_path), and one link, O(path),
    to the one that is live.
  - A release is built beside the live one from a lock file with hashes, then proven. Its interpreter runs, every
    package is the one that the
    lock names, every requirement is met, every compiled extension loads, Synapse's programs and scripts import, and
    Synapse's own dependency
    check passes. Only then can it become live, by one rename. The environment that serves is never modified.
  - With nothing to do, one look at each file's name, size, time and mode tells so. No installer is started and no
    index is asked.
  - What is wrong with the live environment is found without its help and returned as RV(problems).
    A new release is the only cure that is used.
  - An environment made by hand at O(path) is adopted. It is left as it is, kept under O(releases_path) when a release
    takes its place, and never
    removed.
version_added: 0.1.0
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Nothing is fetched in check mode. So where there is no lock for what is asked for, the release's name ends in
        C(unresolved) and
        RV(packages_changed) is empty.
  idempotent:
    support: partial
    details:
      - Not with O(state=rebuilt), which builds a new release at every run.
options:
  path:
    description:
      - Where the environment that serves is found. A link to the live release.
    type: path
    default: /var/lib/synapse/venv
  releases_path:
    description:
      - The folder of the releases. Best on the file system of O(path), and never on one mounted C(noexec).
      - By default C(releases) beside O(path).
      - Only root and the user of the task may be able to write in it, because what lies there is believed and started.
    type: path
  version:
    description:
      - The version of Synapse, such as V(1.163.2).
      - By default the version of the lock that is used, which is the collection's own unless O(requirements) or
        O(requirements_content) is given.
      - Another version without a lock is resolved on the host, with a warning. A version that is no longer the newest
        is resolved as of the day
        after its release, because most old versions do not work with today's dependencies. That needs uv, and an
        index that states upload times.
    type: str
  extras:
    description:
      - Optional parts of Synapse.
      - By default, and where the list is empty, V(cache-memory), V(jwt), V(oidc), V(redis) and V(url-preview), which
        the collection's lock has.
      - V(postgres) is always met by C(psycopg2-binary), which needs no compiler. V(all) stands for all parts that
        Synapse knows.
        V(opentracing) needs packages that have no wheels. V(saml2) needs the program C(xmlsec1) on the host.
      - Parts that the collection's lock does not have are resolved on the host, with a warning, and everything that
        it has stays as it is there.
    type: list
    elements: str
    default: []
  extra_packages:
    description:
      - Further packages, such as plugins, by name and version as the index knows them.
      - Those that the lock does not have are resolved on the host, with a warning.
    type: list
    elements: str
    default: []
  carry_plugins:
    description:
      - Whether plugins of Synapse that are in an environment made by hand come along when a release takes its place,
        and stay in the releases after that one.
      - A package counts as a plugin where it says that it wants C(matrix-synapse), where the configuration in
        O(config_path) loads a class from it, or where it is known by its name, such as C(matrix-synapse-ldap3).
      - Those that neither the lock nor O(extra_packages) has are added at their version, with a warning, and everything
        that the lock has stays as it is there. What comes from no package index is not carried. One that cannot be had,
        or does not import beside the new Synapse, is left out with a warning. RV(plugins) has the reason.
    type: bool
    default: true
  config_path:
    description:
      - The configuration, or a folder of them, that serves with an environment made by hand. It is read for the classes
        that it names as C(module), nothing more.
    type: path
  requirements:
    description:
      - A lock file on the managed host, with one exact version and SHA-256 hashes for each package, as
        C(uv pip compile --universal --generate-hashes) makes it.
    type: path
  requirements_content:
    description:
      - The text of a lock file, for one that is kept on the controller.
    type: str
  constraints:
    description:
      - A constraints file on the managed host, for what has to be resolved. Has no effect on a lock.
    type: path
  python:
    description:
      - The interpreter to build from, as a path or a name that is found on C(PATH). Where it is given, a release made
        from another one is replaced.
      - By default C(/usr/bin/python3), or the newest Python on the host where that is older than Synapse needs.
        A release whose interpreter still works is then kept.
    type: str
  installer:
    description:
      - V(uv) fetches one pinned version of uv from the index or O(find_links), checks its hash, and keeps it under
        O(releases_path).
        The host needs neither pip nor its Python's venv package for that.
      - V(pip) uses the pip that comes with the interpreter's own C(ensurepip).
      - V(auto) is uv, or pip with a warning where uv cannot be had, which it is not for other processors than x86-64
        and arm64.
    type: str
    choices: [auto, uv, pip]
    default: auto
  index_url:
    description:
      - The package index, in the form of the simple API. May hold a user name and a password, which appear in no
        output and no process list.
      - By default the one that the host's pip or uv is set to in the task's environment or in pip's configuration
        file, else O(default_index_url).
        Nothing else is taken from that configuration but the CA bundle, because a stray setting there would change
        what a lock says.
    type: str
  default_index_url:
    description:
      - Where packages come from if neither O(index_url) nor the settings of the host's pip or uv name an index.
      - The action that runs the module fills it in with the public index, as the controller's own pip knows it, so it
        need not be given. Where that has no pip, a pip on the host is read.
    type: str
  extra_index_urls:
    description:
      - Further indexes, which are asked first.
    type: list
    elements: str
    default: []
  find_links:
    description:
      - Folders on the managed host, or pages, with wheels. The password in a page's address is never shown.
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
      - By default the one that the host's pip is set to, else the system's own.
    type: path
  keep_releases:
    description:
      - How many releases stay once what is asked for is live. The live one and one to go back to always do.
      - Has no effect with O(activate=false). Environments that were made by hand do not count, and stay.
    type: int
    default: 3
  activate:
    description:
      - Whether the release becomes live. With V(false) it is built and proven only, and O(path) is left alone.
      - Where something else switches O(path), one more run with V(true) removes what O(keep_releases) says is too much.
    type: bool
    default: true
  trial_path:
    description:
      - A folder for check mode alone. Where a release would be built, one is built and proven in there, so that others
        can ask it what it says to the host's configuration and database; see RV(trial_python).
      - It is for whoever gave the folder to remove it.
    type: path
  state:
    description:
      - V(present) builds a release only where no proven one is what is asked for.
      - V(rebuilt) always builds a new one.
      - V(absent) removes the link and all releases. Environments made by hand stay.
    type: str
    choices: [present, absent, rebuilt]
    default: present
notes:
  - Proxies are taken from the task's environment (C(https_proxy), C(no_proxy)).
  - Wheels are cached in the folder that E(UV_CACHE_DIR) names, or under O(releases_path) until the release is proven,
    so that an interrupted
    build does not fetch everything again.
  - The collection's lock is for Linux on x86-64 and arm64, with CPython 3.10 to 3.14, and needs no compiler. On musl,
    C(zope.interface) is
    built from source without its optional C code.
  - Two runs on one host wait for each other, 90 seconds at most.
"""

EXAMPLES = r"""
- name: Provide the default version of Synapse
  matrix_fleet.synapse.synapse_venv:

- name: Build and prove a release from a lock that is kept with the playbook, without making it live
  matrix_fleet.synapse.synapse_venv:
    requirements_content: "{{ lookup('ansible.builtin.file', 'synapse.lock') }}"
    activate: false
  register: environment_built

- name: Add a plugin
  matrix_fleet.synapse.synapse_venv:
    extra_packages:
      - matrix-synapse-ldap3==0.4.0

- name: Install from a folder of wheels, without any index
  matrix_fleet.synapse.synapse_venv:
    requirements: /srv/wheelhouse/lock.txt
    find_links: [/srv/wheelhouse]
    offline: true

- name: Remove the link and all releases
  matrix_fleet.synapse.synapse_venv:
    state: absent
"""

RETURN = r"""
version:
  description: The version of Synapse in the release.
  returned: success and O(state) is not V(absent)
  type: str
  sample: 1.163.2
python:
  description: The interpreter inside the release.
  returned: success and O(state) is not V(absent)
  type: str
  sample: /var/lib/synapse/releases/1.163.2-0fe18e3fa5d7/bin/python
release:
  description:
    - The release's name, which is the version and the first 12 digits of the lock's digest.
      A number follows where a folder that must stay already has that name.
  returned: success and O(state) is not V(absent)
  type: str
  sample: 1.163.2-0fe18e3fa5d7
release_path:
  description: The release's folder.
  returned: success and O(state) is not V(absent)
  type: str
  sample: /var/lib/synapse/releases/1.163.2-0fe18e3fa5d7
previous_release:
  description:
    - What is live, or was until this run, where that is another one than RV(release); V(null) where there is none.
      A name under O(releases_path), or a path where an environment made by hand is or had to be kept elsewhere.
  returned: success and O(state) is not V(absent)
  type: str
  sample: 1.162.0-5b1e2c6ad0f3
adopt_as:
  description:
    - Where the environment is kept that was made by hand at O(path), or is to be kept by whoever puts the link in its
      place, such as O(matrix_fleet.synapse.synapse_files#module:files[].keep_as); V(null) where there is none.
    - The same in every run until the folder gives way. What it holds is written down in a file of that name and
      C(.json) under O(releases_path).
  returned: success and O(state) is not V(absent)
  type: str
  sample: /var/lib/synapse/releases/adopted-1.120.0-20260131T120000Z
pruned:
  description: The releases that were removed because O(keep_releases) are enough.
  returned: success and O(state) is not V(absent)
  type: list
  elements: str
  sample: [1.161.0-0d5c1f7be214]
trial_python:
  description: The interpreter of the release that was built in O(trial_path).
  returned: in check mode, where one was
  type: str
  sample: /var/lib/synapse/.trial-f5qk2/releases/1.163.2-0fe18e3fa5d7/bin/python
live:
  description: Whether O(path) leads to the release now. In check mode, whether it would.
  returned: success and O(state) is not V(absent)
  type: bool
  sample: true
packages_changed:
  description: How the release's packages differ from those of the environment that was live.
  returned: success
  type: dict
  contains:
    added:
      description: Version by name.
      type: dict
    removed:
      description: Version by name.
      type: dict
    changed:
      description: Both versions by name.
      type: dict
  sample:
    added: {}
    removed: {}
    changed:
      twisted: {before: 26.4.0, after: 26.10.0}
problems:
  description: What is wrong with the environment that was live, and with releases that were not used or never finished.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: What kind of problem it is.
      type: str
    evidence:
      description: What was seen.
      type: str
    action:
      description: What is done about it.
      type: str
  sample:
    - id: interpreter_missing
      evidence: /var/lib/synapse/venv/bin/python leads to /usr/bin/python3.11, which does not exist
      action: The release 1.163.2-0fe18e3fa5d7 is built beside it and takes its place.
plugins:
  description:
    - The plugins of Synapse that were found in an environment made by hand, and what came of them in the release.
  returned: success and O(state) is not V(absent)
  type: list
  elements: dict
  contains:
    name:
      description: The package's name, or the module's where no package has it.
      type: str
    version:
      description: Its version in the environment made by hand.
      type: str
    modules:
      description: The classes that the configuration loads from it, otherwise its modules.
      type: list
      elements: str
    carried:
      description: Whether the release has it. In check mode, whether it is to have it.
      type: bool
    reason:
      description: Why it is not carried, or why it was not necessary to add it. Empty where it was added.
      type: str
  sample:
    - name: matrix-synapse-ldap3
      version: 0.4.0
      modules: [ldap_auth_provider.LdapAuthProviderModule]
      carried: true
      reason: ""
installer:
  description: What the release was built with. In check mode, where it is yet to be built, the value of O(installer).
  returned: success and O(state) is not V(absent)
  type: str
  sample: uv 0.13.9
lock_digest:
  description: SHA-256 of the lock's packages, versions and hashes. Two hosts with the same one have the same packages.
  returned: success and O(state) is not V(absent)
  type: str
  sample: 0fe18e3fa5d751d6b8a602396ddc1554a0cf60e2e35bc29533e611579a72805c
"""

import dataclasses
import os
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._fetching import fetcher, passwords_of
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import Runner, SynapseError, module_runner
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Options
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_task import Task

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "path": {"type": "path", "default": "/var/lib/synapse/venv"},
    "releases_path": {"type": "path"},
    "version": {"type": "str"},
    "extras": {"type": "list", "elements": "str", "default": []},
    "extra_packages": {"type": "list", "elements": "str", "default": []},
    "carry_plugins": {"type": "bool", "default": True},
    "config_path": {"type": "path"},
    "requirements": {"type": "path"},
    "requirements_content": {"type": "str"},
    "constraints": {"type": "path"},
    "python": {"type": "str"},
    "installer": {"type": "str", "choices": ["auto", "uv", "pip"], "default": "auto"},
    "index_url": {"type": "str", "no_log": True},
    "default_index_url": {"type": "str"},
    "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "offline": {"type": "bool", "default": False},
    "ca_bundle": {"type": "path"},
    "keep_releases": {"type": "int", "default": 3},
    "activate": {"type": "bool", "default": True},
    "trial_path": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "absent", "rebuilt"], "default": "present"},
}


def run(module: DiscreetModule) -> dict[str, t.Any]:
    """Observe, plan, and unless only a prediction is wanted, apply."""

    def runner(descriptors: t.Sequence[int] = ()) -> Runner:
        return module_runner(module, pass_fds=descriptors)

    options = Options.from_params(module.params)
    task = Task(options, runner=runner, fetcher=fetcher, log=module.log)
    result = task.run(apply=not module.check_mode)
    for warning in task.warnings:
        module.warn(warning)
    trial = module.params["trial_path"]
    if module.check_mode and trial and not os.path.lexists(result.get("python", trial)):
        apart = dataclasses.replace(
            options,
            path=os.path.join(trial, "venv"),
            releases_path=os.path.join(trial, "releases"),
            activate=False,
        )
        tried = Task(apart, runner=runner, fetcher=fetcher, log=module.log, plugins=task.plugins)
        result["trial_python"] = tried.run(apply=True)["python"]
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = DiscreetModule(
        # As no_log, find_links would take every one of its folders out of the result.
        unlogged=("find_links", "default_index_url"),
        secrets=passwords_of,
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("requirements", "requirements_content")],
        supports_check_mode=True,
    )
    # Everything that is built has to be readable by the service's user.
    os.umask(0o022)
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
