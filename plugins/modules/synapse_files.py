#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_files
short_description: Write the files of a Synapse installation as one transaction
version_added: 0.1.0
description:
  - Makes folders, files, links and secrets of an installation what they should be, in one remote task.
  - All or nothing. Every file is first written beside its place, and only then all of them are renamed into place;
    where anything fails, what this task did is undone.
  - Folders on the way to an item may belong to another user, such as the one that the service runs as. What that user
    renames or links there meanwhile cannot lead this module elsewhere; a link of that user on the way is refused.
  - Owner and mode hold from the first instant of a file's existence. Where only they differ, they are corrected in
    place.
  - With O(transaction), what lay at a path before the first change that asks for a restart is saved. The transaction
    stays open, over several runs and over interruptions, until O(state=committed) says that the server has been seen
    to work with the new files, or O(state=rolled_back) puts back exactly what was there before.
author:
  - Matrix Fleet maintainers (@matrix-fleet)
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - Users and groups that do not exist yet are taken for ones that an earlier task would have made.
  diff_mode:
    details:
      - Of a secret only its length is shown. In other files, values that look like secrets are masked, because a
        file that was made by hand may hold some.
  platform:
    platforms: linux
options:
  state:
    description:
      - V(present) makes O(files) what they should be.
      - V(committed) closes the transaction that is open in O(transaction), and keeps the saved files as a backup.
      - V(rolled_back) puts back every file as it was when the transaction was opened, and closes it.
        A first deployment has nothing to go back to (RV(can_roll_back=false)); it is left as it is, with the
        transaction open.
      - V(reverted) goes back to what was there before the newest change of O(until), all that was changed with it and
        since included, as a transaction of its own, which is open until it is committed or rolled back.
        Where a transaction that changed O(until) is open, it is that one which is taken back; one that was going back
        itself and was interrupted is finished.
        What a link leads to must still be there.
    type: str
    choices: [present, committed, rolled_back, reverted]
    default: present
  run:
    description:
      - A name for the run that this task is a part of, the same in all its tasks and in no other run, see
        RV(matrix_fleet.synapse.synapse_host#module:run).
      - With O(state=present) and O(state=reverted) the open transaction is this run's from now on. One that an earlier
        run left open, because it was killed or because it is still at work, is so taken over.
      - O(state=committed) and O(state=rolled_back) are refused where another run has taken over, because it is that one
        that has to prove what is in place now.
      - Without it, a transaction is left to whom it belongs, and closed whoever it belongs to.
    type: str
  until:
    description:
      - For O(state=reverted), the path whose newest change is to be taken back, such as the link to the live release.
      - What the backups in O(transaction) do not remember cannot be taken back, see O(keep_backups).
    type: path
  close:
    description:
      - Whether O(state=rolled_back) closes the transaction.
      - With V(false) it stays open, so that a run which is interrupted before the server was started anew leaves
        RV(pending) to the next one. Once it was, ask for O(state=rolled_back) again.
    type: bool
    default: true
  transaction:
    description:
      - Folder for what has to be remembered to go back. It is made where it is missing, with mode V(0700).
      - It must belong to the user that runs the task; one that somebody else made is refused.
      - Without it nothing is saved; then RV(pending) speaks of this run alone.
    type: path
  keep_backups:
    description:
      - How many backups to keep in the folder C(backups) of O(transaction).
      - They hold secrets as the files did, and only the user that runs the task can read them.
      - Each holds what one transaction replaced, or what one run replaced outside of one, and a C(journal.json) that
        names the paths, owners and modes.
    type: int
    default: 5
  redact:
    description:
      - Values that stand in a O(files[].content) and must be kept out of everything that is printed, such as a password
        that an option of Synapse takes in no other way.
    type: list
    elements: str
    default: []
  files:
    description:
      - What should be there. Folders are made first, parents before children, then the rest in the order given.
      - Folders above an item that are missing and not listed are made with mode V(0755).
    type: list
    elements: dict
    suboptions:
      path:
        description: Where it lies. Absolute, without V(..).
        type: path
        required: true
      state:
        description:
          - What it is.
          - V(directory) takes a link to a folder for the folder where every link on the way belongs to root or to the
            user that runs the task; another is refused.
          - V(absent) removes a file or link; a folder is refused.
          - V(link) replaces a folder too, by one step of the kernel where it can; the folder is kept, see
            O(files[].keep_as).
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description:
          - What the file holds. Shown in C(--diff), with what looks like a secret masked; a secret as such belongs into
            O(files[].secret_content).
        type: str
      secret_content:
        description:
          - What the file holds, where that is a secret. Implies O(files[].secret=true).
        type: str
      generate:
        description:
          - Mint a random secret of this many characters (letters, digits, C(-) and C(_)) where the file is missing or
            blank. What is there is never replaced. Implies O(files[].secret=true).
          - Where O(files[].secret_content) is given too, that is what the file will hold.
        type: int
      used_by:
        description:
          - A file that names the path of this secret where the secret is in use, such as C(homeserver.yaml).
          - Where it does, and the secret is missing or blank, the secret was lost. Then nothing is minted, and the
            module fails and tells how to bring the secret back.
        type: path
      target:
        description: Where the link points, for O(files[].state=link).
        type: str
      owner:
        description:
          - Name or number of the owner.
          - What is there stays where this is not given; new files belong to the user that runs the task.
        type: str
      group:
        description: Name or number of the group. What is there stays where this is not given.
        type: str
      mode:
        description:
          - Mode in octal digits and quotes.
          - What is there stays where this is not given; new folders get V(0755), secrets V(0600), other files V(0644).
        type: str
      secret:
        description: Whether what lies there is a secret, so that C(--diff) shows its length alone.
        type: bool
        default: false
      restart:
        description:
          - Whether a running server has to be restarted where the contents or the target of this change.
          - A change of owner or mode alone never asks for one.
        type: bool
        default: true
      keep_as:
        description:
          - Where a folder goes that a link replaces. On the same file system.
          - The default is C(adopted-TIME) beside the link's target, with the time when the folder was last changed.
        type: path
"""

EXAMPLES = r"""
- name: Make the folders and the secrets
  matrix_fleet.synapse.synapse_files:
    files:
      - {path: /etc/synapse, state: directory, owner: root, group: synapse, mode: "0750"}
      - {path: /etc/synapse/secrets, state: directory, owner: root, group: synapse, mode: "0750"}
      - {path: /etc/synapse/secrets/macaroon_secret_key, generate: 64, owner: root, group: synapse, mode: "0640",
         used_by: /etc/synapse/homeserver.yaml}

- name: Write the configuration and switch to the new environment
  matrix_fleet.synapse.synapse_files:
    transaction: /etc/synapse/.transaction
    files:
      - path: /etc/synapse/homeserver.yaml
        content: "{{ lookup('ansible.builtin.template', 'homeserver.yaml.j2') }}"
        owner: root
        group: synapse
        mode: "0640"
      - path: /var/lib/synapse/venv
        state: link
        target: /var/lib/synapse/releases/1.163.2-0123456789ab
  register: files

- name: Keep what has been seen to work
  matrix_fleet.synapse.synapse_files:
    transaction: /etc/synapse/.transaction
    state: committed
  when: files.pending

- name: Put back what worked
  matrix_fleet.synapse.synapse_files:
    transaction: /etc/synapse/.transaction
    state: rolled_back

- name: Go back to the release that was live before, with the configuration that it had
  matrix_fleet.synapse.synapse_files:
    transaction: /etc/synapse/.transaction
    state: reverted
    until: /var/lib/synapse/venv
"""

RETURN = r"""
files_changed:
  description: Paths where contents, target, owner or mode changed, in the order of the changes.
  returned: success
  type: list
  elements: str
  sample: [/etc/synapse/homeserver.yaml]
pending:
  description:
    - Whether something that asks for a restart was changed, by this run or by an earlier one, and was neither committed
      nor rolled back since.
  returned: success
  type: bool
  sample: true
pending_paths:
  description: The paths because of which RV(pending) is true.
  returned: success
  type: list
  elements: str
  sample: [/etc/synapse/homeserver.yaml]
can_roll_back:
  description: Whether a transaction is open, and there was an installation before it.
  returned: success
  type: bool
  sample: true
links:
  description:
    - Where the links lead that this run was about, by path. With O(state=rolled_back), where they lead once they are
      put back, in check mode too; a folder that was replaced by a link is named by where it is kept.
  returned: success and there are some
  type: dict
  sample: {"/var/lib/synapse/venv": "/var/lib/synapse/releases/1.163.2-0fe18e3fa5d7"}
before:
  description:
    - Where links led before the transaction that this task found open, by path, and would lead again if it is rolled
      back.
  returned: with O(state=present) and O(state=reverted)
  type: dict
  sample: {"/var/lib/synapse/venv": "/var/lib/synapse/releases/1.150.0-2d1c6b9e0a47"}
saved:
  description:
    - Where the copies lie of the files that are put back, or would be, by path. They are gone once the transaction is
      closed.
  returned: with O(state=reverted), and with O(state=rolled_back) in check mode
  type: dict
  sample: {"/etc/synapse/homeserver.yaml": "/etc/synapse/.transaction/backups/20260102T030405Z/0"}
taken_over:
  description: Whether the task was refused because another O(run) has taken over.
  returned: when it was
  type: bool
  sample: true
kept:
  description: Folder where a rollback left copies of what did not work, for study.
  returned: where there is one
  type: str
  sample: /etc/synapse/.transaction/failed/20260102T030405Z
backup:
  description: Folder where this run left copies of what was replaced.
  returned: where there is one
  type: str
  sample: /etc/synapse/.transaction/backups/20260102T030405Z
"""

import contextlib
import dataclasses
import os
import secrets
import stat
import string
import time
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _transaction
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._files import Ownership
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._journal import Store, timestamp
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._module import DiscreetModule
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._pinned import Pins
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._transaction import (
    Change,
    Entry,
    Found,
    Item,
    Journal,
)

# Whatever is done at a path of an item goes through this.
_PINS = Pins()

_ALPHABET = string.ascii_letters + string.digits + "-_"


def folder_behind(path: str) -> str | None:
    """Return the folder that the link ``path`` leads to, without any link in its name.

    ``None`` where there is none, or where a link on the way belongs to neither root nor this process's user: who may
    write where the folder should be could make one, and be given any folder of the host.
    """
    real, rest, links = "/", list(reversed(path.split("/"))), 0
    try:
        while rest:
            name = rest.pop()
            step = os.path.normpath(os.path.join(real, name))
            status = os.lstat(step)
            if not stat.S_ISLNK(status.st_mode):
                real = step
                continue
            links += 1
            if status.st_uid not in {0, os.geteuid()} or links > 40:
                return None
            target = os.readlink(step)
            real = "/" if os.path.isabs(target) else real
            rest.extend(reversed(target.split("/")))
        return real if stat.S_ISDIR(os.lstat(real).st_mode) else None
    except OSError:
        return None


def look(path: str, *, content: bool = False, through: bool = False) -> Found:
    """Return what lies at ``path``; with ``through``, a link to a folder that can be trusted counts as it."""
    place = _PINS.reach(path)
    try:
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            real = folder_behind(path) if through else None
            if real is None:
                return Found("link", status.st_uid, status.st_gid, 0o777, target=os.readlink(place))
            status = os.lstat(_PINS.reach(real))
    except FileNotFoundError:
        return Found("absent")
    except OSError as error:
        raise SynapseError(f"Cannot look at {_files.describe(path, error)}. Nothing was changed.") from error
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Found("directory", status.st_uid, status.st_gid, mode)
    if not stat.S_ISREG(status.st_mode):
        return Found("other", status.st_uid, status.st_gid, mode)
    data = _files.read(place, follow=False) if content else None
    return Found("file", status.st_uid, status.st_gid, mode, content=data)


def look_at(item: Item) -> Found:
    """Return what lies where ``item`` should be."""
    found = look(item.path, content=item.state != "directory", through=item.state == "directory")
    if item.generate is None:
        return found
    if found.kind == "link":
        with contextlib.suppress(SynapseError):
            return dataclasses.replace(found, reaches_text=bool((_files.read(_PINS.reach(item.path)) or b"").strip()))
    elif item.used_by is not None and not (found.content or b"").strip():
        user = look(item.used_by, content=True)
        return dataclasses.replace(found, in_use=os.fsencode(item.path) in (user.content or b""))
    return found


def item_from(params: dict[str, t.Any], *, check_mode: bool) -> Item:
    """Return one element of the option ``files``. Raises ``SynapseError`` where it contradicts itself."""
    path = params["path"]
    if params["secret"] and params["content"] is not None:
        raise SynapseError(
            f"files: {path}: a secret is given as 'content', which --diff shows: give it as 'secret_content'."
        )
    text = params["content"] if params["content"] is not None else params["secret_content"]
    ownership = Ownership()
    unknown: tuple[str, ...] = ()
    for owner, group in ((params["owner"], None), (None, params["group"])):
        try:
            half = _files.resolve(owner, group)
        except SynapseError:
            # A number needs no user; one that is refused is wrong, and no later task makes it right.
            if not check_mode or (owner or group or "").isdecimal():
                raise
            unknown = (*unknown, f"owner {owner}" if owner is not None else f"group {group}")
        else:
            ownership = Ownership(
                ownership.uid if half.uid is None else half.uid, ownership.gid if half.gid is None else half.gid
            )
    return Item(
        path=path,
        state=params["state"],
        content=None if text is None else text.encode("utf-8", "surrogateescape"),
        generate=None if params["secret_content"] is not None else params["generate"],
        used_by=params["used_by"],
        target=params["target"],
        uid=ownership.uid,
        gid=ownership.gid,
        unknown=unknown,
        mode=None if params["mode"] is None else _files.parse_mode(params["mode"]),
        secret=params["secret"] or params["secret_content"] is not None or params["generate"] is not None,
        restart=params["restart"],
        keep_as=params["keep_as"],
    )


def kept_place(item: Item, journal: Journal | None) -> str:
    """Return where the folder goes that the link ``item`` replaces; the same place again after an interruption."""
    for entry in journal.entries if journal is not None else ():
        if entry.path == item.path and entry.kept is not None:
            return entry.kept
    if item.keep_as is not None:
        place = item.keep_as
    else:
        beside = os.path.dirname(os.path.join(os.path.dirname(item.path), item.target or ""))
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(os.stat(_PINS.reach(item.path)).st_mtime))
        place = os.path.join(os.path.normpath(beside), f"adopted-{moment}")
    number, free = 1, place
    # A link to the same target there is what an interrupted run left.
    while look(free).kind != "absent" and look(free).target != item.target:
        number += 1
        free = f"{place}-{number}"
    return free


def set_rights(path: str, kind: str, uid: int, gid: int, mode: int) -> None:
    """Give an existing thing its owner and mode, at no instant wider than both old and new."""
    place = _PINS.reach(path)
    if kind == "link":
        os.chown(place, uid, gid, follow_symlinks=False)
        return
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    if kind == "directory":
        flags |= os.O_DIRECTORY
        if os.path.islink(place):
            # A link that may have been put there since the plan was made is opened as what it is, which fails.
            place = _PINS.reach(folder_behind(path) or path)
    handle = os.open(place, flags)
    try:
        status = os.fstat(handle)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchmod(handle, stat.S_IMODE(status.st_mode) & mode)
            os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def put_back(entry: Entry) -> bool:
    """Make what lies at the path of ``entry`` what it was; return whether there was anything to do."""
    # A folder that was not replaced may have been reached by a link.
    through = entry.kind == "directory" and entry.kept is None
    now = look(entry.path, content=entry.kind == "file", through=through)
    kept = None if entry.kept is None else look(entry.kept)
    todo = _transaction.undoing(entry, now, kept)
    ownership, place = Ownership(entry.uid, entry.gid), _PINS.reach(entry.path)
    try:
        if todo == "write":
            _files.write(place, entry.content or b"", ownership=ownership, mode=entry.mode)
        elif todo == "link":
            _files.publish(_files.stage_link(place, entry.target or "", ownership=ownership), place)
        elif todo == "remove":
            _files.remove(place)
        elif todo == "remove_directory":
            os.rmdir(place)
        elif todo == "attributes":
            set_rights(entry.path, now.kind, entry.uid, entry.gid, entry.mode)
        elif todo != "nothing":
            _folder_back(todo, entry.path, entry.kept or "")
    except OSError as error:
        raise SynapseError(f"Cannot put back {_files.describe(entry.path, error)}.") from error
    return todo != "nothing"


def _folder_back(todo: str, path: str, kept: str) -> None:
    if todo == "rename_back":
        os.rename(_PINS.reach(kept), _PINS.reach(path))
        return
    if todo == "exchange_back":
        swap(path, kept)
    if look(kept).kind == "link":
        _files.remove(_PINS.reach(kept))


def swap(first: str, second: str) -> None:
    """Exchange a link and a folder: in one step, or, on file systems that cannot, in three. Raises ``OSError``."""
    first, second = _PINS.reach(first), _PINS.reach(second)
    try:
        _files.exchange(first, second)
    except OSError:
        link, folder = (first, second) if os.path.islink(first) else (second, first)
        target = os.readlink(link)
        os.unlink(link)
        os.rename(folder, link)
        os.symlink(target, folder)


class Writer:
    """Makes the changes of one plan, and unmakes them where one fails."""

    def __init__(self) -> None:
        self._undo: list[Entry] = []
        self._staged: dict[str, str] = {}

    def folders(self, changes: t.Sequence[Change]) -> None:
        """Make and correct the folders."""
        for change in changes:
            if change.item.state == "directory":
                self._remember(change)
                if change.action == "directory":
                    _PINS.make_parents(change.item.path)
                    place = _PINS.reach(change.item.path)
                    _files.make_directory(place, ownership=Ownership(change.uid, change.gid), mode=change.mode)
                else:
                    self._rights(change)

    def stage(self, changes: t.Sequence[Change]) -> None:
        """Write everything beside its place: where the disk is full or the owner cannot be set, it shows here."""
        for change in changes:
            if not change.replaces:
                continue
            _PINS.make_parents(change.item.path)
            path, ownership = _PINS.reach(change.item.path), Ownership(change.uid, change.gid)
            if change.action == "write":
                data = minted(change.item.generate) if change.item.generate is not None else change.content or b""
                self._staged[change.item.path] = _files.stage(path, data, ownership=ownership, mode=change.mode)
            elif change.action == "link":
                self._staged[change.item.path] = _files.stage_link(path, change.item.target or "", ownership=ownership)

    def publish(self, changes: t.Sequence[Change]) -> None:
        """Put everything into place."""
        for change in changes:
            if change.item.state == "directory":
                continue
            path = _PINS.reach(change.item.path)
            self._remember(change)
            if change.action == "attributes":
                self._rights(change)
            elif change.action == "remove":
                _files.remove(path)
            elif change.action == "exchange":
                self._exchange(change)
            else:
                _files.publish(self._staged[change.item.path], path)
                del self._staged[change.item.path]

    def undo(self) -> list[str]:
        """Unmake what was made, the last change first; return what could not be unmade, in words."""
        for partial in self._staged.values():
            _files.discard(partial)
        failures = []
        for entry in reversed(self._undo):
            try:
                put_back(dataclasses.replace(entry, minted=False))
            except SynapseError as error:
                failures.append(error.msg)
            except Exception as error:  # One that cannot be unmade must not keep the others from it.
                failures.append(f"{entry.path}: {error}.")
        return failures

    def _remember(self, change: Change) -> None:
        self._undo.append(_transaction.entry_of(change))

    @staticmethod
    def _rights(change: Change) -> None:
        try:
            set_rights(change.item.path, change.found.kind, change.uid, change.gid, change.mode)
        except OSError as error:
            raise SynapseError(f"Cannot set owner and mode of {_files.describe(change.item.path, error)}.") from error

    @staticmethod
    def _exchange(change: Change) -> None:
        path, kept = change.item.path, change.keep_as or ""
        try:
            _PINS.make_parents(kept)
            if look(kept).kind == "absent":
                place, ownership = _PINS.reach(kept), Ownership(change.uid, change.gid)
                _files.publish(_files.stage_link(place, change.item.target or "", ownership=ownership), place)
            swap(path, kept)
        except OSError as error:
            raise SynapseError(
                f"Cannot put a link in the place of the folder {_files.describe(path, error)}. It would be kept as "
                f"{kept}, which must be on the same file system: name another place with 'keep_as', or move "
                "the folder yourself."
            ) from error


def minted(length: int) -> bytes:
    """Return a random secret of ``length`` characters. Its first is a letter: no command takes it for an option."""
    first = secrets.choice(string.ascii_letters)
    return (first + "".join(secrets.choice(_ALPHABET) for _place in range(length - 1))).encode("ascii")


def apply(
    changes: t.Sequence[Change], store: Store | None, journal: Journal | None, known: Journal | None, keep: int
) -> str | None:
    """Make ``changes``; ``journal`` has to be on disk before, ``known`` is there. Return the backup's place."""
    writer, backup = Writer(), None
    opened = False
    try:
        writer.folders(changes)
        writer.stage(changes)
        if store is not None and journal is not None and journal != known:
            opened = known is None
            store.save(journal, 0 if known is None else len(known.entries))
        elif store is not None and journal is None:
            backup = store.back_up([_transaction.entry_of(change) for change in changes if change.replaces], keep)
        writer.publish(changes)
    except BaseException as error:  # Whatever it is, half of the files must not stay changed.
        failures = writer.undo()
        if not isinstance(error, Exception):
            if opened and store is not None and not failures:
                store.drop()
            raise
        message = error.msg if isinstance(error, SynapseError) else f"Cannot write the files: {error}."
        if failures:
            raise SynapseError(f"{message} Not everything could be put back: {' '.join(failures)}") from error
        if opened and store is not None:
            store.drop()
        raise SynapseError(f"{message} All files are as they were before this task.") from error
    return backup


def present(module: DiscreetModule, store: Store | None) -> dict[str, t.Any]:
    """Make the files what they should be."""
    items = [item_from(params, check_mode=module.check_mode) for params in module.params["files"]]
    # The invocation that Ansible returns is made of these parameters. What a file holds stands in the difference, with
    # what looks like a secret masked; here it would stand as it is.
    for params in module.params["files"]:
        if params["content"] is not None:
            params["content"] = f"({len(params['content'])} characters)"
    return switched(module, store, items)


def opened(module: DiscreetModule, store: Store) -> Journal | None:
    """Return the open journal, which is this run's from now on: whatever fails in this run then puts it back."""
    journal = store.load() if store.trusted() else None
    if journal is not None and module.params["run"] not in {None, journal.run}:
        journal = dataclasses.replace(journal, run=module.params["run"])
        if not module.check_mode:
            store.save(journal, len(journal.entries))
    return journal


def switched(
    module: DiscreetModule, store: Store | None, items: t.Sequence[Item], *, reverts: bool = False
) -> dict[str, t.Any]:
    """Make what lies there what ``items`` say, within the transaction if there is one."""
    _transaction.check_items(items, None if store is None else store.folder)
    journal = None if store is None else opened(module, store)
    found = {item.path: look_at(item) for item in items}
    items = [
        dataclasses.replace(item, keep_as=kept_place(item, journal))
        if item.state == "link" and found[item.path].kind == "directory"
        else item
        for item in items
    ]
    changes = _transaction.plan(items, found, uid=os.geteuid(), gid=os.getegid())
    after = None if store is None else _transaction.journal_with(journal, changes, found, items, timestamp())
    if after is not None and (reverts or changes):
        after = dataclasses.replace(after, reverts=reverts)
    if after is not None and journal is None:
        after = dataclasses.replace(after, run=module.params["run"])
    backup = None
    if (changes or after != journal) and not module.check_mode:
        backup = apply(changes, store, after, journal, module.params["keep_backups"])
    if store is None:
        pending = [change.item.path for change in changes if change.restarts]
    else:
        pending = [] if after is None else list(after.paths)
    return {
        "changed": bool(changes),
        "files_changed": [change.item.path for change in changes],
        "diff": [entry for change in changes for entry in _transaction.diff_of(change)],
        "pending": bool(pending),
        "pending_paths": pending,
        "can_roll_back": after is not None and not after.first,
        "links": {item.path: item.target for item in items if item.state == "link"},
        "before": {} if journal is None else _transaction.links_before(journal),
        **({} if backup is None else {"backup": backup}),
    }


def reverted(module: DiscreetModule, store: Store) -> dict[str, t.Any]:
    """Go back to before the newest change of one path, as a transaction of its own."""
    path = module.params["until"]
    journals = tuple(store.history()) if store.trusted() else ()
    unfinished = store.load() if journals else None
    committed_ones = journals if unfinished is None else journals[1:]
    items = _transaction.reverting(committed_ones, path, look(path), unfinished)
    for item in items:
        if item.state == "link" and not os.path.exists(os.path.join(os.path.dirname(item.path), item.target or "")):
            raise SynapseError(
                f"{item.path} led to {item.target} before, which is not there any more: name the version to go to "
                "instead, so that it is built anew. Nothing was changed."
            )
    # To take back an unfinished change of the path is not to leave what served: then there is nothing to mark.
    known = unfinished is not None and any(entry.path == path for entry in unfinished.entries)
    result = switched(module, store, items, reverts=not known or (unfinished is not None and unfinished.reverts))
    return {**result, "saved": {item.path: item.saved for item in items if item.saved is not None}}


def _result(journal: Journal | None, **more: t.Any) -> dict[str, t.Any]:
    return {
        "changed": False,
        "files_changed": [],
        "diff": [],
        "pending": journal is not None,
        "pending_paths": [] if journal is None else list(journal.paths),
        "can_roll_back": journal is not None and not journal.first,
        **more,
    }


def to_close(module: DiscreetModule, store: Store) -> Journal | None:
    """Return the open journal. Raises ``SynapseError`` where it is another run that closes it."""
    journal = store.load() if store.trusted() else None
    if journal is not None and _transaction.is_of_another(journal, module.params["run"]):
        raise SynapseError(
            f"Another run has taken over this installation and will finish it (the transaction in {store.folder} is "
            "its own now); where it was interrupted, the next run will. Nothing was changed. Let it end, then run "
            "again if what this run was to bring is still missing.",
            taken_over=True,
        )
    return journal


def committed(module: DiscreetModule, store: Store) -> dict[str, t.Any]:
    """Close the transaction, and keep what it replaced."""
    journal = to_close(module, store)
    if journal is None:
        return _result(None)
    backup = None if module.check_mode else store.commit(module.params["keep_backups"])
    return _result(None, changed=True, **({} if backup is None else {"backup": backup}))


def rolled_back(module: DiscreetModule, store: Store) -> dict[str, t.Any]:
    """Put back what the transaction saved."""
    journal = to_close(module, store)
    if journal is None or journal.first:
        return _result(journal)
    changed, diff, failed = [], [], []
    links = {entry.path: entry.target for entry in journal.entries if entry.kind == "link"}
    for entry in journal.entries:
        now = look(entry.path, content=True)
        kept = None if entry.kept is None else look(entry.kept)
        if kept is not None:
            links[entry.path] = entry.kept if kept.kind == "directory" else entry.path
        if _transaction.undoing(entry, now, kept) != "nothing":
            changed.append(entry.path)
            diff.append(_transaction.diff_of_undoing(entry, now))
            if now.kind in {"file", "link"} and not entry.minted:
                failed.append(_transaction.entry_as_found(entry, now))
    aside = None
    if not module.check_mode:
        # A disk that is full must not keep back what worked.
        with contextlib.suppress(SynapseError):
            aside = store.set_aside(failed, module.params["keep_backups"])
        for entry in reversed(journal.entries):
            put_back(entry)
            # Also where it cannot be cleared: that is no reason not to put back the rest.
            with contextlib.suppress(OSError):
                _files.clear(_PINS.reach(entry.path))
        if module.params["close"]:
            store.drop()
    kept_aside: dict[str, t.Any] = {} if aside is None else {"kept": aside}
    if module.check_mode:
        kept_aside["saved"] = {entry.path: entry.saved for entry in journal.entries if entry.saved is not None}
    left_open = None if module.params["close"] else journal
    return _result(left_open, changed=True, files_changed=changed, diff=diff, links=links, **kept_aside)


_STATES = {"committed": committed, "reverted": reverted, "rolled_back": rolled_back}


def run(module: DiscreetModule) -> dict[str, t.Any]:
    """Do what is asked for."""
    folder = module.params["transaction"]
    store = None if folder is None else Store(os.path.normpath(folder))
    if module.params["keep_backups"] < 0:
        raise SynapseError(f"keep_backups is {module.params['keep_backups']}: give 0 or more.")
    with contextlib.nullcontext() if store is None or module.check_mode else store.locked():
        if store is None or module.params["state"] == "present":
            return present(module, store)
        return _STATES[module.params["state"]](module, store)


def main() -> None:
    module = DiscreetModule(
        unlogged=("files",),
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["present", "committed", "rolled_back", "reverted"],
                "default": "present",
            },
            "transaction": {"type": "path"},
            "run": {"type": "str"},
            "until": {"type": "path"},
            "close": {"type": "bool", "default": True},
            "keep_backups": {"type": "int", "default": 5},
            # Ansible itself takes these values out of the result, the invocation and the host's log.
            "redact": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
                    "content": {"type": "str"},
                    "secret_content": {"type": "str", "no_log": True},
                    "generate": {"type": "int"},
                    "used_by": {"type": "path"},
                    "target": {"type": "str"},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "secret": {"type": "bool", "default": False, "no_log": False},
                    "restart": {"type": "bool", "default": True},
                    "keep_as": {"type": "path"},
                },
                "mutually_exclusive": [("content", "secret_content", "target"), ("content", "generate")],
                "required_if": [
                    ("state", "file", ("content", "secret_content", "generate"), True),
                    ("state", "link", ("target",)),
                ],
            },
        },
        required_if=[
            ("state", "present", ("files",)),
            ("state", "committed", ("transaction",)),
            ("state", "rolled_back", ("transaction",)),
            ("state", "reverted", ("transaction", "until")),
        ],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=_PINS.named(error.msg), **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
