# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict on a configuration: from the facts that Synapse's own interpreter gives to problems in words.

Everything here is pure. The facts are what ``_probes/config_check.py`` answers; they hold no value of a secret.
"""

from __future__ import annotations

import errno
import re
import typing as t
from dataclasses import asdict, dataclass, field, replace

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "REMOVED",
    "SEVERITIES",
    "Problem",
    "Wanted",
    "distance",
    "dotted",
    "is_allowed",
    "judge",
    "render",
    "suggest",
    "summary",
]

Facts = t.Mapping[str, t.Any]
Path = t.Tuple[t.Union[str, int], ...]

SEVERITIES = ("error", "warning", "info")

# Options that older versions read and that a later one ignores: the last version that read it, and what to do now.
# From the names that synapse/config/*.py reads, release by release, up to 1.157.
REMOVED: dict[str, tuple[str, str]] = {
    "acme": ("1.36", "Use a certificate from an ACME client or a reverse proxy, and remove the option."),
    "allow_underscore_prefixed_registration": ("none", "The option that works is allow_underscore_prefixed_localpart."),
    "captcha_bypass_secret": ("1.12", ""),
    "captcha_ip_origin_is_x_forwarded": ("0.9", "Use x_forwarded in the listener."),
    "content_addr": ("0.16", "Use public_baseurl."),
    "cpu_affinity": ("1.0", "Use CPUAffinity in the systemd unit."),
    "enable_group_creation": ("1.69", ""),
    "enable_legacy_metrics": ("1.72", ""),
    "experimental_msc1849_support_enabled": ("1.51", ""),
    "expire_access_token": ("1.2", "Use session_lifetime."),
    "federation_rc": ("1.1", "Use rc_federation."),
    "full_twisted_stacktraces": ("0.18", ""),
    "group_creation_prefix": ("1.69", ""),
    "hs_disabled_limit_type": ("1.4", ""),
    "secondary_directory_servers": ("0.17", ""),
    "tls_dh_params_path": ("0.34", ""),
    "tls_fingerprints": ("1.34", ""),
    "trust_identity_server_for_password_resets": ("1.47", ""),
    "trusted_third_party_id_servers": ("0.99", ""),
    "uploads_path": ("1.7", ""),
    "use_new_device_lists_changes_in_room": ("1.57", ""),
    "user_creation_max_duration": ("0.18", ""),
    "users_new_default_push_rules": ("1.52", ""),
    "verbose": ("1.2", "Use log_config."),
    "web_client": ("0.33", "Use web_client_location."),
    "worker_cpu_affinity": ("1.0", "Use CPUAffinity in the systemd unit."),
    "worker_log_file": ("1.2", "Use worker_log_config."),
    "worker_replication_url": ("0.20", "Use instance_map."),
}

# Synapse turns these texts into yes or no itself, or gives them a meaning of their own (1.163.2).
_WORDS_UNDERSTOOD = {
    "disable_registration",  # registration.py: strtobool
    "enable_registration",
    "enable_registration_without_verification",
    "encryption_enabled_by_default_for_room_type",  # room.py: "off" is one of its words
}
_NO_WORDS = ("no", "false", "off", "n")

# Options that Synapse iterates over, so that a text falls apart into letters, and never complains (1.163.2).
_LISTS = {
    "allowed_local_3pids",
    "exclude_rooms_from_presence",
    "exclude_rooms_from_sync",
    "federation_certificate_verification_whitelist",
    "federation_domain_whitelist",
    "federation_metrics_domains",
    "federation_sender_instances",
    "ip_range_blacklist",
    "ip_range_whitelist",
    "notify_appservices_instances",
    "prevent_media_downloads_from",
    "pusher_instances",
    "registrations_require_3pid",
    "turn_uris",
    "url_preview_accept_language",
    "url_preview_ip_range_blacklist",
    "url_preview_ip_range_whitelist",
}
# Options that take a number; another type is only noticed when the server is asked to use it.
_NUMBERS = {
    "bcrypt_rounds",
    "burst_count",
    "concurrent",
    "filter_timeline_limit",
    "max_mau_value",
    "mau_trial_days",
    "metrics_port",
    "per_second",
    "reject_limit",
    "replication_torture_level",
    "sleep_delay",
    "sleep_limit",
    "smtp_port",
    "soft_file_limit",
    "window_size",
}
_SECRETS = re.compile(
    r"(^|_)(secret|password|passwd|pepper|smtp_pass)$|^(macaroon_secret_key|smtp_pass|signing_key|client_secret)$"
)


@dataclass(frozen=True)
class Problem:
    """One finding: ``path`` is the dotted name of the option; ``file`` and ``line`` are where it stands.

    ``kind`` is one of ``KINDS``; ``process`` is ``main``, or the file of the worker that it was found with.
    """

    severity: str
    path: str
    message: str
    cause: str | None = None
    suggestion: str | None = None
    file: str | None = None
    line: int | None = None
    kind: str = "refused"
    process: str = "main"

    def as_dict(self) -> dict[str, t.Any]:
        """Return the finding as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for."""

    unknown_options: str = "error"
    allow_unknown: tuple[str, ...] = ()
    pending_files: bool = False


@dataclass(frozen=True)
class _Context:
    """The facts of one process, and where things stand in its files."""

    run: Facts
    version: str
    account: str
    wanted: Wanted
    lines: Mapping[str, t.Any] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        return [str(document["path"]) for document in self.run["documents"]]

    def place(self, path: Path) -> tuple[str | None, int | None]:
        """Return file and line of an option, or of the nearest mapping around it."""
        for length in range(len(path), 0, -1):
            found = self.lines.get(dotted(path[:length]))
            if found is not None:
                return self.files[found[0]], found[1]
        return (self.files[-1] if self.files else None), None

    def path_facts(self, option: Path) -> Facts:
        """Return the facts about the file that an option names, or nothing."""
        return next((facts for facts in self.run["paths"] if tuple(facts["option"]) == option), {})

    def problem(
        self,
        severity: str,
        path: Sequence[str | int],
        message: str,
        suggestion: str | None = None,
        cause: str | None = None,
        *,
        kind: str,
    ) -> Problem:
        """Return a problem with its place filled in."""
        file, line = self.place(tuple(path))
        process = str(self.run["process"])
        return Problem(severity, dotted(tuple(path)), message, cause, suggestion, file, line, kind, process)


def dotted(path: Sequence[str | int]) -> str:
    """Write a path as an operator reads it: ``listeners[0].port``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


# ---------------------------------------------------------------------------------------------------------------
# "Did you mean"


def distance(first: str, second: str) -> int:
    """Count the edits from one word to the other: insert, drop, exchange a letter, or swap two neighbours."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        current = [i]
        for j, right in enumerate(second, 1):
            best = min(row[j] + 1, current[j - 1] + 1, row[j - 1] + (left != right))
            if before and i > 1 and j > 1 and left == second[j - 2] and first[i - 2] == right:
                best = min(best, before[j - 2] + 1)
            current.append(best)
        before, row = row, current
    return row[-1]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_").strip("_")


def _limit(name: str) -> int:
    """Return how many edits a slip of the hand may have made to a name of this length."""
    return 0 if len(name) < 3 else 1 if len(name) < 6 else 2 if len(name) < 12 else 3


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that was probably meant by ``name``, or ``None`` where none is near enough."""
    wanted = _plain(name)
    known = sorted({candidate for candidate in candidates if candidate and candidate != name})
    nearest = _nearest(wanted, known)
    if nearest is not None:
        return nearest
    # A name cut short or drawn out by whole words: burst for burst_count.
    extended = [c for c in known if wanted and (_plain(c).startswith(wanted + "_") or _plain(c).endswith("_" + wanted))]
    if len(extended) == 1 and len(wanted) >= 4:
        return extended[0]
    # The longer half of the name must be there, or the rest says more than what agrees.
    long = [c for c in known if 2 * len(c) > len(wanted)]
    shortened = [c for c in long if wanted.startswith(_plain(c) + "_") or wanted.endswith("_" + _plain(c))]
    return shortened[0] if len(shortened) == 1 else None


def _nearest(wanted: str, known: Iterable[str]) -> str | None:
    """Return the name that the fewest slips of the hand lead to, or ``None`` where all need too many."""
    ranked = sorted((distance(wanted, _plain(candidate)), candidate) for candidate in known if _near(wanted, candidate))
    return ranked[0][1] if ranked and ranked[0][0] <= _limit(wanted) else None


def _near(wanted: str, candidate: str) -> bool:
    return abs(len(wanted) - len(candidate)) <= _limit(wanted)


def is_allowed(path: Sequence[str | int], allowed: Iterable[str]) -> bool:
    """Return whether the operator vouches for an option: by its dotted path, a part above it, or ``x-`` names.

    ``*`` in an entry stands for one element; positions in lists may be left out.
    """
    parts = [part for part in path if isinstance(part, str)]
    if not parts or parts[0].startswith(("x-", "x_", ".")):
        return True
    for entry in allowed:
        pattern = re.sub(r"\[[\d*]*\]", "", entry).split(".")
        if len(pattern) <= len(parts) and all(p in ("*", part) for p, part in zip(pattern, parts)):
            return True
    return False


def _elsewhere(path: Path, vocabulary: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the places at which an option of this very name is read, other than where it stands."""
    here = ".".join("*" if isinstance(part, int) else part for part in path[:-1])
    name = str(path[-1])
    return [
        f"{place}.{name}" if place else name for place, names in vocabulary.items() if name in names and place != here
    ]


def _related(path: Path, place: str) -> bool:
    """Return whether ``place`` (of the same option) is one level above or below ``path``: a slip of indentation."""
    here = [part for part in path[:-1] if isinstance(part, str)]
    there = [part for part in place.split(".")[:-1] if part != "*"]
    shorter, longer = sorted((here, there), key=len)
    return len(longer) - len(shorter) == 1 and longer[: len(shorter)] == shorter


def _unread(context: _Context) -> Iterator[Problem]:
    run = context.run
    failed = any(failure["kind"] != "inline" for failure in run["failures"])
    for entry in run["unread"]:
        path = tuple(entry["path"])
        if is_allowed(path, context.wanted.allow_unknown):
            continue
        if entry["known"]:
            yield from _misplaced(context, entry, path, failed=failed)
            continue
        yield from _unknown(context, entry, path)


def _misplaced(context: _Context, entry: Facts, path: Path, *, failed: bool) -> Iterator[Problem]:
    """An option whose name Synapse knows, and which it did not read where it stands."""
    places = _elsewhere(path, context.run["vocabulary"])
    near = [place for place in places if len(path) == 1 or _related(path, place)]
    if near and not failed:
        message = f"Synapse {context.version} does not read this option here: it belongs at {_shown(near[0])}."
        yield from _unknown_problem(context, path, message, f"Move it to {_shown(near[0])}.", kind="misplaced_option")
    elif not failed:
        message = f"Synapse {context.version} knows this option, but does not read it with these settings."
        yield context.problem("info", path, message, kind="unread_option")


def _shown(place: str) -> str:
    return place.replace(".*", "[]")


def _unknown(context: _Context, entry: Facts, path: Path) -> Iterator[Problem]:
    name = str(path[-1])
    removed = REMOVED.get(name)
    if removed is not None:
        if removed[0] == "none":
            message = "No version of Synapse reads this option, although it was documented."
        else:
            message = f"Synapse {context.version} ignores this option: {removed[0]} was the last version that read it."
        if context.wanted.unknown_options != "ignore":
            yield context.problem("warning", path, message, removed[1] or "Remove it.", kind="obsolete_option")
        return
    message = f"Synapse {context.version} does not know this option."
    if path[0] == "experimental_features":
        # Experiments end: the feature became a part of Synapse, or was dropped. Neither stops a server.
        if context.wanted.unknown_options != "ignore":
            advice = "The experiment has ended in this version: remove the option."
            yield context.problem("warning", path, message, advice, kind="obsolete_option")
        return
    yield from _unknown_problem(context, path, message, _meant(context, entry, path), kind="unknown_option")


def _meant(context: _Context, entry: Facts, path: Path) -> str | None:
    name = str(path[-1])
    candidates = [sibling for sibling in entry["siblings"] if sibling not in REMOVED]
    found = suggest(name, candidates)
    if found is not None:
        return f"Did you mean {dotted((*path[:-1], found))}?"
    vocabulary = context.run["vocabulary"]
    for place, names in vocabulary.items():
        if place and _plain(name) in names:
            return f"Did you mean {_shown(f'{place}.{_plain(name)}')}?"
    # Options that are only read with other settings are not in the vocabulary: their names stand in the code.
    found = _nearest(_plain(name), context.run["words"]) if len(name) > 7 else None
    return None if found is None else f"Did you mean {dotted((*path[:-1], found))}?"


def _unknown_problem(
    context: _Context, path: Path, message: str, suggestion: str | None, *, kind: str
) -> Iterator[Problem]:
    if context.wanted.unknown_options == "ignore":
        return
    if suggestion is None:
        suggestion = "Remove it, or name it in allow_unknown if it belongs to a module of yours."
    yield context.problem(context.wanted.unknown_options, path, message, suggestion, kind=kind)


# ---------------------------------------------------------------------------------------------------------------
# The files themselves

_ERRNO_WORDS = {
    errno.ENOENT: "the file does not exist",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.ELOOP: "its links lead in a circle",
}


def _mode(facts: Facts) -> str:
    return f"{facts['owner']}, mode {facts['mode']:04o}" if "mode" in facts else "unknown owner"


def _why_unreadable(facts: Facts, account: str) -> tuple[str, str]:
    """Return in words why a file cannot be read, and what to do."""
    number = facts.get("errno")
    if facts.get("folder"):
        return "it is a folder", "Name the file in it."
    if number == errno.ENOENT:
        return "the file does not exist", "Put it there, or correct the path."
    if number in (errno.EACCES, errno.EPERM):
        if facts.get("blocked"):
            return (
                f"the account {account} may not enter {facts['blocked']}",
                "Let its group enter that folder (mode 0750).",
            )
        advice = "Give it the group of the service and mode 0640."
        return f"permission denied for the account {account} (owner {_mode(facts)})", advice
    return _ERRNO_WORDS.get(t.cast("int", number), str(facts.get("error", "it cannot be read"))), "Correct the path."


def _documents(contexts: Sequence[_Context]) -> Iterator[Problem]:
    seen = set()
    for context in contexts:
        for document in context.run["documents"]:
            if document["path"] not in seen:
                seen.add(document["path"])
                yield from _document(context, document)


def _document(context: _Context, document: Facts) -> Iterator[Problem]:
    path, process = str(document["path"]), str(context.run["process"])
    failure = document["failure"]
    if failure is not None and failure["kind"] == "yaml":
        yield replace(_yaml_problem(path, failure), process=process)
    elif failure is not None:
        why, advice = _why_unreadable({**document, **failure}, context.account)
        kind = "missing" if failure.get("errno") == errno.ENOENT else "unreadable"
        message = f"The configuration file cannot be read: {why}."
        yield Problem("error", "", message, suggestion=advice, file=path, kind=kind, process=process)
    elif not document["mapping"]:
        message = "The file is empty or is not a mapping of options: Synapse ignores it."
        # Synapse itself goes on; what then is missing, it says.
        first = path == context.files[0]
        advice, kind = "Restore its content, or remove the file.", "empty" if first else "ignored_file"
        severity = "error" if first else "warning"
        yield Problem(severity, "", message, suggestion=advice, file=path, kind=kind, process=process)
    for duplicate in document["duplicates"]:
        lines = duplicate["lines"]
        message = (
            f"The option is written {len(lines)} times (lines {', '.join(map(str, lines))}); only the last counts."
        )
        option, advice, kind = dotted(duplicate["path"]), "Keep one of them.", "duplicate_option"
        yield Problem("error", option, message, None, advice, path, lines[-1], kind, process)


def _yaml_problem(path: str, failure: Facts) -> Problem:
    message = f"This is not YAML: {failure['message']}"
    if failure.get("context"):
        line = failure.get("context_line")
        message += f" ({failure['context']}{f' that began in line {line}' if line else ''})"
    column = failure.get("column")
    if column:
        message += f", column {column}"
    text = failure["message"]
    advice = "Correct the line; nothing else of this file can be judged before."
    if "\\t" in text:
        advice = "Indent with spaces: YAML does not take tabs."
    elif "unhashable" in text or "cannot start any token" in text or "expected" in text:
        advice = (
            "Put values that begin with @, %, `, * or {{ into quotes, and look at the indentation of the line before."
        )
    return Problem("error", "", message + ".", None, advice, path, failure.get("line"), "yaml_syntax")


# ---------------------------------------------------------------------------------------------------------------
# Synapse's own verdict


def _failures(context: _Context) -> Iterator[Problem]:
    if any(document["failure"] for document in context.run["documents"]):
        return
    for failure in context.run["failures"]:
        path = tuple(failure["path"])
        if failure["kind"] == "inline":
            advice = f"Put the value into a file and name that in {dotted(path)}_path."
            message = "A secret stands in the configuration, which is not allowed here."
            yield context.problem("error", path, message, advice, kind="inline_secret")
        elif failure["kind"] == "crash":
            yield _crash(context, failure, path)
        elif "No database config provided" in failure["message"] and _is_told(context, ("database", "databases")):
            continue
        else:
            yield _refusal(context, failure, path)


def _is_told(context: _Context, names: Sequence[str]) -> bool:
    """Return whether another failure is about one of these top-level options."""
    return any(failure["path"] and failure["path"][0] in names for failure in context.run["failures"])


# What pydantic adds to each of its errors.
_PYDANTIC = re.compile(r" \[type=\w+, input_value=.*?, input_type=\w+\]| For further information visit \S+")


def _refusal(context: _Context, failure: Facts, path: Path) -> Problem:
    """A ``ConfigError``: Synapse's own words, with the reason that it drops for a file added."""
    message = _PYDANTIC.sub("", " ".join(str(failure["message"]).split()))
    path = path or _named_file(context, message)
    causes = [" ".join(str(cause).split()) for cause in failure["causes"]]
    suggestion, kind = None, _kind_of_refusal(path, message)
    if failure["missing"]:
        suggestion = f"Set {dotted(path)}."
        kind = f"{path[0]}_missing" if path in (("server_name",), ("report_stats",)) else kind
        if path == ("server_name",):
            suggestion += " On a server in use it must stay what it was: it is in every user's name."
    elif failure["errno"] is not None:
        path = _file_option(context, path, message)
        facts = context.path_facts(path)
        why, suggestion = _why_unreadable({"errno": failure["errno"], **facts}, context.account)
        message = f"{message}: {why}."
        kind = _kind_of_file(path, denied=failure["errno"] in _DENIED)
    elif kind == "open_registration":
        path = ("enable_registration",)
    return context.problem("error", path, message, suggestion, "; ".join(causes) or None, kind=kind)


_DENIED = (errno.EACCES, errno.EPERM)


def _kind_of_file(path: Path, *, denied: bool) -> str:
    """Return the kind of the problem that Synapse has with a file that an option names."""
    if path[-1:] in (("signing_key",), ("signing_key_path",)):
        return "signing_key"
    return "file_unreadable" if denied else "secret_file_missing"


# What Synapse's own refusals are about: by the first part of the option, then by its words, then by the option again.
_BY_OPTION = {
    "server_name": "server_name_invalid",
    "public_baseurl": "public_baseurl",
    "web_client_location": "public_baseurl",
    "trusted_key_servers": "trusted_key_servers",
    "stream_writers": "stream_writers",
    "instance_map": "instance_map",
    "database": "database_option",
    "databases": "database_option",
    "listeners": "listener_invalid",
    "worker_listeners": "listener_invalid",
    "enable_registration": "open_registration",
    "tls_certificate_path": "tls_files",
    "tls_private_key_path": "tls_files",
    "app_service_config_files": "appservice_file",
    "macaroon_secret_key": "secret_not_text",
    "form_secret": "secret_not_text",
}
_FIRST_WORDS = (
    (re.compile(r"open registration"), "open_registration"),
    (re.compile(r"key server responses without"), "trusted_key_servers"),
    (
        re.compile(
            r"(?i)both|mutually exclusive|at the same time|conflicting|cannot be (?:set|used) (?:with|together)"
        ),
        "conflict",
    ),
    (
        re.compile(r"(?i)was removed|been removed|no longer (?:supported|valid|available)|not supported any ?more"),
        "removed_option",
    ),
    (re.compile(r"appear in `?instance_map|specify .*one instance|instance to handle"), "stream_writers"),
)
_LAST_WORDS = (
    (re.compile(r"stream_writers"), "stream_writers"),
    (re.compile(r"instance_map"), "instance_map"),
    (
        re.compile(r"(?i)\bdepend|requires? (?:the )?[\w.-]+ (?:to be installed|package)|not installed"),
        "missing_package",
    ),
    (re.compile(r"(?i)listener|\bport\b|bind_address"), "listener_invalid"),
    (re.compile(r"(?i)unsupported database|database (?:type|engine|backend)"), "database_option"),
    (re.compile(r"(?i)scheme|query parameters or a #-fragment"), "public_baseurl"),
)


def _kind_of_refusal(path: Path, message: str) -> str:
    """Return the kind of a refusal in Synapse's own words."""
    first = next((kind for words, kind in _FIRST_WORDS if words.search(message)), None)
    by_option = _BY_OPTION.get(str(path[0])) if path else None
    last = next((kind for words, kind in _LAST_WORDS if words.search(message)), "refused")
    return first or by_option or last


def _file_option(context: _Context, path: Path, message: str) -> Path:
    """Return the option that names the file of a message; Synapse says ``signing_key`` for ``signing_key_path``."""
    options = [tuple(facts["option"]) for facts in context.run["paths"]]
    if path in options:
        return path
    longer = (*path[:-1], f"{path[-1]}_path") if path else path
    if longer in options:
        return longer
    named = [tuple(facts["option"]) for facts in context.run["paths"] if f"'{facts['given']}'" in message]
    return named[0] if named else path


def _named_file(context: _Context, message: str) -> Path:
    """Return the option whose file or folder a message ends with."""
    named = (facts for facts in context.run["paths"] if len(facts["given"]) > 1)
    return next((tuple(facts["option"]) for facts in named if message.endswith(facts["given"])), ())


_PLAIN_TYPES = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "nothing",
}


def _crash(context: _Context, failure: Facts, path: Path) -> Problem:
    """An exception that Synapse does not turn into words: say which option was being read."""
    message = " ".join(str(failure["message"]).split())
    technical = f"{failure['type']}: {message}"
    kind = next((entry["kind"] for entry in context.run["options"] if tuple(entry["path"]) == path), None)
    given = _PLAIN_TYPES.get(str(kind), "a value")
    if "unexpected keyword argument" in message:
        found = suggest(str(path[-1]), failure["known"]) if path else None
        known = ", ".join(failure["known"])
        advice = f"Did you mean {dotted((*path[:-1], found))}?" if found else f"Known here: {known}." if known else None
        message = f"Synapse {context.version} does not know this option."
        kind = _BY_OPTION.get(str(path[0]), "unknown_refused") if path else "unknown_refused"
        return context.problem("error", path, message, advice, technical, kind=kind)
    if failure["type"] == "ModuleNotFoundError":
        text = "The environment of Synapse lacks a Python module that this option needs."
        advice = "Add its package to the environment (extra_packages), or remove the option."
        return context.problem("error", path, text, advice, technical, kind="missing_package")
    if failure["type"] == "DependencyException":
        text = "The environment of Synapse lacks packages that this option needs."
        advice = "Add the extra to the environment, or remove the option."
        return context.problem("error", path, text, advice, message, kind="missing_package")
    special = _BY_OPTION.get(str(path[0])) if path else None
    if failure["missing"]:
        text = "An option that Synapse needs here is missing."
        return context.problem("error", path, text, f"Set {dotted(path)}.", technical, kind=special or "option_missing")
    if "invalid literal for int" in message or "Bad duration" in message or "Bad byte size" in message:
        advice = "Sizes are a number with K, M, G or T (50M); durations a number with s, m, h, d, w or y (30d)."
        text = "Synapse cannot read this value as a size, a duration or a number: its suffix or its form is not known."
        return context.problem("error", path, text, advice, technical, kind="value_refused")
    if "has no attribute 'encode'" in message or "has no attribute 'strip'" in message:
        text = f"Synapse needs a text (a string) here, and {given} was given."
        advice = "Put the original text into quotes: YAML may have made another number of it."
        secret = bool(path) and _SECRETS.search(str(path[-1])) is not None
        return context.problem(
            "error", path, text, advice, technical, kind="secret_not_text" if secret else special or "value_refused"
        )
    if not path:
        return context.problem(
            "error", path, "Synapse stops with an error of its own.", None, technical, kind="refused"
        )
    text = f"Synapse cannot use the value of this option ({given})."
    return context.problem("error", path, text, None, technical, kind=special or "value_refused")


# What Synapse logs while it reads a healthy configuration.
_HARMLESS = re.compile(r"trusted key server|matrix\.org|Using default public_baseurl", re.IGNORECASE)


def _notes(context: _Context) -> Iterator[Problem]:
    if context.run["process"] != "main":
        return
    for note in context.run["notes"]:
        text = " ".join(str(note["text"]).replace("-" * 80, "").split())
        if "missing macaroon_secret_key" in text:
            if any(failure["kind"] == "inline" for failure in context.run["failures"]):
                continue  # It is there, and was refused.
            message = "No macaroon_secret_key is set: Synapse derives one from the signing key."
            advice = (
                "Set macaroon_secret_key_path; on a server in use a new secret signs out guests and ends pending links."
            )
            yield context.problem("warning", ("macaroon_secret_key",), message, advice, kind="macaroon_missing")
        elif note["logger"].startswith("synapse.config") or note["logger"] == "synapse":
            severity = "info" if _HARMLESS.search(text) else "warning"
            yield context.problem(severity, (), f"Synapse says: {text}", kind="synapse_says")


# ---------------------------------------------------------------------------------------------------------------
# Values that Synapse takes without a word


def _values(context: _Context) -> Iterator[Problem]:
    for entry in context.run["options"]:
        path = tuple(entry["path"])
        if "args" in path and path[0] in ("database", "databases"):
            if path[-1] == "password" and entry["kind"] in ("int", "float", "bool"):
                yield _unquoted(context, path, entry)
        elif not entry["free"]:
            yield from _value(context, path, entry)


def _unquoted(context: _Context, path: Path, entry: Facts) -> Problem:
    message = (
        f"This secret is {_PLAIN_TYPES[entry['kind']]} for YAML, and not the text that was meant: leading zeros and "
        "the like are lost."
    )
    return context.problem("error", path, message, "Put the original text into quotes.", kind="secret_is_number")


def _value(context: _Context, path: Path, entry: Facts) -> Iterator[Problem]:
    name, kind = str(path[-1]), entry["kind"]
    if "word" in entry and name not in _WORDS_UNDERSTOOD:
        word = entry["word"]
        if word in _NO_WORDS:
            message = f'"{word}" in quotes is a text, and Synapse takes every text that is not empty for true.'
            yield context.problem("error", path, message, "Write false, without quotes.", kind="wrong_type")
        else:
            message = f'"{word}" in quotes is a text: it only happens to count as true.'
            yield context.problem("warning", path, message, "Write true, without quotes.", kind="truth_text")
    if name in _LISTS and kind == "str":
        message = "A list is needed here: Synapse takes the text apart into letters."
        yield context.problem("error", path, message, "Write a list.", kind="wrong_type")
    if name in _NUMBERS and kind in ("str", "list", "dict", "bool"):
        message = f"A number is needed here, and {_PLAIN_TYPES[kind]} was given."
        yield context.problem("error", path, message, "Write a number, without quotes.", kind="wrong_type")
    if _SECRETS.search(name) and kind in ("int", "float", "bool"):
        yield _unquoted(context, path, entry)


# ---------------------------------------------------------------------------------------------------------------
# Files and folders that options name


def _files(contexts: Sequence[_Context]) -> Iterator[Problem]:
    seen = set()
    for context in contexts:
        for facts in context.run["paths"]:
            key = (tuple(facts["option"]), facts["path"])
            if key not in seen:
                seen.add(key)
                yield from _file(context, facts)


def _file(context: _Context, facts: Facts) -> Iterator[Problem]:
    option = tuple(facts["option"])
    name = str(option[-1])
    if facts["relative"]:
        message = (
            f"The path {facts['given']} is relative: what it means depends on the folder in which Synapse is started."
        )
        yield context.problem("warning", option, message, "Write the whole path.", kind="relative_path")
        return
    if facts["coming"]:
        if facts.get("empty") and facts["secret"]:
            yield _empty_secret(context, option, facts)
        return
    if name in ("pid_file", "worker_pid_file") or option[-2:] == ("args", "database"):
        yield from _writable_file(context, option, facts)
    elif facts["folder_option"]:
        yield from _folder(context, option, facts)
    elif facts["secret"]:
        yield from _secret_file(context, option, facts)


def _secret_file(context: _Context, option: Path, facts: Facts) -> Iterator[Problem]:
    # The key for TLS is judged with the listeners that need it; other files may not be needed with these settings.
    needed = option[-1] != "tls_private_key_path" and not _is_unread(context, option)
    if needed and ("errno" in facts or facts.get("folder")):
        why, advice = _why_unreadable(facts, context.account)
        message = f"The secret file {facts['path']} cannot be read: {why}."
        kind = _kind_of_file(option, denied=facts.get("errno") in _DENIED)
        yield context.problem("error", option, message, advice, kind=kind)
    elif needed and facts["empty"]:
        yield _empty_secret(context, option, facts)
    if facts.get("exposed") and not facts.get("folder"):
        message = f"Every account on the host can read the secret in {facts['path']} ({_mode(facts)})."
        advice = "Take the right to read from others: mode 0640 or 0600."
        yield context.problem("warning", option, message, advice, kind="exposed")


def _is_unread(context: _Context, option: Path) -> bool:
    return any(tuple(entry["path"]) == option for entry in context.run["unread"])


def _empty_secret(context: _Context, option: Path, facts: Facts) -> Problem:
    message = f"The secret file {facts['path']} is empty: Synapse goes on as if no secret were set."
    return context.problem("error", option, message, "Put the secret into the file.", kind="secret_file_empty")


def _writable_file(context: _Context, option: Path, facts: Facts) -> Iterator[Problem]:
    """A file that Synapse itself writes: the SQLite database, the file with the process id."""
    kind = "file_unwritable" if option[-1] == "database" else "pid_file"
    if facts.get("folder"):
        yield context.problem("error", option, f"{facts['path']} is a folder.", "Name a file.", kind=kind)
    elif "errno" in facts:
        if not facts["creatable"]:
            message = (
                f"The account {context.account} cannot create {facts['path']}: it may not write to {facts['parent']}."
            )
            severity = "error" if option[-1] == "database" else _grave_of_pid_file(context)
            advice = "Give the service a folder of its own for this file."
            if kind == "pid_file":
                message += " Only a Synapse that makes itself a daemon (daemonize) needs it."
                advice = "Under systemd, RuntimeDirectory= makes one below /run at each start."
            yield context.problem(severity, option, message, advice, kind=kind)
    elif not facts["writable"] and (option[-1] == "database" or _daemonized(context)):
        what = "database" if option[-1] == "database" else "file"
        message = f"The account {context.account} cannot write to the {what} {facts['path']} ({_mode(facts)})."
        yield context.problem("error", option, message, "Make it the service's own file.", kind=kind)


def _daemonized(context: _Context) -> bool:
    return bool(context.run["settings"].get("daemonize"))


def _grave_of_pid_file(context: _Context) -> str:
    """Return how grave it is that the file with the process id cannot be made: a daemon ends without a word why."""
    return "error" if _daemonized(context) else "info"


def _folder(context: _Context, option: Path, facts: Facts) -> Iterator[Problem]:
    if "errno" in facts:
        if option[-1] == "media_store_path" and not facts["creatable"]:
            message = (
                f"The folder {facts['path']} does not exist, and the account {context.account} may not create it in "
                f"{facts['parent']}."
            )
            yield context.problem("error", option, message, "Create it for the service.", kind="file_unwritable")
        elif option[-1] != "media_store_path":
            message = f"The folder {facts['path']} does not exist."
            yield context.problem("warning", option, message, "Correct the path.", kind="folder_missing")
    elif not facts["folder"]:
        message = f"{facts['path']} is not a folder."
        yield context.problem("error", option, message, "Name a folder.", kind="no_folder")
    elif option[-1] == "media_store_path" and not facts["writable"]:
        message = (
            f"The account {context.account} cannot write to the media folder {facts['path']} ({_mode(facts)}): "
            "uploads would fail."
        )
        yield context.problem("error", option, message, "Make it the service's own folder.", kind="file_unwritable")


def _exposed_configuration(context: _Context) -> Iterator[Problem]:
    """A configuration file with secrets in it that every account can read."""
    inline = [tuple(path) for path in context.run["settings"]["inline_secrets"]]
    for document in context.run["documents"]:
        held = [path for path in inline if context.place(path)[0] == document["path"]]
        if held and document.get("exposed") and not document["coming"]:
            message = (
                f"Every account on the host can read {document['path']} ({_mode(document)}), and it holds secrets: "
            )
            message += ", ".join(dotted(path) for path in held[:5]) + ("." if len(held) <= 5 else " and more.")
            advice = "Take the right to read from others: mode 0640."
            yield replace(context.problem("warning", held[0], message, advice, kind="exposed"), line=None)


# ---------------------------------------------------------------------------------------------------------------
# Logging, application services, TLS, keys, the database driver


def _logging(contexts: Sequence[_Context], answer: Facts) -> Iterator[Problem]:
    done = set()
    for context in contexts:
        worker = context.run["process"] != "main"
        option = "worker_log_config" if worker else "log_config"
        facts = next((item for item in context.run["paths"] if item["option"] == [option]), None)
        if facts is None or (option, facts["path"]) in done:
            continue
        done.add((option, facts["path"]))
        if "errno" in facts or facts.get("folder"):
            yield _unreadable_log(context, option, facts)
            continue
        for problem in _log_config(context, option, answer["logs"].get(facts["path"], {})):
            yield replace(problem, process=str(context.run["process"]))


def _unreadable_log(context: _Context, option: str, facts: Facts) -> Problem:
    why, advice = _why_unreadable(facts, context.account)
    message = f"The log configuration {facts['path']} cannot be read: {why}."
    if facts.get("errno") == errno.ENOENT and option == "log_config":
        message += " Synapse would write one itself, which logs to homeserver.log in the folder it is started in."
    kind = "file_unreadable" if facts.get("errno") in _DENIED else "log_config_missing"
    return context.problem("error", (option,), message, advice, kind=kind)


def _log_config(context: _Context, option: str, facts: Facts) -> Iterator[Problem]:
    if not facts:
        return
    path = str(facts["path"])
    failure = facts.get("failure")
    if failure is not None:
        if failure["kind"] == "yaml":
            yield replace(_yaml_problem(path, failure), path=option, kind="log_config_invalid")
        else:
            why = _why_unreadable({"error": failure["message"], **failure}, context.account)[0]
            message = f"The log configuration {path} cannot be read: {why}."
            again = "Put the file there again."
            yield Problem("error", option, message, suggestion=again, file=path, kind="log_config_invalid")
        return
    for item in facts["problems"]:
        where = dotted(item["path"])
        advice = None
        kind = "log_handler_missing" if "cannot be imported" in item["message"] else "log_config_invalid"
        if "systemd" in item["message"]:
            advice = (
                "Add systemd-python to the environment, or log to stderr with logging.StreamHandler: the journal "
                "takes that."
            )
        message = f"The log configuration is not usable{f' at {where}' if where else ''}: {item['message']}."
        yield Problem(
            "error",
            option,
            message,
            suggestion=advice or "Correct it: Synapse does not start with it.",
            file=path,
            line=item["line"],
            kind=kind,
        )
    for target in facts["targets"]:
        yield from _log_target(context, option, path, target)


def _log_target(context: _Context, option: str, path: str, target: Facts) -> Iterator[Problem]:
    handler = target["handler"]
    if target["relative"]:
        message = (
            f"The handler {handler} writes to a relative path: what it means depends on the folder in which Synapse "
            "is started."
        )
        yield Problem("warning", option, message, suggestion="Write the whole path.", file=path, kind="relative_path")
    elif target["coming"]:
        return
    elif "errno" in target and not target["creatable"]:
        message = (
            f"The handler {handler} cannot create {target['path']}: the account {context.account} may not write to "
            f"{target['parent']}."
        )
        advice = "Give the service a folder of its own for its logs."
        yield Problem("error", option, message, suggestion=advice, file=path, kind="file_unwritable")
    elif "errno" not in target and not target["writable"]:
        message = f"The handler {handler} cannot write to {target['path']} ({_mode(target)})."
        advice = f"Make it a file of the account {context.account}."
        yield Problem("error", option, message, suggestion=advice, file=path, kind="file_unwritable")


def _app_services(context: _Context, answer: Facts) -> Iterator[Problem]:
    for item in answer["app_services"]:
        option = tuple(item["option"])
        failure = item.get("failure")
        if failure is not None and failure["kind"] == "yaml":
            yield replace(_yaml_problem(item["path"], failure), path=dotted(option), kind="appservice_file")
        elif failure is not None:
            why, advice = _why_unreadable(failure, context.account)
            message = f"The registration {item['path']} cannot be read: {why}."
            kind = "file_unreadable" if failure.get("errno") in _DENIED else "appservice_file"
            advice = f"{advice} Synapse does not start without it."
            yield context.problem("error", option, message, advice, kind=kind)
        elif item["error"]:
            message = f"Synapse refuses the registration {item['path']}".rstrip() + f": {item['error']}"
            advice = "Correct the file; keep its tokens, the bridge knows them."
            yield context.problem("error", option, message, advice, kind="appservice_file")
        if item["relative"]:
            message = (
                f"The path {item['path']} is relative: what it means depends on the folder in which Synapse is started."
            )
            yield context.problem("warning", option, message, "Write the whole path.", kind="relative_path")
        if item.get("exposed"):
            message = f"Every account on the host can read the tokens in {item['path']} (mode {item['mode']:04o})."
            advice = "Take the right to read from others: mode 0640."
            yield context.problem("warning", option, message, advice, kind="exposed")


def _tls(context: _Context, answer: Facts) -> Iterator[Problem]:
    facts = answer["tls"]
    if facts is None:
        return
    option = tuple(facts["option"])
    message, advice = f"{facts['message'][:1].upper()}{facts['message'][1:]}", "Put in the pair that belongs together."
    denied = facts.get("errno") in _DENIED
    if facts.get("errno") is not None:
        found = context.path_facts(option)
        why, advice = _why_unreadable({"errno": facts["errno"], **found}, context.account)
        message += f": {why}"
    if facts.get("expired"):
        yield context.problem("warning", option, message + ".", "Renew it.", kind="tls_expired")
    else:
        kind = "file_unreadable" if denied else "tls_files"
        yield context.problem("error", option, message + ".", advice, kind=kind)


# An instant in milliseconds has been larger than this since 1973, one in seconds will be until the year 5138.
_SMALLEST_MILLISECONDS = 10**11


def _old_keys(context: _Context, answer: Facts) -> Iterator[Problem]:
    for facts in answer["old_keys"]:
        option = tuple(facts["option"])
        if facts["private_of"]:
            message = f"This is the private key {facts['private_of']} of this server: everybody would be told it."
            advice = (
                "Put the verify key here. If the server ever ran with this, make a new signing key: the old one is "
                "known."
            )
            yield context.problem("error", option, message, advice, kind="old_signing_keys")
        elif facts["length"] == 32 and facts["valid_point"] is False:
            message = "This is no verify key: no point of the curve has these bytes. It may be a private key."
            advice = "Put the verify key here (the public half, as /_matrix/key/v2/server shows it)."
            yield context.problem("error", option, message, advice, kind="old_signing_keys")
        elif facts["current"]:
            message = f"This is the key {facts['current']} with which the server signs today: it is not an old one."
            yield context.problem("warning", option, message, "Remove the entry.", kind="old_signing_keys")
        expired = facts["expired_ts"]
        if expired is not None and expired < _SMALLEST_MILLISECONDS:
            message = "expired_ts counts milliseconds since 1970; this number is too small for that."
            advice = "Multiply seconds by 1000."
            yield context.problem("error", (*option, "expired_ts"), message, advice, kind="old_signing_keys")
        elif expired is None and facts["expired_kind"] != "NoneType":
            message = "expired_ts must be a whole number of milliseconds since 1970."
            advice = "Write the number without quotes."
            yield context.problem("error", (*option, "expired_ts"), message, advice, kind="old_signing_keys")


def _driver(context: _Context, answer: Facts) -> Iterator[Problem]:
    for facts in answer["driver"]:
        option = tuple(facts["option"])
        if facts["driver"] is not None:
            message = f"The PostgreSQL driver psycopg2 cannot be loaded: {facts['driver']}."
            advice = "Install psycopg2-binary into the environment."
            yield context.problem("error", option, message, advice, kind="database_driver")
        elif facts["synapse"]:
            right = dotted((*option[:-2], option[-1]))
            message = "PostgreSQL's driver does not take this option: it is one of Synapse's own."
            yield context.problem(
                "error", option, message, f"Move it one level up, to {right}.", kind="database_option"
            )
        else:
            message = "PostgreSQL's driver does not know this connection option and would refuse to connect."
            advice = "Correct or remove it (libpq's parameter key words)."
            yield context.problem("error", option, message, advice, kind="database_option")


# ---------------------------------------------------------------------------------------------------------------
# Listeners


def _hosts(address: str) -> set[str]:
    if address in ("", "0.0.0.0", "::", "*"):  # noqa: S104 - compared, not bound
        return {"*"}
    return {"127.0.0.1", "::1"} if address == "localhost" else {address}


def _overlap(first: Iterable[str], second: Iterable[str]) -> bool:
    one = {host for address in first for host in _hosts(address)}
    two = {host for address in second for host in _hosts(address)}
    if one & two:
        return True
    # [::] also takes IPv4 connections; 0.0.0.0 takes no IPv6 ones.
    for wide, narrow in ((set(first), two), (set(second), one)):
        if "::" in wide or "" in wide or "*" in wide:
            return True
        if "0.0.0.0" in wide and any(":" not in host for host in narrow):  # noqa: S104 - compared, not bound
            return True
    return False


def _listeners(contexts: Sequence[_Context]) -> Iterator[Problem]:
    taken: list[tuple[_Context, Facts]] = []
    for context in contexts:
        for listener in context.run["listeners"]:
            option = tuple(listener["option"])
            port = listener["port"]
            if port is not None and not 0 < port < 65536:
                message, advice = f"There is no port {port}.", "Ports are 1 to 65535."
                yield context.problem("error", (*option, "port"), message, advice, kind="listener_port")
                continue
            for other_context, other in taken:
                if _clash(listener, other):
                    yield _clash_problem(context, listener, other_context, other)
                    break
            taken.append((context, listener))
            if listener["type"] == "metrics" and not context.run["settings"]["metrics"]:
                message = "The listener for metrics is not opened, because enable_metrics is not true."
                advice = "Set enable_metrics: true, or remove the listener."
                yield context.problem("warning", option, message, advice, kind="metrics_disabled")


def _clash(listener: Facts, other: Facts) -> bool:
    if listener["socket"] is not None or other["socket"] is not None:
        return bool(listener["socket"] == other["socket"])
    return bool(listener["port"] == other["port"] and _overlap(listener["addresses"], other["addresses"]))


def _clash_problem(context: _Context, listener: Facts, other_context: _Context, other: Facts) -> Problem:
    what = listener["socket"] or f"port {listener['port']}"
    where = dotted(other["option"])
    if other_context is not context:
        where += f" of {_process(other_context)}"
    message = f"Two listeners use {what}: this one and {where}. The second cannot be opened."
    advice = "Give each listener a port of its own."
    return context.problem("error", tuple(listener["option"]), message, advice, kind="listener_clash")


def _process(context: _Context) -> str:
    return "the main process" if context.run["process"] == "main" else f"the worker {context.run['process']}"


def _resources(contexts: Sequence[_Context]) -> Iterator[Problem]:
    main = contexts[0]
    if not main.run["listeners"]:
        if not main.run["failures"] and main.run["settings"]["engines"]:
            message = "The main process has no listener: it would run with no port open, and nobody could reach it."
            yield main.problem("error", ("listeners",), message, "Restore the list of listeners.", kind="no_listeners")
        return
    resources = {
        name for context in contexts for listener in context.run["listeners"] for name in listener["resources"]
    }
    if "client" in resources and "federation" not in resources:
        severity = "info" if main.run["settings"]["federation_off"] else "warning"
        message = (
            "No listener serves the resource federation: other servers cannot talk to this one, nor fetch its keys "
            "(/_matrix/federation and /_matrix/key/v2/server answer 404)."
        )
        advice = "Add federation to the names of a listener; set federation_domain_whitelist: [] if it is meant."
        yield main.problem(severity, ("listeners",), message, advice, kind="listener_federation")


# ---------------------------------------------------------------------------------------------------------------
# Workers


def _workers(contexts: Sequence[_Context], answer: Facts) -> Iterator[Problem]:
    main, workers = contexts[0], contexts[1:]
    settings = main.run["settings"]
    distributed = set(settings["instance_map"]) - {"main"}
    if "sqlite3" in settings["engines"] and (workers or distributed):
        message = "SQLite cannot serve several processes: with workers it locks up and loses writes."
        advice = "Move to PostgreSQL (synapse_port_db), or run without workers."
        yield main.problem("error", ("database",), message, advice, kind="workers_on_sqlite")
    if not workers:
        return
    if not settings["redis"] and not main.run["failures"]:
        message = "Workers need Redis, and redis.enabled is not true: they would stop at once, without a word why."
        advice = "Set redis.enabled: true in the shared configuration."
        yield main.problem("error", ("redis",), message, advice, kind="redis_needed")
    yield from _replication(main)
    names: dict[str, _Context] = {}
    for position, worker in enumerate(workers, 1):
        yield from _worker(worker, answer, names)
        yield from _writer(worker)
        if not answer["same_secret"][position]:
            message = (
                "The worker has another replication secret than the main process: every request between them fails."
            )
            option = "worker_replication_secret"
            advice = "Set it once, in the shared configuration."
            yield worker.problem("error", (option,), message, advice, kind="replication_secret")


def _replication(main: _Context) -> Iterator[Problem]:
    """Does the main process listen where ``instance_map.main`` says that it does?"""
    place = main.run["settings"]["instance_map"].get("main")
    if place is None:
        return
    offers = [listener for listener in main.run["listeners"] if "replication" in listener["resources"]]
    option = ("instance_map", "main")
    if not offers:
        message = "The main process has no listener with the resource replication: what workers ask of it would hang."
        advice = "Add one on a loopback or private address; it must never be public."
        yield main.problem("error", option, message, advice, kind="replication_listener")
    elif not any(
        (listener["socket"] is not None and listener["socket"] == place["path"]) or (listener["port"] == place["port"])
        for listener in offers
    ):
        message = (
            "No replication listener of the main process is at the port or socket that instance_map.main names: what "
            "workers ask of it is refused or hangs."
        )
        advice = "Name the listener's own port there."
        yield main.problem("warning", option, message, advice, kind="replication_listener")


def _writer(worker: _Context) -> Iterator[Problem]:
    """Does a worker that others write through listen where ``instance_map`` says that it does?"""
    settings = worker.run["settings"]
    place = settings["instance_map"].get(settings["worker_name"])
    if place is None or worker.run["failures"]:
        return
    offers = [listener for listener in worker.run["listeners"] if "replication" in listener["resources"]]
    if not any(
        (listener["socket"] is not None and listener["socket"] == place["path"]) or listener["port"] == place["port"]
        for listener in offers
    ):
        name = settings["worker_name"]
        message = (
            f"instance_map says where the worker {name} is reached, and it has no listener with the resource "
            "replication there: what others write through it is refused or hangs."
        )
        advice = "Add replication to the names of a listener on that port; it must never be public."
        yield worker.problem("error", ("worker_listeners",), message, advice, kind="replication_listener")


def _worker(worker: _Context, answer: Facts, names: dict[str, _Context]) -> Iterator[Problem]:
    settings = worker.run["settings"]
    process = str(worker.run["process"])
    if any(document["failure"] for document in worker.run["documents"]):
        return
    given = [entry for entry in worker.run["options"] if entry["path"] == ["worker_app"]]
    advice = "Set worker_app: synapse.app.generic_worker."
    if not given or settings["worker_app"] is None:
        message = "The worker has no worker_app of its own: it would run as a second main process."
        yield worker.problem("error", ("worker_app",), message, advice, kind="worker_app")
    elif not answer["apps"].get(process, False):
        message = "This is no application that a worker can be (generic_worker is): the worker would stop at once."
        yield worker.problem("error", ("worker_app",), message, advice, kind="worker_app")
    name = settings["worker_name"]
    if name is None:
        return
    if name in names:
        message = (
            f"Two workers have the same worker_name {name!r}, a duplicate: this one and {names[name].run['process']}. "
            "Both would write the same streams."
        )
        advice = "Give every worker a name of its own."
        yield worker.problem("error", ("worker_name",), message, advice, kind="worker_duplicate")
    names.setdefault(name, worker)


# ---------------------------------------------------------------------------------------------------------------


def _macaroon(context: _Context) -> Iterator[Problem]:
    """Without a macaroon secret Synapse takes the one for registrations, and says nothing."""
    given = {entry["path"][0] for entry in context.run["options"] if len(entry["path"]) == 1 and not entry.get("empty")}
    fallback = given & {"registration_shared_secret", "registration_shared_secret_path"}
    if fallback and not given & {"macaroon_secret_key", "macaroon_secret_key_path"}:
        message = "No macaroon_secret_key is set: Synapse uses registration_shared_secret in its place."
        advice = "Set macaroon_secret_key to what is used now, or, where signing out guests does no harm, to another."
        yield context.problem("warning", ("macaroon_secret_key",), message, advice, kind="macaroon_missing")


def _media(context: _Context) -> Iterator[Problem]:
    settings = context.run["settings"]
    if settings["media_used"] and not settings["media_given"]:
        message = "media_store_path is not set: media is kept in media_store in the folder in which Synapse is started."
        advice = "Set it to a whole path."
        yield context.problem("info", ("media_store_path",), message, advice, kind="media_folder")


def judge(answer: Facts, wanted: Wanted) -> list[Problem]:
    """Turn the facts of the probe into problems, the gravest first.

    ``answer`` is what ``_probes/config_check.py`` returns. Two findings about one option with one severity are
    shown once: Synapse's own words come first.
    """
    version, account = str(answer["version"]), str(answer["account"])
    contexts = [_Context(run, version, account, wanted, run["lines"]) for run in answer["runs"]]
    main = contexts[0]
    found = list(_documents(contexts))
    for context in contexts:
        found.extend(_failures(context))
    found.extend(_once_per_file(contexts, _unread))
    found.extend(_once_per_file(contexts, _values))
    found.extend(_notes(main))
    found.extend(_files(contexts))
    found.extend(_once_per_file(contexts, _exposed_configuration))
    found.extend(_logging(contexts, answer))
    for check in (_app_services, _tls, _old_keys, _driver):
        found.extend(check(main, answer))
    found.extend(_listeners(contexts))
    found.extend(_resources(contexts))
    found.extend(_workers(contexts, answer))
    found.extend(_macaroon(main))
    found.extend(_media(main))
    return _sorted(_unique(found))


def _once_per_file(contexts: Sequence[_Context], check: t.Callable[[_Context], Iterator[Problem]]) -> Iterator[Problem]:
    """Check a process; of a worker's, only what stands in its own file: the rest was said for the main process."""
    for context in contexts:
        for problem in check(context):
            if context.run["process"] == "main" or problem.file == context.run["process"]:
                yield problem


def _unique(problems: Iterable[Problem]) -> list[Problem]:
    seen: set[tuple[t.Any, ...]] = set()
    kept = []
    for problem in problems:
        exact = (problem.severity, problem.path, problem.message)
        spot = (problem.path, problem.file, problem.line)
        about_one_option = problem.path and problem.severity == "error" and problem.line is not None
        if exact in seen or (about_one_option and spot in seen):
            continue
        seen.update((exact, spot) if problem.severity == "error" else (exact,))
        kept.append(problem)
    return kept


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(
        problems, key=lambda problem: (SEVERITIES.index(problem.severity), problem.file or "", problem.line or 0)
    )


# ---------------------------------------------------------------------------------------------------------------
# In words


def render(problem: Problem) -> str:
    """Return one problem as a line for the terminal."""
    place = problem.file or ""
    if problem.line is not None:
        place += f" line {problem.line}"
    head = f"{problem.severity.upper()} {problem.path}".rstrip()
    text = f"{head} ({place}): {problem.message}" if place else f"{head}: {problem.message}"
    if problem.cause and problem.cause not in problem.message:
        text += f" [{problem.cause}]"
    return f"{text} {problem.suggestion}" if problem.suggestion else text


def summary(problems: Sequence[Problem], version: str | None) -> str:
    """Return the verdict as one sentence."""
    counts = {severity: sum(problem.severity == severity for problem in problems) for severity in SEVERITIES}
    if counts["error"]:
        errors = f"{counts['error']} error{'s' if counts['error'] > 1 else ''}"
        return f"Synapse {version} would not run as meant with this configuration: {errors}."
    if counts["warning"]:
        warnings = f"{counts['warning']} warning{'s' if counts['warning'] > 1 else ''}"
        return f"Synapse {version} accepts this configuration, with {warnings}."
    return f"Synapse {version} accepts this configuration."
