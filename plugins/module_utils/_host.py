# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What manages a host's services, and what is to be done about the service's account. Pure, no I/O, no Ansible."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = ["NO_LOGIN", "TOOLS", "Found", "Group", "Plan", "User", "Wanted", "plan", "refused", "service_manager"]

# Shells that let nobody in, the one to choose first.
NO_LOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/usr/bin/nologin", "/bin/nologin", "/bin/false", "/usr/bin/false")

# What accounts are made and changed with: shadow's tools, and those of BusyBox under its own names.
TOOLS = ("groupadd", "useradd", "usermod", "addgroup", "adduser")
_SHADOW = frozenset({"groupadd", "useradd"})
_BUSYBOX = frozenset({"addgroup", "adduser"})

# Names that say nothing of what manages services: that of any init, and those of shells in a container.
_UNTELLING = ("init", "sh")


@dataclass(frozen=True)
class Group:
    """A group of the host."""

    name: str
    gid: int


@dataclass(frozen=True)
class User:
    """A user of the host; ``gid`` is that of the primary group."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True)
class Wanted:
    """The account as it is to be. ``None`` as home takes what is there; as shell, any that lets nobody in."""

    user: str
    group: str
    home: str | None = None
    shell: str | None = None


@dataclass(frozen=True)
class Found:
    """What the host has: the account's group and user, and of ``TOOLS`` and ``NO_LOGIN`` what is installed."""

    group: Group | None
    user: User | None
    tools: frozenset[str] = _SHADOW | {"usermod"}
    shells: tuple[str, ...] = NO_LOGIN[:1]


@dataclass(frozen=True)
class Plan:
    """The commands, in their order, each beginning with one of ``TOOLS``; and what ``--diff`` shows."""

    steps: tuple[tuple[str, ...], ...]
    before: dict[str, t.Any]
    after: dict[str, t.Any]

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps)

    @property
    def diff(self) -> dict[str, dict[str, t.Any]]:
        """What ``--diff`` shows."""
        return {"before": self.before, "after": self.after}


def service_manager(first: str | None, *, booted: bool) -> str:
    """Name what manages the host's services.

    ``first`` is the name of process 1 (``/proc/1/comm``), ``None`` where it cannot be read; ``booted`` says that
    systemd runs, as sd_booted(3) tells it. A host where systemd is merely installed is not managed by it.
    """
    name = (first or "").strip().rpartition("/")[2]
    if booted or name == "systemd":
        return "systemd"
    return "unknown" if not name or name.endswith(_UNTELLING) else name


def refused(refusals: t.Mapping[str, t.Sequence[str]], manager: str) -> list[str]:
    """Return why this host is refused, in sentences, out of what was judged for each kind of host."""
    return [*refusals.get("always", ()), *(refusals.get("systemd", ()) if manager == "systemd" else ())]


def _shell(wanted: Wanted, found: Found) -> str:
    """The shell that the user is to have."""
    if wanted.shell is not None:
        return wanted.shell
    if found.user is not None and found.user.shell in NO_LOGIN:
        return found.user.shell
    return next(iter(found.shells), NO_LOGIN[0])


def _create(wanted: Wanted, found: Found, shell: str) -> list[tuple[str, ...]]:
    """The steps that make what is missing."""
    shadow = found.tools >= _SHADOW
    if not shadow and not found.tools >= _BUSYBOX:
        missing = "user" if found.group else "group"
        name = wanted.user if found.group else wanted.group
        raise SynapseError(
            f"The host has no {missing} {name!r}, and neither groupadd and useradd nor those of BusyBox to make it: "
            "install the package that has them (passwd, shadow or shadow-utils), or make the account by hand."
        )
    steps: list[tuple[str, ...]] = []
    if found.group is None:
        steps.append(("groupadd", "--system", wanted.group) if shadow else ("addgroup", "-S", wanted.group))
    if found.user is None and shadow:
        home = () if wanted.home is None else ("--home-dir", wanted.home)
        more = ("--system", "--gid", wanted.group, *home, "--no-create-home", "--shell", shell)
        steps.append(("useradd", *more, wanted.user))
    elif found.user is None:
        home = () if wanted.home is None else ("-h", wanted.home)
        steps.append(("adduser", "-S", "-D", "-H", *home, "-s", shell, "-G", wanted.group, wanted.user))
    return steps


def _differences(wanted: Wanted, found: Found, shell: str) -> dict[str, str]:
    """What an existing user has that is not wanted: the option of usermod, with the value to give it."""
    user = found.user
    if user is None:
        return {}
    wrong: dict[str, str] = {}
    if found.group is None or user.gid != found.group.gid:
        wrong["--gid"] = wanted.group
    if wanted.home is not None and user.home != wanted.home:
        wrong["--home"] = wanted.home
    if user.shell != shell:
        wrong["--shell"] = shell
    return wrong


def plan(wanted: Wanted, found: Found) -> Plan:
    """Decide what to do so that the host has the account. Raises ``SynapseError`` where nothing there can do it.

    An existing group is left as it is; an existing user gets primary group, home and shell where they differ, and
    keeps its files where they are.
    """
    shell = _shell(wanted, found)
    wrong = _differences(wanted, found, shell)
    steps = _create(wanted, found, shell) if found.group is None or found.user is None else []
    if wrong:
        if "usermod" not in found.tools:
            told = ", ".join(f"{option[2:]} {value}" for option, value in wrong.items())
            raise SynapseError(
                f"User {wanted.user!r} of this host is to have {told}, and there is no usermod to change that with: "
                "install the package that has it (passwd, shadow or shadow-utils), or correct /etc/passwd by hand."
            )
        steps.append(("usermod", *(word for pair in wrong.items() for word in pair), wanted.user))
    user = found.user
    before_user = None if user is None else {"home": user.home, "shell": user.shell, "group": _group_of(user, found)}
    home = wanted.home if wanted.home is not None else (None if user is None else user.home)
    after_user = {"home": home, "shell": shell, "group": wanted.group}
    return Plan(
        tuple(steps),
        {"group": None if found.group is None else found.group.name, "user": before_user},
        {"group": wanted.group, "user": after_user},
    )


def _group_of(user: User, found: Found) -> str:
    """The user's primary group: its name where it is the account's own, else its number."""
    if found.group is not None and user.gid == found.group.gid:
        return found.group.name
    return str(user.gid)
