# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server said of itself: journal and log files. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.messages import RUNNING, STARTING, Match

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.messages import Message
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Words"]

RULES = Rulebook("words")

_CONSEQUENCES = (
    "service.failed",
    "service.loop",
    "service.killed",
    "service.start_timeout",
    "service.start_pre",
    "service.starting",
    "service.worker_down",
    "answers.refused",
    "answers.silent",
    "answers.unhealthy",
    "answers.key",
    "answers.other_server",
    "words.last_error",
)


@dataclass(frozen=True)
class Words:
    """What was seen, of the latest start alone; secrets are masked.

    ``line`` says why a server that is down did not stay; ``start`` is the kind of message that this is, ``recurring``
    are those of a server that is up. ``killed`` is what says that memory ran out, ``bogus`` a line about a module that
    never existed; ``files`` are the log files, ``worker_lines`` the decisive lines of workers that are down, by unit.
    ``one_address`` is the one address that all requests of several users came from.
    """

    line: str | None = None
    start: Match | None = None
    recurring: tuple[Match, ...] = ()
    killed: str | None = None
    bogus: str | None = None
    files: tuple[str, ...] = ()
    worker_lines: t.Mapping[str, str] = field(default_factory=dict)
    one_address: str | None = None


def _start(message: Message) -> Callable[[Seen], Iterator[Clue]]:
    def check(seen: Seen) -> Iterator[Clue]:
        match = seen.words.start if seen.words is not None else None
        if match is not None and match.name == message.name:
            yield Clue(message.summary, seen.words.line or match.line if seen.words is not None else match.line)

    check.__doc__ = message.title
    return check


def _over(name: str, seen: Seen) -> bool:
    """Whether what was complained of was asked just now, and answers."""
    if name == "redis_lost":
        redis = seen.neighbours.redis if seen.neighbours is not None else None
        return redis is not None and redis.stage == "done"
    if name == "database_lost":
        database = seen.database.main if seen.database is not None else None
        return database is not None and database.postgresql and database.connected and database.error is None
    return False


def _recurring(message: Message) -> Callable[[Seen], Iterator[Clue]]:
    def check(seen: Seen) -> Iterator[Clue]:
        for match in seen.words.recurring if seen.words is not None else ():
            if match.name == message.name and not _over(message.name, seen):
                times = "once" if match.count == 1 else f"{match.count} times"
                yield Clue(message.summary, f"{times} since its start, last: {match.line}", message.severity)

    check.__doc__ = message.title
    return check


def _both(first: Callable[[Seen], Iterator[Clue]], second: Callable[[Seen], Iterator[Clue]]) -> Callable[..., t.Any]:
    def check(seen: Seen) -> Iterator[Clue]:
        yield from first(seen)
        yield from second(seen)

    check.__doc__ = first.__doc__
    return check


@RULES.rule(
    "bogus_module",
    severity="info",
    cause="Scripts and advice from the web import synapse.crypto.signing_key to see whether Synapse is installed. The "
    "module does not exist in any release of Synapse, so that the message is not a fault of this server.",
    remedy="Remove that line. To make a key: python -m synapse._scripts.generate_signing_key -o A NEW FILE; to test an "
    "installation: python -m synapse.app.homeserver --help.",
)
def _bogus_module(seen: Seen) -> t.Iterable[Clue]:
    """Something looks for a module of Synapse that never existed."""
    if seen.words is not None and seen.words.bogus is not None:
        yield Clue("Something imports synapse.crypto.signing_key, which never existed.", seen.words.bogus)


def _add_all() -> None:
    """Make a rule of each kind of message; a kind that is in both tables is one rule."""
    running = {message.name: message for message in RUNNING}
    for message in STARTING:
        check = _start(message)
        twin = running.pop(message.name, None)
        RULES.rule(
            message.name,
            severity=message.severity,
            cause=message.cause,
            remedy=message.remedy,
            repair=message.repair,
            safe=message.safe,
            symptom=True,
            explains=_CONSEQUENCES,
        )(check if twin is None else _both(check, _recurring(twin)))
    for message in running.values():
        RULES.rule(
            message.name,
            severity=message.severity,
            cause=message.cause,
            remedy=message.remedy,
            repair=message.repair,
            safe=message.safe,
            symptom=True,
        )(_recurring(message))


_add_all()


@RULES.rule(
    "one_address",
    severity="warning",
    cause="The reverse proxy does not send X-Forwarded-For, or the listener lacks x_forwarded: true. All users then "
    "share "
    "one limit of logins: after a few failed ones, everybody is answered with 429 M_LIMIT_EXCEEDED.",
    remedy="nginx: proxy_set_header X-Forwarded-For $remote_addr; and x_forwarded: true at the listener, which must "
    "then "
    "not be reachable except through the proxy.",
)
def _one_address(seen: Seen) -> t.Iterable[Clue]:
    """All users come from the address of the reverse proxy (X-Forwarded-For, x_forwarded)."""
    if seen.words is not None and seen.words.one_address is not None:
        yield Clue(
            f"All users come from {seen.words.one_address}: X-Forwarded-For of the proxy is missing or ignored "
            "(x_forwarded).",
            f"the latest requests of several users in the log, all from {seen.words.one_address}",
        )


@RULES.rule(
    "last_error",
    severity="error",
    cause="Nothing else that is known explains it.",
    remedy="journalctl -u UNIT -n 100 shows what led to it.",
    symptom=True,
    explains=("service.failed", "answers.refused", "answers.silent", "answers.unhealthy"),
)
def _last_error(seen: Seen) -> t.Iterable[Clue]:
    """What the server said last of why it ended, where no rule knows it."""
    words = seen.words
    if words is not None and words.line is not None and words.start is None:
        yield Clue("Synapse does not stay up; its own words say why.", words.line, severity="critical")
