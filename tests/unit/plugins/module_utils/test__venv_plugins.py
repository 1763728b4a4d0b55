# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins: what the configuration names, what a package gives away, and what comes of each one."""

from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_plugins import (
    Plugin,
    attempted,
    found_in,
    from_manifest,
    judged,
    modules_named_in,
    remembered,
    without,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_tree import Distribution, Tree

CONFIGURATION = """\
modules:
  - module: "ldap_auth_provider.LdapAuthProviderModule"   # comment
    config: {enabled: true}
  - config: {}
    module: 'my_rules.Rules'
  # - module: commented.Out
media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend, store_local: true}]
spam_checker: { "module": "checker.Checker" }
not_a_module: x.y
modules_of: z.z
module:
  text: "a module: no class"
oidc_providers:
- user_mapping_provider: {config: {}, module: mapping.deep.Provider}
"""


def test_the_classes_that_a_configuration_names() -> None:
    assert modules_named_in(CONFIGURATION) == (
        "checker.Checker",
        "ldap_auth_provider.LdapAuthProviderModule",
        "mapping.deep.Provider",
        "my_rules.Rules",
        "s3_storage_provider.S3StorageProviderBackend",
    )


@pytest.mark.parametrize(
    "text", ["", "\0\0", "module: {", "module: x", "module:\n  - y", "- module: 'a.b", "module: a..b"]
)
def test_what_names_no_class_names_none(text: str) -> None:
    assert modules_named_in(text) == (("a.b",) if text.endswith("a.b") else ())


def package(
    name: str, *files: str, requires: tuple[str, ...] = (), origin: str = "", version: str = "1.0"
) -> Distribution:
    return Distribution(name, version, True, (), (), frozenset(files), requires=frozenset(requires), origin=origin)


def tree(*packages: Distribution, modules: tuple[str, ...] = ()) -> Tree:
    return Tree("/v", "/p", "/p", "", ("3.11",), packages, (), {}, (), (), False, frozenset(modules))


FOUND = {
    "wants Synapse, if only for its tests": (package("x-auth", "x_auth.py", requires=("matrix-synapse",)), ("x_auth",)),
    "is known by name": (package("synapse-s3-storage-provider", "s3_storage_provider.py"), ("s3_storage_provider",)),
    "is named": (package("rules", "my_rules/__init__.py", "my_rules/a.py"), ("my_rules.Rules",)),
    "is no plugin": (package("twisted", "twisted/__init__.py"), None),
    "is Synapse": (package("matrix-synapse", "synapse/__init__.py", requires=("matrix-synapse",)), None),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_a_plugin(case: str) -> None:
    one, modules = FOUND[case]
    found = found_in(tree(one), ("my_rules.Rules",))
    assert [(plugin.name, plugin.modules) for plugin in found] == ([] if modules is None else [(one.name, modules)])


def test_what_has_no_package_or_came_from_no_index_cannot_be_tried() -> None:
    folder = package("x-auth", "x_auth.py", requires=("matrix-synapse",), origin="file:///src")
    nameless = package("y-auth", "y_auth.py", requires=("matrix-synapse",), version="")
    found = found_in(tree(folder, nameless, modules=("loose", "x_auth")), ("loose.A", "loose.B", "x_auth.C", "gone.D"))
    assert [(one.name, one.modules) for one in found] == [
        ("loose", ("loose.A", "loose.B")),
        ("x-auth", ("x_auth.C",)),
        ("y-auth", ("y_auth",)),
    ]
    assert all(one.obstacle for one in found)
    assert attempted(judged(found, carry=True, provided={}, asked=())) == ()


def test_what_comes_of_a_plugin() -> None:
    plugins = (Plugin("a", "1"), Plugin("b", "2"), Plugin("c", "3"), Plugin("d", "4", obstacle="by hand"))
    fates = judged(plugins, carry=True, provided={"b": "9"}, asked=["c"])
    assert [(one.name, one.carried, one.reason) for one in fates] == [
        ("a", True, ""),
        ("b", True, "the lock has b 9"),
        ("c", True, "'extra_packages' names it"),
        ("d", False, "by hand"),
    ]
    assert [one.pin for one in attempted(fates)] == ["a==1"]
    failed = without(fates, {"a": "no wheel"})
    assert (failed[0].carried, failed[0].reason) == (False, "no wheel")
    assert attempted(failed) == ()
    again = judged(failed, carry=True, provided={}, asked=())
    assert [one.pin for one in attempted(again)] == ["a==1", "b==2", "c==3"], "the next build tries again"
    left = judged(plugins, carry=False, provided={"b": "9"}, asked=())
    assert [one.carried for one in left] == [False, True, False, False]


def test_a_manifest_remembers_plugins() -> None:
    plugins = (Plugin("a", "1", ("a.B",), "", True, ""), Plugin("Loose", "", ("Loose.X",), "by hand", False, "by hand"))
    assert from_manifest(remembered(plugins)) == plugins
    assert from_manifest([{}, {"name": "a"}, {**remembered(plugins)[0], "new": 1}]) == ()
    told = plugins[0].told()
    assert told == {"name": "a", "version": "1", "modules": ["a.B"], "carried": True, "reason": ""}
