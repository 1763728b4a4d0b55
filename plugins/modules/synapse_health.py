#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_health
short_description: The verdict on a running homeserver
version_added: 0.1.0
description:
  - Asks a running Synapse what only a healthy one can answer, all in one task. The process is alive and does not
    restart over and over; each listener answers C(/health), C(/_matrix/client/versions) and
    C(/_matrix/federation/v1/version); the version that runs is the one that is installed; the published key
    carries the server's name, is the one in the key file, is still valid, and signed the answer.
  - On request it also looks at C(/.well-known/matrix/client) and C(/.well-known/matrix/server), and at how long
    certificates are still valid.
  - A server that is not healthy fails the task, with the root cause, every failing check, and the line of the
    server's own journal or log that says why. Values that look like secrets are masked in it.
  - Changes nothing. Needs nothing on the host but Python; signatures are verified inside Synapse's own environment.
author: Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details: Only reads, and so does the same in check mode.
  diff_mode:
    support: none
    details: Changes nothing.
options:
  urls:
    description:
      - The listeners that serve clients and federation. Each is a base URL, as C(http://127.0.0.1:8008), or
        C(unix:/path) for a unix socket.
      - An element may also be a mapping with V(url) and V(resources), a list of V(client), V(federation),
        V(health) and V(metrics), for a listener that serves only some of them. A plain URL stands for the first
        three.
      - A listener with TLS that is named by its address (C(https://127.0.0.1:8448)) has to show a certificate for
        O(server_name).
    type: list
    elements: raw
    default: []
  health_urls:
    description:
      - Further listeners, those of workers for example, that only have to answer C(/health).
    type: list
    elements: str
    default: []
  config_path:
    description:
      - The server's configuration on the host. Its listeners are asked beside O(urls). Needs O(python).
      - Several files in the order in which Synapse merges them. A folder stands for the C(*.yaml) files in it.
    type: list
    elements: path
    default: []
  server_name:
    description:
      - The name that the server has to publish its key under.
    type: str
  signing_key_path:
    description:
      - The key file on the host that the published key is compared with. Needs O(python). Only the public halves
        leave it.
    type: path
  verify_keys:
    description:
      - The public keys that have to be published, by key id, instead of O(signing_key_path).
    type: dict
  python:
    description:
      - The interpreter of Synapse's environment, for example C(/var/lib/synapse/venv/bin/python). It verifies
        signatures, and the version installed beside it is the one that has to be running.
    type: path
  user:
    description:
      - The user that O(python) runs as. By default this is the user of the task, and where that is root, the owner
        of the environment.
    type: str
  version:
    description:
      - The version of Synapse that has to be running. By default the one installed in the environment of O(python).
    type: str
  unit:
    description:
      - The systemd unit of the server, which has to be active. Its journal is quoted where the server is not healthy.
    type: str
  pid_file:
    description:
      - The server's pid file, where it does not run under systemd. Its process has to be alive and to be Synapse.
        Instead of O(unit).
    type: path
  log_file:
    description:
      - The server's log, which is quoted where the server is not healthy and the journal does not say why.
    type: path
  well_known:
    description:
      - Whether C(/.well-known/matrix/client) and C(/.well-known/matrix/server) have to be served.
    type: bool
    default: false
  well_known_url:
    description:
      - Where they are asked for, if not at C(https://) and O(server_name).
    type: str
  tls:
    description:
      - Places where a valid certificate has to be served.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The name or address to connect to.
        type: str
        required: true
      port:
        description: The port to connect to.
        type: int
        default: 443
      server_name:
        description: The name that the certificate has to carry, if not O(tls[].host).
        type: str
      min_days:
        description: For how many more days the certificate has to be valid.
        type: float
        default: 14
  ca_bundle:
    description:
      - A file of PEM certificates on the host to trust beside the host's own.
    type: path
  wait:
    description:
      - Whether to wait until the server is healthy. The wait ends early where it is hopeless, as when the service
        has failed, keeps restarting, or its process is gone.
    type: bool
    default: false
  timeout:
    description:
      - For how many seconds to wait. Without O(wait), the longest that one request may take.
    type: float
    default: 60
  interval:
    description:
      - The longest pause between two looks while waiting, in seconds. The first ones are shorter.
    type: float
    default: 0.5
  fail:
    description:
      - Whether the task fails where the server is not healthy.
    type: bool
    default: true
"""

EXAMPLES = r"""
---
- name: See that the homeserver came up
  matrix_fleet.synapse.synapse_health:
    urls:
      - http://127.0.0.1:8008
    server_name: example.org
    signing_key_path: /etc/synapse/homeserver.signing.key
    python: /var/lib/synapse/venv/bin/python
    unit: matrix-synapse.service
    log_file: /var/log/synapse/homeserver.log
    wait: true
    timeout: 90

- name: Look at a server with workers, and at what the world sees of it
  matrix_fleet.synapse.synapse_health:
    urls:
      - url: http://127.0.0.1:8008
        resources: [client, health]
      - url: unix:/run/synapse/federation.sock
        resources: [federation, health]
    health_urls:
      - http://127.0.0.1:8101
      - http://127.0.0.1:8102
    server_name: example.org
    well_known: true
    tls:
      - host: matrix.example.org
        min_days: 21
    fail: false
  register: synapse_verdict
"""

RETURN = r"""
healthy:
  description: Whether every check is ok.
  returned: always
  type: bool
  sample: true
checks:
  description: What was looked at, in the order of the listeners.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: >-
        The kind of check, one of V(process), V(health), V(client), V(federation), V(key), V(metrics),
        V(well_known_client), V(well_known_server), V(tls).
      type: str
      sample: federation
    target:
      description: What was looked at, a URL, a unit, a pid file or a host and port.
      type: str
      sample: http://127.0.0.1:8008
    ok:
      description: Whether it is as it should be.
      type: bool
      sample: true
    detail:
      description: What was seen.
      type: str
      sample: Synapse 1.163.2
    milliseconds:
      description: How long the answer took.
      type: float
      sample: 2.4
reason:
  description: The line of the server's journal or log that says why it is not healthy, secrets masked.
  returned: when the server is not healthy and says why
  type: str
  sample: >-
    twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008: [Errno 98] Address already in use.
version:
  description: The version that is running.
  returned: when the server says so
  type: str
  sample: 1.163.2
expected_version:
  description: The version that has to be running.
  returned: when it is known
  type: str
  sample: 1.163.2
release:
  description:
    - The release that O(python) leads to. Its name is the version and the digest of its lock, so hosts with the same
      one have the same packages.
  returned: when O(python) is given and exists
  type: str
  sample: 1.163.2-0fe18e3fa5d7
verify_keys:
  description: The public keys that the server publishes, by key id.
  returned: always
  type: dict
  sample:
    ed25519:a_Bc12: Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw
old_verify_keys:
  description: The former keys that the server publishes, by key id.
  returned: always
  type: dict
  sample:
    ed25519:a_Xy98:
      expired_ts: 1763900000000
      key: LYLnICPhZQ8Wt/5kmaavAOjBV9IAK1qg64EY4IZQ3FM
seconds:
  description: How long the verdict took.
  returned: always
  type: float
  sample: 0.2
"""

import inspect
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _health
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_files import expand
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._health_observe import (
    Certificate,
    Outcome,
    Wanted,
    installed_version,
    prove,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._listeners import base_urls
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import listeners as listeners_probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probing import account_for
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Runner,
    SynapseError,
    ask_python,
    module_runner,
)


def _check_urls(urls: list[t.Any]) -> None:
    """Refuse elements of ``urls`` that are neither a URL nor a mapping as documented."""
    for item in urls:
        if isinstance(item, str):
            continue
        if not isinstance(item, dict) or not isinstance(item.get("url"), str) or set(item) - {"url", "resources"}:
            raise SynapseError(
                f"{item!r} in urls is neither a URL nor a mapping with url and resources: write one of both."
            )
        resources = item.get("resources")
        if resources is not None and (
            not isinstance(resources, list) or any(name not in _health.RESOURCES for name in resources)
        ):
            raise SynapseError(
                f"The resources of {item['url']} in urls have to be a list out of {', '.join(_health.RESOURCES)}."
            )


def configured_urls(run: Runner, params: dict[str, t.Any]) -> list[t.Any]:
    """Return where the listeners of ``config_path`` are. Raises ``SynapseError`` where the file does not tell."""
    paths, python = list(expand(params["config_path"])), params["python"]
    if python is None:
        raise SynapseError("config_path needs python, the interpreter of Synapse's environment: name it, or give urls.")
    source = inspect.getsource(listeners_probe)
    account = account_for(params["user"], python)
    answer = ask_python(run, python, source, {"paths": paths}, account=account, timeout=30)
    path = answer.get("path") or ", ".join(params["config_path"])
    if "error" in answer:
        raise SynapseError(f"Cannot learn the listeners from {path}: {answer['error']}. Mend the file, or give urls.")
    try:
        return list(base_urls(answer["listeners"]))
    except (KeyError, TypeError, AttributeError):
        raise SynapseError(f"A listener in {path} has no port, or its resources no names: mend the file.") from None


def _wanted(params: dict[str, t.Any]) -> Wanted:
    _check_urls(params["urls"])
    # Not mutually_exclusive, which also refuses a null beside a value.
    for one, other in (("signing_key_path", "verify_keys"), ("unit", "pid_file")):
        if params[one] is not None and params[other] is not None:
            raise SynapseError(f"{one} and {other} exclude each other: give one of them.")
    server_name, python = params["server_name"], params["python"]
    well_known_url: str | None = params["well_known_url"]
    if params["well_known"] and well_known_url is None:
        if server_name is None:
            raise SynapseError("well_known needs server_name or well_known_url: say where the server is looked for.")
        well_known_url = f"https://{server_name.partition(':')[0]}"
    if params["signing_key_path"] is not None and python is None:
        raise SynapseError(
            "signing_key_path needs python, the interpreter of Synapse's environment: name it, or give verify_keys."
        )
    version = params["version"]
    if version is None and python is not None:
        version = installed_version(python)
    verify_keys = params["verify_keys"]
    if verify_keys is not None:
        # As synapse_signing_key returns them, or with the key in a mapping as the server publishes them.
        verify_keys = _health.plain_keys(verify_keys)
    return Wanted(
        listeners=_health.listeners(params["urls"], params["health_urls"]),
        server_name=server_name,
        key_file=params["signing_key_path"],
        verify_keys=verify_keys,
        python=python,
        account=account_for(params["user"], python),
        version=version,
        unit=params["unit"],
        pid_file=params["pid_file"],
        log_file=params["log_file"],
        well_known_url=well_known_url if params["well_known"] else None,
        certificates=tuple(Certificate(**item) for item in params["tls"]),
        ca_bundle=params["ca_bundle"],
        wait=params["wait"],
        timeout=params["timeout"],
        interval=params["interval"],
    )


def release_of(python: str | None) -> str | None:
    """Return the name of the folder that an environment's interpreter lies in, links followed; ``None`` without one."""
    if python is None or not os.path.lexists(python):
        return None
    return os.path.basename(os.path.realpath(os.path.dirname(os.path.dirname(python))))


def _result(wanted: Wanted, outcome: Outcome) -> dict[str, t.Any]:
    result: dict[str, t.Any] = {
        "changed": False,
        "healthy": outcome.healthy,
        "checks": [check.result() for check in outcome.checks],
        "verify_keys": dict(outcome.verify_keys),
        "old_verify_keys": dict(outcome.old_verify_keys),
        "seconds": round(outcome.waited, 2),
    }
    optional = {
        "reason": outcome.reason,
        "version": outcome.version,
        "expected_version": wanted.version,
        "release": release_of(wanted.python),
    }
    result.update({key: value for key, value in optional.items() if value is not None})
    return result


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Look, judge, and raise ``SynapseError`` where the server is not healthy and that is to be a failure."""
    params = dict(module.params)
    if params["config_path"]:
        params["urls"] = params["urls"] + configured_urls(module_runner(module), params)
    wanted = _wanted(params)
    if not (wanted.listeners or wanted.unit or wanted.pid_file or wanted.certificates or wanted.well_known_url):
        raise SynapseError("There is nothing to look at: give urls, health_urls, unit, pid_file, well_known or tls.")
    outcome = prove(module_runner(module), wanted)
    result = _result(wanted, outcome)
    message = _health.explain(outcome.checks, outcome.reason, outcome.waited if wanted.wait else None)
    if message is not None:
        if module.params["fail"]:
            raise SynapseError(message, **result)
        result["msg"] = message
    return result


def main() -> t.NoReturn:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "raw", "default": []},
            "health_urls": {"type": "list", "elements": "str", "default": []},
            "config_path": {"type": "list", "elements": "path", "default": []},
            "server_name": {"type": "str"},
            "signing_key_path": {"type": "path", "no_log": False},
            "verify_keys": {"type": "dict", "no_log": False},
            "python": {"type": "path"},
            "user": {"type": "str"},
            "version": {"type": "str"},
            "unit": {"type": "str"},
            "pid_file": {"type": "path"},
            "log_file": {"type": "path"},
            "well_known": {"type": "bool", "default": False},
            "well_known_url": {"type": "str"},
            "tls": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 443},
                    "server_name": {"type": "str"},
                    "min_days": {"type": "float", "default": 14},
                },
            },
            "ca_bundle": {"type": "path"},
            "wait": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 60},
            "interval": {"type": "float", "default": 0.5},
            "fail": {"type": "bool", "default": True},
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
