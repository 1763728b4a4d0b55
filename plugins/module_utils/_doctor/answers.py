# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the running server answers on its own listeners. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Answers", "Holder", "same_keys"]

RULES = Rulebook("answers")

_SERVED = ("health", "client", "federation", "key", "metrics")


@dataclass(frozen=True)
class Holder:
    """Who listens on a port of the configuration. ``ours``: it is this homeserver; no ``pid`` where nobody may look."""

    port: int
    address: str
    pid: int | None = None
    command: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Answers:
    """What was seen. ``checks`` are those of the module synapse_health, ``healthy`` whether all of them passed.

    ``published`` are the public keys that the server publishes by id; ``version`` is what runs, ``installed`` what the
    environment holds; ``refused`` are addresses where nobody listens, ``silent`` where nobody answers in time.
    """

    healthy: bool = False
    checks: tuple[t.Mapping[str, t.Any], ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    installed: str | None = None
    holders: tuple[Holder, ...] = ()

    def failing(self, *names: str) -> Iterator[tuple[str, str, str]]:
        """Return name, target and detail of the checks that failed."""
        for check in self.checks:
            if not check.get("ok") and check.get("name") in names:
                yield str(check["name"]), str(check.get("target", "")), str(check.get("detail", ""))


def same_keys(published: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Whether all that is published is in the key file, under the same ids."""
    return all(expected.get(key, "").rstrip("=") == value.rstrip("=") for key, value in published.items())


def _down(seen: Seen) -> bool:
    """Whether it is known that no process of this homeserver runs."""
    service = seen.service
    if service is None:
        return False
    return not service.running and not (service.seen is not None and service.seen.up)


def _kind(detail: str) -> str:
    """Return what a failed check is about, by the clause that says why."""
    if "nobody listens" in detail or "no such socket" in detail:
        return "refused"
    if "no answer within" in detail or "closed without an answer" in detail:
        return "silent"
    if "is running," in detail and "is installed" in detail:
        return "version"
    if "not Synapse" in detail or "the answer is not" in detail or "names no version" in detail:
        return "other"
    if "calls itself" in detail:
        return "name"
    return "more"


def _of(seen: Seen, kind: str, *names: str) -> dict[str, list[str]]:
    """Return the targets of the failed checks of a kind, with what failed there."""
    found: dict[str, list[str]] = {}
    if seen.answers is not None:
        for name, target, detail in seen.answers.failing(*(names or _SERVED)):
            if _kind(detail) == kind:
                found.setdefault(target, []).append(f"{name}: {detail}")
    return found


@RULES.rule(
    "port_taken",
    severity="critical",
    cause="A second server, an older unit or another program was started first and has the port.",
    remedy="ss -ltnp shows who it is; stop it, or give one of the two another port; then systemctl restart UNIT.",
    stops=True,
    explains=(
        "service.failed",
        "service.loop",
        "service.starting",
        "answers.*",
        "words.port_in_use",
        "words.cannot_bind",
    ),
)
def _port_taken(seen: Seen) -> Iterator[Clue]:
    """Another process listens on a port of this homeserver."""
    holders = seen.answers.holders if seen.answers is not None else ()
    ours = {holder.port for holder in holders if holder.ours}
    down = _down(seen)
    for holder in {one.port: one for one in holders if not one.ours and one.port not in ours}.values():
        if holder.pid is None and not down:
            continue  # nobody may look whose it is, as within many containers
        who = f"process {holder.pid} ({holder.command})" if holder.pid is not None else "another process"
        yield Clue(
            f"Port {holder.port} of this homeserver is taken: {who} listens there (Address already in use).",
            f"{holder.address}:{holder.port} is held by {who}",
        )


@RULES.rule(
    "other_key",
    severity="critical",
    cause="The key file was replaced while the server ran, or the server was started with another one. The running "
    "process may hold the only copy of the right key in use: other servers know the key that is published.",
    remedy="Do not restart it before the right key is back: ansible-playbook matrix_fleet.synapse.repair --tags key "
    "restores it from a backup; the one whose id other servers know is right.",
    repair="key",
    explains=("answers.key", "public.other_key"),
)
def _other_key(seen: Seen) -> Iterator[Clue]:
    """The running server publishes another signing key than the key file holds."""
    answers, identity = seen.answers, seen.identity
    expected = getattr(identity, "verify_keys", None) if identity is not None else None
    if answers is None or not answers.published or not isinstance(expected, dict) or not expected:
        return
    if not same_keys(answers.published, expected):
        served, held = ", ".join(sorted(answers.published)), ", ".join(sorted(expected))
        same = " under the same id" if set(answers.published) & set(expected) else ""
        yield Clue(
            f"The running server publishes another signing key{same} than its key file holds.",
            f"/_matrix/key/v2/server: {served}; key file: {held}",
        )


@RULES.rule(
    "other_name",
    severity="critical",
    cause="Another homeserver listens on this port, or server_name was changed after the first start: rooms, users and "
    "keys belong to the old name for good.",
    remedy="Put the old server_name back, if it was changed; else see who listens there (ss -ltnp).",
    explains=("answers.*",),
)
def _other_name(seen: Seen) -> Iterator[Clue]:
    """What answers on a listener has another server name."""
    for target, details in _of(seen, "name").items():
        yield Clue(f"The server at {target} has another name than the configuration.", "; ".join(details))


@RULES.rule(
    "other_server",
    severity="error",
    cause="Something else than this Synapse answers on its port: a web server, a proxy, another homeserver.",
    remedy="ss -ltnp shows who listens there; give one of the two another port.",
    symptom=True,
    explains=("answers.unhealthy", "answers.key"),
)
def _other_server(seen: Seen) -> Iterator[Clue]:
    """Something else than Synapse answers on a listener."""
    for target, details in _of(seen, "other", "client", "federation", "health", "metrics").items():
        yield Clue(f"What answers at {target} is not this Synapse.", "; ".join(details))


@RULES.rule(
    "old_version",
    severity="error",
    cause="Synapse was upgraded, and not restarted since; or the restart failed and the old process stayed.",
    remedy="systemctl restart UNIT; the first start of a new version may migrate the database: have a backup.",
    repair="service",
    explains=("service.restart_pending", "service.release_gone"),
)
def _old_version(seen: Seen) -> Iterator[Clue]:
    """Another version of Synapse runs than is installed: a restart is needed."""
    for target, details in _of(seen, "version").items():
        yield Clue("Another version of Synapse runs than is installed: a restart is needed.", f"{target} {details[0]}")
        return


@RULES.rule(
    "refused",
    severity="critical",
    cause="The server does not run, or does not listen there.",
    remedy="systemctl start UNIT; journalctl -u UNIT -n 50",
    repair="service",
    symptom=True,
    explains=("answers.unhealthy",),
)
def _refused(seen: Seen) -> Iterator[Clue]:
    """Nobody listens where a listener is configured."""
    found = _of(seen, "refused")
    if found:
        (evidence, *_more), *_rest = found.values()
        severity = "critical" if _down(seen) else "error"
        yield Clue(f"Nobody listens at {', '.join(found)}.", evidence, severity=severity)


@RULES.rule(
    "silent",
    severity="critical",
    cause="The process hangs: it waits for its database, for a disk, or works at something that takes all its time.",
    remedy="top -H -p PID and journalctl -u UNIT -n 50 show what it does; systemctl restart UNIT if it stays so.",
    repair="service",
    symptom=True,
    explains=("answers.unhealthy",),
)
def _silent(seen: Seen) -> Iterator[Clue]:
    """A listener accepts connections, and does not answer in time."""
    found = _of(seen, "silent")
    if found:
        (evidence, *_more), *_rest = found.values()
        yield Clue(f"The server does not answer at {', '.join(found)}.", evidence)


@RULES.rule(
    "key",
    severity="error",
    cause="Other servers cannot verify what this one sends.",
    remedy="timedatectl: is the clock right? old_signing_keys: expired_ts is in milliseconds. Do not make a new key.",
    symptom=True,
    explains=("answers.unhealthy",),
)
def _key(seen: Seen) -> Iterator[Clue]:
    """What the server publishes about its signing key is not right."""
    for kind in ("more", "other"):
        for target, details in _of(seen, kind, "key").items():
            yield Clue(
                "What the server publishes about its signing key is not right.", f"{target} {'; '.join(details)}"
            )


@RULES.rule(
    "unhealthy",
    severity="error",
    cause="The process runs, and this part of it does not answer as it should.",
    remedy="journalctl -u UNIT -n 50; compare the resources of that listener in the configuration.",
    symptom=True,
)
def _unhealthy(seen: Seen) -> Iterator[Clue]:
    """A listener does not answer as it should."""
    for target, details in _of(seen, "more", "health", "client", "federation", "metrics").items():
        yield Clue(f"The listener {target} does not answer as it should.", "; ".join(details))
