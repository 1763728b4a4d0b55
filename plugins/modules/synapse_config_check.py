#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module synapse_config_check: the verdict on a Synapse configuration, before it is used."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_config_check
short_description: Check a Synapse configuration with the installed Synapse before it is used
version_added: 0.1.0
description:
  - Lets the installed Synapse parse a configuration, and reports all that it refuses, ignores or takes without a word
    though it cannot be meant.
  - Synapse itself ignores options that it does not know. Here they are found, at any level, with the option that was
    probably meant.
  - The main configuration, the files of workers, the log configuration and the registrations of application services
    are judged together.
  - Nothing on the host is changed. No folder is made, no key is minted and no file is written; the check runs as the
    account of the service,
    so that it meets the permissions that Synapse will meet.
  - Values of secrets appear in no result and no message.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details: The module only reads, so it does the same in check mode. Where O(python) does not exist yet, nothing is
      checked, and a warning says so.
  diff_mode:
    support: none
    details: Nothing is changed.
  idempotent:
    details: Nothing is changed.
options:
  content:
    description:
      - The configuration to check, as YAML text.
      - Exactly one of O(content) and O(path) is needed.
    type: str
  path:
    description:
      - The configuration files to check, merged in this order as Synapse merges them. The last file to set a
        top-level option wins.
      - A folder stands for the C(*.yaml) files in it, sorted by name.
    type: list
    elements: path
  config_path:
    description:
      - Where O(content) is going to be. Synapse looks for the signing key beside it where O(content) names none, and
        messages name it.
    type: path
    default: /etc/synapse/homeserver.yaml
  files:
    description: Files that the check takes to be in place although they are not written yet, or are written
      differently.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file is going to be.
        type: path
        required: true
      content:
        description:
          - What the file is going to hold.
          - Where it is left out, the file is taken to exist with content that is not known yet, such as a key that
            has still to be minted.
        type: str
  directories:
    description: Folders that the check takes to be in place, and to be the service's own, although they do not exist
      yet.
    type: list
    elements: path
    default: []
  workers:
    description: The configuration files of workers on this host. Each is checked together with the main configuration.
    type: list
    elements: path
    default: []
  python:
    description: The interpreter of the environment that Synapse is installed in.
    type: path
    default: /var/lib/synapse/venv/bin/python
  compare_python:
    description:
      - The interpreter of the environment that serves now, where O(python) is that of another release which is to take
        its place.
      - What the two make of the configuration is then set side by side in RV(upgrade_report), whether or not the
        configuration is accepted. The verdict itself is that of O(python) alone.
      - An environment that is missing or broken is said in the report, and fails nothing.
    type: path
  user:
    description:
      - The account that Synapse runs as. The check runs as this account.
      - Where there is no such account yet, or the module does not run as root, the check runs as the account it has,
        and a warning says so.
      - Root runs the environment of another user as that user, unless an account is given.
    type: str
  no_secrets_in_config:
    description: Whether to refuse secrets that stand in the configuration, as Synapse does with
      C(--no-secrets-in-config).
    type: bool
    default: false
  unknown_options:
    description:
      - How grave an option is that this version of Synapse does not know.
      - Options of which it is known that they ended with an older version, and experiments that have ended, are never
        more than a warning, so that they do not stand in the way of an upgrade.
    type: str
    choices: [error, warning, ignore]
    default: error
  allow_unknown:
    description:
      - Options that Synapse does not know and that are meant, by their dotted names. What is below them is meant, too.
      - V(*) stands for one part of a name; positions in lists are left out.
      - Top-level names that begin with C(x-) are always meant, as holders of YAML anchors.
    type: list
    elements: str
    default: []
  fail_on:
    description: The least grave problem that fails the task.
    type: str
    choices: [error, warning, never]
    default: error
  timeout:
    description: How many seconds the check may take.
    type: int
    default: 120
author:
  - Matrix Fleet maintainers (@matrix-fleet)
"""

EXAMPLES = r"""
---
- name: Check the configuration that is in use
  matrix_fleet.synapse.synapse_config_check:
    path: /etc/synapse/homeserver.yaml
    user: synapse

- name: Check a new configuration and its log configuration before they are written
  matrix_fleet.synapse.synapse_config_check:
    content: "{{ lookup('ansible.builtin.template', 'homeserver.yaml.j2') }}"
    config_path: /etc/synapse/homeserver.yaml
    files:
      - path: /etc/synapse/log.yaml
        content: "{{ lookup('ansible.builtin.template', 'log.yaml.j2') }}"
    python: /var/lib/synapse/venv/bin/python
    user: synapse
    no_secrets_in_config: true

- name: Say what another release would make of the configuration that is in use
  matrix_fleet.synapse.synapse_config_check:
    path: /etc/synapse/homeserver.yaml
    python: /var/lib/synapse/releases/1.163.2-0fe18e3fa5d7/bin/python
    compare_python: /var/lib/synapse/venv/bin/python
    user: synapse
    fail_on: never

- name: List what is wrong with a server and its workers, without failing
  matrix_fleet.synapse.synapse_config_check:
    path:
      - /etc/synapse/homeserver.yaml
      - /etc/synapse/conf.d
    workers:
      - /etc/synapse/workers/generic1.yaml
    user: synapse
    allow_unknown:
      - my_module_settings
    fail_on: never
  register: verdict
"""

RETURN = r"""
valid:
  description: Whether there is no problem of severity V(error); C(null) where nothing was checked.
  returned: always
  type: bool
  sample: false
checked:
  description: Whether the check took place. It is V(false) where the environment does not exist yet, in check mode.
  returned: always
  type: bool
  sample: true
checked_as:
  description: The account that the check ran as.
  returned: when RV(checked) is true
  type: str
  sample: synapse
version:
  description: The version of Synapse that gave the verdict.
  returned: when RV(checked) is true
  type: str
  sample: 1.163.2
summary:
  description: The verdict in one sentence.
  returned: always
  type: str
  sample: "Synapse 1.163.2 would not run as meant with this configuration: 1 error."
problems:
  description: Everything that was found, the gravest first.
  returned: always
  type: list
  elements: dict
  sample:
    - severity: error
      path: rc_login.adress
      message: Synapse 1.163.2 does not know this option.
      cause:
      suggestion: Did you mean rc_login.address?
      file: /etc/synapse/homeserver.yaml
      line: 42
      kind: unknown_option
      process: main
  contains:
    severity:
      description: V(error) where the server would not start, or not do what is written; V(warning) and V(info) below
        that.
      returned: always
      type: str
      sample: error
    path:
      description: The dotted name of the option; empty where the problem is about no single option.
      returned: always
      type: str
      sample: rc_login.adress
    message:
      description: What is wrong.
      returned: always
      type: str
      sample: Synapse 1.163.2 does not know this option.
    cause:
      description: The technical reason that Synapse or Python gave, where there is one.
      returned: always
      type: str
      sample:
    suggestion:
      description: What to do about it.
      returned: always
      type: str
      sample: Did you mean rc_login.address?
    file:
      description: The file that the problem is in.
      returned: always
      type: str
      sample: /etc/synapse/homeserver.yaml
    line:
      description: The line of that file, counted from 1.
      returned: always
      type: int
      sample: 42
    kind:
      description: What kind of problem it is, as a word that stays the same from version to version. A rule of
        M(matrix_fleet.synapse.synapse_doctor) is named after it.
      returned: always
      type: str
      sample: unknown_option
    process:
      description: V(main), or the configuration file of the worker that the problem was found with.
      returned: always
      type: str
      sample: main
upgrade_report:
  description: How the release behind O(python) takes the configuration differently from the one behind
    O(compare_python).
  returned: when O(compare_python) is given and RV(checked) is true, also where the configuration is refused
  type: dict
  sample:
    from: 1.150.0
    to: 1.163.2
    no_longer_read:
      - path: experimental_features.msc3266_enabled
        suggestion: "The experiment has ended in this version: remove the option."
        file: /etc/synapse/homeserver.yaml
        line: 42
    newly_read: []
    newly_refused: []
    unknown_to_both: []
    problem:
  contains:
    from:
      description: The version behind O(compare_python); C(null) where it could not be asked.
      type: str
    to:
      description: The version behind O(python).
      type: str
    no_longer_read:
      description: Options set here that the former reads and the latter does not.
      type: list
      elements: dict
      contains: &option
        path:
          description: The dotted name of the option.
          type: str
        suggestion:
          description: What to do about it, or C(null).
          type: str
        file:
          description: The file that it stands in.
          type: str
        line:
          description: The line of that file.
          type: int
    newly_read:
      description: Options set here that have no effect in the former, and have one in the latter.
      type: list
      elements: dict
      contains: *option
    newly_refused:
      description: What the latter refuses and the former takes; C(suggestion) begins with the reason.
      type: list
      elements: dict
      contains: *option
    unknown_to_both:
      description: Options set here that neither knows.
      type: list
      elements: dict
      contains: *option
    problem:
      description: Why the former could not be asked, or C(null).
      type: str
upgrade_summary:
  description: RV(upgrade_report) as sentences.
  returned: when RV(upgrade_report) is
  type: list
  elements: str
  sample:
    - "Synapse 1.163.2 does not read experimental_features.msc3266_enabled (/etc/synapse/homeserver.yaml line 42), which
      1.150.0 does. The experiment has ended in this version: remove the option."
"""

import os
import typing as t
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _upgrade_report
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import (
    SEVERITIES,
    Problem,
    Wanted,
    judge,
    render,
    summary,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_observe import (
    Asked,
    account_for,
    environment_of,
    observe,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Account,
    SynapseError,
    module_runner,
)

ARGUMENT_SPEC: dict[str, t.Any] = {
    "content": {"type": "str", "no_log": True},
    "path": {"type": "list", "elements": "path"},
    "config_path": {"type": "path", "default": "/etc/synapse/homeserver.yaml"},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, "content": {"type": "str", "no_log": True}},
    },
    "directories": {"type": "list", "elements": "path", "default": []},
    "workers": {"type": "list", "elements": "path", "default": []},
    "python": {"type": "path", "default": "/var/lib/synapse/venv/bin/python"},
    "compare_python": {"type": "path"},
    "user": {"type": "str"},
    "no_secrets_in_config": {"type": "bool", "default": False, "no_log": False},
    "unknown_options": {"type": "str", "choices": ["error", "warning", "ignore"], "default": "error"},
    "allow_unknown": {"type": "list", "elements": "str", "default": []},
    "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
    "timeout": {"type": "int", "default": 120},
}


def asked_of(params: t.Mapping[str, t.Any]) -> Asked:
    """Return what Synapse is asked about: ``content`` is a file that is not written yet, like the others."""
    files = {entry["path"]: entry["content"] for entry in params["files"]}
    if params["content"] is not None:
        files[params["config_path"]] = params["content"]
    return Asked(
        main=params["path"] if params["content"] is None else [params["config_path"]],
        workers=params["workers"],
        files=files,
        directories=params["directories"],
        secrets_allowed=not params["no_secrets_in_config"],
    )


def ask(module: AnsibleModule, python: str, account: Account | None, asked: Asked) -> dict[str, t.Any]:
    """Ask the Synapse behind ``python``; raises ``SynapseError`` where it cannot be asked."""
    params = module.params
    answer = observe(
        module_runner(module),
        python,
        asked,
        account=account,
        user=params["user"],
        parent=module.tmpdir,
        timeout=params["timeout"],
    )
    runs = answer.get("runs")
    whole = isinstance(runs, list) and all(isinstance(one, dict) for one in runs)
    if not whole or not all(isinstance(answer.get(name), str) for name in ("version", "account")):
        raise SynapseError(
            f"{python} was asked to judge the configuration, and what it answered cannot be understood. Something else "
            "than Synapse's own environment answers there: look at it, and build it anew (synapse_venv with "
            "state=rebuilt). Nothing was changed."
        )
    return answer


def compared(module: AnsibleModule, answer: dict[str, t.Any], wanted: Wanted) -> _upgrade_report.Report:
    """Ask the release that serves now about the same configuration, and set its answer beside ``answer``."""
    params, python = module.params, module.params["compare_python"]
    if environment_of(python) == environment_of(params["python"]):
        return _upgrade_report.compare(answer, answer, wanted)
    if not os.access(python, os.X_OK):
        problem = f"{python}, the interpreter of the release that serves now, does not exist or is not executable."
        return _upgrade_report.unanswered(answer["version"], problem)
    account, _note = account_for(params["user"], python)
    # Releases before 1.126 do not know --no-secrets-in-config; what it refuses is the new release's to say.
    try:
        before = ask(module, python, account, replace(asked_of(params), secrets_allowed=True))
    except SynapseError as error:
        return _upgrade_report.unanswered(answer["version"], error.msg)
    return _upgrade_report.compare(before, answer, wanted)


def failing(problems: t.Sequence[Problem], fail_on: str) -> list[Problem]:
    """Return the problems that fail the task."""
    if fail_on == "never":
        return []
    return [problem for problem in problems if SEVERITIES.index(problem.severity) <= SEVERITIES.index(fail_on)]


def run_module(module: AnsibleModule) -> dict[str, t.Any]:
    """Check the configuration and return the result; raises ``SynapseError`` where the task has to fail."""
    params = module.params
    if not os.access(params["python"], os.X_OK):
        text = f"{params['python']} does not exist or is not executable"
        if not module.check_mode:
            raise SynapseError(f"{text}: make the environment with the module synapse_venv, or name its interpreter.")
        module.warn(f"{text} yet: the configuration was not checked.")
        return {"checked": False, "valid": None, "problems": [], "summary": "Not checked: there is no Synapse yet."}
    account, note = account_for(params["user"], params["python"])
    if note is not None:
        module.warn(note)
    answer = ask(module, params["python"], account, asked_of(params))
    wanted = Wanted(params["unknown_options"], tuple(params["allow_unknown"]))
    problems = judge(answer, wanted)
    result = {
        "checked": True,
        "checked_as": answer["account"],
        "valid": not any(problem.severity == "error" for problem in problems),
        "version": answer["version"],
        "summary": summary(problems, answer["version"]),
        "problems": [problem.as_dict() for problem in problems],
    }
    if params["compare_python"] is not None:
        report = compared(module, answer, wanted)
        result.update(upgrade_report=report.as_dict(), upgrade_summary=report.lines())
    fatal = failing(problems, params["fail_on"])
    if fatal:
        raise SynapseError("\n".join([result["summary"], *map(render, fatal)]), **result)
    for problem in problems:
        if problem.severity != "info":
            module.warn(render(problem))
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        mutually_exclusive=[("content", "path")],
        required_one_of=[("content", "path")],
    )
    try:
        module.exit_json(changed=False, **run_module(module))
    except SynapseError as error:
        module.fail_json(error.msg, changed=False, **error.details)


if __name__ == "__main__":
    main()
