# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Synapse signing key file says, whether it still is the server's own, and what to do about it.

Pure: no I/O, nothing from Ansible. The seed of a key never enters a message, a ``repr``, a diff or a record.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

__all__ = [
    "BANNED",
    "CONTENT",
    "Candidate",
    "Events",
    "Found",
    "Key",
    "KeyFile",
    "Known",
    "Pending",
    "Plan",
    "Problem",
    "Published",
    "Questions",
    "Record",
    "Retired",
    "Signature",
    "Wanted",
    "known",
    "mode_is_safe",
    "objection",
    "old_signing_keys",
    "parse",
    "parse_record",
    "plan",
    "questions",
    "remember",
    "render_record",
]

# Verify keys whose private half is public knowledge. Synapse lists them, padded, in BANNED_SERVER_SIGNING_KEYS
# (synapse/crypto/keyring.py, 1.163.2).
BANNED = frozenset({"l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"})

_SEED_BYTES = 32
# The digits of both alphabets that unpaddedbase64 1.x reads, and the padding that it tolerates. It also drops any
# other character silently, so that a damaged key may still decode; here that is damage.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,3}")
# Matrix specification, server-server API, "Retrieving server keys": the version is of this form.
_VERSION = re.compile(r"[A-Za-z0-9_]+")
_RECORD_FORMAT = 1
# What to set, under the name of the module's option and under the role's.
CONTENT = "'content' (synapse_signing_key_content in the role)"
_NEW_IDENTITY = "'new_identity: true' (synapse_new_identity in the role)"
_PATH = "'path' (synapse_signing_key_path in the role)"


@dataclass(frozen=True)
class Key:
    """One private key. ``line`` is where it stood, counted from 1; it does not take part in comparisons."""

    version: str
    seed: bytes = field(repr=False)
    number: int = field(default=0, compare=False)

    @property
    def key_id(self) -> str:
        """The id under which the server publishes the key."""
        return f"ed25519:{self.version}"

    @property
    def encoded(self) -> str:
        """The seed as Synapse writes it: secret."""
        return base64.b64encode(self.seed).rstrip(b"=").decode("ascii")

    @property
    def line(self) -> str:
        """The line of a key file, with its end: secret."""
        return f"ed25519 {self.version} {self.encoded}\n"

    @property
    def fingerprint(self) -> str:
        """A digest that recognises the key. It tells no more than the public key does: both can only be guessed at."""
        return hashlib.sha256(self.line.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Problem:
    """Something about the key file. ``line`` counts from 1; ``None`` where it is about no single line."""

    id: str
    line: int | None
    message: str
    severity: str = "error"

    def sentence(self) -> str:
        """The message with its place."""
        return self.message if self.line is None else f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class KeyFile:
    """What a key file holds, in order, and what is wrong with it.

    ``intact`` are the keys of a file with errors that are still whole when what stands around them is passed over: a
    byte order mark, comments, words after the key. What was damaged itself is not among them.
    """

    keys: tuple[Key, ...]
    problems: tuple[Problem, ...] = ()
    intact: tuple[Key, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems for which Synapse refuses the file, or serves a key that others refuse."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The digests of the keys, in order."""
        return tuple(key.fingerprint for key in self.keys)


def _decode(token: str) -> tuple[bytes | None, str]:
    """Return the seed that ``token`` encodes, or ``None`` and what is wrong; the text never quotes the token."""
    if not _BASE64.fullmatch(token):
        return None, "the key has characters that are not base64"
    digits = token.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        seed = base64.b64decode(digits + "=" * (-len(digits) % 4))
    except (binascii.Error, ValueError):
        return None, "the key is not base64: its number of digits fits no whole number of bytes"
    if len(seed) != _SEED_BYTES:
        return None, f"the key has {len(seed)} bytes, an ed25519 seed has {_SEED_BYTES} (43 base64 digits)"
    if len(set(seed)) == 1:
        return None, "the key is one byte repeated, a placeholder that anybody can guess"
    return seed, ""


def _parse_line(line: str, number: int) -> Key | Problem:
    """Read one line that is not blank."""
    parts = line.split()
    if parts[0].startswith("-----BEGIN"):
        return Problem("pem", number, "this is a PEM file; Synapse wants 'ed25519 VERSION BASE64'")
    if len(parts) == 1 and _decode(parts[0])[0] is not None:
        return Problem(
            "one-token",
            number,
            "a key without algorithm and id, the form of the first Synapse releases; a start of Synapse would give it "
            "a new random id. Write 'ed25519 VERSION' before it, with the version that the server published",
        )
    if parts[0] != "ed25519":
        what = "a comment" if parts[0].startswith("#") else "its first word is not 'ed25519'"
        return Problem("algorithm", number, f"expected 'ed25519 VERSION BASE64', this is something else ({what})")
    if len(parts) != 3:
        return Problem("tokens", number, f"expected the three words 'ed25519 VERSION BASE64', found {len(parts)}")
    seed, reason = _decode(parts[2])
    if seed is None:
        return Problem("seed", number, reason)
    return Key(parts[1], seed, number)


def _text(data: bytes) -> str | Problem:
    """Return the text of a key file."""
    if data.startswith(b"\xef\xbb\xbf"):
        return Problem(
            "bom", 1, "the file begins with a byte order mark, which Synapse takes for part of the first word"
        )
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("ascii").replace("\r\n", "\n")
        return Problem("encoding", len((before + "x").splitlines()), "it has a byte that is not ASCII")


def _salvage(data: bytes) -> tuple[Key, ...]:
    """Return the keys that are whole in a file of which Synapse refuses other parts."""
    utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if utf_16 else "utf-8-sig", "replace").replace("\ufeff", "")
    found = []
    for number, line in enumerate(text.replace("\r\n", "\n").splitlines(), start=1):
        parts = line.split()
        if len(parts) < 3 or parts[0] != "ed25519" or not _VERSION.fullmatch(parts[1]):
            continue
        seed, _reason = _decode(parts[2])
        if seed is not None:
            found.append(Key(parts[1], seed, number))
    return tuple(dict.fromkeys(found))


def _doubles(keys: t.Sequence[Key]) -> t.Iterator[Problem]:
    """What is wrong between the lines."""
    first: dict[str, Key] = {}
    for key in keys:
        earlier = first.setdefault(key.version, key)
        if earlier is key:
            continue
        if earlier.seed == key.seed:
            yield Problem("duplicate-line", key.number, f"the same key as on line {earlier.number}", "warning")
        else:
            yield Problem(
                "duplicate-id",
                key.number,
                f"another key under the id {key.key_id} of line {earlier.number}: Synapse signs with the first and "
                "publishes the last, so that nobody can verify its events. Keep the line that signed them",
            )


def parse(data: bytes) -> KeyFile:
    """Read a key file line by line, as Synapse does (``KeyConfig.read_signing_keys``, 1.163.2); never raises.

    Blank lines and Windows line ends are fine there and here. Only characters that Synapse's base64 decoder
    would drop silently are refused here although Synapse loads them.
    """
    text = _text(data)
    if isinstance(text, Problem):
        return KeyFile((), (text,), _salvage(data))
    keys: list[Key] = []
    problems: list[Problem] = []
    # open() in text mode reads \r\n and \r as \n before Synapse splits.
    for number, line in enumerate(text.replace("\r\n", "\n").splitlines(), start=1):
        if not line.strip():
            continue
        parsed = _parse_line(line, number)
        if isinstance(parsed, Problem):
            problems.append(parsed)
            continue
        keys.append(parsed)
        if not _VERSION.fullmatch(parsed.version):
            message = "the version in the key's id has characters outside [A-Za-z0-9_], which other servers may refuse"
            problems.append(Problem("version", number, message, "warning"))
    if not keys and not problems:
        problems.append(Problem("empty", None, "the file is empty: a key was never written, or it was lost"))
    problems.extend(_doubles(keys))
    broken = any(problem.severity == "error" for problem in problems)
    return KeyFile(tuple(keys), tuple(problems), _salvage(data) if broken else ())


@dataclass(frozen=True)
class Known:
    """The public half of a key, with the digest that recognises its private half."""

    key_id: str
    verify_key: str
    fingerprint: str
    first_seen: str


@dataclass(frozen=True)
class Retired:
    """A key that the server signed with earlier. ``expired_ts`` is in milliseconds since the epoch."""

    key_id: str
    verify_key: str
    expired_ts: int


@dataclass(frozen=True)
class Pending:
    """What the key file is about to hold: written before the file is, so that an interruption is understood."""

    keys: tuple[Known, ...]
    expired_ts: int


@dataclass(frozen=True)
class Record:
    """What this host remembers of its keys, public halves only. ``current`` is in the order of the file."""

    server_name: str | None = None
    current: tuple[Known, ...] = ()
    retired: tuple[Retired, ...] = ()
    pending: Pending | None = None

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The digests of the current keys, in the order of the file."""
        return tuple(key.fingerprint for key in self.current)


def _known_from(entry: t.Mapping[str, t.Any]) -> Known:
    return Known(*(str(entry[item.name]) for item in dataclasses.fields(Known)))


def parse_record(data: bytes, path: str) -> Record:
    """Read the record at ``path``; raises ``SynapseError`` where it is not one."""
    try:
        content = json.loads(data.decode("utf-8"))
        if content["format"] != _RECORD_FORMAT:
            raise ValueError
        pending = content.get("pending")
        return Record(
            server_name=content.get("server_name"),
            current=tuple(_known_from(entry) for entry in content["current"]),
            retired=tuple(
                Retired(str(entry["key_id"]), str(entry["verify_key"]), int(entry["expired_ts"]))
                for entry in content["retired"]
            ),
            pending=None
            if pending is None
            else Pending(tuple(_known_from(entry) for entry in pending["keys"]), int(pending["expired_ts"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # the last: an infinite number
        raise SynapseError(
            f"{path} is not a record of verify keys that this version of the collection wrote, so it is not known "
            "which key this server had. Restore it, or move it away: it is then made anew from the key file, checked "
            "against the server's own events."
        ) from None


def render_record(record: Record) -> bytes:
    """Return the record as the bytes of its file: JSON, public data only."""
    content = {"format": _RECORD_FORMAT, **dataclasses.asdict(record)}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("ascii")


def known(keys: t.Iterable[Key], verify_keys: t.Mapping[str, str], now: str) -> tuple[Known, ...]:
    """Join keys with their public halves (by fingerprint); a key whose public half is not known is left out."""
    return tuple(
        Known(key.key_id, verify_keys[key.fingerprint], key.fingerprint, now)
        for key in keys
        if key.fingerprint in verify_keys
    )


def remember(record: Record | None, server_name: str | None, keys: t.Sequence[Known], expired_ts: int) -> Record:
    """Return the record for a file that holds ``keys`` now; keys that it held before become retired.

    A retired key is published with ``expired_ts`` (milliseconds), a banned one never. A known key keeps its date.
    """
    record = record or Record()
    if record.pending is not None and tuple(key.fingerprint for key in record.pending.keys) == tuple(
        key.fingerprint for key in keys
    ):
        expired_ts = record.pending.expired_ts
    dates = {key.fingerprint: key.first_seen for key in (*record.current, *(record.pending or Pending((), 0)).keys)}
    current = tuple(dataclasses.replace(key, first_seen=dates.get(key.fingerprint, key.first_seen)) for key in keys)
    held = {(key.key_id, key.verify_key) for key in current}
    retired = [key for key in record.retired if (key.key_id, key.verify_key) not in held]
    retired.extend(
        Retired(key.key_id, key.verify_key, expired_ts)
        for key in record.current
        if (key.key_id, key.verify_key) not in held and key.verify_key not in BANNED
    )
    return Record(server_name or record.server_name, current, tuple(retired), None)


def old_signing_keys(record: Record | None) -> dict[str, dict[str, object]]:
    """Return what Synapse's ``old_signing_keys`` needs (``KeyConfig.read_old_signing_keys``, 1.163.2).

    A key whose id a current key bears again is left out: Synapse would publish two keys under one id.
    """
    if record is None:
        return {}
    current = {key.key_id for key in record.current}
    return {
        key.key_id: {"key": key.verify_key, "expired_ts": key.expired_ts}
        for key in record.retired
        if key.key_id not in current
    }


@dataclass(frozen=True)
class Signature:
    """How this server signed one of its events. ``verify_key`` is the one that verified, if any did.

    ``verdict`` is ``ok``, ``mismatch`` (the id is known, the signature is another key's), ``unknown`` (no key with
    that id was at hand) or ``unchecked`` (the event could not be checked here).
    """

    key_id: str
    verdict: str
    verify_key: str | None = None


@dataclass(frozen=True)
class Events:
    """What the database tells.

    ``state``: ``absent`` (none is there), ``empty``, ``alive``, ``unreadable``, ``unasked`` (nothing there can ask it).

    ``signatures`` are of the newest events of this server first, then of its oldest.
    """

    state: str = "absent"
    where: str = ""
    reason: str = ""
    signatures: tuple[Signature, ...] = ()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids under which this server signed, newest first."""
        return tuple(dict.fromkeys(signature.key_id for signature in self.signatures))


@dataclass(frozen=True)
class Published:
    """The keys that a running server publishes, by id; empty where none could be reached."""

    url: str = ""
    verify_keys: t.Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A file near by with a usable key. ``own``: a backup of this file, or a file of Synapse's own name for it."""

    path: str
    keys: tuple[Key, ...]
    own: bool


@dataclass(frozen=True)
class Wanted:
    """What was asked for. ``expired_ts`` is what a key that is replaced now gets.

    ``mend``: a key that is missing, damaged or not this server's is replaced by one that is proven to be its own.
    ``mint``: a new one may be made where nothing shows that there was one.
    """

    path: str
    state: str = "present"
    content: tuple[Key, ...] | None = None
    replaces: str | None = None
    new_identity: bool = False
    server_name: str | None = None
    now: str = ""
    expired_ts: int = 0
    mend: bool = False
    mint: bool = True


@dataclass(frozen=True)
class Found:
    """What is there. ``file`` is ``None`` where there is none; ``verify_keys`` are by fingerprint, as far as known.

    ``complete`` is false where the environment is missing, so that public halves could not be computed (check mode).
    """

    file: KeyFile | None
    link: str | None = None
    record: Record | None = None
    record_path: str = ""
    verify_keys: t.Mapping[str, str] = field(default_factory=dict)
    events: Events = Events()
    published: Published = Published()
    candidates: tuple[Candidate, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Questions:
    """What has to be looked up before it can be decided, beyond the files of the key and of the record."""

    derive: bool = False
    life: bool = False
    candidates: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be done. ``keys`` is what the file will hold; with ``mint``, a new key comes before them.

    ``source`` is the file near by that the keys are restored from.
    """

    action: str
    before: tuple[str, ...]
    keys: tuple[Key, ...]
    mint: bool = False
    backup: bool = False
    write_record: bool = False
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    source: str | None = None

    @property
    def write_key(self) -> bool:
        """Whether the key file itself is written."""
        return self.action in {"create", "restore", "rotate"}

    @property
    def changed(self) -> bool:
        """Whether a file is written, the record included."""
        return self.write_key or self.write_record

    @property
    def after(self) -> tuple[str, ...]:
        """The ids that the file will hold; that of a key still to be minted is not known yet."""
        return (("ed25519:<new>",) if self.mint else ()) + tuple(key.key_id for key in self.keys)


def mode_is_safe(mode: int) -> bool:
    """Whether a key may have this mode: nothing for others, and for the group at most reading."""
    return mode & ~0o640 == 0


def questions(wanted: Wanted, found: Found) -> Questions:
    """Return what must be looked up to decide; nothing at all where the key is the one that the record knows."""
    file = found.file
    if file is None:
        if wanted.content is None and wanted.new_identity:
            return Questions()
        return Questions(derive=wanted.content is not None, life=True, candidates=wanted.content is None)
    if file.errors:
        ask = wanted.content is not None or wanted.mend
        return Questions(derive=ask, life=ask, candidates=True)
    if found.record is not None and found.record.fingerprints == file.fingerprints:
        other = not _same(wanted.content, file)
        return Questions(derive=other, life=other and not found.record.current)
    if _is_pending(found, file) and wanted.content is None:
        return Questions(derive=True)
    return Questions(derive=True, life=True, candidates=True)


def _join(items: t.Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(items))


def _ids(keys: t.Iterable[Key]) -> str:
    return _join(key.key_id for key in keys)


def _life(wanted: Wanted, found: Found) -> list[str]:
    """Return what shows that this server already had a key, as clauses of a sentence."""
    clauses = []
    if found.record is not None and found.record.current:
        signing = found.record.current[0]
        clauses.append(f"{found.record_path} remembers {signing.key_id} (since {signing.first_seen})")
    if found.events.state == "alive":
        how = f", signed by {_join(found.events.key_ids)}" if found.events.key_ids else ""
        clauses.append(f"{found.events.where} holds accounts or events of {wanted.server_name}{how}")
    if found.events.state == "unreadable":
        clauses.append(f"{found.events.where} cannot be read ({found.events.reason}), so it may hold events")
    if found.published.verify_keys:
        clauses.append(f"{found.published.url} publishes {_join(found.published.verify_keys)}")
    clauses.extend(f"{candidate.path} holds {_ids(candidate.keys)}" for candidate in found.candidates if candidate.own)
    return clauses


def _signing_key_of(found: Found) -> tuple[set[str], set[str]]:
    """Return verify keys and key ids with which this server is known to have signed last."""
    if found.record is not None and found.record.current:
        signing = found.record.current[0]
        return {signing.verify_key}, {signing.key_id}
    newest = found.events.signatures[:1]
    verify = {item.verify_key for item in newest if item.verify_key} | set(found.published.verify_keys.values())
    return verify, {item.key_id for item in newest} | set(found.published.verify_keys)


def _restore_hint(wanted: Wanted, found: Found) -> str:
    """Say where the lost key is, or where to look for it."""
    verify_keys, key_ids = _signing_key_of(found)
    fitting = [
        candidate.path
        for candidate in found.candidates
        if any(
            found.verify_keys[key.fingerprint] in verify_keys
            if verify_keys and key.fingerprint in found.verify_keys
            else not key_ids or key.key_id in key_ids
            for key in candidate.keys
        )
    ]
    if fitting:
        return f"The key is in {_join(fitting)}: copy it to {wanted.path} (cp -p), and run again."
    others = [candidate.path for candidate in found.candidates]
    near = f" (other keys lie in {_join(others)})" if others else ""
    return f"Restore the key file from a backup{near}, or give the key from a vault, as {CONTENT}."


_ACCEPT = (
    f"Only if the key is lost for good: {_NEW_IDENTITY}, once; other servers then have to learn the new key, and the "
    "old one belongs into old_signing_keys."
)


def _refuse_to_mint(wanted: Wanted, found: Found, life: t.Sequence[str]) -> SynapseError:
    return SynapseError(
        f"The signing key {wanted.path} is missing, but this server already has a life: {'; '.join(life)}. No new key "
        f"was made: it would be a new identity that other servers distrust, so do not start Synapse either. "
        f"{_restore_hint(wanted, found)} {_ACCEPT}",
        evidence=list(life),
    )


def _broken(wanted: Wanted, found: Found, errors: t.Sequence[Problem]) -> SynapseError:
    return SynapseError(
        f"The signing key file {wanted.path} is not usable: {'; '.join(item.sentence() for item in errors)}. It was "
        f"left as it is. {_restore_hint(wanted, found)}",
        problems=[dataclasses.asdict(item) for item in (found.file.problems if found.file else ())],
    )


def _judge(events: Events, keys: t.Sequence[Known]) -> str:
    """Say whose the events are: ``ours``, ``foreign``, ``reused`` (our id, another key), ``unchecked``, ``none``."""
    if not events.signatures:
        return "none"
    verify_keys = {key.verify_key for key in keys}
    key_ids = {key.key_id for key in keys}

    def one(signature: Signature) -> str:
        if signature.verify_key in verify_keys:
            return "ours"
        if signature.key_id not in key_ids:
            return "foreign"
        return "unchecked" if signature.verdict == "unchecked" else "reused"

    verdicts = [one(signature) for signature in events.signatures]
    return "reused" if "reused" in verdicts else verdicts[0]


def _against_record(keys: t.Sequence[Known], record: Record) -> str | None:
    """Return what tells that the record's signing key is no longer the file's, or ``None``."""
    if not record.current:
        return None
    signing = record.current[0]
    if any((key.key_id, key.verify_key) == (signing.key_id, signing.verify_key) for key in keys):
        return None
    same = any(key.key_id == signing.key_id for key in keys)
    what = f"another key under the same id {signing.key_id}" if same else f"{_join(key.key_id for key in keys)}"
    return f"it holds {what}, while the record knows {signing.key_id} (verify key {signing.verify_key})"


def _against_events(keys: t.Sequence[Known], events: Events) -> str | None:
    """Return what tells that the server's events were not signed by these keys, or ``None``."""
    verdict = _judge(events, keys)
    newest = events.signatures[0].key_id if events.signatures else ""
    ids = _join(key.key_id for key in keys)
    if verdict == "reused":
        return f"events in {events.where} bear the id of {ids}, and their signatures are another key's"
    if verdict == "foreign":
        return f"it holds {ids}, while the newest event in {events.where} is signed by {newest}"
    return None


def _against_published(keys: t.Sequence[Known], published: Published) -> str | None:
    """Return what tells that the running server publishes none of these keys, or ``None``."""
    if not published.verify_keys or {key.verify_key for key in keys} & set(published.verify_keys.values()):
        return None
    ids = _join(key.key_id for key in keys)
    return f"it holds {ids}, while {published.url} publishes {_join(published.verify_keys)}"


def objection(keys: t.Sequence[Known], found: Found) -> str | None:
    """Return what tells that ``keys`` are not this server's, or ``None``. The record is asked first and is final."""
    record = found.record
    if record is not None and record.current:
        return _against_record(keys, record)
    return _against_events(keys, found.events) or _against_published(keys, found.published)


def _bans(keys: t.Sequence[Key], found: Found) -> tuple[Problem, ...]:
    """Keys that anybody knows, and public keys pasted in the place of private ones."""
    record = found.record or Record()
    public = {key.verify_key for key in record.current} | {key.verify_key for key in record.retired}
    public.update(found.published.verify_keys.values())
    problems = []
    for key in keys:
        if found.verify_keys.get(key.fingerprint) in BANNED:
            message = (
                f"{key.key_id} is a key that is public knowledge (ELEMENTSEC-2025-1670): anybody can sign in this "
                "server's name, and newer servers refuse it. Rotate it now with 'state: rotated'"
            )
            problems.append(Problem("banned", key.number, message))
        if key.encoded in public:
            message = f"{key.key_id} is the public key, not the private one: restore the private key from a backup"
            problems.append(Problem("public-key", key.number, message))
    return tuple(problems)


def _adopt(wanted: Wanted, found: Found, file: KeyFile) -> Plan:
    """Decide about a usable file that is not the one the record knows, or that no record knows yet."""
    before = tuple(key.key_id for key in file.keys)
    keep = Plan("keep", before, file.keys, problems=file.problems)
    if not found.complete:
        warning = f"The environment is missing, so it was not checked whether {wanted.path} is this server's own key."
        return dataclasses.replace(keep, action="record", write_record=True, warnings=(warning,))
    keys = known(file.keys, found.verify_keys, wanted.now)
    against = None if _is_pending(found, file) else objection(keys, found)
    if against is not None and not wanted.new_identity:
        mended = _mended(wanted, found)
        if mended is not None:
            return mended
        ids = found.events.key_ids
        signed = f" The server's events are signed by {_join(ids)}." if ids else ""
        raise SynapseError(
            f"The signing key {wanted.path} was replaced: {against}.{signed} It was left as it is. "
            f"{_restore_hint(wanted, found)} If the key now in place is right, accept it with {_NEW_IDENTITY}, "
            "once; the earlier one belongs into old_signing_keys."
        )
    if found.events.state == "unreadable" and not (found.record and found.record.current) and not wanted.new_identity:
        warning = (
            f"{found.events.where} cannot be read ({found.events.reason}), so it was not checked whether {wanted.path} "
            "is the key that signed this server's events, and no record of it was made."
        )
        return dataclasses.replace(keep, warnings=(warning,))
    return dataclasses.replace(keep, action="record", write_record=True, warnings=_earlier(keys, found.events))


def _is_pending(found: Found, file: KeyFile) -> bool:
    """Whether the file holds what an interrupted run was about to put there."""
    pending = found.record.pending if found.record is not None else None
    return pending is not None and tuple(key.fingerprint for key in pending.keys) == file.fingerprints


def _earlier(keys: t.Sequence[Known], events: Events) -> tuple[str, ...]:
    """Warn of keys that signed older events and are no longer in the file."""
    ids = {key.key_id for key in keys}
    earlier = [key_id for key_id in events.key_ids if key_id not in ids]
    if not earlier:
        return ()
    return (
        f"Older events in {events.where} are signed by {_join(earlier)}, which the key file no longer holds: it "
        "belongs into old_signing_keys, or other servers cannot verify them.",
    )


def _endorsed(content: t.Sequence[Known], file: t.Sequence[Known], found: Found) -> bool:
    """Whether evidence says that ``content`` is this server's key and the file's is not."""
    record = found.record
    if record is not None and record.current:
        return _against_record(content, record) is None and _against_record(file, record) is not None
    return _judge(found.events, content) == "ours" and _judge(found.events, file) != "ours"


def _restore(wanted: Wanted, found: Found, content: tuple[Key, ...]) -> Plan:
    """Decide about putting ``content`` where no usable file, or another one, is."""
    file = found.file
    before = () if file is None else tuple(key.key_id for key in file.keys)
    todo = Plan("restore", before, content, backup=file is not None, write_record=True)
    if not found.complete:
        return dataclasses.replace(todo, warnings=("The environment is missing: 'content' was not checked.",))
    keys = known(content, found.verify_keys, wanted.now)
    if file is not None and not file.errors:
        retired = {(key.key_id, key.verify_key) for key in (found.record or Record()).retired}
        if (keys[0].key_id, keys[0].verify_key) in retired:
            warning = f"'content' holds {keys[0].key_id}, which was rotated away: the key in {wanted.path} was kept."
            return dataclasses.replace(_present(dataclasses.replace(wanted, content=None), found), warnings=(warning,))
        present = known(file.keys, found.verify_keys, wanted.now)
        more = _holds(content, file.keys) and objection(keys, found) is None
        if wanted.new_identity or more or _endorsed(keys, present, found):
            return todo
        raise SynapseError(
            f"'content' holds {_ids(content)} and {wanted.path} holds {_ids(file.keys)}, and nothing shows that the "
            f"first is this server's own key and the second is not. Nothing was changed. Take {CONTENT} away to keep "
            f"the file, or say {_NEW_IDENTITY}, once, to replace it (it is kept as a backup)."
        )
    against = objection(keys, found)
    if against is not None and not wanted.new_identity:
        raise SynapseError(
            f"{CONTENT} is not the key that this server had: {against}. Nothing was written. Give the right one, or "
            f"say {_NEW_IDENTITY}, once, if this one is really wanted."
        )
    return todo


# What is wrong with a file of which nothing that was a key is lost.
_ADDED = frozenset({"bom", "encoding", "algorithm", "pem", "duplicate-line"})


def _proven(keys: t.Sequence[Key], found: Found) -> bool:
    """Whether evidence says that the first of ``keys`` is what this server signs with."""
    public = known(keys[:1], found.verify_keys, "")
    if not public:
        return False
    if found.record is not None and found.record.current:
        signing = found.record.current[0]
        return (public[0].key_id, public[0].verify_key) == (signing.key_id, signing.verify_key)
    return _judge(found.events, public) == "ours"


def _is_known(key: Key, found: Found) -> bool:
    """Whether the record, or a signature, knows this very key under this id."""
    public = [(item.key_id, item.verify_key) for item in known([key], found.verify_keys, "")]
    remembered = [(item.key_id, item.verify_key) for item in (found.record or Record()).current]
    signed = [(item.key_id, item.verify_key) for item in found.events.signatures]
    return bool(public) and public[0] in (*remembered, *signed)


def _one_of_each(keys: t.Sequence[Key], found: Found) -> tuple[Key, ...]:
    """Return the keys without those that bear another one's id and are not known to be the server's own."""
    doubled = {key.version for key in keys if any(key.version == other.version and key != other for other in keys)}
    return tuple(key for key in keys if key.version not in doubled or _is_known(key, found))


def _cleaned(found: Found) -> tuple[Key, ...]:
    """Return the keys of a file with errors that it can be reduced to without losing one; nothing where it cannot."""
    file = found.file
    if file is None or not file.errors or not file.intact:
        return ()
    kept = _one_of_each(file.intact, found)
    public = known(kept, found.verify_keys, "")
    if not kept or len(public) != len(kept):
        return ()
    lines = {key.number for key in file.intact}
    only_added = all(
        problem.id in _ADDED or (problem.id == "tokens" and problem.line in lines) for problem in file.errors
    )
    right = objection(public, found) is None if only_added else _proven(kept, found)
    return kept if right else ()


def _near(found: Found) -> Candidate | None:
    """Return the file near by that is proven to hold this server's own key; one with all of its keys before others."""
    fitting = [candidate for candidate in found.candidates if _proven(candidate.keys, found)]
    record = found.record.fingerprints if found.record is not None else ()
    whole = [item for item in fitting if tuple(key.fingerprint for key in item.keys) == record]
    return next(iter([*whole, *fitting]), None)


def _mended(wanted: Wanted, found: Found) -> Plan | None:
    """Return how the key comes back from what lies on this host, ``None`` where nothing proves that it would."""
    if not wanted.mend or not found.complete:
        return None
    before = () if found.file is None else tuple(key.key_id for key in found.file.keys)
    todo = Plan("restore", before, (), backup=found.file is not None, write_record=True)
    cleaned = _cleaned(found)
    if cleaned:
        return dataclasses.replace(todo, keys=cleaned, source=wanted.path)
    near = _near(found)
    return None if near is None else dataclasses.replace(todo, keys=near.keys, source=near.path)


def _same(content: tuple[Key, ...] | None, file: KeyFile | None) -> bool:
    """Whether the file signs with the first key of ``content`` and holds the others too, or no content was given."""
    return content is None or (file is not None and _holds(file.keys, content))


def _holds(more: tuple[Key, ...], less: tuple[Key, ...]) -> bool:
    """Whether ``more`` begins with the same key as ``less``, and has all its others."""
    return more[:1] == less[:1] and set(less) <= set(more)


def _present(wanted: Wanted, found: Found) -> Plan:
    """Decide for ``state: present``."""
    file = found.file
    if wanted.content is not None and (file is None or file.errors or not _same(wanted.content, file)):
        return _restore(wanted, found, wanted.content)
    if file is None:
        life = [] if wanted.new_identity else _life(wanted, found)
        mended = _mended(wanted, found) if life else None
        if mended is not None:
            return mended
        if life:
            raise _refuse_to_mint(wanted, found, life)
        if not (wanted.mint or wanted.new_identity):
            raise SynapseError(
                f"The signing key {wanted.path} is missing, and no new one was to be made. "
                f"{_restore_hint(wanted, found)} {_ACCEPT}"
            )
        unasked = found.events.state == "unasked"
        warning = f"The environment is missing, so {found.events.where} was not asked whether this server has events."
        return Plan("create", (), (), mint=True, write_record=True, warnings=(warning,) if unasked else ())
    if file.errors:
        mended = _mended(wanted, found)
        if mended is not None:
            return mended
        raise _broken(wanted, found, file.errors)
    if found.record is not None and found.record.fingerprints == file.fingerprints:
        return Plan("keep", tuple(key.key_id for key in file.keys), file.keys, problems=file.problems)
    return _adopt(wanted, found, file)


def _rotated(wanted: Wanted, found: Found) -> Plan:
    """Decide for ``state: rotated``: what ``present`` asks for must hold first."""
    file = found.file
    if file is None:
        raise SynapseError(
            f"There is no signing key at {wanted.path} to rotate. Run with 'state: present' first: it says whether a "
            "new key may be made or the old one has to be restored."
        )
    todo = _present(wanted, found)
    if todo.action == "restore":
        raise SynapseError(f"{CONTENT} restores a key and 'state: rotated' replaces it: ask for one of them.")
    done = _is_pending(found, file)
    if wanted.replaces is not None:
        earlier = {key.key_id for key in (found.record or Record()).retired} | {key.key_id for key in file.keys[1:]}
        done = done or file.keys[0].key_id != wanted.replaces
        if done and not _is_pending(found, file) and wanted.replaces not in earlier:
            raise SynapseError(
                f"'replaces' names {wanted.replaces}, which is no key of this server: {wanted.path} signs with "
                f"{file.keys[0].key_id}. Name that one."
            )
    if done:
        return todo
    return dataclasses.replace(todo, action="rotate", keys=file.keys[1:], mint=True, backup=True, write_record=True)


def _check_link(wanted: Wanted, found: Found, todo: Plan) -> None:
    """Refuse to replace a link: where it points to is the operator's business."""
    if todo.write_key and found.link is not None:
        state = "whose target is missing" if found.file is None else "which is read through and never replaced"
        raise SynapseError(
            f"{wanted.path} is a link to {found.link}, {state}. Nothing was written: mount or restore what it points "
            f"to, or name the target itself in {_PATH}."
        )


def plan(wanted: Wanted, found: Found) -> Plan:
    """Decide what to do; raises ``SynapseError`` where doing anything would be wrong."""
    other = found.record.server_name if found.record is not None else None
    moved = other is not None and wanted.server_name is not None and other != wanted.server_name
    if moved and not wanted.new_identity:
        raise SynapseError(
            f"{found.record_path} remembers the keys of {other}, and server_name is {wanted.server_name}. A server "
            "cannot be renamed: its users and rooms carry the name. Put the name right; for another server, name "
            f"another {_PATH}, or say {_NEW_IDENTITY}, once."
        )
    todo = _rotated(wanted, found) if wanted.state == "rotated" else _present(wanted, found)
    if moved and not todo.write_record:
        todo = dataclasses.replace(todo, action="record", write_record=True)
    _check_link(wanted, found, todo)
    bad = _bans(todo.keys, found)
    if bad:
        raise SynapseError(
            f"The signing key {wanted.path} must not be used: {'; '.join(item.sentence() for item in bad)}.",
            problems=[dataclasses.asdict(item) for item in bad],
        )
    return todo
