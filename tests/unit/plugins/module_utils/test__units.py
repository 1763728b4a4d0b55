# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which units serve a configuration already, from their texts and what systemctl says of them."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _units
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._units import Serving, observe, refusal, serves

CONFIG = "/etc/synapse/homeserver.yaml"
OURS = (
    f"[Service]\nExecStart=/v/bin/python -I -m synapse.app.homeserver --config-path={CONFIG} --no-secrets-in-config\n"
)
# As packages write it: with a folder of further configuration, and in an environment of their own.
PROGRAM = "/opt/venvs/matrix-synapse/bin/python -m synapse.app.homeserver"
PACKAGE = f"""[Service]
Type=notify
ExecStartPre={PROGRAM} --config-path={CONFIG} --generate-keys
ExecStart={PROGRAM} --config-path=/etc/matrix-synapse/homeserver.yaml --config-path=/etc/matrix-synapse/conf.d/
"""


class Systemctl:
    """Answers ``systemctl show`` with the states that it was made with."""

    def __init__(self, **states: str) -> None:
        self.states = {name.replace("_", "-"): state for name, state in states.items()}
        self.asked: list[str] = []

    def __call__(self, argv: t.Sequence[str], **unused: object) -> CommandResult:
        assert argv[:2] == ["systemctl", "show"]
        self.asked.append(argv[-1])
        state = self.states.get(argv[-1][: -len(".service")], "inactive disabled")
        active, _space, file = state.partition(" ")
        return CommandResult(0, f"ActiveState={active}\nUnitFileState={file}\n", "")


@pytest.mark.parametrize(
    ("text", "config", "answer"),
    [
        (OURS, CONFIG, True),
        (OURS, "/etc/other/homeserver.yaml", False),
        (PACKAGE, "/etc/matrix-synapse/homeserver.yaml", True),
        (PACKAGE, CONFIG, False),
        (f"ExecStart=/v/bin/python -m synapse.app.homeserver -c {CONFIG}", CONFIG, True),
        (f"ExecStart = /v/bin/python -m synapse.app.homeserver \\\n  '--config-path={CONFIG}'", CONFIG, True),
        ("ExecStart=/v/bin/python -m synapse.app.homeserver --config-path=/etc/synapse/", CONFIG, True),
        (f'ExecStart="/v/bin/synapse_homeserver" -c {CONFIG}', CONFIG, True),
        (f"ExecStart=/v/bin/python -m synapse.app.generic_worker -c {CONFIG} -c /etc/synapse/w.yaml", CONFIG, False),
        (f"ExecStart=/usr/bin/vi {CONFIG}", CONFIG, False),
        (f"ExecReload=/v/bin/python -m synapse.app.homeserver -c {CONFIG}", CONFIG, False),
        (f"# ExecStart=/v/bin/python -m synapse.app.homeserver -c {CONFIG}", CONFIG, False),
        ("", CONFIG, False),
    ],
)
def test_which_unit_starts_the_main_process_with_a_configuration(text: str, config: str, answer: bool) -> None:
    assert serves(text, config) is answer


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib").mkdir()
    return tmp_path / "etc"


def names(found: list[Serving]) -> list[str]:
    return [unit.name for unit in found]


@pytest.mark.parametrize(
    ("state", "stands_in_the_way"),
    [
        ("active enabled", True),
        ("active disabled", True),
        ("activating disabled", True),
        ("inactive enabled", True),
        ("inactive enabled-runtime", True),
        ("failed enabled", True),
        ("inactive disabled", False),
        ("failed disabled", False),
        ("inactive static", False),
    ],
)
def test_what_is_stopped_and_disabled_is_in_nobodys_way(etc: Path, state: str, stands_in_the_way: bool) -> None:
    (etc / "old.service").write_text(OURS)
    found = observe(Systemctl(old=state), CONFIG, "new.service", [str(etc)])
    assert names(found) == (["old.service"] if stands_in_the_way else [])


def test_systemctl_is_asked_about_nothing_but_what_serves_the_configuration(etc: Path) -> None:
    (etc / "synapse.service").write_text(OURS)
    (etc / "alias.service").symlink_to("synapse.service")
    (etc / "worker@.service").write_text(OURS)
    (etc / "ssh.service").write_text("ExecStart=/usr/sbin/sshd -D\n")
    (etc / "masked.service").symlink_to("/dev/null")
    (etc / "dangling.service").symlink_to("nowhere")
    (etc / "folder.service").mkdir()
    (etc / "notes.txt").write_text(OURS)
    systemctl = Systemctl()
    assert observe(systemctl, CONFIG, "synapse.service", [str(etc), str(etc / "missing")]) == []
    assert systemctl.asked == []


def test_a_unit_of_the_administrator_counts_before_that_of_a_package(etc: Path) -> None:
    lib = etc.parent / "lib"
    (lib / "one.service").write_text(OURS)
    (lib / "two.service").write_text(OURS)
    (etc / "one.service").write_text("ExecStart=/bin/true\n")
    found = observe(Systemctl(one="active enabled", two="active enabled"), CONFIG, None, [str(etc), str(lib)])
    assert found == [Serving("two.service", f"{lib}/two.service", True, True)]


def test_the_sentences_say_how_to_get_on() -> None:
    old = Serving("matrix-synapse.service", "/etc/systemd/system/matrix-synapse.service", True, True)
    assert refusal(old, CONFIG, "synapse.service") == (
        f"matrix-synapse.service (/etc/systemd/system/matrix-synapse.service) runs and serves {CONFIG}, and "
        "synapse.service is asked for beside it, which would serve the same data twice. Set synapse_service_name: "
        "matrix-synapse to keep it, or give it up: systemctl disable --now matrix-synapse.service, then remove "
        "/etc/systemd/system/matrix-synapse.service; then run again."
    )
    packaged = Serving("matrix-synapse.service", "/usr/lib/systemd/system/matrix-synapse.service", False, True)
    assert refusal(packaged, CONFIG, None) == (
        f"matrix-synapse.service (/usr/lib/systemd/system/matrix-synapse.service) is started with the host and "
        f"serves {CONFIG}, and Synapse's own daemon is asked for beside it, which would serve the same data twice. "
        "Give it up: systemctl disable --now matrix-synapse.service; then run again."
    )


def test_the_roles_own_unit_is_known_for_what_it_is() -> None:
    template = Path(__file__).parents[4] / "roles/synapse/templates/matrix-synapse.service.j2"
    text = template.read_text(encoding="utf-8").replace("{{ _synapse_homeserver_yaml }}", f"{CONFIG} ")
    assert serves(text, CONFIG)
    assert os.path.isabs(_units.PLACES[0])
