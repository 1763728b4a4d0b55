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

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Options
from ansible_collections.matrix_fleet.synapse.plugins.modules import synapse_venv


def test_every_argument_is_documented_with_the_same_type_and_default() -> None:
    documented = yaml.safe_load(synapse_venv.DOCUMENTATION)["options"]
    assert set(documented) == set(synapse_venv.ARGUMENTS)
    for name, argument in synapse_venv.ARGUMENTS.items():
        for key in ("type", "default", "choices", "elements"):
            assert documented[name].get(key) == argument.get(key), f"{name}.{key}"


def test_every_argument_is_read() -> None:
    assert {*Options.__dataclass_fields__, "trial_path"} == set(synapse_venv.ARGUMENTS)


def test_addresses_that_may_hold_a_password_are_not_logged() -> None:
    assert synapse_venv.ARGUMENTS["index_url"]["no_log"]
    assert synapse_venv.ARGUMENTS["extra_index_urls"]["no_log"]


@pytest.mark.parametrize("more", [{}, {"keep_releases": "no number"}])
def test_a_password_in_a_link_shows_nowhere_and_a_folder_stays_readable(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}"))
    path = "/var/lib/synapse/venv"
    links = ["https://user:pa55@h/x", "https://t0ken@h/", "https://u:synapse@h/", "/var/lib/synapse"]
    monkeypatch.setattr(synapse_venv, "run", lambda module: {"python": f"{path}/bin/python", "seen": links[0]})
    with patch_module_args({"path": path, "find_links": links, **more}), pytest.raises(SystemExit):
        synapse_venv.main()
    printed = capsys.readouterr().out
    for secret in ("pa55", "t0ken", "u:synapse"):
        assert secret not in printed
        assert secret not in "".join(logged)
    answer = json.loads(printed)
    assert answer.get("failed") or answer["python"] == f"{path}/bin/python"
    assert answer.get("failed") or logged


def test_the_documentation_names_the_shipped_extras() -> None:
    text = " ".join(yaml.safe_load(synapse_venv.DOCUMENTATION)["options"]["extras"]["description"])
    assert all(f"V({extra})" in text for extra in _default_lock.EXTRAS)


def test_the_samples_are_of_the_shipped_lock() -> None:
    samples = {name: entry.get("sample") for name, entry in yaml.safe_load(synapse_venv.RETURN).items()}
    assert samples["version"] == _default_lock.VERSION
    assert samples["lock_digest"] == _default_lock.DIGEST
    assert samples["release"] == f"{_default_lock.VERSION}-{_default_lock.DIGEST[:12]}"
