# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's face: its documentation, its arguments and what it reads agree."""

from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("ansible")

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _resolution
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock_task import Options
from ansible_collections.matrix_fleet.synapse.plugins.modules import synapse_lock


def test_every_argument_is_documented_with_the_same_type_and_default() -> None:
    documented = yaml.safe_load(synapse_lock.DOCUMENTATION)["options"]
    assert set(documented) == set(synapse_lock.ARGUMENTS)
    for name, argument in synapse_lock.ARGUMENTS.items():
        for key in ("type", "default", "choices", "elements", "required"):
            assert documented[name].get(key) == argument.get(key), f"{name}.{key}"


def test_every_argument_is_read() -> None:
    assert set(Options.__dataclass_fields__) == set(synapse_lock.ARGUMENTS)


def test_the_default_hosts_are_those_of_the_shipped_lock() -> None:
    assert tuple(synapse_lock.ARGUMENTS["pythons"]["default"]) == _resolution.PYTHONS
    assert tuple(synapse_lock.ARGUMENTS["architectures"]["default"]) == _resolution.ARCHITECTURES


@pytest.mark.parametrize("more", [{}, {"renew": "perhaps"}])
def test_a_password_in_an_address_shows_nowhere(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}"))
    links = ["https://user:pa55@h/x", "https://t0ken@h/", "/srv/wheels"]
    monkeypatch.setattr(synapse_lock, "run", lambda module: {"path": "/srv/synapse.lock", "seen": links[0]})
    arguments = {"path": "/srv/synapse.lock", "find_links": links, "index_url": "https://user:pa56@h/", **more}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        synapse_lock.main()
    printed = capsys.readouterr().out
    for secret in ("pa55", "pa56", "t0ken"):
        assert secret not in printed
        assert secret not in "".join(logged)
    answer = json.loads(printed)
    assert answer.get("failed") or answer["path"] == "/srv/synapse.lock"
