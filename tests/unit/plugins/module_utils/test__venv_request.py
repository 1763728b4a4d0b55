# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for: options, the lock they amount to, and when something has to be resolved."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _default_lock
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv_request import Options, ask, python_floor

PARAMS: dict[str, t.Any] = {
    "path": "/var/lib/synapse/venv",
    "releases_path": None,
    "version": None,
    "extras": [],
    "extra_packages": [],
    "carry_plugins": True,
    "config_path": None,
    "requirements": None,
    "requirements_content": None,
    "constraints": None,
    "python": None,
    "installer": "auto",
    "index_url": None,
    "default_index_url": None,
    "extra_index_urls": [],
    "find_links": [],
    "offline": False,
    "ca_bundle": None,
    "keep_releases": 3,
    "activate": True,
    "state": "present",
}
LOCK = f"matrix-synapse==1.100.0 --hash=sha256:{'a' * 64}\nldap3==2.9 --hash=sha256:{'b' * 64}\n"


def options(**changes: t.Any) -> Options:
    return Options.from_params({**PARAMS, **changes})


def test_releases_lie_beside_the_link_by_default() -> None:
    assert options().releases_path == "/var/lib/synapse/releases"
    assert options(path="/srv/x//venv/").releases_path == "/srv/x/releases"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"path": "venv"}, "'path' is 'venv'"),
        ({"index_url": "http://[::1/simple"}, "'index_url' holds something that is no address"),
        ({"extra_index_urls": ["http://h:port/"]}, "'extra_index_urls' holds"),
        ({"find_links": ["http://u:p@[::1/x"]}, "'find_links' holds"),
        ({"releases_path": "x"}, "'releases_path' is 'x'"),
        ({"path": "/r/venv", "releases_path": "/r"}, "must be outside"),
        ({"path": "/r", "releases_path": "/r"}, "must be outside"),
        ({"version": "latest"}, "'version' is 'latest'"),
        ({"version": "1.1; rm"}, "'version'"),
        ({"extras": ["a b"]}, "'extras' has 'a b'"),
        ({"extra_packages": ["--index-url=x"]}, "'extra_packages'"),
        ({"extra_packages": ["x @ https://h/x.whl"]}, "'extra_packages'"),
        ({"extra_packages": ["/srv/x.whl"]}, "'extra_packages'"),
        ({"keep_releases": 0}, "'keep_releases' is 0"),
    ],
)
def test_a_wrong_option_is_named(changes: dict[str, t.Any], complaint: str) -> None:
    with pytest.raises(SynapseError, match=r"give|must") as caught:
        options(**changes)
    assert complaint in caught.value.msg


# options, lock -> version, a lock is known, it is the shipped one, pins must be kept
ASKED: dict[str, tuple[dict[str, t.Any], str | None, tuple[str, bool, bool, bool]]] = {
    "nothing": ({}, None, (_default_lock.VERSION, True, True, False)),
    "the default version": ({"version": _default_lock.VERSION}, None, (_default_lock.VERSION, True, True, False)),
    "some of the shipped extras": ({"extras": ["redis", "postgres"]}, None, (_default_lock.VERSION, True, True, False)),
    "an extra that is not shipped": ({"extras": ["saml2"]}, None, (_default_lock.VERSION, False, False, True)),
    "a package that the shipped lock has": (
        {"extra_packages": ["Twisted"]},
        None,
        (_default_lock.VERSION, True, True, True),
    ),
    "a package that it lacks": ({"extra_packages": ["ldap3"]}, None, (_default_lock.VERSION, False, False, True)),
    "another version": ({"version": "1.99.0"}, None, ("1.99.0", False, False, False)),
    "a lock": ({}, LOCK, ("1.100.0", True, False, True)),
    "a lock and its version": ({"version": "1.100.0", "extras": ["redis"]}, LOCK, ("1.100.0", True, False, True)),
    "a lock that has the package": ({"extra_packages": ["ldap3==2.9"]}, LOCK, ("1.100.0", True, False, True)),
    "a lock and more": ({"extra_packages": ["left-pad"]}, LOCK, ("1.100.0", False, False, True)),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_for(name: str) -> None:
    changes, lock, expected = ASKED[name]
    asked = ask(options(**changes), lock, None)
    assert (asked.version, asked.digest is not None, asked.shipped, bool(asked.base)) == expected


def test_what_is_the_same_is_one_request() -> None:
    same: list[dict[str, t.Any]] = [
        {},
        {"version": _default_lock.VERSION},
        {"extras": ["redis"]},
        {"extras": list(_default_lock.EXTRAS)},
    ]
    assert len({ask(options(**changes), None, None).request for changes in same}) == 1
    assert ask(options(), None, None).request != ask(options(extras=["saml2"]), None, None).request
    assert ask(options(), None, None).request != ask(options(), LOCK, None).request


@pytest.mark.parametrize(
    ("lock", "version", "complaint"),
    [
        (LOCK, "1.99.0", "'version' is 1.99.0, the lock is for 1.100.0"),
        (f"ldap3==2.9 --hash=sha256:{'b' * 64}\n", None, "one version of matrix-synapse and has none"),
        (LOCK + f"matrix-synapse==1.101.0 --hash=sha256:{'a' * 64}\n", None, "has 1.100.0 and 1.101.0"),
    ],
)
def test_a_lock_that_does_not_fit_is_refused(lock: str, version: str | None, complaint: str) -> None:
    with pytest.raises(SynapseError) as caught:
        ask(options(version=version), lock, None)
    assert complaint in caught.value.msg


@pytest.mark.parametrize(
    ("version", "floor"), [("1.163.2", (3, 10)), ("1.142.0", (3, 10)), ("1.142.0rc1", (3, 9)), ("1.9.0", (3, 9))]
)
def test_the_oldest_python(version: str, floor: tuple[int, int]) -> None:
    assert python_floor(version) == floor
