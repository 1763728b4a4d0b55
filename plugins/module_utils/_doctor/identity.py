# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's identity: the signing key, whom its events say it is, and what it published before. Pure."""

from __future__ import annotations

import base64
import binascii
import os.path
import shlex
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import access as access_part
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["RULES", "Identity", "Line", "Near", "Way"]

RULES = Rulebook("identity")

_REPAIR = "ansible-playbook matrix_fleet.synapse.repair --tags key"
_NO_START = (
    "Never start or restart the server, nor run --generate-keys, before the right key is back: Synapse makes a new one "
    "without a word (since 1.67.0)."
)
_LOST = (
    "Only if no copy is left anywhere: synapse_new_identity=true, once; the old public key belongs into "
    "old_signing_keys, and the admin API's job event_resign signs the events anew."
)


@dataclass(frozen=True)
class Line:
    """The public half of one key of a file. ``number`` counts lines from 1."""

    number: int
    key_id: str
    verify_key: str


@dataclass(frozen=True)
class Near:
    """Another file with usable keys. ``own``: its name says that it is a copy of this key."""

    path: str
    lines: tuple[Line, ...]
    own: bool = False


@dataclass(frozen=True)
class Way:
    """What the module synapse_signing_key would do to mend the key.

    ``action`` is one of its own, or ``refuse``. ``source`` is the file that the key comes back from, ``traces`` show a
    life of the server beside its database.
    """

    action: str = "keep"
    source: str | None = None
    key_ids: tuple[str, ...] = ()
    reason: str = ""
    problems: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What was seen, public halves only. ``key_ids`` and ``verify_keys`` are of the key in use, as far as it is usable.

    ``kind`` is what lies at ``path``: ``file``, ``missing``, ``dangling``, ``folder``, ``other``, ``unreadable`` (for
    this process), ``inline`` for a key in the configuration itself, or nothing where the place is not known.
    ``objection`` is what tells that the key is not this server's own; ``old_private`` are ids in old_signing_keys with
    a private half.
    """

    key_ids: tuple[str, ...] = ()
    verify_keys: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    kind: str = ""
    link: str | None = None
    lines: tuple[Line, ...] = ()
    problems: tuple[keys.Problem, ...] = ()
    record: keys.Record | None = None
    record_path: str = ""
    record_damaged: str = ""
    events: keys.Events = field(default_factory=keys.Events)
    near: tuple[Near, ...] = ()
    way: Way = Way()
    objection: str | None = None
    old_private: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[keys.Problem, ...]:
        """The problems for which Synapse refuses the key, or serves one that others refuse."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def absent(self) -> bool:
        """Whether there is no key where one has to be."""
        return self.path is not None and self.kind in ("missing", "dangling")

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it is not certain that this server never had a key, as clauses."""
        if self.events.state == "unreadable":
            return (f"{self.events.where} cannot be read, and may hold events",)
        return ("the database could not be asked",) if self.events.state == "unasked" else ()

    @property
    def life(self) -> tuple[str, ...]:
        """What shows that this server has had a key, as clauses."""
        found = []
        if self.record is not None and self.record.current:
            found.append(f"{self.record_path} remembers {self.record.current[0].key_id}")
        if self.events.state == "alive":
            ids = ", ".join(self.events.key_ids)
            found.append(f"{self.events.where} holds users or events" + (f" signed by {ids}" if ids else ""))
        found.extend(f"{one.path} is a copy of its key" for one in self.near if one.own)
        return (*found, *self.way.traces)

    @property
    def signed_by(self) -> str:
        """Who signed the newest event, or what the record says, as the end of a sentence."""
        if self.record is not None and self.record.current:
            return self.record.current[0].key_id
        return self.events.key_ids[0] if self.events.key_ids else ""


def _backup_names(found: Identity) -> str:
    return access_part.shown(one.path for one in found.near)


def _back(found: Identity) -> str:
    """Say how the right key comes back."""
    if found.path is None:
        return (
            "Put the line of the original key file into signing_key, in quotes, or name that file in signing_key_path."
        )
    way, path = found.way, shlex.quote(found.path)
    if way.action == "restore" and way.source == found.path:
        return f"{_REPAIR} keeps the key itself and takes away the rest; what was there is kept as a backup."
    if way.action == "restore":
        return f"{_REPAIR} restores it from {way.source}, or: cp -p {shlex.quote(way.source or '')} {path}"
    near = f" Near by there is {_backup_names(found)}, and nothing proves that it is the right one." * bool(found.near)
    which = f" with {found.signed_by}" * bool(found.signed_by)
    return (
        f"Restore {path}{which} from a backup of the host, or put the key into synapse_signing_key_content and run "
        f"{_REPAIR}.{near}"
    )


def _writable(seen: Seen, path: str) -> bool:
    """Whether the service may make a file beside ``path``."""
    access = seen.access
    if access is None or access.who is None:
        return True
    folder = os.path.dirname(path)
    for item in access.of("config_folder"):
        if item.node is not None and item.path in (folder, os.path.realpath(folder)):
            return access_part.may(item.node, access.who, access_part.WRITE | access_part.ENTER)
    return True


def _runs(seen: Seen) -> str:
    """Advise where a process still holds what the file has lost."""
    answers = seen.answers
    if answers is None or not answers.published:
        return ""
    return f"The running server still signs with {', '.join(sorted(answers.published))}: leave it running until then. "


def _elsewhere(found: Identity) -> Near | None:
    """Return the key that the configuration should name: it lies under another name, and not as a backup."""
    if found.record is not None or found.path is None:
        return None
    base = os.path.basename(found.path)
    named = [one for one in found.near if one.path.endswith(".signing.key") and os.path.basename(one.path) != base]
    if found.way.action == "restore":
        return next((one for one in named if one.path == found.way.source), None)
    undecided = found.events.state in ("empty", "absent", "unreadable", "unasked") or not found.events.signatures
    return named[0] if len(named) == 1 and undecided else None


@RULES.rule(
    "key_elsewhere",
    severity="critical",
    cause=(
        "Guides and tools write the key to /etc/synapse/homeserver.signing.key; without signing_key_path Synapse looks "
        "for SERVER_NAME.signing.key in the folder of its last configuration file. A start would make a second key."
    ),
    remedy="Name the file that is there in signing_key_path.",
    explains=("configuration.signing_key", "configuration.refused", "service.assertion"),
    stops=True,
)
def _key_elsewhere(seen: Seen) -> Iterable[Clue]:
    """The signing key lies elsewhere than where the configuration looks for it."""
    found = seen.identity
    if found is None or not found.absent:
        return
    near = _elsewhere(found)
    if near is None:
        return
    proven = found.way.action == "restore"
    managed = seen.settings is not None and seen.settings.managed
    known = (
        f"its key {near.lines[0].key_id} signed this server's events"
        if proven
        else "see that it is this server's own before: nothing in the database shows whose it is"
    )
    given = seen.settings is not None and seen.settings.get("signing_key_path") is not None
    why = "as signing_key_path says" if given else "the default, as no signing_key_path is set"
    yield Clue(
        f"The path of the signing key is wrong: there is none at {found.path} ({why}), and one in {near.path}.",
        f"{near.path} holds {', '.join(line.key_id for line in near.lines)}",
        remedy=f"Write 'signing_key_path: {near.path}' into the configuration ({known}). {_NO_START}",
        repair="config" if managed else "",
        safe=managed and proven,
    )


@RULES.rule(
    "key_missing",
    severity="critical",
    cause=(
        "The file was deleted or moved, a volume is not mounted, or it was left out when the host was moved. A start "
        "of Synapse would make a new key without a word, and with it a new identity that other servers distrust."
    ),
    remedy=f"Restore it from a backup. {_NO_START}",
    repair="key",
    explains=("configuration.*key*", "configuration.refused", "service.assertion", "answers.other_key"),
    stops=True,
)
def _key_missing(seen: Seen) -> Iterable[Clue]:
    """The signing key is missing, and the server had one."""
    found = seen.identity
    if found is None or not found.absent or found.path is None or _elsewhere(found) is not None:
        return
    life, doubts = found.life, found.doubts
    if found.way.action == "create" and not life and not doubts:
        return
    known = "this server already has a life" if life else "it is not certain that this server never had one"
    link = f"{found.path} is a link to {found.link}, which does not exist; " if found.kind == "dangling" else ""
    proven = found.way.action == "restore" and not link
    cause = None
    if not _writable(seen, found.path):
        cause = (
            "The file was deleted or moved. Its folder cannot be written by the service, so that a start ends with "
            f"'Permission denied: {found.path}' instead of making a new identity: that is its protection. Do not chown "
            "the folder to the service."
        )
    remedy = f"Mount or restore what the link points to. {_NO_START}" if link else f"{_back(found)} {_NO_START}"
    yield Clue(
        f"The signing key {found.path} is missing, and {known}: restore it from a backup.",
        link + ("; ".join((*life, *doubts)) or found.way.reason),
        cause=cause,
        remedy=f"{_runs(seen)}{remedy}{'' if proven or link else ' ' + _LOST}",
        repair="" if link else None,
        safe=proven,
    )


@RULES.rule(
    "key_never_made",
    severity="error",
    cause="The server has never been started: its database has neither users nor events.",
    remedy=f"{_REPAIR} makes one.",
    repair="key",
    safe=True,
    explains=("configuration.*key*", "configuration.refused", "service.assertion"),
    stops=True,
)
def _key_never_made(seen: Seen) -> Iterable[Clue]:
    """There is no signing key yet, and nothing shows that this server ever had one."""
    found = seen.identity
    if found is None or not found.absent or found.way.action != "create":
        return
    if found.life or found.doubts or _elsewhere(found) is not None:
        return
    link = found.kind == "dangling"
    yield Clue(
        f"There is no signing key at {found.path} yet: the server has never had one.",
        f"{found.path} is a link to {found.link}, which does not exist" if link else f"{found.path} does not exist",
        remedy="Mount what the link points to, or remove the link." if link else None,
        repair="" if link else None,
        safe=not link,
    )


@RULES.rule(
    "key_no_file",
    severity="critical",
    cause=(
        "A container or a mount made a folder where a file was to be, or a special file lies there. Synapse says "
        "'Error accessing file', as if the key were missing."
    ),
    remedy="Move away what lies there, and restore the signing key.",
    explains=("configuration.*key*", "configuration.refused"),
    stops=True,
)
def _key_no_file(seen: Seen) -> Iterable[Clue]:
    """What lies in the place of the signing key is no file that can be read."""
    found = seen.identity
    if found is None or found.kind not in ("folder", "other", "unreadable"):
        return
    what = {"folder": "is a folder", "other": "is no regular file", "unreadable": "cannot be read, not even by root"}
    path = found.path or ""
    yield Clue(
        f"The signing key {path} {what[found.kind]}.",
        f"{path} {what[found.kind]}",
        remedy=f"mv {shlex.quote(path)} {shlex.quote(path + '.aside')}, and then: {_back(found)} {_NO_START}"
        if found.kind != "unreadable"
        else f"See why (lsattr, findmnt -T, the kernel's log), or restore it elsewhere. {_NO_START}",
    )


_DAMAGE: Mapping[str, str] = {
    "algorithm": (
        "A comment, a header of a template, or a key of another kind stands in the file, whose format knows none: "
        "Synapse says 'Unsupported algorithm', because each line has to begin with ed25519."
    ),
    "tokens": (
        "The format of each line is 'ed25519 ID KEY'; after an edit or a copy a word is missing, or one too many, such "
        "as a comment. Synapse says 'not enough values to unpack', or 'too many'."
    ),
    "seed": (
        "It was cut off or damaged while it was copied: a seed is 32 bytes, which are 43 digits of base64. Synapse "
        "drops wrong characters and then says 'The seed must be exactly 32 bytes long'."
    ),
    "pem": (
        "A key in PEM format, as openssl or ssh-keygen make it, was put there. Synapse's format is another, and it "
        "says 'Unsupported algorithm -----BEGIN'. Do not convert it: it is not the key that this server had."
    ),
    "bom": (
        "An editor wrote a byte order mark (BOM) before the first word, so that Synapse says 'Unsupported algorithm', "
        "with an ed25519 that looks right."
    ),
    "encoding": "An editor, or damage on the disk, left bytes in the file that are not ASCII.",
    "empty": "The disk was full while it was written, or a shell redirected into it: nothing is left of the key.",
    "one-token": "The first releases of Synapse wrote keys so; a start would give it a new random id.",
    "duplicate-id": "A key was added by hand under the id of another one.",
}


def _place(found: Identity) -> str:
    return "signing_key in the configuration" if found.kind == "inline" else f"the signing key file {found.path}"


@RULES.rule(
    "key_malformed",
    severity="critical",
    cause="The file was edited or copied badly.",
    remedy=f"Restore it from a backup. {_NO_START}",
    repair="key",
    explains=("configuration.*key*", "configuration.refused", "configuration.value_refused"),
    stops=True,
)
def _key_malformed(seen: Seen) -> Iterable[Clue]:
    """The signing key file is not of the form that Synapse reads."""
    found = seen.identity
    if found is None or found.kind != "file":
        return
    errors = [problem for problem in found.errors if problem.id != "duplicate-id"]
    if not errors:
        return
    proven = found.way.action == "restore"
    many = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    yield Clue(
        f"{_place(found)[0].upper()}{_place(found)[1:]} has the wrong format: {errors[0].sentence()}{many}.",
        "; ".join(f"{found.path}: {problem.sentence()}" for problem in errors[:3]),
        cause=_DAMAGE.get(errors[0].id),
        remedy=f"{_runs(seen)}{_back(found)} {_NO_START}{'' if proven else ' ' + _LOST}",
        safe=proven,
    )


@RULES.rule(
    "key_duplicate_id",
    severity="critical",
    cause=(
        "A key was added by hand under the id of another one. Synapse signs with the first line and publishes the "
        "last, so that no other server can verify what this one sends."
    ),
    remedy="Keep the line whose key signed the server's events; never use a key id for another key.",
    repair="key",
    explains=("answers.other_key", "answers.key", "public.other_key"),
)
def _key_duplicate_id(seen: Seen) -> Iterable[Clue]:
    """Two keys in the signing key file bear the same id."""
    found = seen.identity
    problems = [problem for problem in found.errors if problem.id == "duplicate-id"] if found is not None else []
    if found is None or not problems or len(problems) != len(found.errors):
        return
    doubled = [line for line in found.lines if line.number == problems[0].line]
    signed = {item.verify_key for item in found.events.signatures}
    signed |= {key.verify_key for key in found.record.current} if found.record is not None else set()
    right = [line for line in found.lines if line.verify_key in signed]
    proven = found.way.action == "restore"
    which = f"line {right[0].number} is the one that signed its events" if right else "nothing shows which one is right"
    yield Clue(
        f"The signing key file {found.path} holds two keys with a duplicate key id"
        f"{' ' + doubled[0].key_id if doubled else ''}: {which}.",
        f"{found.path}: {problems[0].sentence()}",
        remedy=_back(found)
        if proven
        else f"Remove the other line from {found.path} (keep a copy), then restart the service.",
        safe=proven,
    )


@RULES.rule(
    "key_inline_invalid",
    severity="critical",
    cause="The three words of a key file's line were shortened, or taken apart by YAML: they need quotes.",
    remedy='signing_key: "ed25519 a_ABCD BASE64", with the whole line of the key file. Do not make a new one.',
    explains=("configuration.*key*", "configuration.refused", "configuration.value_refused"),
    stops=True,
)
def _key_inline_invalid(seen: Seen) -> Iterable[Clue]:
    """The signing key that stands inline in the configuration is none."""
    found = seen.identity
    if found is None or found.kind != "inline" or not found.errors:
        return
    # The collection never writes the option: its own configuration, written anew, names the key file again.
    managed = seen.settings is not None and seen.settings.managed
    yield Clue(
        f"The signing key given inline as signing_key in the configuration is not valid: {found.errors[0].message}.",
        f"signing_key: {found.errors[0].message}",
        remedy='signing_key: "ed25519 a_ABCD BASE64": put the whole line of the key file into quotes, or remove the '
        f"option and name the file in signing_key_path. Do not make a new one. {_NO_START}",
        repair="config" if managed else "",
        safe=managed,
    )


@RULES.rule(
    "key_inline",
    severity="info",
    cause="signing_key was written into the configuration; Synapse then reads no file, whatever signing_key_path says.",
    remedy="Move it to a file of its own (mode 0600), and name that in signing_key_path.",
)
def _key_inline(seen: Seen) -> Iterable[Clue]:
    """The signing key stands in the configuration itself."""
    found = seen.identity
    if found is not None and found.kind == "inline" and not found.errors:
        yield Clue("The signing key stands in the configuration itself (signing_key).", ", ".join(found.key_ids))


@RULES.rule(
    "key_unreadable",
    severity="critical",
    cause="It was copied, restored or edited as root, and kept root's owner and mode.",
    remedy="chown root:SERVICE_GROUP and chmod 0640, or the service's own file with 0600; never chmod 644, no new key.",
    repair="permissions",
    safe=True,
    explains=("configuration.*key*", "configuration.file_unreadable", "configuration.refused"),
    stops=True,
)
def _key_unreadable(seen: Seen) -> Iterable[Clue]:
    """The service may not read its signing key."""
    access = seen.access
    pairs = access.stopped("key") if access is not None else []
    if access is None or access.who is None or not pairs:
        return
    item, node = pairs[0]
    if node.kind != "file":
        return
    fixes = {fix.path: fix for fix in access_part.wanted(access)}
    fix = fixes.get(node.path)
    yield Clue(
        f"Permission denied: the service's user {access.who.name} may not read the signing key {item.path}, because of "
        "its owner or mode.",
        f"{node.path} is {node.words}",
        remedy=f"{fix.command()} (the content stays as it is; never chmod 644, never a new key)" if fix else None,
        repair="permissions" if fix else "",
        safe=bool(fix),
    )


@RULES.rule(
    "key_exposed",
    severity="warning",
    cause="chmod -R, or a copy that does not keep modes (rsync without -p). Synapse itself does not complain.",
    remedy="Take the rights of others away. If somebody may have read it, rotate it (synapse_signing_key, rotated).",
    repair="permissions",
    safe=True,
    explains=("configuration.exposed",),
)
def _key_exposed(seen: Seen) -> Iterable[Clue]:
    """Others than the service may read, or change, the signing key."""
    access = seen.access
    for item in access.of("key") if access is not None else ():
        node = item.node
        if access is None or node is None or node.kind != "file" or not node.mode & 0o027:
            continue
        fixes = {fix.path: fix for fix in access_part.wanted(access)}
        fix = fixes.get(node.path)
        readable = "world-readable" if node.mode & 0o004 else "writable for its group" if node.mode & 0o020 else "open"
        yield Clue(
            f"The signing key {item.path} is {readable} because of its mode {node.mode:04o}.",
            f"{node.path} is {node.words}",
            remedy=fix.command() if fix else f"chmod 0600 {shlex.quote(node.path)}",
        )


@RULES.rule(
    "key_replaced",
    severity="critical",
    cause=(
        "Another key was put in its place: generate_signing_key -o overwrites an existing file without asking, a start "
        "without the file makes a new one, or a file was restored that belongs elsewhere. Synapse says nothing; other "
        "servers see a signature mismatch, and reject what this one sends."
    ),
    remedy="Restore the original key from a backup; never publish another key under the old id.",
    repair="key",
    explains=("answers.other_key", "answers.key", "public.other_key"),
)
def _key_replaced(seen: Seen) -> Iterable[Clue]:
    """The signing key is not the one that signed this server's events."""
    found = seen.identity
    if found is None or found.errors or found.objection is None or _foreign_record(seen) or _rotated(seen):
        return
    proven = found.way.action == "restore"
    mismatch = " (signature mismatch)" if "signatures are another" in found.objection else ""
    by = f" The server's events are signed by {', '.join(found.events.key_ids)}." if found.events.key_ids else ""
    yield Clue(
        f"The signing key was replaced or overwritten{mismatch}: {_place(found)} is not the one that this server had.",
        f"{found.objection}.{by}",
        remedy=f"{_runs(seen)}{_back(found)} If the key that is there now is the right one: synapse_new_identity=true, "
        "once, with the earlier one in old_signing_keys.",
        repair="" if found.kind == "inline" else None,
        safe=proven,
    )


def _rotated(seen: Seen) -> bool:
    """Whether the earlier key is published as an old one: somebody meant to replace it."""
    found, settings = seen.identity, seen.settings
    old = settings.get("old_signing_keys") if settings is not None else None
    if found is None or not isinstance(old, dict):
        return False
    return bool(found.signed_by) and found.signed_by in old and found.signed_by not in found.key_ids


@RULES.rule(
    "key_rotated",
    severity="info",
    cause="Somebody put a new key in the place of the earlier one, and that one into old_signing_keys, as is right.",
    remedy="Nothing. Where the collection deploys this server: synapse_new_identity=true, once, accepts the new key.",
)
def _key_rotated(seen: Seen) -> Iterable[Clue]:
    """The signing key was replaced by hand, and the earlier one is published as an old one."""
    found = seen.identity
    if found is not None and not found.errors and found.objection is not None and _rotated(seen):
        yield Clue(
            f"The signing key was rotated by hand: {_place(found)} holds {', '.join(found.key_ids)}, and "
            f"old_signing_keys has {found.signed_by}.",
            found.objection,
        )


def _foreign_record(seen: Seen) -> bool:
    found, settings = seen.identity, seen.settings
    name = settings.server_name if settings is not None else None
    record = found.record if found is not None else None
    return record is not None and record.server_name is not None and name is not None and record.server_name != name


@RULES.rule(
    "record_of_another",
    severity="error",
    cause="server_name was changed, which no server survives, or a key and its record were copied from another one.",
    remedy="Put server_name right. For another server, use another key file.",
    explains=("identity.key_replaced",),
)
def _record_of_another(seen: Seen) -> Iterable[Clue]:
    """The record beside the key belongs to a server of another name."""
    found, settings = seen.identity, seen.settings
    if found is None or settings is None or found.record is None or not _foreign_record(seen):
        return
    yield Clue(
        f"The signing key {found.path} belongs to {found.record.server_name}, and server_name is "
        f"{settings.server_name}: a server cannot be renamed.",
        f"{found.record_path}: server_name {found.record.server_name}",
    )


@RULES.rule(
    "key_known_to_others",
    severity="critical",
    cause="The private half is public knowledge, or what stands there is no private half.",
    remedy="Rotate it now: module synapse_signing_key with state: rotated.",
    explains=("identity.key_replaced",),
)
def _key_known_to_others(seen: Seen) -> Iterable[Clue]:
    """The signing key is one that anybody knows, or the public half in the place of the private one."""
    found = seen.identity
    if found is None:
        return
    for line in found.lines:
        if line.verify_key in keys.BANNED:
            yield Clue(
                f"The signing key {line.key_id} is public knowledge (ELEMENTSEC-2025-1670): anybody can sign in this "
                "server's name, and newer servers refuse it.",
                f"{found.path or 'signing_key'}, line {line.number}",
            )
    if "public-key" in found.way.problems:
        yield Clue(
            f"In {_place(found)} the public half stands in the place of the private one.",
            f"{found.path or 'signing_key'} holds what this server published as its public key",
            remedy=f"Restore the private key from a backup. {_NO_START}",
        )


def _wrong_old_keys(entries: object) -> Iterator[tuple[str, str]]:
    """Return what Synapse cannot read of old_signing_keys (synapse/config/key.py 1.163.2, read_old_signing_keys)."""
    if entries is None:
        return
    if not isinstance(entries, dict):
        yield "", "it is no mapping of key ids"
        return
    for key_id, entry in entries.items():
        if not str(key_id).startswith("ed25519:"):
            yield str(key_id), "its id does not begin with ed25519:"
        elif not isinstance(entry, dict):
            yield str(key_id), "it is no mapping with key and expired_ts"
        else:
            lacks = [name for name in ("key", "expired_ts") if name not in entry]
            if lacks:
                yield str(key_id), f"it lacks {' and '.join(lacks)}"
            elif not _is_public(entry["key"]):
                yield str(key_id), "its key is no 32 bytes in base64"


def _is_public(value: object) -> bool:
    """Whether a value has the size of a public key, as Synapse's decoder reads it."""
    if not isinstance(value, str):
        return False
    try:
        return len(base64.b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))) == 32
    except (binascii.Error, ValueError):
        return False


@RULES.rule(
    "old_keys_malformed",
    severity="critical",
    cause=(
        "The entry was written by hand. Synapse ends with an error that does not name the option: KeyError: "
        "'expired_ts', 'The key must be exactly 32 bytes long', or \"has no attribute 'items'\"."
    ),
    remedy=(
        'Write old_signing_keys: {"ed25519:ID": {key: "PUBLIC KEY", expired_ts: MILLISECONDS}}; export_signing_key -x '
        "FILE prints that line from a copy of the old key file. Do not remove the entry to be rid of the error: other "
        "servers need it to verify older events."
    ),
    explains=("configuration.old_signing_keys", "configuration.option_missing", "configuration.value_refused"),
    stops=True,
)
def _old_keys_malformed(seen: Seen) -> Iterable[Clue]:
    """An entry of old_signing_keys cannot be read, so that Synapse does not start."""
    settings = seen.settings
    for key_id, why in _wrong_old_keys(settings.get("old_signing_keys") if settings is not None else None):
        named = f"The entry {key_id} of old_signing_keys" if key_id else "old_signing_keys"
        yield Clue(f"{named} is malformed: {why}.", f"old_signing_keys: {key_id}".rstrip())


@RULES.rule(
    "old_key_private",
    severity="critical",
    cause=(
        "The private half was pasted into old_signing_keys, where the public one belongs. Synapse publishes what "
        "stands there to everybody who asks."
    ),
    remedy=(
        "export_signing_key -x FILE prints the line with the public half. What was published has to count as known to "
        "others: never sign with that key again."
    ),
    explains=("configuration.old_signing_keys",),
)
def _old_key_private(seen: Seen) -> Iterable[Clue]:
    """A private key stands in old_signing_keys, and is published."""
    found = seen.identity
    for key_id in found.old_private if found is not None else ():
        yield Clue(f"old_signing_keys has the private half of {key_id}.", f"old_signing_keys: {key_id}: key")


@RULES.rule(
    "retired_unpublished",
    severity="warning",
    cause="The key was rotated, and the earlier one is not in old_signing_keys.",
    remedy="Add it to old_signing_keys, and restart.",
)
def _retired_unpublished(seen: Seen) -> Iterable[Clue]:
    """A key that signed older events is not published any more, so that other servers cannot verify them."""
    found, settings = seen.identity, seen.settings
    if found is None or settings is None or found.record is None or not settings.readable or _foreign_record(seen):
        return
    published = settings.get("old_signing_keys")
    names = set(published) if isinstance(published, dict) else set()
    for key_id, entry in keys.old_signing_keys(found.record).items():
        if key_id not in names:
            line = f'"{key_id}": {{key: "{entry["key"]}", expired_ts: {entry["expired_ts"]}}}'
            yield Clue(
                f"The earlier signing key {key_id} is not in old_signing_keys: other servers cannot verify events of "
                "its time.",
                f"{found.record_path} remembers {key_id}",
                remedy=f"old_signing_keys: {{{line}}}",
            )


@RULES.rule(
    "record_damaged",
    severity="warning",
    cause="The file was edited, or cut off by a full disk. It holds no secret.",
    remedy="Restore it, or move it away: the next deployment makes it anew, after it has asked the server's events.",
)
def _record_damaged(seen: Seen) -> Iterable[Clue]:
    """The collection's record of the public keys cannot be read."""
    found = seen.identity
    if found is not None and found.record_damaged:
        yield Clue(
            f"The record of the signing key's public half, {found.record_path}, cannot be read.",
            found.record_path,
            remedy=f"mv {shlex.quote(found.record_path)} {shlex.quote(found.record_path + '.aside')}; the next "
            "deployment makes it anew, after it has asked the server's own events.",
        )


@RULES.rule(
    "several_keys",
    severity="info",
    cause="A rotation in stages, or a key that was kept. That is legal: the first line signs, all are published.",
    remedy="Nothing. Do not sort the lines: their order matters.",
)
def _several_keys(seen: Seen) -> Iterable[Clue]:
    """The signing key file holds several keys."""
    found = seen.identity
    if found is None or found.errors or len(found.lines) < 2:
        return
    number = "two keys" if len(found.lines) == 2 else f"{len(found.lines)} keys"
    yield Clue(
        f"The signing key file holds {number}; in their order, the first signs and all are published.",
        f"{found.path}: {', '.join(line.key_id for line in found.lines)}",
    )
