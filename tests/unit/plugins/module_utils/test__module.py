# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module keeps out of the host's own log and out of its result."""

from __future__ import annotations

import json
import typing as t

import pytest

pytest.importorskip("ansible")

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule

SPEC = {
    "files": {"type": "list", "elements": "dict", "options": {"path": {"type": "path"}, "content": {"type": "str"}}},
    "url": {"type": "str"},
    "count": {"type": "int"},
}
GIVEN = {"files": [{"path": "/etc/x", "content": "the\nsecret"}], "url": "https://me:pa55@host/"}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have gone to the host's log."""
    lines: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: lines.append(f"{msg} {log_args}"))
    return lines


def ended(capsys: pytest.CaptureFixture[str], how: t.Callable[[DiscreetModule], object], **more: t.Any) -> str:
    """Make the module, end it, and return what it printed."""
    with patch_module_args({**GIVEN, **more}), pytest.raises(SystemExit):
        how(DiscreetModule(unlogged=["files"], secrets=lambda params: ["pa55"], argument_spec=SPEC))
    return str(capsys.readouterr().out)


def test_an_option_is_not_logged_and_the_others_are(logged: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, lambda module: module.exit_json())
    [line] = logged
    assert "Invoked with files=NOT_LOGGING_PARAMETER" in line
    assert "secret" not in line
    assert "url=https://" in line


def test_what_a_module_logs_itself_stays_as_it_is(logged: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ended(capsys, lambda module: (module.log("a step"), module.exit_json()))
    assert logged[-1] == "a step None"


@pytest.mark.parametrize("end", ["exit_json", "fail_json"])
def test_a_secret_is_taken_out_however_the_module_ends(
    end: str, logged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(ended(capsys, lambda module: getattr(module, end)(msg="pa55 was refused")))
    assert "pa55" not in json.dumps(told)
    assert "was refused" in told["msg"]


def test_also_where_the_options_are_refused(logged: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = ended(capsys, lambda module: pytest.fail("the options were taken"), count="no pa55 number")
    assert json.loads(told)["failed"]
    assert "pa55" not in told


def test_without_secrets_nothing_is_taken_out(logged: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"url": "https://host/"}), pytest.raises(SystemExit):
        DiscreetModule(unlogged=["files"], argument_spec=SPEC).exit_json(seen="https://host/")
    assert json.loads(capsys.readouterr().out)["seen"] == "https://host/"
