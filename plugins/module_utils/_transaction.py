# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What writing an installation's files as one transaction means. No I/O, no Ansible.

``plan`` says what differs from what is asked for, ``Journal`` holds what was there before the first change that asks
for a restart, ``undoing`` says how to get back to it.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._logs import redact
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import is_secret_name

__all__ = [
    "Change",
    "Entry",
    "Found",
    "Item",
    "Journal",
    "Undoing",
    "check_items",
    "diff_of",
    "diff_of_undoing",
    "entry_as_found",
    "entry_of",
    "is_of_another",
    "journal_from",
    "journal_with",
    "links_before",
    "masked",
    "plan",
    "reverting",
    "shown",
    "undoing",
]

Kind = t.Literal["absent", "file", "link", "directory", "other"]
Action = t.Literal["directory", "write", "link", "exchange", "remove", "attributes"]
Undoing = t.Literal[
    "nothing", "write", "link", "remove", "remove_directory", "attributes", "exchange_back", "rename_back", "drop_kept"
]

VERSION = 1
_HIGHEST_ID = 2**32 - 2  # Of 32 bits; the last number means "leave it as it is".
_BLOCK = re.compile(
    r"""^(\s*(?:- )?)["']?[\w.-]*(?:pass|secret|token|key)[\w.-]*["']?\s*:\s*[|>][-+0-9]*\s*(?:\#.*)?$""", re.I
)
_OPTION = re.compile(r"""^(\s*(?:- )*["']?([\w.-]+)["']?\s*:\s+)(\S.*)$""")
_PLAIN = re.compile(r"(?:true|false|null|~|\[\]|\{\})\s*(?:#.*)?", re.IGNORECASE)
_PEM = re.compile(r"-----(BEGIN|END) [A-Z ]*PRIVATE KEY-----")
_KINDS: tuple[Kind, ...] = ("absent", "file", "link", "directory")
_NAMES = {"file": "a file", "link": "a link", "directory": "a folder", "other": "neither file, link nor folder"}


@dataclass(frozen=True)
class Item:
    """One thing that is asked for. ``uid`` and ``gid`` stay ``None`` where the owner is not asked for or not yet known.

    ``unknown`` names users and groups that the host does not have yet (a dry run on a fresh host).
    """

    path: str
    state: t.Literal["file", "directory", "link", "absent"]
    content: bytes | None = field(default=None, repr=False)
    generate: int | None = None
    used_by: str | None = None
    target: str | None = None
    uid: int | None = None
    gid: int | None = None
    unknown: tuple[str, ...] = ()
    mode: int | None = None
    secret: bool = False
    restart: bool = True
    keep_as: str | None = None
    saved: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Found:
    """What lies at a path, links not followed.

    ``reaches_text`` is true for a link to a file that is not blank, ``in_use`` where the file that uses a secret
    names it.
    """

    kind: Kind
    uid: int = 0
    gid: int = 0
    mode: int = 0
    content: bytes | None = field(default=None, repr=False)
    target: str | None = None
    reaches_text: bool = False
    in_use: bool = False


@dataclass(frozen=True)
class Change:
    """One step of a plan: what to do at ``item.path``, and what will be there."""

    item: Item
    found: Found
    action: Action
    uid: int
    gid: int
    mode: int
    content: bytes | None = field(default=None, repr=False)
    keep_as: str | None = None

    @property
    def replaces(self) -> bool:
        """Whether this changes what is there, not only who may read it."""
        return self.action in {"write", "link", "exchange", "remove"}

    @property
    def restarts(self) -> bool:
        """Whether a running server has to be started anew to notice this."""
        return self.replaces and self.item.restart


@dataclass(frozen=True)
class Entry:
    """What lay at ``path`` before; enough to put it back exactly. ``kept`` is where a replaced folder waits.

    ``minted`` marks a secret that was made because there was none: going back does not destroy it. ``saved`` is where
    the copy of a file lies.
    """

    path: str
    kind: Kind
    uid: int = 0
    gid: int = 0
    mode: int = 0
    content: bytes | None = field(default=None, repr=False)
    target: str | None = None
    kept: str | None = None
    restart: bool = True
    minted: bool = False
    secret: bool = False
    saved: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Journal:
    """What the files were when the last proven state was left. ``first`` says that there was no such state.

    ``reverts`` says that it was left by going back by hand: what was there before is then what is to be left.
    ``run`` is the run that closes it, where that gave itself a name: the last one to write.
    """

    opened: str
    first: bool
    entries: tuple[Entry, ...] = ()
    reverts: bool = False
    run: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the changes that ask for a restart."""
        return tuple(entry.path for entry in self.entries if entry.restart)

    def data(self) -> dict[str, t.Any]:
        """Return the journal as JSON data; contents lie beside it, in files named by ``copy``."""
        return {
            "version": VERSION,
            "opened": self.opened,
            "first": self.first,
            **({"reverts": True} if self.reverts else {}),
            **({} if self.run is None else {"run": self.run}),
            "items": [
                {
                    "path": entry.path,
                    "kind": entry.kind,
                    "uid": entry.uid,
                    "gid": entry.gid,
                    "mode": f"{entry.mode:04o}",
                    "copy": str(number) if entry.kind == "file" else None,
                    "target": entry.target,
                    "kept": entry.kept,
                    "restart": entry.restart,
                    "minted": entry.minted,
                    "secret": entry.secret,
                }
                for number, entry in enumerate(self.entries)
            ],
        }


def _typed(item: t.Any, key: str, *kinds: type) -> t.Any:
    """Return ``item[key]``; raise ``ValueError`` where it is none of ``kinds``, of which ``bool`` is no ``int``."""
    value = item[key]
    if type(value) not in kinds:
        raise ValueError(f"{key!r} is {value!r} in it")
    return value


def _within(number: int, highest: int, key: str) -> int:
    if not 0 <= number <= highest:
        raise ValueError(f"{key!r} is {number} in it")
    return number


def _entry_from(item: t.Any, contents: t.Callable[[str], bytes]) -> Entry:
    if item["kind"] not in _KINDS:
        raise ValueError(f"it holds the unknown kind {item['kind']!r}")
    path, kept = _typed(item, "path", str), _typed(item, "kept", str, type(None))
    if not os.path.isabs(path):
        raise ValueError(f"it holds the relative path {path!r}")
    copy = _typed(item, "copy", str, type(None))
    target = _typed(item, "target", str, type(None))
    # Without these the way back would write an empty file, or a link to nowhere, over what is there.
    if item["kind"] == "file" and copy is None:
        raise ValueError(f"it names no copy of {path}")
    if item["kind"] == "link" and not target:
        raise ValueError(f"it does not say where the link {path} pointed")
    return Entry(
        path=path,
        kind=item["kind"],
        uid=_within(_typed(item, "uid", int), _HIGHEST_ID, "uid"),
        gid=_within(_typed(item, "gid", int), _HIGHEST_ID, "gid"),
        mode=_within(int(_typed(item, "mode", str), 8), 0o7777, "mode"),
        content=None if copy is None else contents(copy),
        target=target,
        kept=kept,
        restart=_typed(item, "restart", bool),
        minted=_typed(item, "minted", bool),
        secret=_typed(item, "secret", bool),
        saved=copy,
    )


def journal_from(data: t.Any, contents: t.Callable[[str], bytes]) -> Journal:
    """Read what ``Journal.data`` returned; ``contents`` yields a saved copy by its name.

    Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything that ``Journal.data`` does not return.
    """
    if data["version"] != VERSION:
        raise ValueError(f"its format is {data['version']!r}, this collection knows {VERSION}")
    entries = tuple(_entry_from(item, contents) for item in _typed(data, "items", list))
    reverts = _typed(data, "reverts", bool) if "reverts" in data else False
    run = _typed(data, "run", str) if "run" in data else None
    return Journal(_typed(data, "opened", str), _typed(data, "first", bool), entries, reverts, run)


def is_of_another(journal: Journal, run: str | None) -> bool:
    """Whether another run than ``run`` has written last, and so closes the transaction. Who has no name may always."""
    return journal.run is not None and run is not None and journal.run != run


def check_items(items: t.Sequence[Item], reserved: str | None = None) -> None:
    """Raise ``SynapseError`` where the items contradict themselves or each other; ``reserved`` is the transaction's."""
    seen: dict[str, Item] = {}
    for item in items:
        if not os.path.isabs(item.path) or os.path.normpath(item.path) != item.path:
            raise SynapseError(
                f"files: {item.path!r} is not a plain absolute path: write it from the root, without '..', '.', "
                "doubled or trailing slashes."
            )
        if item.path in seen:
            raise SynapseError(f"files: {item.path} is listed twice: say in one item what shall be there.")
        if reserved is not None and _inside(item.path, reserved) and item.path != reserved:
            raise SynapseError(
                f"files: {item.path} lies in the transaction's own folder {reserved}: choose another path."
            )
        if item.generate is not None and not 16 <= item.generate <= 4096:
            raise SynapseError(f"files: {item.path}: generate is {item.generate}: ask for 16 to 4096 characters.")
        seen[item.path] = item
    for item in items:
        above = os.path.dirname(item.path)
        while above not in {"/", "//"}:
            if above in seen and seen[above].state != "directory":
                raise SynapseError(
                    f"files: {item.path} would lie below {above}, which is asked for as {seen[above].state!r}: "
                    "correct one of the two."
                )
            above = os.path.dirname(above)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _depth(path: str) -> int:
    return path.count("/")


def plan(items: t.Sequence[Item], found: t.Mapping[str, Found], *, uid: int, gid: int) -> tuple[Change, ...]:
    """Return what to do, folders first, parents before children; ``uid`` and ``gid`` are this process's.

    Raises ``SynapseError`` where something is in the way.
    """
    folders = sorted((item for item in items if item.state == "directory"), key=lambda item: _depth(item.path))
    others = [item for item in items if item.state != "directory"]
    changes = (_change(item, found[item.path], uid, gid) for item in [*folders, *others])
    return tuple(change for change in changes if change is not None)


def _change(item: Item, found: Found, uid: int, gid: int) -> Change | None:
    if item.state == "absent":
        return _absent(item, found)
    if item.state == "link":
        return _link(item, found, uid, gid)
    if item.state == "directory":
        return _directory(item, found, uid, gid)
    return _file(item, found, uid, gid)


def _in_the_way(item: Item, found: Found, wanted: str) -> SynapseError:
    return SynapseError(
        f"{item.path} is {_NAMES[found.kind]}, where {wanted} is wanted: look at it, and move it away if nothing needs "
        "it. Nothing was changed."
    )


def _absent(item: Item, found: Found) -> Change | None:
    if found.kind == "absent":
        return None
    if found.kind in {"directory", "other"}:
        raise _in_the_way(item, found, "nothing")
    return Change(item, found, "remove", found.uid, found.gid, found.mode)


def _wanted(item: Item, found: Found, same: bool, default: tuple[int, int, int]) -> tuple[int, int, int]:
    """Owner, group and mode to be: what is asked for, else what is there, else the default."""
    base = (found.uid, found.gid, found.mode) if same else default
    return (
        base[0] if item.uid is None else item.uid,
        base[1] if item.gid is None else item.gid,
        base[2] if item.mode is None else item.mode,
    )


def _differs(item: Item, found: Found, wanted: tuple[int, int, int]) -> bool:
    return bool(item.unknown) or wanted != (found.uid, found.gid, found.mode)


def _directory(item: Item, found: Found, uid: int, gid: int) -> Change | None:
    if found.kind not in {"absent", "directory"}:
        raise _in_the_way(item, found, "a folder")
    wanted = _wanted(item, found, found.kind == "directory", (uid, gid, 0o755))
    if found.kind == "absent":
        return Change(item, found, "directory", *wanted)
    return Change(item, found, "attributes", *wanted) if _differs(item, found, wanted) else None


def _link(item: Item, found: Found, uid: int, gid: int) -> Change | None:
    if found.kind == "other":
        raise _in_the_way(item, found, "a link")
    # The mode of a link means nothing on Linux; what is there is taken for what is wanted.
    wanted = _wanted(replace(item, mode=None), found, found.kind == "link", (uid, gid, 0o777))
    if found.kind == "directory":
        return Change(item, found, "exchange", *wanted, keep_as=item.keep_as)
    if found.kind != "link" or found.target != item.target:
        return Change(item, found, "link", *wanted)
    return Change(item, found, "attributes", *wanted) if _differs(item, found, wanted) else None


def _file(item: Item, found: Found, uid: int, gid: int) -> Change | None:
    if found.kind in {"directory", "other"}:
        raise _in_the_way(item, found, "a file")
    wanted = _wanted(item, found, found.kind == "file", (uid, gid, 0o600 if item.secret else 0o644))
    if item.generate is not None:
        if found.kind == "link":
            if found.reaches_text:
                return None  # A secret that is kept elsewhere, and cared for there.
            raise SynapseError(
                f"{item.path} is a link to {found.target}, where there is no secret: put the secret there, or "
                "remove the link."
            )
        if found.kind == "absent" or not (found.content or b"").strip():
            if found.in_use:
                raise _lost(item, found)
            return Change(item, found, "write", *wanted)
    elif found.kind != "file" or found.content != item.content:
        return Change(item, found, "write", *wanted, content=item.content)
    return Change(item, found, "attributes", *wanted) if _differs(item, found, wanted) else None


def _lost(item: Item, found: Found) -> SynapseError:
    what = "missing" if found.kind == "absent" else "empty"
    return SynapseError(
        f"{item.path} is {what}, and {item.used_by} names it: this secret was in use and is lost, and a new one would "
        "end what was signed with it. Put the file back from a backup of the host, or give its text as secret_content "
        f"(in the role synapse: synapse_{os.path.basename(item.path)}, from a vault): the old one, or, where that does "
        "no harm, a new one. Nothing was changed."
    )


def entry_of(change: Change) -> Entry:
    """Return what has to be remembered before ``change`` is made."""
    found = change.found
    return Entry(
        path=change.item.path,
        kind=found.kind,
        uid=found.uid,
        gid=found.gid,
        mode=found.mode,
        content=found.content if found.kind == "file" else None,
        target=found.target,
        kept=change.keep_as,
        restart=change.restarts,
        minted=change.item.generate is not None,
        secret=change.item.secret,
    )


def entry_as_found(entry: Entry, now: Found) -> Entry:
    """Return what lies at the path of ``entry`` now, in the form in which it can be kept."""
    content = now.content if now.kind == "file" else None
    return Entry(entry.path, now.kind, now.uid, now.gid, now.mode, content, now.target, secret=entry.secret)


def journal_with(
    journal: Journal | None,
    changes: t.Sequence[Change],
    found: t.Mapping[str, Found],
    items: t.Sequence[Item],
    now: str,
) -> Journal | None:
    """Return the journal that must be on disk before ``changes`` are made; ``None`` where none is needed.

    What is saved already stays: the oldest state is the last proven one. ``now`` is the time, as text. It is a first
    deployment until something is seen that a server works with, and that this transaction did not bring.
    """
    if journal is None and not any(change.restarts for change in changes):
        return None
    if journal is None:
        journal = Journal(now, first=True)
    saved = {entry.path: entry for entry in journal.entries}
    if journal.first and any(_was_there(item, found[item.path], saved.get(item.path)) for item in items):
        journal = replace(journal, first=False)
    added = [entry_of(change) for change in changes if change.replaces and change.item.path not in saved]
    # What was saved for another reason, and now changes in a way that asks for a restart, asks for one.
    urgent = {change.item.path for change in changes if change.restarts}
    entries = [replace(entry, restart=entry.restart or entry.path in urgent) for entry in journal.entries]
    return replace(journal, entries=(*entries, *added))


def _was_there(item: Item, found: Found, saved: Entry | None) -> bool:
    """Whether ``item`` is a sign of an earlier installation. Minted secrets are none: they outlive a failed one."""
    if not item.restart or item.state not in {"file", "link"} or item.generate is not None:
        return False
    return (found.kind if saved is None else saved.kind) != "absent"


def reverting(
    journals: t.Sequence[Journal], path: str, now: Found, unfinished: Journal | None = None
) -> tuple[Item, ...]:
    """Return the items that take back every transaction up to the newest one that changed ``path``.

    ``journals`` are the committed ones, newest first; ``now`` is what lies at ``path``. A folder that a link replaced
    is not moved back: the link leads to where it is kept, so that it is one rename again. ``unfinished`` is the open
    journal: what it changed at ``path`` is what is taken back, unless it is of a run that was going back itself and
    was interrupted. Such a run is finished.

    Raises ``SynapseError`` where there is nothing to go back to.
    """
    before: dict[str, Entry] = {}
    left = now.target
    if unfinished is not None:
        before.update({entry.path: entry for entry in unfinished.entries if not entry.minted})
        mark = before.get(path)
        if mark is not None and not unfinished.reverts:
            if mark.kind == "absent":
                raise _nowhere(path)
            return _items_of(before)
        if mark is not None:
            left = _leads_to(before.pop(path))
    for journal in journals:
        before.update({entry.path: entry for entry in journal.entries if not entry.minted})
        mark = next((entry for entry in journal.entries if entry.path == path), None)
        if mark is None or _leads_to(mark) == left:
            continue
        if mark.kind == "absent":
            break
        return _items_of(before)
    raise _nowhere(path)


def _nowhere(path: str) -> SynapseError:
    return SynapseError(
        f"There is nothing to go back to: no transaction is remembered in which {path} was changed from something that "
        "served before. Name the version to go to instead. Nothing was changed."
    )


def _items_of(entries: t.Mapping[str, Entry]) -> tuple[Item, ...]:
    items = (_item_of(entry) for entry in entries.values())
    return tuple(item for item in items if item is not None)


def _leads_to(entry: Entry) -> str | None:
    return entry.kept if entry.kind == "directory" else entry.target


def links_before(journal: Journal) -> dict[str, str]:
    """Return where links led before the transaction; a folder that gave way is named by where it is kept."""
    led = {entry.path: _leads_to(entry) for entry in journal.entries if entry.kind in {"link", "directory"}}
    return {path: target for path, target in led.items() if target is not None}


def _item_of(entry: Entry) -> Item | None:
    """Return the item that asks for what ``entry`` remembers."""
    if entry.kind == "absent":
        return Item(entry.path, "absent", restart=entry.restart)
    if entry.kind == "file":
        return Item(
            entry.path,
            "file",
            content=entry.content,
            uid=entry.uid,
            gid=entry.gid,
            mode=entry.mode,
            secret=entry.secret,
            restart=entry.restart,
            saved=entry.saved,
        )
    target = _leads_to(entry)
    return None if target is None else Item(entry.path, "link", target=target, restart=entry.restart)


def undoing(entry: Entry, now: Found, kept: Found | None = None) -> Undoing:
    """Return how to get from ``now`` back to ``entry``; ``kept`` is what lies at ``entry.kept``.

    Raises ``SynapseError`` where that cannot be done without losing something.
    """
    if entry.minted:
        return "nothing"
    if entry.kind == "absent":
        return _undo_creation(now)
    if entry.kind == "directory":
        return _undo_exchange(entry, now, kept)
    if now.kind in {"directory", "other"}:
        raise SynapseError(
            f"Cannot put back {entry.path}: {_NAMES[now.kind]} is there now. Move it away and run again."
        )
    same = now.kind == entry.kind and (now.content, now.target) == (entry.content, entry.target)
    if not same:
        return "write" if entry.kind == "file" else "link"
    return "nothing" if (now.uid, now.gid, now.mode) == (entry.uid, entry.gid, entry.mode) else "attributes"


def _undo_creation(now: Found) -> Undoing:
    if now.kind == "absent":
        return "nothing"
    return "remove_directory" if now.kind == "directory" else "remove"


def _undo_exchange(entry: Entry, now: Found, kept: Found | None) -> Undoing:
    if now.kind == "directory":
        if kept is not None and kept.kind == "link":
            return "drop_kept"
        return "nothing" if (now.uid, now.gid, now.mode) == (entry.uid, entry.gid, entry.mode) else "attributes"
    if kept is None or kept.kind != "directory":
        raise SynapseError(
            f"Cannot put back the folder {entry.path}: it was kept as {entry.kept}, and is not there any more. "
            "Put it back by hand, then run again."
        )
    if now.kind == "absent":
        return "rename_back"
    if now.kind == "link":
        return "exchange_back"
    raise SynapseError(f"Cannot put back the folder {entry.path}: {_NAMES[now.kind]} is there now. Move it away first.")


def _without_value(line: str) -> str:
    """One line of YAML without its value, where its key says that this is a secret, however it is quoted."""
    option = _OPTION.match(line)
    if option is not None and is_secret_name(option.group(2)):
        return line if _PLAIN.fullmatch(option.group(3)) else option.group(1) + "***"
    return redact(line)


def masked(text: str) -> str:
    """Return ``text`` without the values that look like secrets.

    A file that was made by hand, and that this collection replaces, may well hold some.
    """
    lines = []
    hidden: int | None = None  # how far the key is indented whose block is being left out
    pem = False
    for line in text.splitlines(keepends=True):
        marker = _PEM.search(line)
        if marker is not None:
            pem = marker.group(1) == "BEGIN"
        block = _BLOCK.match(line)
        if hidden is not None and line.strip() and len(line) - len(line.lstrip()) <= hidden:
            hidden = None
        if (pem and marker is None) or (hidden is not None and line.strip()):
            lines.append("***\n")
        elif block is not None:
            lines.append(line)
        else:
            # By lines, or the key of a mapping would take the first key in it for its value.
            body = line.rstrip("\r\n")
            lines.append(_without_value(body) + line[len(body) :])
        if hidden is None and block is not None:
            hidden = len(block.group(1))
    return "".join(lines)


def shown(kind: Kind, content: bytes | None, target: str | None, *, secret: bool, new: bool = False) -> str:
    """Return what a diff shows of a file: its text, or of a secret its length alone."""
    if kind == "link":
        return f"link to {target}\n"
    if kind == "directory":
        return "folder\n"
    if content is None:
        return ""
    if secret:
        word = "new secret" if new else "secret"
        return f"({word}, {len(content.decode('utf-8', 'replace'))} characters)\n"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return f"({len(content)} bytes, not text)\n" if "\0" in text else masked(text)


def _rights(uid: int, gid: int, mode: int) -> str:
    return f"owner: {uid}\ngroup: {gid}\nmode: {mode:04o}\n"


def diff_of(change: Change) -> list[dict[str, str]]:
    """Return what ``--diff`` shows of one change: contents, and owner and mode, as far as they differ."""
    item, found = change.item, change.found
    diffs = []
    if change.replaces:
        secret = item.secret
        if change.action in {"link", "exchange"}:
            after = shown("link", None, item.target, secret=False)
        elif item.generate is not None:
            after = f"(new secret, {item.generate} characters)\n"
        else:
            after = shown("file", change.content, None, secret=secret, new=True)
        before = shown(found.kind, found.content, found.target, secret=secret)
        if before == after:
            after += "(differs in what is not shown)\n"
        diffs.append({"before_header": item.path, "after_header": item.path, "before": before, "after": after})
    rights = _diff_of_rights(change)
    if rights is not None:
        diffs.append(rights)
    return diffs


def _diff_of_rights(change: Change) -> dict[str, str] | None:
    item, found = change.item, change.found
    if change.action == "remove":
        return None
    before = "" if found.kind == "absent" else _rights(found.uid, found.gid, found.mode)
    after = _rights(change.uid, change.gid, change.mode)
    if change.action in {"link", "exchange"}:
        before = after = ""
    if item.unknown:
        after += "".join(f"{name}, which this host does not have yet\n" for name in item.unknown)
    if before == after:
        return None
    header = f"{item.path} (owner and mode)"
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def diff_of_undoing(entry: Entry, now: Found) -> dict[str, str]:
    """Return what ``--diff`` shows where ``entry`` is put back."""
    before = shown(now.kind, now.content, now.target, secret=entry.secret)
    after = shown(entry.kind, entry.content, entry.target, secret=entry.secret, new=True)
    if before == after and (now.kind, now.content, now.target) != (entry.kind, entry.content, entry.target):
        after += "(differs in what is not shown)\n"
    if before == after:
        before, after = _rights(now.uid, now.gid, now.mode), _rights(entry.uid, entry.gid, entry.mode)
    return {"before_header": entry.path, "after_header": entry.path, "before": before, "after": after}
