# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Advice that never worked, found in an operator's own scripts. Pure.

A script is no fault of the server, so none of this is graver than information; what a script has done already is told
where it shows.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Folklore", "Line", "bogus_module", "read"]

RULES = Rulebook("folklore")

_BOGUS = "synapse.crypto.signing_key"
_CHECK = "python -m synapse.config -c /etc/synapse/homeserver.yaml"
_MINT = "bin/generate_signing_key (python -m synapse._scripts.generate_signing_key)"
_MOST = 3

_SYNAPSE = r"matrix-synapse(?:\[[^\]]*\])?"
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "bogus_module": re.compile(r"\bsynapse[./]crypto[./]signing_key\b|from\s+synapse\.crypto\s+import\s+signing_key\b"),
    "key_config": re.compile(r"\bKeyConfig\(\s*\)\s*\.\s*generate_files\b|\bKeyConfig\(\s*\)"),
    "config_module": re.compile(r"-m\s+synapse\.config\.homeserver\b"),
    "overwrites_key": re.compile(
        r"\bgenerate_signing_key(?:\.py)?[\"']?\s+(?:.*\s)?(?:-o|--output_file)[ =]\s*(?P<path>\S+)"
    ),
    "chown_config": re.compile(
        r"\bchown\s+(?=(?:.*\s)?(?:-\w*R\w*|--recursive)\s)(?:-\S+\s+)*(?!root\b|0\b)[^\s-]\S*\s+.*?"
        r"(?P<path>/(?:etc|var/lib)/(?:matrix-)?synapse)/?[\"']?(?=\s|;|&|\||$)"
    ),
    "unpinned": re.compile(rf"\bpip[\d.]*[\"']?\s+install\b.*[\s\"']{_SYNAPSE}(?=[\s\"';&|]|$)"),
    "generates_keys": re.compile(
        r"(?:synapse\.app\.homeserver|synapse_homeserver)\b.*\s--generate-(?:keys|missing-configs)\b"
    ),
    "removes_environment": re.compile(
        r"\brm\s+(?:-\S+\s+)*-\w*[rR]\w*\s+(?:-\S+\s+)*[\"']?(?P<path>\S*synapse\S*/(?:venv|env|\.venv)\b|\$\{?VENV\w*\}?)"
    ),
    "setuptools_pin": re.compile(r"\bpip[\d.]*[\"']?\s+install\b.*\bsetuptools\s*<=?\s*8[0-2]"),
}


@dataclass(frozen=True)
class Line:
    """One line of a script: which advice it follows, and where it stands. ``text`` holds no secret.

    ``exists``: the file that it names is there.
    """

    kind: str
    path: str
    number: int
    text: str
    exists: bool = False

    @property
    def told(self) -> str:
        """The line, and where it stands."""
        return f"{self.path}, line {self.number}: {self.text}"


@dataclass(frozen=True)
class Folklore:
    """What was seen: the lines of scripts that follow advice which never worked."""

    lines: tuple[Line, ...] = ()


def bogus_module(name: str) -> str | None:
    """Return what to say of a module that scripts import and Synapse never had; ``None`` for another one."""
    if name != _BOGUS and not name.startswith(f"{_BOGUS}."):
        return None
    return (
        f"The module {_BOGUS} does not exist in any release of Synapse, and never did: every healthy server fails this"
        f" import. It is not a fault of the server, and no reinstallation helps. A key, where there never was one, is "
        f"made with {_MINT}; a configuration is checked with {_CHECK}."
    )


def read(text: str) -> Iterator[tuple[str, int, str, str]]:
    """Return the lines that follow such advice: kind, number from 1, the line, and the path that it is about."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith(("#", ";")):
            continue
        for kind, pattern in _PATTERNS.items():
            found = pattern.search(bare)
            if found is not None:
                yield kind, number, bare[:200], found.groupdict().get("path") or ""


def _told(seen: Seen, kind: str, *, existing: bool = False) -> str:
    """Return where the advice is followed, empty where it is not."""
    lines = seen.folklore.lines if seen.folklore is not None else ()
    places = [line.told for line in lines if line.kind == kind and (line.exists or not existing)]
    more = f" and {len(places) - _MOST} more" if len(places) > _MOST else ""
    return "; ".join(places[:_MOST]) + more


@RULES.rule(
    "bogus_module",
    severity="info",
    cause="An invented module that scripts copy from each other: it is in no release and in no commit of Synapse.",
    remedy=f"Take the line out. A configuration is checked with {_CHECK}; a first key is made with {_MINT}.",
)
def _bogus_module(seen: Seen) -> Iterable[Clue]:
    """A script imports a module that Synapse never had."""
    places = _told(seen, "bogus_module")
    if places:
        yield Clue(
            f"A script imports {_BOGUS}, which does not exist in any release: that is not a fault of the server.",
            places,
        )


@RULES.rule(
    "key_config",
    severity="info",
    cause="Config.__init__() wants the whole configuration (root_config), so that the call ends in a TypeError.",
    remedy=f"Take the line out. A first key is made with {_MINT} -o NEWFILE, never onto a key that exists.",
)
def _key_config(seen: Seen) -> Iterable[Clue]:
    """A script makes keys with KeyConfig(), which cannot work."""
    places = _told(seen, "key_config")
    if places:
        yield Clue("A script calls KeyConfig(), which fails with a TypeError in every release of Synapse.", places)


@RULES.rule(
    "config_module",
    severity="info",
    cause="The module does nothing when it is run since 0.34.1: it ends well for any argument, even a missing file.",
    remedy=f"Use {_CHECK} instead; it has no option --generate-keys.",
)
def _config_module(seen: Seen) -> Iterable[Clue]:
    """A script checks the configuration with a module that does nothing."""
    places = _told(seen, "config_module")
    if places:
        yield Clue(
            "A script runs python -m synapse.config.homeserver as a check, which is a no-op: a false OK, whatever is "
            "wrong.",
            places,
        )


@RULES.rule(
    "overwrites_key",
    severity="info",
    cause="generate_signing_key writes to the file that -o names, whatever is in it: the server becomes another one.",
    remedy="Take the line out; a key that exists is kept. Test with [ -e FILE ] before a first key is made.",
)
def _overwrites_key(seen: Seen) -> Iterable[Clue]:
    """A script would overwrite a file that exists with a new signing key."""
    places = _told(seen, "overwrites_key", existing=True)
    if places:
        yield Clue("A script writes a new signing key over a file that exists (generate_signing_key -o).", places)


@RULES.rule(
    "chown_config",
    severity="info",
    cause=(
        "Configuration and environment that belong to the service's user let Synapse mint a new identity where its key "
        "is missing, and let a compromised server change its own code."
    ),
    remedy="Take the line out: chown root:synapse, chmod 0750 for the folder and 0640 for its files are enough.",
)
def _chown_config(seen: Seen) -> Iterable[Clue]:
    """A script gives configuration or environment to the service's user."""
    places = _told(seen, "chown_config")
    if places:
        yield Clue("A script gives the whole configuration or data folder to the service's user (chown -R).", places)


@RULES.rule(
    "unpinned",
    severity="info",
    cause=(
        "Without a version pip takes whatever is newest, or, on an old Python, something ancient; in the environment "
        "that serves, a failure leaves half of each."
    ),
    remedy="Run the playbook upgrade with synapse_version; by hand: pip install matrix-synapse==VERSION in a new venv.",
)
def _unpinned(seen: Seen) -> Iterable[Clue]:
    """A script installs Synapse without saying which version."""
    places = _told(seen, "unpinned")
    if places:
        yield Clue("A script installs matrix-synapse without a version (unpinned).", places)


@RULES.rule(
    "generates_keys",
    severity="info",
    cause="Where the key is missing or its path is misspelt, a new identity is minted and nothing fails.",
    remedy=f"Take the option out of whatever starts the server. A configuration is checked with {_CHECK}.",
)
def _generates_keys(seen: Seen) -> Iterable[Clue]:
    """A script lets Synapse mint a new signing key at each start."""
    places = _told(seen, "generates_keys")
    if places:
        yield Clue("A script starts Synapse with --generate-keys: a lost key is replaced without a word.", places)


@RULES.rule(
    "removes_environment",
    severity="info",
    cause="Nothing is left to go back to where the new environment does not work; plugins and versions are forgotten.",
    remedy="Build the new environment beside the old one and switch: ansible-playbook matrix_fleet.synapse.deploy.",
)
def _removes_environment(seen: Seen) -> Iterable[Clue]:
    """A script removes the environment before it makes a new one."""
    places = _told(seen, "removes_environment")
    if places:
        yield Clue("A script removes the virtual environment of Synapse (rm -rf).", places)


@RULES.rule(
    "setuptools_pin",
    severity="info",
    cause="Synapse has not imported pkg_resources since 1.139.0: the warning that this is to silence is not its own.",
    remedy="Take the line out; it changes nothing for Synapse.",
)
def _setuptools_pin(seen: Seen) -> Iterable[Clue]:
    """A script pins setuptools because of a warning about pkg_resources."""
    places = _told(seen, "setuptools_pin")
    if places:
        yield Clue("A script pins setuptools against the pkg_resources warning, which is harmless.", places)
