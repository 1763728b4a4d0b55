#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module synapse_doctor: from what can be seen of a homeserver to what is wrong with it, and what mends it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_doctor
short_description: Say what is wrong with a homeserver, why, and what mends it
version_added: 0.1.0
description:
  - Looks at the whole of an installation within seconds - environment, signing key, configuration, permissions, unit,
    process, listeners, database, logs, public name, certificates, neighbouring services, disks - and names what is
    wrong with it.
  - Each finding has the evidence it rests on, its cause, what a person would type to mend it, and the tag of the
    playbook C(repair) that does so, if one does.
  - One cause is one finding. What merely follows from it is listed apart, in RV(consequences).
  - Reads only. It needs neither a working environment nor a valid configuration, works on installations that were made
    by other means, and fails only where it cannot look at all.
  - Secrets are in no finding, whatever the files hold.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details: The module only reads, so it does the same in check mode.
  diff_mode:
    support: none
    details: Nothing is changed.
  idempotent:
    details: Nothing is changed.
options:
  config_path:
    description:
      - The configuration files in the order in which Synapse merges them. A folder stands for the C(*.yaml) files in
        it.
    type: list
    elements: path
    default: [/etc/synapse/homeserver.yaml]
  python:
    description: The interpreter of the environment that Synapse runs in.
    type: path
    default: /var/lib/synapse/venv/bin/python
  releases_path:
    description: Where releases are kept. The default is C(releases) beside the environment.
    type: path
  user:
    description: The account that the service runs as. The default is what the unit says.
    type: str
  unit:
    description:
      - The systemd unit of the main process.
      - Where there is none of this name, one that starts Synapse with this configuration is looked for.
      - Empty where no unit starts it.
    type: str
    default: matrix-synapse.service
  pid_file:
    description: The pid file of the main process, where no service manager watches it.
    type: path
  workers:
    description: The configuration files of workers on this host.
    type: list
    elements: path
    default: []
  worker_units:
    description: The systemd units of workers on this host.
    type: list
    elements: str
    default: []
  log_files:
    description: Log files to read beside those that the log configuration names.
    type: list
    elements: path
    default: []
  server_name:
    description: The name that the server is meant to have, to be compared with the one that it has.
    type: str
  public:
    description:
      - Whether the server is asked by its public name too, as another server or a client would ask it.
      - By default it is where the configuration has a C(public_baseurl).
    type: bool
  public_url:
    description: Where the server is looked for by its public name, if not at C(https://) and its name.
    type: str
  ca_bundle:
    description: Certificates to trust beside the host's own.
    type: path
  certificate_days:
    description: For how many days certificates have to be valid at least.
    type: float
    default: 14
  scripts:
    description: Scripts and job files to read for advice that never worked, beside those where operators keep them.
    type: list
    elements: path
    default: []
  allow_unknown:
    description: Options that Synapse does not know and that are meant, as in
      M(matrix_fleet.synapse.synapse_config_check).
    type: list
    elements: str
    default: []
  timeout:
    description: How many seconds the examination may take. What has not answered by then is reported as not seen.
    type: float
    default: 25
  fail_on:
    description: The least grave finding that fails the task.
    type: str
    choices: [critical, error, warning, never]
    default: never
author:
  - Matrix Fleet maintainers (@matrix-fleet)
"""

EXAMPLES = r"""
---
- name: Say what is wrong with the homeserver
  matrix_fleet.synapse.synapse_doctor:
  register: diagnosis

- name: Look at an installation of the Debian package
  matrix_fleet.synapse.synapse_doctor:
    config_path:
      - /etc/matrix-synapse/homeserver.yaml
      - /etc/matrix-synapse/conf.d
    python: /opt/venvs/matrix-synapse/bin/python
    user: matrix-synapse
    unit: matrix-synapse.service

- name: Fail where something is broken
  matrix_fleet.synapse.synapse_doctor:
    fail_on: error
"""

RETURN = r"""
healthy:
  description: Whether the server answers as it should, and no finding is V(critical) or V(error).
  returned: always
  type: bool
  sample: false
summary:
  description: The diagnosis in one sentence.
  returned: always
  type: str
  sample: "Not healthy (1 critical): The interpreter of the environment is gone."
counts:
  description: How many findings there are of each severity.
  returned: always
  type: dict
  sample: {critical: 1, error: 0, warning: 0, info: 0}
findings:
  description: What is wrong, the gravest first; root causes only.
  returned: always
  type: list
  elements: dict
  sample:
    - id: environment.interpreter_missing
      severity: critical
      summary: The interpreter of the environment is gone.
      evidence: /var/lib/synapse/venv/bin/python leads to /usr/bin/python3.10, which does not exist
      cause: The system's Python was upgraded or removed.
      remedy: "ansible-playbook matrix_fleet.synapse.repair --tags reinstall"
      repair: reinstall
      safe: true
      follows: [service.failed]
  contains: &finding
    id:
      description: The stable name of the rule.
      type: str
      sample: environment.interpreter_missing
    severity:
      description: V(critical), V(error), V(warning) or V(info).
      type: str
      sample: critical
    summary:
      description: What is wrong, in one plain sentence.
      type: str
      sample: The interpreter of the environment is gone.
    evidence:
      description: The line, the path or the value that shows it; never a secret.
      type: str
      sample: /var/lib/synapse/venv/bin/python leads to /usr/bin/python3.10, which does not exist
    cause:
      description: How it comes to that.
      type: str
      sample: The system's Python was upgraded or removed.
    remedy:
      description: What a person would type, or do.
      type: str
      sample: ansible-playbook matrix_fleet.synapse.repair --tags reinstall
    repair:
      description: The tag of the playbook C(repair) that mends it, or an empty text.
      type: str
      sample: reinstall
    safe:
      description: Whether it may be mended without asking anybody.
      type: bool
      sample: true
    follows:
      description: The ids of the findings that this one explains.
      type: list
      elements: str
      sample: [service.failed]
consequences:
  description: What only follows from one of the RV(findings).
  returned: always
  type: list
  elements: dict
  sample: []
  contains: *finding
server_name:
  description: The name in the configuration.
  returned: always
  type: str
  sample: example.org
version:
  description: The version of Synapse that the environment holds.
  returned: always
  type: str
  sample: 1.163.2
release:
  description: The folder that the environment's path leads to.
  returned: always
  type: str
  sample: 1.163.2-0fe18e3fa5d7
key_ids:
  description: The ids of the keys in the key file.
  returned: always
  type: list
  elements: str
  sample: ["ed25519:a_Bc12"]
signing_key_path:
  description: Where the configuration has the signing key; C(null) where it is not known, or stands in it.
  returned: always
  type: str
  sample: /etc/synapse/homeserver.signing.key
permissions:
  description: What to change of owners and modes so that the service has what it needs, and others do not.
  returned: always
  type: list
  elements: dict
  sample: []
  contains:
    path:
      description: The path.
      type: str
      sample: /etc/synapse/homeserver.yaml
    owner:
      description: The owner that it is to have; C(null) for the present one.
      type: str
      sample: root
    group:
      description: The group that it is to have; C(null) for the present one.
      type: str
      sample: synapse
    mode:
      description: The mode in octal digits, V(a+rX) for what is to be readable for all, C(null) for the present one.
      type: str
      sample: "0640"
    recurse:
      description: Whether that is for all that is below the path as well.
      type: bool
      sample: false
    safe:
      description: Whether it may be changed without asking anybody.
      type: bool
      sample: true
database:
  description: What is known of the database, C(null) where it was not seen.
  returned: always
  type: dict
  sample: {engine: sqlite3}
certificate_days:
  description: For how many days the certificate that ends first is still valid; C(null) where none was looked at.
  returned: always
  type: float
  sample: 61.5
checks:
  description: The checks of M(matrix_fleet.synapse.synapse_health) on the server's own listeners.
  returned: always
  type: list
  elements: dict
  sample: []
unseen:
  description: Why a part of the installation could not be looked at, by its name.
  returned: always
  type: dict
  sample: {}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.command import ask
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, process_runner


def request_of(params: t.Mapping[str, t.Any]) -> Request:
    """Return the request that the options describe."""
    return Request(
        config_paths=tuple(params["config_path"]),
        python=params["python"],
        releases_path=params["releases_path"],
        user=params["user"],
        unit=params["unit"] or None,
        pid_file=params["pid_file"],
        worker_configs=tuple(params["workers"]),
        worker_units=tuple(params["worker_units"]),
        log_files=tuple(params["log_files"]),
        server_name=params["server_name"],
        public=params["public"],
        public_url=params["public_url"],
        ca_bundle=params["ca_bundle"],
        certificate_days=params["certificate_days"],
        scripts=tuple(params["scripts"]),
        allow_unknown=tuple(params["allow_unknown"]),
        timeout=params["timeout"],
    )


def refusal(report: t.Mapping[str, t.Any], fail_on: str) -> str | None:
    """Return why the task fails, ``None`` where it does not."""
    if fail_on == "never":
        return None
    grave = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    told = [f"{one['summary']} {one['evidence']}".strip() for one in report["findings"] if one["severity"] in grave]
    return "\n".join([report["summary"], *told]) if told else None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "config_path": {"type": "list", "elements": "path", "default": ["/etc/synapse/homeserver.yaml"]},
            "python": {"type": "path", "default": "/var/lib/synapse/venv/bin/python"},
            "releases_path": {"type": "path"},
            "user": {"type": "str"},
            "unit": {"type": "str", "default": "matrix-synapse.service"},
            "pid_file": {"type": "path"},
            "workers": {"type": "list", "elements": "path", "default": []},
            "worker_units": {"type": "list", "elements": "str", "default": []},
            "log_files": {"type": "list", "elements": "path", "default": []},
            "server_name": {"type": "str"},
            "public": {"type": "bool"},
            "public_url": {"type": "str"},
            "ca_bundle": {"type": "path"},
            "certificate_days": {"type": "float", "default": 14},
            "scripts": {"type": "list", "elements": "path", "default": []},
            "allow_unknown": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 25},
            "fail_on": {"type": "str", "choices": ["critical", "error", "warning", "never"], "default": "never"},
        },
        supports_check_mode=True,
    )
    try:
        report = ask(process_runner(), request_of(module.params))
    except SynapseError as error:
        module.fail_json(msg=error.msg, changed=False, **error.details)
    reason = refusal(report, module.params["fail_on"])
    if reason is not None:
        module.fail_json(msg=reason, changed=False, **report)
    module.exit_json(changed=False, **report)


if __name__ == "__main__":
    main()
