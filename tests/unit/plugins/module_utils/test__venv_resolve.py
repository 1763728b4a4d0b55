# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is resolved: the plugins that can be had, without those that cannot, and setuptools held back for a plugin."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._installer import UnreachableError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_build import UnprovenError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import Plugin
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import ask
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_resolve import (
    Resolution,
    culprits,
    locked,
    needs_index,
)
from ansible_collections.matrix_fleet.synapse.tests.unit.plugins.module_utils.test__venv_request import options

DIGITS = "0" * 64
LOCK = f"matrix-synapse==1.100.0 --hash=sha256:{DIGITS}\nsetuptools==84.0 --hash=sha256:{DIGITS}\n"
PLUGINS = (Plugin("a", "1"), Plugin("b", "2"))
ASKED = ask(options(), LOCK, None, PLUGINS)


class Index:
    """An index where some packages are missing, and some do not get along."""

    def __init__(self, *missing: str, together: bool = True, error: type[SynapseError] = SynapseError) -> None:
        self.missing, self.together, self.error = missing, together, error
        self.asked: list[list[str]] = []

    def resolve(self, wanted: t.Sequence[str], *, constraints: str, before: str) -> str:
        self.asked.append(list(wanted))
        gone = [name for name in self.missing if name in wanted]
        if gone or (not self.together and {"a==1", "b==2"} <= set(wanted)):
            raise self.error(f"no {gone}\nhere.")
        return "".join(f"{one} --hash=sha256:{DIGITS}\n" for one in wanted if "==" in one)

    def __getattr__(self, name: str) -> t.NoReturn:
        raise AssertionError(name)


def resolution(index: Index, warnings: list[str] | None = None) -> Resolution:
    warn = (warnings if warnings is not None else []).append
    installer = t.cast("t.Any", index)
    return Resolution(installer, ASKED, extra_packages=(), constraints="", before="", warn=warn)


OUTCOMES: dict[str, tuple[Index, dict[str, str]]] = {
    "all can be had": (Index(), {}),
    "one cannot": (Index("a==1"), {"a": "no ['a==1'] here"}),
    "none can": (Index("a==1", "b==2"), {"a": "no ['a==1'] here", "b": "no ['b==2'] here"}),
    "they do not get along": (Index(together=False), {"a": "no [] here", "b": "no [] here"}),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_which_plugins_can_be_had(case: str) -> None:
    index, expected = OUTCOMES[case]
    failures: dict[str, str] = {}
    pins = resolution(index).pins(failures)
    assert failures == expected
    names = {pin.name for pin in pins}
    assert names == {"matrix-synapse", "setuptools", *({"a", "b"} - set(expected))}
    if len(expected) == 2:
        assert ASKED.otherwise is not None
        assert pins == locked(ASKED.otherwise), "without plugins it is the lock itself"
    assert not any("psycopg2-binary" in wanted for wanted in index.asked), "the lock has no driver, and gets none"


def test_an_index_out_of_reach_leaves_no_plugin_out() -> None:
    with pytest.raises(UnreachableError):
        resolution(Index("a==1", error=UnreachableError)).pins({})


def failed(*found: tuple[str, str]) -> UnprovenError:
    return UnprovenError("unproven", tuple(Finding(*one) for one in found))


MISSING = ("pkg_resources_missing", "a import pkg_resources; setuptools 84 no longer has it")
FOLLOWS = ("plugin_import_failed", "a: a: ModuleNotFoundError: No module named 'pkg_resources'")
OTHER = ("plugin_import_failed", "a: a: ModuleNotFoundError: No module named 'gone'")
DIED = ("probe_died", "it died")


@pytest.mark.parametrize(("found", "held"), [((MISSING, FOLLOWS), True), ((MISSING,), True), ((MISSING, OTHER), False)])
def test_setuptools_is_held_back_for_a_plugin(found: tuple[tuple[str, str], ...], held: bool) -> None:
    index, warnings = Index(), list[str]()
    one = resolution(index, warnings)
    assert one.hold_back(failed(*found)) is held
    assert len(warnings) == held
    one.pins({})
    assert ("setuptools<82" in index.asked[-1]) is held
    assert ("setuptools==84.0" in index.asked[-1]) is not held
    assert not one.hold_back(failed(*found)), "once"


def test_whom_a_failed_proof_is_put_down_to() -> None:
    assert culprits(failed(OTHER), PLUGINS) == {"a": "a: ModuleNotFoundError: No module named 'gone'"}
    assert culprits(failed(DIED), PLUGINS) == dict.fromkeys("ab", "an environment with it fails its proof: it died")
    assert set(culprits(failed(OTHER, DIED), PLUGINS)) == {"a", "b"}


def test_when_an_index_is_needed() -> None:
    assert not needs_index(ASKED)
    assert not needs_index(ask(options(), LOCK, None))
    assert needs_index(ask(options(version="1.100.0"), None, None, PLUGINS))


def test_plugins_are_part_of_what_is_asked_for_and_nothing_else_changes() -> None:
    plain = ask(options(), LOCK, None)
    assert ASKED.request != plain.request
    assert ASKED.otherwise == plain
    assert ask(options(carry_plugins=False), LOCK, None, PLUGINS).request == plain.request
    assert ask(options(extra_packages=["a", "b"]), LOCK, None, PLUGINS).otherwise is None
    has = LOCK + f"a==7 --hash=sha256:{DIGITS}\nb==7 --hash=sha256:{DIGITS}\n"
    assert ask(options(), has, None, PLUGINS).digest == ask(options(), has, None).digest
