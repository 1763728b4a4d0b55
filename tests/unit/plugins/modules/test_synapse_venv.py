# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's face: its documentation, its arguments and what it reads agree."""

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("ansible")

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
    assert set(Options.__dataclass_fields__) == set(synapse_venv.ARGUMENTS)


def test_addresses_that_may_hold_a_password_are_not_logged() -> None:
    assert synapse_venv.ARGUMENTS["index_url"]["no_log"]
    assert synapse_venv.ARGUMENTS["extra_index_urls"]["no_log"]


def test_the_documentation_names_the_shipped_extras() -> None:
    text = " ".join(yaml.safe_load(synapse_venv.DOCUMENTATION)["options"]["extras"]["description"])
    assert all(f"V({extra})" in text for extra in _default_lock.EXTRAS)


def test_the_samples_are_of_the_shipped_lock() -> None:
    samples = {name: entry.get("sample") for name, entry in yaml.safe_load(synapse_venv.RETURN).items()}
    assert samples["version"] == _default_lock.VERSION
    assert samples["lock_digest"] == _default_lock.DIGEST
    assert samples["release"] == f"{_default_lock.VERSION}-{_default_lock.DIGEST[:12]}"
