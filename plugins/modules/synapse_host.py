#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_host
short_description: What manages a host's services, and the account that Synapse runs as
version_added: 0.1.0
description:
  - Tells what a deployment has to know of a host before it touches anything, and sees to the service's group and user.
  - Refuses a host, before anything is changed, for reasons that depend on what manages its services.
author:
  - Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  platform:
    platforms: linux
options:
  user:
    description:
      - System user that Synapse runs as. It is made where it is missing, without a password and without a home.
      - A user that is there gets O(group) as its primary group, O(home) and O(shell) where it has others; nothing is
        moved.
      - Without it no account is looked at.
    type: str
  group:
    description: Primary group of O(user). It is made where it is missing. The default is a group of the user's name.
    type: str
  home:
    description: Home of O(user) as the account names it. The folder itself is not made.
    type: path
  shell:
    description:
      - Shell of O(user).
      - The default is one that lets nobody in. A user that has such a shell already keeps it.
    type: path
  serves:
    description:
      - Configuration file of the homeserver that is to be served.
      - Where another unit of systemd than O(unit) serves it, and runs or is started with the host, the host is refused.
        The same server would run twice, or the old unit keep the ports from the new one.
      - Units of workers, and those that are stopped and disabled, are in nobody's way.
    type: path
  unit:
    description:
      - Name of the systemd unit that is to serve O(serves), with its C(.service).
      - Without it no unit is to serve it.
    type: str
  refusals:
    description:
      - Why a host cannot be used, judged before.
      - Where a sentence holds for this host, the module fails with it, and has changed nothing.
    type: dict
    default: {}
    suboptions:
      always:
        description: Sentences that hold for any host.
        type: list
        elements: str
        default: []
      systemd:
        description: Sentences that hold where systemd manages the host's services.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: See to the account that Synapse runs as
  matrix_fleet.synapse.synapse_host:
    user: synapse
    group: synapse
    home: /var/lib/synapse

- name: See what manages the services of a host
  matrix_fleet.synapse.synapse_host:
  register: host
"""

RETURN = r"""
service_manager:
  description:
    - V(systemd) where systemd runs; else the name of process 1, or V(unknown) where that tells nothing.
  returned: success
  type: str
  sample: systemd
run:
  description:
    - A random name for the run that begins with this task. No other run has it.
    - With it, O(matrix_fleet.synapse.synapse_files#module:run) tells runs apart that meet on one host.
  returned: success
  type: str
  sample: 3f0c9a5b7d1e42a8b6c4d2e0f1a39587
effective_user:
  description: Who the task ran as; a number where the host has no name for it.
  returned: success
  type: str
  sample: root
uid:
  description: Number of the user; none where it would have been made.
  returned: when O(user) is given
  type: int
  sample: 998
gid:
  description: Number of the group; none where it would have been made.
  returned: when O(user) is given
  type: int
  sample: 998
refusals:
  description: Why the host was refused.
  returned: when it was
  type: list
  elements: str
  sample: ["synapse_data_path is '/home/synapse': under systemd the service sees neither homes nor temporary folders."]
"""

import contextlib
import grp
import os
import pwd
import secrets
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _host, _units
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._host import Found, Group, User, Wanted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, module_runner

# As sd_booted(3) has it.
_BOOTED = "/run/systemd/system"


def observe_manager() -> str:
    """Name what manages the services of this host."""
    try:
        with open("/proc/1/comm", encoding="utf-8", errors="replace") as stream:
            first: str | None = stream.read()
    except OSError:
        first = None
    return _host.service_manager(first, booted=os.path.isdir(_BOOTED))


def effective_user() -> str:
    """Return the name of who runs this."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _tools(module: AnsibleModule) -> dict[str, str]:
    """Return where the tools for accounts are; addgroup and adduser of other makes take other options."""
    found = {name: module.get_bin_path(name) for name in _host.TOOLS}
    return {
        name: path
        for name, path in found.items()
        if path and (not name.startswith("add") or os.path.basename(os.path.realpath(path)) == "busybox")
    }


def observe_account(wanted: Wanted) -> tuple[Group | None, User | None]:
    """Return group and user as the host knows them, wherever it knows them from."""
    group: Group | None = None
    user: User | None = None
    with contextlib.suppress(KeyError):
        group = Group(wanted.group, grp.getgrnam(wanted.group).gr_gid)
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(wanted.user)
        user = User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell)
    return group, user


def apply(module: AnsibleModule, steps: t.Sequence[t.Sequence[str]], tools: t.Mapping[str, str]) -> None:
    """Make and change what was planned. Raises ``SynapseError`` with what the tool says."""
    run = module_runner(module)
    for step in steps:
        result = run([tools[step[0]], *step[1:]], env={"LC_ALL": "C"})
        if result.rc != 0:
            told = " ".join((result.stderr or result.stdout).split()) or f"it ended with {result.rc}"
            raise SynapseError(
                f"{step[0]} could not make or change {step[-1]!r}: {told}. Put that right, or make the account by hand "
                "as it is to be; then run again.",
                rc=result.rc,
            )


def account(module: AnsibleModule) -> dict[str, t.Any]:
    """See to group and user. Raises ``SynapseError``."""
    params = module.params
    wanted = Wanted(params["user"], params["group"] or params["user"], params["home"], params["shell"])
    group, user = observe_account(wanted)
    tools = _tools(module)
    shells = tuple(path for path in _host.NO_LOGIN if os.path.exists(path))
    todo = _host.plan(wanted, Found(group, user, frozenset(tools), shells))
    if todo.changed and os.geteuid() != 0:
        raise SynapseError(
            f"Group {wanted.group!r} and user {wanted.user!r} are not as they are to be, and only root can make or "
            "change them: run the task with 'become: true'."
        )
    if todo.changed and not module.check_mode:
        apply(module, todo.steps, tools)
        group, user = observe_account(wanted)
        if group is None or user is None:
            raise SynapseError(
                f"Group {wanted.group!r} and user {wanted.user!r} were made, and the host does not know them yet: look "
                "at what /etc/nsswitch.conf asks for passwd and group, and run again."
            )
    return {
        "changed": todo.changed,
        "diff": todo.diff,
        "uid": None if user is None else user.uid,
        "gid": None if group is None else group.gid,
    }


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do what is asked for."""
    manager = observe_manager()
    refused = _host.refused(module.params["refusals"], manager)
    if manager == "systemd" and module.params["serves"] is not None:
        config, own = module.params["serves"], module.params["unit"]
        others = _units.observe(module_runner(module), config, own)
        refused += [_units.refusal(unit, config, own) for unit in others]
    if refused:
        raise SynapseError("\n".join(refused), refusals=refused)
    result: dict[str, t.Any] = {
        "changed": False,
        "service_manager": manager,
        "run": secrets.token_hex(16),
        "effective_user": effective_user(),
    }
    if module.params["user"] is not None:
        result.update(account(module))
    return result


def main() -> None:
    sentences = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str"},
            "group": {"type": "str"},
            "home": {"type": "path"},
            "shell": {"type": "path"},
            "serves": {"type": "path"},
            "unit": {"type": "str"},
            "refusals": {
                "type": "dict",
                "default": {},
                "options": {"always": dict(sentences), "systemd": dict(sentences)},
            },
        },
        required_by={"group": ["user"], "home": ["user"], "shell": ["user"], "unit": ["serves"]},
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
