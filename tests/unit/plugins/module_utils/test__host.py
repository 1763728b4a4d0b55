# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _host
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._host import Found, Group, User, Wanted
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

HOME = "/var/lib/synapse"
NOLOGIN = "/usr/sbin/nologin"
WANTED = Wanted("synapse", "matrix", HOME)
GROUP = Group("matrix", 990)
BUSYBOX = frozenset({"addgroup", "adduser"})


def user(gid: int = 990, home: str = HOME, login: str = NOLOGIN) -> User:
    return User("synapse", 991, gid, home, login)


@pytest.mark.parametrize(
    ("first", "booted", "manager"),
    [
        ("systemd\n", True, "systemd"),
        ("systemd\n", False, "systemd"),
        (None, True, "systemd"),  # process 1 is hidden
        ("init\n", True, "systemd"),
        ("init\n", False, "unknown"),
        (None, False, "unknown"),
        ("", False, "unknown"),
        ("bash\n", False, "unknown"),  # a container in which systemd is installed at most
        ("runit\n", False, "runit"),
        ("openrc-init\n", False, "unknown"),
        ("/sbin/s6-svscan\n", False, "s6-svscan"),
    ],
)
def test_what_manages_services(first: str | None, booted: bool, manager: str) -> None:
    assert _host.service_manager(first, booted=booted) == manager


def test_what_holds_under_systemd_is_refused_under_systemd_alone() -> None:
    judged = {"always": ["a"], "systemd": ["b", "c"]}
    assert _host.refused(judged, "systemd") == ["a", "b", "c"]
    assert _host.refused(judged, "runit") == ["a"]
    assert _host.refused({}, "systemd") == []


ADD_GROUP = ("groupadd", "--system", "matrix")
ADD_USER = (
    *("useradd", "--system", "--gid", "matrix", "--home-dir", HOME, "--no-create-home", "--shell", NOLOGIN),
    "synapse",
)


@pytest.mark.parametrize(
    ("wanted", "found", "steps"),
    [
        (WANTED, Found(None, None), [ADD_GROUP, ADD_USER]),
        (WANTED, Found(GROUP, None), [ADD_USER]),
        (WANTED, Found(GROUP, user()), []),
        # An account of another make that lets nobody in is as good.
        (WANTED, Found(GROUP, user(login="/bin/false")), []),
        (WANTED, Found(GROUP, user(login="/bin/bash")), [("usermod", "--shell", NOLOGIN, "synapse")]),
        (WANTED, Found(GROUP, user(home="/srv")), [("usermod", "--home", HOME, "synapse")]),
        (Wanted("synapse", "matrix"), Found(GROUP, user(home="/srv")), []),
        (WANTED, Found(GROUP, user(gid=7)), [("usermod", "--gid", "matrix", "synapse")]),
        (WANTED, Found(None, user(gid=7)), [ADD_GROUP, ("usermod", "--gid", "matrix", "synapse")]),
        (
            Wanted("synapse", "matrix", HOME, "/bin/bash"),
            Found(GROUP, user(7, "/srv")),
            [("usermod", "--gid", "matrix", "--home", HOME, "--shell", "/bin/bash", "synapse")],
        ),
        (
            WANTED,
            Found(None, None, BUSYBOX, ("/sbin/nologin",)),
            [
                ("addgroup", "-S", "matrix"),
                ("adduser", "-S", "-D", "-H", "-h", HOME, "-s", "/sbin/nologin", "-G", "matrix", "synapse"),
            ],
        ),
        (WANTED, Found(GROUP, user(), frozenset(), ()), []),
        (
            Wanted("synapse", "matrix"),
            Found(GROUP, None, shells=()),
            [("useradd", "--system", "--gid", "matrix", "--no-create-home", "--shell", NOLOGIN, "synapse")],
        ),
    ],
)
def test_what_is_done_about_the_account(wanted: Wanted, found: Found, steps: list[tuple[str, ...]]) -> None:
    todo = _host.plan(wanted, found)
    assert list(todo.steps) == steps
    assert todo.changed is bool(steps)
    assert (todo.diff["before"] == todo.diff["after"]) is not todo.changed


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Found(None, None, frozenset()), "no group 'matrix', and neither groupadd"),
        (Found(GROUP, None, frozenset({"useradd"})), "no user 'synapse', and neither groupadd"),
        (Found(GROUP, user(login="/bin/bash"), BUSYBOX), f"is to have shell {NOLOGIN}, and there is no usermod"),
    ],
)
def test_a_host_without_the_tools_is_told_what_to_do(found: Found, told: str) -> None:
    with pytest.raises(SynapseError, match="install the package") as raised:
        _host.plan(WANTED, found)
    assert told in raised.value.msg
