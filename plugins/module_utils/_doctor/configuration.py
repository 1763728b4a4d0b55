# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict of Synapse's own parser on the configuration, of main process and workers. Pure.

The problems are those of ``_config.judge``, each of a kind. Here each kind has its rule: how grave it is on a server in
use, how it comes to it, and what mends it.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config import Problem
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Configuration", "problems_of"]

RULES = Rulebook("configuration")


@dataclass(frozen=True)
class Configuration:
    """What was seen. ``problems`` are Synapse's, ``unasked`` says why there are none of these.

    ``managed``: the files that the collection wrote, as they say themselves or as its transactions remember.
    ``copies``: the newest kept copy of a file, by the file. ``workers``: the configuration files of workers.
    ``strangers``: listeners, by the option, that are bound to an address which this host does not have.
    """

    version: str | None = None
    account: str | None = None
    problems: tuple[Problem, ...] = ()
    unasked: str | None = None
    managed: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()


# What the main process does not start with. A worker that has the same trouble ends, and the server serves on.
_STOPPING = frozenset(
    {
        "appservice_file",
        "conflict",
        "database_driver",
        "database_option",
        "empty",
        "inline_secret",
        "instance_map",
        "listener_clash",
        "listener_invalid",
        "listener_port",
        "log_config_invalid",
        "log_config_missing",
        "log_handler_missing",
        "missing",
        "missing_package",
        "no_listeners",
        "open_registration",
        "option_missing",
        "pid_file",
        "public_baseurl",
        "refused",
        "removed_option",
        "report_stats_missing",
        "secret_file_missing",
        "secret_not_text",
        "server_name_invalid",
        "server_name_missing",
        "signing_key",
        "stream_writers",
        "tls_files",
        "trusted_key_servers",
        "unknown_refused",
        "value_refused",
        "yaml_syntax",
    }
)
_LONGEST = 300  # characters of what Python says
_EMPTY = "The file is empty or is not a mapping of options: Synapse ignores it."


# Secrets that Synapse stops at where they are no text (synapse/config/key.py, 1.163.2).
_TEXTS = ("macaroon_secret_key", "form_secret")
_NUMBER = "Synapse needs a text (a string) here, and a number was given."


def _numbers(seen: Seen, told: list[Problem]) -> Iterator[Problem]:
    """Return secrets that are numbers, also where Synapse stopped before it came to them."""
    known = {problem.path for problem in told if problem.kind == "secret_not_text"}
    for file in seen.settings.files if seen.settings is not None else ():
        for option in file.numbers:
            if option in _TEXTS and option not in known:
                advice = "Put the original text into quotes: YAML may have made another number of it."
                yield Problem("error", option, _NUMBER, None, advice, file.path, None, "secret_not_text")


def _nameless(seen: Seen) -> Iterator[Problem]:
    """Return a database of no kind, which Synapse reads and then stops at (create_engine, synapse/storage/engines)."""
    settings = seen.settings
    database = settings.get("database") if settings is not None else None
    if settings is None or not isinstance(database, dict) or "name" in database:
        return
    file = next((one.path for one in reversed(settings.files) if "database" in one.keys), None)
    message = "An option that Synapse needs here is missing: it ends with KeyError: 'name' when it starts."
    yield Problem(
        "error", "database.name", message, None, "Set it to psycopg2 or sqlite3.", file, None, "database_option"
    )


def _raw(seen: Seen) -> Iterator[Problem]:
    """Return what is known of the files without asking Synapse."""
    settings = seen.settings
    for path in seen.request.config_paths if settings is not None and not settings.files else ():
        message = f"There is no configuration file (*.yaml) in this folder: {path} is missing, or another is meant."
        yield Problem("error", "", message, file=path, kind="missing")
    for number, file in enumerate(settings.files if settings is not None else ()):
        if file.missing:
            message = "The configuration file does not exist: its path is wrong, or the file is gone (missing)."
            yield Problem("error", "", message, file=file.path, kind="missing")
        elif file.problem is None:
            continue
        elif "not YAML" in file.problem or "UTF-8" in file.problem or "zero bytes" in file.problem:
            message = f"This is not YAML: {file.problem}."
            advice = "Correct the line; nothing else of this file can be judged before."
            yield Problem("error", "", message, None, advice, file.path, file.line, "yaml_syntax")
        elif "empty" in file.problem or "no options" in file.problem:
            kind = "ignored_file" if number else "empty"
            yield Problem("error", "", _EMPTY, file=file.path, kind=kind)
        else:
            message = f"The configuration file cannot be read: {file.problem}."
            kind = "no_file" if "regular" in file.problem else "unreadable"
            yield Problem("error", "", message, file=file.path, kind=kind)


def _addresses(seen: Seen) -> Iterator[Problem]:
    """Return the listeners that are bound to an address which the host does not have."""
    configuration = seen.configuration
    for option, address in configuration.strangers if configuration is not None else ():
        message = f"This host does not have the address {address}: the listener cannot be opened."
        advice = "Name an address of this host, or 127.0.0.1 behind a reverse proxy."
        first = seen.settings.files[-1].path if seen.settings is not None and seen.settings.files else None
        yield Problem("error", option, message, None, advice, first, None, "listener_address")


def _rule_of(problem: Problem) -> str:
    """Return the name of the rule for a problem: its kind, unless it keeps but a worker from starting."""
    if problem.process == "main" or problem.kind not in _STOPPING:
        return problem.kind
    return "worker_instance_map" if problem.kind == "instance_map" else "worker_refused"


def problems_of(seen: Seen) -> tuple[Problem, ...]:
    """Return all problems, each named by the rule that tells it. Synapse's own words come first."""
    told = [] if seen.configuration is None else list(seen.configuration.problems)
    told += [*_addresses(seen), *_numbers(seen, told), *_nameless(seen)]
    files = {problem.file for problem in told if not problem.path}
    told += [problem for problem in _raw(seen) if problem.file not in files]
    return tuple(replace(problem, kind=_rule_of(problem)) for problem in told)


def _managed(seen: Seen, path: str | None) -> bool:
    return seen.configuration is not None and path is not None and path in seen.configuration.managed


def _copy(seen: Seen, path: str | None) -> str | None:
    return None if seen.configuration is None or path is None else seen.configuration.copies.get(path)


def _place(problem: Problem) -> str:
    line = "" if problem.line is None else f", line {problem.line}"
    return f"{problem.file or ''}{line}"


_WRITE_ANEW = "ansible-playbook matrix_fleet.synapse.repair --tags config"
# Where to look for what a file held before.
_RESTORE = (
    "Restore the file from a backup (of the host, or of whatever wrote it); never let --generate-config write over it"
)


def _is_of_access(seen: Seen, problem: Problem) -> bool:
    """Whether the look at owners and modes has seen the same file, and tells of it."""
    access = seen.access
    paths = [item.path for item in access.items if access.blocked(item) is not None] if access is not None else []
    return any(path == problem.file or f"{path}" in problem.message for path in paths)


def _told(
    seen: Seen, name: str, *, restore: bool = False, mendable: bool = False, elsewhere: bool = False
) -> Iterator[Clue]:
    """Return a clue for each problem of a kind.

    ``mendable``: to write the file anew from the inventory mends it, which is safe where the collection wrote it.
    ``restore``: an older copy of the file is of use. ``elsewhere``: what the look at owners and modes has seen as well
    is told there.
    """
    for problem in problems_of(seen):
        if problem.kind != name or (elsewhere and _is_of_access(seen, problem)):
            continue
        managed = mendable and _managed(seen, problem.file)
        by_hand = f"In {_place(problem)}: {problem.suggestion}" if problem.suggestion and problem.file else ""
        copy = _copy(seen, problem.file) if restore else None
        steps = [by_hand]
        if copy is not None:
            steps.append(f"A kept copy: cp {copy} {problem.file}")
        elif restore and not managed:
            steps.append(f"{_RESTORE}.")
        if managed:
            steps.insert(0, f"{_WRITE_ANEW} writes it anew from the inventory, and keeps what is there.")
        remedy = " ".join(step for step in steps if step)
        evidence = ": ".join(filter(None, [_place(problem), (problem.cause or "")[:_LONGEST]]))
        yield Clue(
            f"{problem.path}: {problem.message}" if problem.path else f"{problem.file or ''}: {problem.message}",
            evidence,
            severity={"info": "info", "warning": "warning"}.get(problem.severity),
            remedy=remedy or None,
            repair="config" if managed else "",
            safe=managed,
        )


# ---------------------------------------------------------------------------------------------------------------
# The files themselves

_HAND = "An edit by hand."
_CORRECT = "Correct the line that is named, and restart."


@RULES.rule(
    "missing",
    severity="critical",
    cause="The unit or the command line names another path than the file has, or the file was removed.",
    remedy="Restore the file, or correct the path (systemctl edit --full).",
    repair="config",
    stops=True,
    explains=("configuration.*",),
)
def _missing(seen: Seen) -> Iterable[Clue]:
    """A configuration file is missing."""
    return _told(seen, "missing", restore=True, mendable=True)


@RULES.rule(
    "empty",
    severity="critical",
    cause="Whatever wrote the file was cut off, as on a full disk; or another file was copied to its place.",
    remedy=f"{_RESTORE}.",
    repair="config",
    stops=True,
    explains=("configuration.*",),
)
def _empty(seen: Seen) -> Iterable[Clue]:
    """The configuration file is empty, or holds no options: server_name and all else is missing."""
    for clue in _told(seen, "empty", restore=True, mendable=True):
        yield replace(clue, summary=f"{clue.summary} So server_name, and all else, is missing.")


@RULES.rule(
    "yaml_syntax",
    severity="critical",
    cause="An edit by hand: a tab, a wrong indentation, or a value that begins with a sign that means something in "
    "YAML.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
    explains=("configuration.*",),
)
def _yaml_syntax(seen: Seen) -> Iterable[Clue]:
    """A configuration file is not YAML."""
    return _told(seen, "yaml_syntax", restore=True, mendable=True)


@RULES.rule(
    "unreadable",
    severity="critical",
    cause="The account of the service may not read the file, or it is no regular file.",
    remedy="chown root:synapse FILE && chmod 0640 FILE, with the group of the service; its folder 0750.",
    symptom=True,
)
def _unreadable(seen: Seen) -> Iterable[Clue]:
    """A configuration file cannot be read by the service."""
    return _told(seen, "unreadable", elsewhere=True)


@RULES.rule(
    "no_file",
    severity="critical",
    cause="A pipe, a socket or a device lies where the file should be: whoever opens it waits, or reads nothing.",
    remedy="Move it away, and put the file there.",
    stops=True,
    explains=("configuration.*",),
)
def _no_file(seen: Seen) -> Iterable[Clue]:
    """What lies where a configuration file should be is no file."""
    return _told(seen, "no_file", restore=True)


@RULES.rule(
    "ignored_file",
    severity="info",
    cause="The file holds no options, as one in which everything is commented out.",
    remedy="Nothing, if it is meant; otherwise restore its content.",
)
def _ignored_file(seen: Seen) -> Iterable[Clue]:
    """One of several configuration files is empty, and Synapse ignores it."""
    for clue in _told(seen, "ignored_file", restore=True):
        yield replace(clue, severity="info", remedy=None)


@RULES.rule(
    "duplicate_option",
    severity="error",
    cause="The same option was added again by hand; YAML lets the last one win without a word.",
    remedy="Keep one of them.",
    repair="config",
)
def _duplicate_option(seen: Seen) -> Iterable[Clue]:
    """An option is written twice, and only the last one counts."""
    return _told(seen, "duplicate_option", mendable=True)


@RULES.rule(
    "unasked",
    severity="warning",
    cause="The environment does not answer, so that nobody can say what Synapse makes of this configuration.",
    remedy="Mend the environment; then ask again.",
    symptom=True,
)
def _unasked(seen: Seen) -> Iterable[Clue]:
    """Synapse could not be asked what it makes of the configuration."""
    why = seen.configuration.unasked if seen.configuration is not None else None
    kinds = {problem.kind for problem in problems_of(seen)}
    if why is not None and not kinds & {"missing", "empty", "yaml_syntax", "no_file"}:
        yield Clue("Synapse could not be asked what it makes of the configuration.", why)


# ---------------------------------------------------------------------------------------------------------------
# What Synapse refuses


@RULES.rule(
    "server_name_missing",
    severity="critical",
    cause="The option was removed, or stands in a file that is not passed to Synapse.",
    remedy="Set server_name to what follows the colon in the ids of the users (@user:NAME), as the database has them; "
    "never to the name of the host.",
    repair="config",
    stops=True,
)
def _server_name_missing(seen: Seen) -> Iterable[Clue]:
    """The mandatory option server_name is missing."""
    for clue in _told(seen, "server_name_missing", restore=True, mendable=True):
        known = _known_name(seen)
        yield replace(clue, remedy=f"{known}{_REMEDIES['server_name_missing']} {clue.remedy or ''}".strip())


def _known_name(seen: Seen) -> str:
    """Return what is known of the server's right name, as a sentence."""
    if seen.request.server_name:
        return f"It is meant to be {seen.request.server_name}. "
    name = _remembered(seen)
    return f"The record of its key says that it is {name}. " if name else ""


@RULES.rule(
    "server_name_invalid",
    severity="critical",
    cause="The value is no name of a server: it has a scheme, a path, capital letters or the like.",
    remedy="Set server_name to what follows the colon in the ids of the users, as the database has them.",
    repair="config",
    stops=True,
)
def _server_name_invalid(seen: Seen) -> Iterable[Clue]:
    """The server_name is no name of a server."""
    for clue in _told(seen, "server_name_invalid", restore=True, mendable=True):
        yield replace(clue, remedy=f"{_REMEDIES['server_name_invalid']} {clue.remedy or ''}".strip())


@RULES.rule(
    "server_name_changed",
    severity="critical",
    cause="The server_name was edited. It is in every user's and every room's name, and cannot be changed.",
    remedy="Put back the name that the server had.",
    repair="config",
    stops=True,
    explains=("identity.record_of_another", "identity.key_replaced"),
)
def _server_name_changed(seen: Seen) -> Iterable[Clue]:
    """The server_name is not the one that this server is meant to have."""
    settings, names = seen.settings, _names(seen)
    if settings is None or names is None or names[0] == _remembered(seen):
        return
    has, wanted = names
    managed = _managed(seen, settings.files[0].path if settings.files else None)
    by_hand = f"Write server_name: {wanted}, and restart."
    yield Clue(
        f"The configuration names the server {has}, and it is meant to be {wanted}.",
        f"server_name: {has} in {settings.files[-1].path if len(settings.files) == 1 else 'the configuration'}",
        remedy=f"{_WRITE_ANEW}, or by hand: {by_hand}" if managed else by_hand,
        repair="config" if managed else "",
        # Which of the two is right is only known where something remembers it.
        safe=managed and _remembered(seen) == wanted,
    )


def _names(seen: Seen) -> tuple[str, str] | None:
    """Return the name that the server has and the one that it is meant to have, where these differ."""
    has, wanted = seen.settings.server_name if seen.settings is not None else None, seen.request.server_name
    return None if has is None or wanted is None or has == wanted else (has, wanted)


def _remembered(seen: Seen) -> str | None:
    """Return whose the record beside the signing key says that it is."""
    record = seen.identity.record if seen.identity is not None else None
    return record.server_name if record is not None else None


@RULES.rule(
    "name_not_meant",
    severity="error",
    cause="Whoever asked has another server in mind: the record of the signing key has the name that the server has.",
    remedy="Correct synapse_server_name in the inventory; a server cannot be renamed.",
)
def _name_not_meant(seen: Seen) -> Iterable[Clue]:
    """The server has the name that it always had, and another one was asked for."""
    names = _names(seen)
    if names is not None and names[0] == _remembered(seen):
        yield Clue(f"This server is {names[0]} by its key's record, and not {names[1]}, for which it was taken.", "")


@RULES.rule(
    "report_stats_missing",
    severity="critical",
    cause="Synapse wants a decision: whether it may report anonymous statistics.",
    remedy="Set report_stats: false (or true).",
    repair="config",
    stops=True,
)
def _report_stats_missing(seen: Seen) -> Iterable[Clue]:
    """The mandatory option report_stats is missing."""
    return _told(seen, "report_stats_missing", mendable=True)


@RULES.rule(
    "open_registration",
    severity="critical",
    cause="Since 1.56 Synapse does not start where everybody may register without verification (enable_registration).",
    remedy="Decide: enable_registration: false; or demand registration_requires_token, a captcha or an email address. "
    "Do not set enable_registration_without_verification.",
    repair="config",
    stops=True,
)
def _open_registration(seen: Seen) -> Iterable[Clue]:
    """Registration is open to everybody without verification, which Synapse refuses."""
    for clue in _told(seen, "open_registration", mendable=True):
        where = f" ({clue.evidence})" if clue.evidence else ""
        advice = f"{_REMEDIES['open_registration']}{where}"
        yield replace(clue, remedy=f"{_WRITE_ANEW}, or: {advice}" if clue.repair else advice)


@RULES.rule(
    "secret_not_text",
    severity="critical",
    cause="A secret of digits without quotes is a number for YAML, in which leading zeros are lost.",
    remedy="Put the original text into quotes. Do not make a new secret: that signs people out.",
    repair="config",
    stops=True,
)
def _secret_not_text(seen: Seen) -> Iterable[Clue]:
    """A secret is not a text (string), and Synapse stops at it."""
    return _told(seen, "secret_not_text", mendable=True)


@RULES.rule(
    "secret_file_missing",
    severity="critical",
    cause="A file that an option ending in _path names was not deployed, or was removed; this is no matter "
    "of permission.",
    remedy="Put the secret that the server had into the file (owner root, group of the service, mode 0640). An empty "
    "file is worse than none.",
    stops=True,
)
def _secret_file_missing(seen: Seen) -> Iterable[Clue]:
    """The file of a secret, named by a _path option, is missing."""
    return _secrets(seen, "secret_file_missing")


@RULES.rule(
    "secret_file_empty",
    severity="error",
    cause="The file was made and never filled, or what wrote it was cut off.",
    remedy="Put the secret that the server had into the file.",
)
def _secret_file_empty(seen: Seen) -> Iterable[Clue]:
    """The file of a secret is empty, and Synapse goes on as if no secret were set."""
    return _secrets(seen, "secret_file_empty")


# Secrets that can be made anew without signing anybody out.
_RENEWABLE = frozenset({"registration_shared_secret_path", "form_secret_path"})
# Secrets of which each has a file of its own that the role makes.
_ROLE_SECRETS = _RENEWABLE | {"macaroon_secret_key_path"}


def _secrets(seen: Seen, name: str) -> Iterator[Clue]:
    problems = [problem for problem in problems_of(seen) if problem.kind == name]
    for problem, clue in zip(problems, _told(seen, name)):
        remedy = _REMEDIES[name]
        ours = problem.path in _ROLE_SECRETS and _managed(seen, problem.file)
        if ours and problem.path in _RENEWABLE:
            remedy = f"{_WRITE_ANEW} makes a new one; or: {remedy}"
        elif problem.path.startswith("macaroon_secret_key"):
            remedy += " A new macaroon_secret_key signs out guests and ends pending links: plan for that."
            if ours:
                remedy += f" With synapse_macaroon_secret_key in the inventory, {_WRITE_ANEW} writes the file."
        yield replace(clue, remedy=remedy, repair="config" if ours else "", safe=ours and problem.path in _RENEWABLE)


@RULES.rule(
    "signing_key",
    severity="critical",
    cause="The signing key cannot be read. What is to be done about it is told of the key itself.",
    remedy="Restore the key from a backup; never let Synapse make another one.",
    symptom=True,
)
def _signing_key(seen: Seen) -> Iterable[Clue]:
    """Synapse cannot read the signing key that the configuration names."""
    return _told(seen, "signing_key")


@RULES.rule(
    "inline_secret",
    severity="critical",
    cause="The unit starts Synapse with --no-secrets-in-config, and a secret stands in the configuration all the same.",
    remedy="Put the value into a file, and name that in the option's _path.",
    repair="config",
    stops=True,
)
def _inline_secret(seen: Seen) -> Iterable[Clue]:
    """A secret stands in the configuration, which this server was told to refuse."""
    return _told(seen, "inline_secret", mendable=True)


@RULES.rule(
    "conflict",
    severity="critical",
    cause="Two options that exclude each other are set, such as a secret and the path of its file.",
    remedy="Remove one of the two: the one that does not hold what the server used until now.",
    repair="config",
    stops=True,
)
def _conflict(seen: Seen) -> Iterable[Clue]:
    """Two options contradict each other, and Synapse refuses both."""
    return _told(seen, "conflict", mendable=True)


@RULES.rule(
    "removed_option",
    severity="critical",
    cause="The configuration is older than Synapse: the option was removed, and this version refuses to start with it.",
    remedy="Do what the upgrade notes (docs/upgrade.md) of Synapse say takes its place; do not merely delete what is "
    "about logging in.",
    repair="config",
    stops=True,
)
def _removed_option(seen: Seen) -> Iterable[Clue]:
    """An option was removed from Synapse, which refuses to start with it."""
    for clue in _told(seen, "removed_option", mendable=True):
        yield replace(clue, remedy=f"{clue.remedy or ''} {_REMEDIES['removed_option']}".strip())


@RULES.rule(
    "value_refused",
    severity="critical",
    cause="The value has another form than the option needs: sizes are 50M, durations 30d, lists begin with a dash.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
)
def _value_refused(seen: Seen) -> Iterable[Clue]:
    """Synapse stops at the value of an option."""
    return _told(seen, "value_refused", mendable=True)


@RULES.rule(
    "unknown_refused",
    severity="critical",
    cause="A typo, or an option of another version, in a place where Synapse takes only what it knows.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
)
def _unknown_refused(seen: Seen) -> Iterable[Clue]:
    """Synapse stops at an option that it does not know."""
    return _told(seen, "unknown_refused", mendable=True)


@RULES.rule(
    "option_missing",
    severity="critical",
    cause="A part of the configuration lacks an option without which Synapse cannot read it.",
    remedy="Set the option.",
    repair="config",
    stops=True,
)
def _option_missing(seen: Seen) -> Iterable[Clue]:
    """An option that Synapse needs here is missing."""
    return _told(seen, "option_missing", mendable=True)


@RULES.rule(
    "missing_package",
    severity="critical",
    cause="The environment was made without what this option needs (an extra of Synapse, or a module of somebody "
    "else).",
    remedy="Name the extra in synapse_extras or the package in synapse_extra_packages and deploy; or remove the "
    "option.",
    stops=True,
)
def _missing_package(seen: Seen) -> Iterable[Clue]:
    """An option needs a package that the environment lacks."""
    return _told(seen, "missing_package")


@RULES.rule(
    "trusted_key_servers",
    severity="critical",
    cause="The list has another form than Synapse knows, or certificates are not verified "
    "(federation_verify_certificates) "
    "and no verify key is given.",
    remedy="Write a list of entries with server_name; leave federation_verify_certificates true. Never set "
    "accept_keys_insecurely.",
    repair="config",
    stops=True,
)
def _trusted_key_servers(seen: Seen) -> Iterable[Clue]:
    """Synapse refuses trusted_key_servers, or how they are verified (federation_verify_certificates)."""
    for clue in _told(seen, "trusted_key_servers", mendable=True):
        advice = f"{clue.remedy or ''} {_REMEDIES['trusted_key_servers']}".strip()
        yield replace(clue, remedy=advice)


@RULES.rule(
    "public_baseurl",
    severity="critical",
    cause="The value is not a whole URL: the scheme is missing, or it was confused with server_name.",
    remedy="Write the whole URL, such as public_baseurl: https://matrix.example.org/.",
    repair="config",
    stops=True,
)
def _public_baseurl(seen: Seen) -> Iterable[Clue]:
    """Synapse refuses public_baseurl (or another URL): it needs a scheme."""
    for clue in _told(seen, "public_baseurl", mendable=True):
        yield replace(clue, remedy=f"{clue.remedy or ''} {_REMEDIES['public_baseurl']}".strip())


# ---------------------------------------------------------------------------------------------------------------
# What Synapse takes without a word


@RULES.rule(
    "unknown_option",
    severity="error",
    cause="A typo, or an option of something else: Synapse ignores an unknown option, nested ones too, without a word.",
    remedy="Write the name that was meant; if the option belongs to a module of yours, name it in "
    "synapse_allow_unknown_options.",
    repair="config",
)
def _unknown_option(seen: Seen) -> Iterable[Clue]:
    """Synapse does not know an option, and ignores it."""
    return _told(seen, "unknown_option", mendable=True)


@RULES.rule(
    "misplaced_option",
    severity="error",
    cause="A wrong indentation: Synapse knows the option elsewhere, and does not read it where it stands.",
    remedy="Move it to where it belongs.",
    repair="config",
)
def _misplaced_option(seen: Seen) -> Iterable[Clue]:
    """An option stands where Synapse does not read it."""
    return _told(seen, "misplaced_option", mendable=True)


@RULES.rule(
    "unread_option",
    severity="info",
    cause="The option belongs to something that is switched off.",
    remedy="Nothing, if that is meant.",
)
def _unread_option(seen: Seen) -> Iterable[Clue]:
    """An option has no effect with the other settings."""
    return _told(seen, "unread_option")


@RULES.rule(
    "obsolete_option",
    severity="warning",
    cause="The configuration is older than Synapse: the obsolete option is ignored, and does nothing any more.",
    remedy="Remove the option, after a look at what has taken its place.",
    repair="config",
)
def _obsolete_option(seen: Seen) -> Iterable[Clue]:
    """An obsolete option is ignored by this version."""
    return _told(seen, "obsolete_option", mendable=True)


@RULES.rule(
    "wrong_type",
    severity="error",
    cause="The value has another type than the option needs (boolean, number, list), and Synapse does not check it: it "
    "takes every text for true, and takes texts apart into letters.",
    remedy=_CORRECT,
    repair="config",
)
def _wrong_type(seen: Seen) -> Iterable[Clue]:
    """An option has a value of the wrong type, which Synapse takes without a word."""
    return _told(seen, "wrong_type", mendable=True)


@RULES.rule(
    "truth_text",
    severity="info",
    cause="A word in quotes is a text, and every text counts as true.",
    remedy="Write true, without quotes.",
)
def _truth_text(seen: Seen) -> Iterable[Clue]:
    """A yes or no stands in quotes, and only happens to mean what it says."""
    for clue in _told(seen, "truth_text"):
        yield replace(clue, severity="info")


@RULES.rule(
    "secret_is_number",
    severity="error",
    cause="Digits without quotes are a number for YAML; leading zeros and the like are lost, and the secret is "
    "another.",
    remedy="Put the original text into quotes.",
    repair="config",
)
def _secret_is_number(seen: Seen) -> Iterable[Clue]:
    """A secret is a number for YAML, and so not the text (string) that was meant."""
    return _told(seen, "secret_is_number", mendable=True)


@RULES.rule(
    "macaroon_missing",
    severity="warning",
    cause="Without macaroon_secret_key Synapse takes another secret in its place; whoever knows that one can forge "
    "tokens "
    "for guests and links.",
    remedy="Set macaroon_secret_key_path to a file that holds what is used now, so that nobody is signed out; or plan "
    "for that. Do not put a random value there on a server in use.",
)
def _macaroon_missing(seen: Seen) -> Iterable[Clue]:
    """No macaroon_secret_key is set."""
    for clue in _told(seen, "macaroon_missing"):
        yield replace(clue, remedy=None)


@RULES.rule(
    "old_signing_keys",
    severity="error",
    cause="What stands in old_signing_keys is published to everybody.",
    remedy="Put the public half of keys that are no longer used there, with the time in milliseconds.",
)
def _old_signing_keys(seen: Seen) -> Iterable[Clue]:
    """An entry of old_signing_keys is not what it should be."""
    return _told(seen, "old_signing_keys")


@RULES.rule(
    "relative_path",
    severity="warning",
    cause="What a relative path means depends on the folder in which Synapse is started.",
    remedy="Write the whole path.",
    repair="config",
)
def _relative_path(seen: Seen) -> Iterable[Clue]:
    """A path in the configuration is relative."""
    return _told(seen, "relative_path", mendable=True)


@RULES.rule(
    "synapse_says",
    severity="info",
    cause="Synapse says so while it reads the configuration.",
    remedy="Read it; it is no fault by itself.",
)
def _synapse_says(seen: Seen) -> Iterable[Clue]:
    """Synapse remarks on the configuration."""
    for clue in _told(seen, "synapse_says"):
        yield replace(clue, severity="info")


@RULES.rule(
    "media_folder",
    severity="info",
    cause="media_store_path is not set.",
    remedy="Set media_store_path to a whole path.",
)
def _media_folder(seen: Seen) -> Iterable[Clue]:
    """Where media is kept depends on the folder in which Synapse is started."""
    return _told(seen, "media_folder")


# ---------------------------------------------------------------------------------------------------------------
# Files and folders that options name


@RULES.rule(
    "file_unreadable",
    severity="critical",
    cause="Owner, group or mode keep the account of the service from reading a file that the configuration names.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags permissions",
    symptom=True,
)
def _file_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read a file that the configuration names."""
    return _told(seen, "file_unreadable", elsewhere=True)


@RULES.rule(
    "file_unwritable",
    severity="critical",
    cause="Owner, group or mode keep the account of the service from writing where the configuration says.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags permissions",
    symptom=True,
)
def _file_unwritable(seen: Seen) -> Iterable[Clue]:
    """The service may not write where the configuration says that it writes."""
    return _told(seen, "file_unwritable", elsewhere=True)


@RULES.rule(
    "exposed",
    severity="warning",
    cause="The mode lets every account on the host read the file.",
    remedy="chmod 0640 FILE, with root as owner and the group of the service.",
    symptom=True,
)
def _exposed(seen: Seen) -> Iterable[Clue]:
    """Every account on the host can read a file with secrets."""
    return _told(seen, "exposed", elsewhere=True)


@RULES.rule(
    "pid_file",
    severity="critical",
    cause="A Synapse that makes itself a daemon (daemonize) writes its process id to pid_file, and ends without a word "
    "where it cannot: a folder below /run is gone after a reboot.",
    remedy="Name a file in a folder of the service (pid_file), or let systemd make one (RuntimeDirectory=).",
    repair="config",
    stops=True,
)
def _pid_file(seen: Seen) -> Iterable[Clue]:
    """The pid_file cannot be written, and the server makes itself a daemon (daemonize)."""
    for clue in _told(seen, "pid_file", mendable=True, elsewhere=True):
        daemon = seen.request.pid_file is not None or clue.severity is None
        if daemon:
            yield replace(clue, severity="critical")


@RULES.rule(
    "folder_missing",
    severity="warning",
    cause="The folder was removed, or its path is wrong.",
    remedy="Make the folder, or correct the path.",
)
def _folder_missing(seen: Seen) -> Iterable[Clue]:
    """A folder that the configuration names does not exist."""
    return _told(seen, "folder_missing")


@RULES.rule(
    "no_folder",
    severity="error",
    cause="The path of a folder leads to a file.",
    remedy="Name a folder.",
)
def _no_folder(seen: Seen) -> Iterable[Clue]:
    """What the configuration takes for a folder is none."""
    return _told(seen, "no_folder")


@RULES.rule(
    "log_config_missing",
    severity="critical",
    cause="Synapse writes a log configuration of its own where none is, which logs to homeserver.log in the folder "
    "that it "
    "is started in: under systemd that is /, where it may not write.",
    remedy="Restore the file that log_config names. Do not make /homeserver.log writable.",
    repair="config",
    stops=True,
)
def _log_config_missing(seen: Seen) -> Iterable[Clue]:
    """The file that log_config names is missing."""
    return _log(seen, "log_config_missing")


@RULES.rule(
    "log_config_invalid",
    severity="critical",
    cause="Python's logging refuses it, and so Synapse does not start; the check of the configuration does not read "
    "it.",
    remedy="Correct the line that is named.",
    repair="config",
    stops=True,
)
def _log_config_invalid(seen: Seen) -> Iterable[Clue]:
    """The log configuration (log_config) is not usable: a handler, a formatter or its form."""
    return _log(seen, "log_config_invalid")


@RULES.rule(
    "log_handler_missing",
    severity="critical",
    cause="A class that the log configuration names is in a package that the environment lacks. The extra systemd "
    "(systemd-python, for JournalHandler) was removed from Synapse in 1.150.",
    remedy="Log to stderr with logging.StreamHandler, which the journal takes; or add the package "
    "(synapse_extra_packages: [systemd-python]).",
    repair="config",
    stops=True,
)
def _log_handler_missing(seen: Seen) -> Iterable[Clue]:
    """A handler of the log configuration (log_config) cannot be loaded."""
    return _log(seen, "log_handler_missing")


def _log(seen: Seen, name: str) -> Iterator[Clue]:
    """Return clues about the log configuration: it is a file of its own, which the collection wrote or did not."""
    path = seen.settings.text("log_config") if seen.settings is not None else None
    managed = _managed(seen, path)
    for clue in _told(seen, name):
        copy = _copy(seen, path)
        steps = [f"{_WRITE_ANEW} writes it anew." if managed else "", clue.remedy or _REMEDIES[name]]
        if copy is not None:
            steps.append(f"A kept copy: cp {copy} {path}")
        yield replace(
            clue, remedy=" ".join(step for step in steps if step), repair="config" if managed else "", safe=managed
        )


@RULES.rule(
    "appservice_file",
    severity="critical",
    cause="The registration of a bridge was moved, removed or edited; Synapse reads it only when it starts.",
    remedy="Restore the registration with the tokens that the bridge knows; do not make new ones, and do not drop the "
    "entry of app_service_config_files: the bridge would break.",
    stops=True,
)
def _appservice_file(seen: Seen) -> Iterable[Clue]:
    """The registration of an application service (appservice, app_service_config_files) is missing or not valid."""
    for clue in _told(seen, "appservice_file"):
        yield replace(clue, remedy=f"{clue.remedy or ''} {_REMEDIES['appservice_file']}".strip())


@RULES.rule(
    "tls_files",
    severity="critical",
    cause="A listener speaks TLS, and its certificate or private key is missing, not readable, or not of the other.",
    remedy="Name the pair that belongs together (openssl x509 -pubkey, openssl pkey -pubout), readable for the group "
    "of "
    "the service; do not make the private key readable for all.",
    stops=True,
)
def _tls_files(seen: Seen) -> Iterable[Clue]:
    """The certificate or private key of a TLS listener cannot be used."""
    for clue in _told(seen, "tls_files"):
        yield replace(clue, summary=f"The TLS certificate and private key cannot be used: {clue.summary}", remedy=None)


@RULES.rule(
    "tls_expired",
    severity="error",
    cause="Nothing renewed it, or what renewed it did not tell Synapse.",
    remedy="Renew the certificate, and restart or reload Synapse.",
)
def _tls_expired(seen: Seen) -> Iterable[Clue]:
    """The certificate of a TLS listener has expired."""
    for clue in _told(seen, "tls_expired"):
        yield replace(clue, severity="error")


@RULES.rule(
    "database_driver",
    severity="critical",
    cause="The environment has no working psycopg2.",
    remedy="Add the extra postgres (synapse_extras), or mend the environment.",
    stops=True,
)
def _database_driver(seen: Seen) -> Iterable[Clue]:
    """The driver for PostgreSQL cannot be loaded."""
    return _told(seen, "database_driver")


@RULES.rule(
    "database_option",
    severity="critical",
    cause="A wrong name or a wrong indentation: what stands in database.args goes to the driver, which refuses what it "
    "does not know.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
    explains=("database.arguments",),
)
def _database_option(seen: Seen) -> Iterable[Clue]:
    """An option of the database (database, args) is refused."""
    return _told(seen, "database_option", mendable=True)


# ---------------------------------------------------------------------------------------------------------------
# Listeners


@RULES.rule(
    "no_listeners",
    severity="critical",
    cause="The list of listeners is empty or gone: the process runs, opens no port, and says nothing.",
    remedy="Restore the list of listeners.",
    repair="config",
    stops=True,
)
def _no_listeners(seen: Seen) -> Iterable[Clue]:
    """The server has no listeners: no port is open."""
    return _told(seen, "no_listeners", mendable=True)


@RULES.rule(
    "listener_invalid",
    severity="critical",
    cause="A typo, or a kind of listener or resource that Synapse no longer has.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
)
def _listener_invalid(seen: Seen) -> Iterable[Clue]:
    """Synapse refuses a listener."""
    return _told(seen, "listener_invalid", mendable=True)


@RULES.rule(
    "listener_port",
    severity="critical",
    cause="A typo.",
    remedy="Name a port between 1 and 65535.",
    repair="config",
    stops=True,
)
def _listener_port(seen: Seen) -> Iterable[Clue]:
    """A listener names a port that there is not."""
    return _told(seen, "listener_port", mendable=True)


@RULES.rule(
    "listener_clash",
    severity="critical",
    cause="Two listeners want the same port or socket: the second cannot be opened (address already in use).",
    remedy="Give each listener a port of its own.",
    repair="config",
    stops=True,
)
def _listener_clash(seen: Seen) -> Iterable[Clue]:
    """Two listeners want the same port."""
    return _told(seen, "listener_clash", mendable=True)


@RULES.rule(
    "metrics_disabled",
    severity="warning",
    cause="A listener for metrics needs enable_metrics: true as well.",
    remedy="Set enable_metrics: true, or remove the listener.",
    repair="config",
)
def _metrics_disabled(seen: Seen) -> Iterable[Clue]:
    """A listener for metrics is configured, and enable_metrics is not true."""
    return _told(seen, "metrics_disabled", mendable=True)


@RULES.rule(
    "listener_federation",
    severity="warning",
    cause="The resource federation is in the names of no listener, so that other servers cannot even fetch this "
    "server's "
    "key (/_matrix/key/v2/server).",
    remedy="Add federation to the names of a listener; set federation_domain_whitelist: [] if it is meant.",
    repair="config",
    explains=("answers.unhealthy", "answers.key", "public.proxy_routes"),
)
def _listener_federation(seen: Seen) -> Iterable[Clue]:
    """No listener serves federation."""
    return _told(seen, "listener_federation", mendable=True)


@RULES.rule(
    "listener_address",
    severity="critical",
    cause="The address is that of another host, or the interface has another one now: the listener cannot be opened "
    "('Cannot assign requested address').",
    remedy="Name an address of this host in bind_addresses: 127.0.0.1 where a reverse proxy runs beside it.",
    repair="config",
    stops=True,
)
def _listener_address(seen: Seen) -> Iterable[Clue]:
    """A listener is bound to an address that this host does not have."""
    return _told(seen, "listener_address", mendable=True)


@RULES.rule(
    "refused",
    severity="critical",
    cause="Synapse says so itself when it reads this configuration.",
    remedy=_CORRECT,
    repair="config",
    stops=True,
    explains=("configuration.folder_missing", "configuration.no_folder"),
)
def _refused(seen: Seen) -> Iterable[Clue]:
    """Synapse refuses the configuration."""
    return _told(seen, "refused", mendable=True)


# ---------------------------------------------------------------------------------------------------------------
# Workers


@RULES.rule(
    "stream_writers",
    severity="critical",
    cause="stream_writers names an unknown stream, a worker that instance_map does not have, or several workers where "
    "only one instance may write. The main process refuses that too.",
    remedy="Let stream_writers and instance_map name the workers that run, and only one for typing, to_device, "
    "account_data, presence and push_rules.",
    repair="config",
    stops=True,
)
def _stream_writers(seen: Seen) -> Iterable[Clue]:
    """The stream_writers do not fit the instance_map."""
    return _told(seen, "stream_writers", mendable=True)


@RULES.rule(
    "instance_map",
    severity="critical",
    cause="An entry of instance_map has another form than host and port, or path.",
    remedy="Write host and port (a number) of the replication listener of each worker, and of main.",
    repair="config",
    stops=True,
)
def _instance_map(seen: Seen) -> Iterable[Clue]:
    """Synapse refuses the instance_map."""
    return _told(seen, "instance_map", mendable=True)


@RULES.rule(
    "worker_instance_map",
    severity="error",
    cause="Workers need to know where the main process is: main in the instance_map of the shared configuration "
    "(since 1.84).",
    remedy="Add instance_map: {main: {host: 127.0.0.1, port: 9093}} to the shared configuration, and a listener with "
    "the "
    "resource replication on that port to the main process; it must never be public.",
)
def _worker_instance_map(seen: Seen) -> Iterable[Clue]:
    """A worker does not find the main process in the instance_map."""
    for clue in _told(seen, "worker_instance_map"):
        yield replace(clue, remedy=None)


@RULES.rule(
    "worker_refused",
    severity="error",
    cause="The worker ends as soon as it has read its configuration. The main process serves on, without what the "
    "worker "
    "did.",
    remedy=_CORRECT,
)
def _worker_refused(seen: Seen) -> Iterable[Clue]:
    """A worker would not start with its configuration."""
    problems = [problem for problem in problems_of(seen) if problem.kind == "worker_refused"]
    for problem, clue in zip(problems, _told(seen, "worker_refused")):
        where = f"The worker {problem.process} would not start"
        yield replace(clue, summary=f"{where}: {clue.summary}")


@RULES.rule(
    "worker_app",
    severity="error",
    cause="A typo, or the application is missing: the worker ends with a bare AssertionError, or runs as a second main "
    "process.",
    remedy="Set worker_app: synapse.app.generic_worker.",
)
def _worker_app(seen: Seen) -> Iterable[Clue]:
    """The worker_app of a worker is none that a worker can be (generic_worker is)."""
    return _told(seen, "worker_app")


@RULES.rule(
    "worker_duplicate",
    severity="error",
    cause="The file of a worker was copied. Synapse does not notice; caches and streams go wrong.",
    remedy="Give every worker a worker_name of its own, and restart them.",
)
def _worker_duplicate(seen: Seen) -> Iterable[Clue]:
    """Two workers have the same worker_name."""
    return _told(seen, "worker_duplicate")


@RULES.rule(
    "workers_on_sqlite",
    severity="error",
    cause="SQLite serves one process; several lose each other's updates ('database is locked'). Synapse does not "
    "refuse it, "
    "but it is unsupported.",
    remedy="Move to PostgreSQL (synapse_port_db), or run without workers.",
)
def _workers_on_sqlite(seen: Seen) -> Iterable[Clue]:
    """Workers run on SQLite, which is unsupported."""
    return _told(seen, "workers_on_sqlite")


@RULES.rule(
    "redis_needed",
    severity="error",
    cause="Workers speak to each other through Redis; without it they end with a bare AssertionError.",
    remedy="Set redis: {enabled: true} in the shared configuration, and have the extra redis in the environment.",
)
def _redis_needed(seen: Seen) -> Iterable[Clue]:
    """There are workers, and redis is not enabled."""
    return _told(seen, "redis_needed")


@RULES.rule(
    "replication_listener",
    severity="error",
    cause="Workers ask the main process (or the writer of a stream) over a listener with the resource replication; "
    "where "
    "none is, connections are refused, and requests hang for minutes.",
    remedy="Add a listener with the resource replication, on the port that instance_map names, bound to a loopback or "
    "private address; it must never be public.",
)
def _replication_listener(seen: Seen) -> Iterable[Clue]:
    """No replication listener is where the instance_map says."""
    return _told(seen, "replication_listener")


@RULES.rule(
    "replication_secret",
    severity="error",
    cause="worker_replication_secret stands in one file and not in the other, or was changed in one: each request "
    "between "
    "the processes fails with 'Invalid Authorization header'.",
    remedy="Set worker_replication_secret once, in the shared configuration, and restart all processes.",
)
def _replication_secret(seen: Seen) -> Iterable[Clue]:
    """A worker has another worker_replication_secret than the main process."""
    return _told(seen, "replication_secret")


# The general remedy of each rule, for clues that add to it.
_REMEDIES = {rule.id.rpartition(".")[2]: rule.remedy for rule in RULES.rules}
