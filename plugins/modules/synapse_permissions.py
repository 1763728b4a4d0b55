#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_permissions
short_description: Owners and modes of the files of an installation
version_added: 0.1.0
description:
  - Gives folders, files and whole trees their owner, group and mode, all in one task. Only what differs is changed.
  - Follows no symbolic link. A link found in a tree gets owner and group itself, what it leads to gets nothing.
  - Where one path lies below another in O(paths), its own entry decides on it. A key of V(0600) in a folder whose
    files are to be V(0640) is never V(0640) in between.
  - Leaves alone what lies on another file system, what is neither file, folder nor link, and a file with several
    names (hard links) whose owner or group is not the wanted one. Whoever may write to a folder could put a second
    name for somebody else's file there, and have it given to himself. What is left alone is returned, with a warning.
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details: A path that does not exist yet is passed over with a warning, as an earlier task may be going to make it.
  diff_mode:
    details: Shows owner, group and mode of the first 100 paths, before and after.
options:
  paths:
    description:
      - What is wanted of which path.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The absolute path of a file or folder.
        type: path
        required: true
      owner:
        description:
          - The user who shall own it, and with O(paths[].recurse) everything below it. By default whoever does.
        type: str
      group:
        description:
          - The group that it shall have, and with O(paths[].recurse) everything below it. By default the one it has.
        type: str
      mode:
        description: The mode of the path itself, in octal digits and quotes.
        type: str
      recurse:
        description: Whether the entry is for everything below the path as well.
        type: bool
        default: false
      directory_mode:
        description: The mode of the folders below the path, and of the path itself where it has no O(paths[].mode).
        type: str
      file_mode:
        description: The mode of the files below the path. It cannot have setuid and setgid bits.
        type: str
      exclude:
        description:
          - Patterns for what is left as it is, with all that is below it. C(*), C(?) and C([...]) have their usual
            meaning.
          - A pattern with a slash is held against the path below O(paths[].path), in which C(*) stands for slashes
            too; one without is held against the name.
        type: list
        elements: str
        default: []
      missing_ok:
        description: Whether the path may be missing.
        type: bool
        default: false
      hard_links:
        description:
          - Whether files with several names are changed as well, whoever they belong to. Only safe where nobody
            but the wanted owner can write to the folders.
        type: bool
        default: false
  one_file_system:
    description:
      - Whether to stay on the file system of each path.
    type: bool
    default: true
"""

EXAMPLES = r"""
---
- name: Put owners and modes in order
  matrix_fleet.synapse.synapse_permissions:
    paths:
      - path: /etc/synapse
        owner: root
        group: synapse
        recurse: true
        directory_mode: "0750"
        file_mode: "0640"
      - path: /etc/synapse/homeserver.signing.key
        owner: synapse
        group: synapse
        mode: "0600"
        missing_ok: true
      - path: /var/lib/synapse/media_store
        owner: synapse
        group: synapse
        recurse: true
        directory_mode: "0750"
        file_mode: "0640"
        exclude:
          - "*.tmp"
"""

RETURN = r"""
changed_count:
  description: How many objects were changed, or would be.
  returned: success
  type: int
  sample: 2
changed_paths:
  description: The first 100 of them.
  returned: success
  type: list
  elements: str
  sample:
    - /etc/synapse/homeserver.yaml
    - /etc/synapse/log.yaml
examined:
  description: How many objects were looked at.
  returned: success
  type: int
  sample: 1042
left_alone_count:
  description: How many objects were left alone although they are not as wanted.
  returned: success
  type: int
  sample: 0
left_alone:
  description: The first 100 of them.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path.
      type: str
      sample: /var/lib/synapse/shadow
    reason:
      description: Why it was left alone.
      type: str
      sample: it has 2 names (hard links), and may be somebody else's file
  sample: []
missing:
  description: The paths that do not exist.
  returned: success
  type: list
  elements: str
  sample: []
"""

import grp
import os
import pwd
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _permissions
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions import Rule, shown
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._permissions_walk import Tally, walk
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

# Nobody's number: what belongs to a user who is still to be made differs from everything that is there.
_STILL_TO_BE_MADE = 0xFFFFFFFE


def _number(resolve: t.Callable[[], int | None], name: str | None, check_mode: bool) -> int | None:
    """A user's or group's number; in check mode an earlier task may be going to make that user."""
    try:
        return resolve()
    except SynapseError:
        # A number needs no user; one that is refused is wrong, and no earlier task makes it right.
        if check_mode and not (name or "").isdecimal():
            return _STILL_TO_BE_MADE
        raise


def _rule(item: dict[str, t.Any], check_mode: bool) -> Rule:
    modes = {
        key: None if item[key] is None else _files.parse_mode(item[key])
        for key in ("mode", "directory_mode", "file_mode")
    }
    return Rule(
        path=os.path.normpath(item["path"]),
        uid=_number(lambda: _files.resolve(item["owner"], None).uid, item["owner"], check_mode),
        gid=_number(lambda: _files.resolve(None, item["group"]).gid, item["group"], check_mode),
        recurse=item["recurse"],
        exclude=tuple(item["exclude"]),
        missing_ok=item["missing_ok"],
        hard_links=item["hard_links"],
        **modes,
    )


def _names(tally: Tally) -> tuple[dict[int, str], dict[int, str]]:
    """The names of the users and groups that stand in the changes."""
    users: dict[int, str] = {}
    groups: dict[int, str] = {}
    for change in tally.changes:
        for uid, gid, _mode in (change.before, change.after):
            for number, names, look_up in ((uid, users, pwd.getpwuid), (gid, groups, grp.getgrgid)):
                if number not in names:
                    try:
                        names[number] = look_up(number)[0]
                    except KeyError:
                        names[number] = "(new)" if number == _STILL_TO_BE_MADE else str(number)
    return users, groups


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Look at everything, change what differs, and say what was left alone."""
    rules = [_rule(item, module.check_mode) for item in module.params["paths"]]
    _permissions.check_rules(rules)
    # What is missing fails the task before anything is changed.
    needed = [rule.path for rule in rules if not rule.missing_ok and not os.path.lexists(rule.path)]
    if needed and not module.check_mode:
        raise SynapseError(f"There is no {', no '.join(needed)}: make it first, correct the path, or allow missing_ok.")
    for path in needed:
        module.warn(f"There is no {path} yet: what it will need is not predicted.")
    tally = walk(rules, write=not module.check_mode, one_file_system=module.params["one_file_system"])
    if tally.skipped_count:
        first = tally.skipped[0]
        module.warn(
            f"{tally.skipped_count} objects are not as wanted and were left alone, {shown(first.path)} first: "
            f"{first.reason}. See left_alone in the result."
        )
    return {
        "changed": tally.changed_count > 0,
        "changed_count": tally.changed_count,
        "changed_paths": [shown(change.path) for change in tally.changes],
        "examined": tally.examined,
        "left_alone_count": tally.skipped_count,
        "left_alone": [{"path": shown(item.path), "reason": item.reason} for item in tally.skipped],
        "missing": tally.missing,
        "diff": _permissions.describe(tally.changes, tally.changed_count, *_names(tally)),
    }


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "paths": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "recurse": {"type": "bool", "default": False},
                    "directory_mode": {"type": "str"},
                    "file_mode": {"type": "str"},
                    "exclude": {"type": "list", "elements": "str", "default": []},
                    "missing_ok": {"type": "bool", "default": False},
                    "hard_links": {"type": "bool", "default": False},
                },
            },
            "one_file_system": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
