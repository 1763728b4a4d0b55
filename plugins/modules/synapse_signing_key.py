#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: synapse_signing_key
short_description: Keep the key that a Synapse homeserver signs with
version_added: 0.1.0
author:
  - Matrix Fleet maintainers (@matrix-fleet)
description:
  - Looks after the file of O(path) with the private key of a homeserver, which is the server's identity in the
    federation.
  - A key is minted only where the server has no life yet. Where a database, a record, a backup or a running server
    shows that there was a key, a missing one is an error that says how to restore it.
  - An existing file is judged line by line and never rewritten by O(state=present), except to restore O(content).
    Only its owner and mode are put right, and those of a link's target are not.
  - A key that was replaced behind the back of this module is an error. It is recognised by the record that the module
    keeps of the public halves (O(record)), and on a host without a record by the signatures of the server's own events.
  - A run that finds the recorded key starts no process and asks no database.
extends_documentation_fragment:
  - matrix_fleet.synapse.attributes
attributes:
  check_mode:
    details:
      - The id of a key that would be minted is not known before it is, so RV(key_ids) lacks it.
      - Where O(python) does not exist yet, RV(verify_keys) is empty, and what only it could check is predicted with a
        warning.
  diff_mode:
    details:
      - The diff has key ids, owner, group and mode, never a key.
  idempotent:
    support: partial
    details:
      - O(state=rotated) rotates each time, unless O(replaces) names the key that has to go.
options:
  path:
    description:
      - The key file, as in Synapse's C(signing_key_path). Its folder must exist.
      - A link is read through, and neither replaced nor changed in owner and mode.
    type: path
    required: true
  state:
    description:
      - V(present) keeps the key, mints it where the server is new, or restores it from O(content).
      - V(rotated) does the same, then puts a new key in the place of the first one. The other keys of the file stay, in
        their order. The old file is kept as a backup, and the old key is returned in RV(old_signing_keys).
      - After a rotation, write RV(old_signing_keys) to Synapse's configuration and restart it. The backup is then
        needed no more; while it lies there, it is as secret as the key.
    type: str
    choices: [present, rotated]
    default: present
  content:
    description:
      - The text of a key file, to restore the server's key from a vault.
      - It replaces another usable key only where the record or the server's events show that it is the right one, or
        with O(new_identity). What was there is kept as a backup.
    type: str
  replaces:
    description:
      - With O(state=rotated), the id of the key to be rotated away, such as V(ed25519:a_1b2c3d4e). Where the file no
        longer begins with it, nothing is rotated.
    type: str
  expire_after:
    description:
      - Seconds from a rotation until the old key counts as expired. It has to cover the time until Synapse was
        restarted, because until then events are still signed with the old key.
    type: int
    default: 600
  mend:
    description:
      - Bring back a key that is missing, damaged or not this server's own from what lies on the host, where the record
        or the signatures of the server's own events prove it to be the right one. That is a file beside O(path) or in
        O(backup_path), or what is whole in the damaged file itself, without comments, a byte order mark or the like.
      - What is replaced is kept as a backup. Where nothing is proven, the module refuses as it does without.
    type: bool
    default: false
  mint:
    description:
      - Whether a new key may be made where none is there and nothing shows that the server ever had one. Where not, the
        module fails there, and is for bringing back alone.
    type: bool
    default: true
  new_identity:
    description:
      - Mint or accept a key although the server had another one. To be given once, when the old one is lost for good.
      - The old public key, where it is known, is still returned in RV(old_signing_keys).
    type: bool
    default: false
  python:
    description:
      - The interpreter of the environment that Synapse is installed in.
      - It is needed to mint and to compute public keys. The run that finds the recorded key does not need it.
    type: path
    default: /var/lib/synapse/venv/bin/python
  owner:
    description:
      - Who owns the key file, by name or number. Unless given, the user that runs the module, or whoever owns it now.
    type: str
  group:
    description:
      - The group of the key file, by name or number. Unless given, that of the user that runs the module, or the
        present one.
    type: str
  mode:
    description:
      - The mode of the key file in octal digits, exactly. A mode that lets others read it, or the group write it, is
        refused.
    type: str
    default: "0600"
  user:
    description:
      - The user that Synapse runs as. If given, a key that this user could not read is refused, and the database is
        read as this user; otherwise an SQLite file is read as its owner.
    type: str
  server_name:
    description:
      - Synapse's C(server_name). Needed to recognise the server's own events.
    type: str
  database:
    description:
      - The server's SQLite file. It is asked only if a decision needs it, and may not exist yet.
    type: path
  postgresql:
    description:
      - How to reach the server's PostgreSQL database, as libpq takes it, which is what Synapse's C(database.args) has.
        It is read through the C(psycopg2) of O(python), and only if a decision needs it.
      - A database that does not exist is taken for a new server's. One that does not answer is not.
    type: dict
    suboptions:
      dbname:
        description: Name of the database.
        type: str
      user:
        description: The role to connect as.
        type: str
      password:
        description: Its password. O(postgresql.passfile) keeps it out of the task.
        type: str
      sslpassword:
        description: The password of the client's private key, the file of libpq's C(sslkey).
        type: str
      passfile:
        description: A password file on the host, readable for O(user).
        type: path
      host:
        description: Host name, address, or the folder of a Unix socket.
        type: str
      port:
        description: The port.
        type: int
      args:
        description: Further parameters of libpq, such as C(sslmode). A password among them is refused.
        type: dict
        default: {}
  published_url:
    description:
      - Base URL of the running server, such as V(http://127.0.0.1:8008), to ask for the keys that it publishes.
      - It is asked only if a decision needs it. A server that does not answer proves nothing.
    type: str
  record:
    description:
      - Where the public halves of the keys are remembered, with fingerprints that recognise the file. No secret is in
        it.
      - Unless given, O(path) with C(.verify_keys.json) added.
    type: path
  backup_path:
    description:
      - An existing folder for the files that a rotation or a restoration replaces. Unless given, they stay beside
        O(path), with the time (UTC) added to the name. Their mode is 0600.
    type: path
seealso:
  - name: Synapse's documentation of signing keys
    description: What C(signing_key_path) and C(old_signing_keys) mean.
    link: https://element-hq.github.io/synapse/latest/usage/configuration/config_documentation.html#signing-keys
"""

EXAMPLES = r"""
---
- name: Keep the key, and mint it on a new server
  matrix_fleet.synapse.synapse_signing_key:
    path: /etc/synapse/homeserver.signing.key
    owner: synapse
    group: synapse
    server_name: example.org
    database: /var/lib/synapse/homeserver.db
  register: signing_key

- name: Restore the key from a vault
  matrix_fleet.synapse.synapse_signing_key:
    path: /etc/synapse/homeserver.signing.key
    owner: synapse
    group: synapse
    server_name: example.org
    postgresql:
      dbname: synapse
      user: synapse
      host: /var/run/postgresql
    user: synapse
    content: "{{ vault_signing_key }}"

- name: Rotate the key, and only this one
  matrix_fleet.synapse.synapse_signing_key:
    path: /etc/synapse/homeserver.signing.key
    state: rotated
    replaces: ed25519:a_1b2c3d4e
    owner: synapse
    group: synapse
  register: signing_key
"""

RETURN = r"""
action:
  description:
    - What was done to the key. V(keep) nothing, V(create) minted, V(restore) written from O(content), V(rotate)
      rotated, V(record) only remembered.
  returned: success
  type: str
  sample: keep
key_ids:
  description: Ids of the keys in the file, in order. Synapse signs with the first.
  returned: success
  type: list
  elements: str
  sample: ["ed25519:a_1b2c3d4e"]
verify_keys:
  description: The public keys by id, in unpadded base64.
  returned: success
  type: dict
  sample: {"ed25519:a_1b2c3d4e": "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"}
old_signing_keys:
  description: What Synapse's C(old_signing_keys) has to publish. The times are in milliseconds since the epoch.
  returned: success
  type: dict
  sample: {"ed25519:a_0a1b2c3d": {"expired_ts": 1767225600000, "key": "8vsPzx1NHmdsoQDPr5ytzGXZnsNDt00wIrRhgBiB2o8"}}
record:
  description: The file that remembers the public keys.
  returned: success
  type: str
  sample: /etc/synapse/homeserver.signing.key.verify_keys.json
backup:
  description: Where the file that was replaced is kept.
  returned: when a file was replaced
  type: str
  sample: /etc/synapse/homeserver.signing.key.20260101T000000Z
source:
  description: The file that the key was restored from, with O(mend).
  returned: when it was restored from what lies on the host
  type: str
  sample: /etc/synapse/homeserver.signing.key.bak
problems:
  description:
    - What is worth knowing about the lines of the key file. C(line) is V(null) where it is about no single
      line.
    - With severity C(error) the task fails; then the list is returned with the failure.
  returned: always
  type: list
  elements: dict
  sample: [{"id": "duplicate-line", "line": 2, "message": "the same key as on line 1", "severity": "warning"}]
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import grp
import inspect
import os
import pwd
import stat
import sys
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files, _key_files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._ed25519 import public_half
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import signing_key as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probing import account_for, require_trusted, scratch
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    Account,
    Runner,
    SynapseError,
    ask_python,
    module_runner,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import secret_arguments

_TIMEOUT = 120.0
_PUBLISHED_TIMEOUT = 5
_LARGEST = 1024 * 1024
_RECORD_MODE = 0o644
_BACKUP_MODE = 0o600
# Seconds for another run to end that writes the key.
_LOCK_WAIT = 30.0


@dataclasses.dataclass(frozen=True)
class Place:
    """The key file as the file system has it; ``status`` is ``None`` where there is none, or a link that dangles."""

    data: bytes | None
    link: str | None
    status: os.stat_result | None


class Host:
    """What the module knows and may do on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check_mode: bool = module.check_mode
        self.params: dict[str, t.Any] = module.params
        self.run: Runner = module_runner(module)
        self.path: str = os.path.abspath(module.params["path"])
        self.record: str = module.params["record"] or f"{self.path}.verify_keys.json"
        self.python: str = module.params["python"]
        self.has_python: bool = os.access(self.python, os.X_OK)

    def hide(self, found: t.Iterable[keys.Key]) -> None:
        """Have Ansible mask the keys, should one ever get into a result. Nothing here puts one there."""
        for key in found:
            self.module.no_log_values.add(key.encoded)

    def ask(self, request: t.Mapping[str, object]) -> dict[str, t.Any]:
        """Ask the environment of Synapse about keys. Raises ``SynapseError``."""
        if not self.has_python:
            raise SynapseError(
                f"There is no interpreter at {self.python}, and without Synapse's environment a key can neither be "
                "minted nor judged. Install it first (module synapse_venv), or name its interpreter in 'python'."
            )
        require_trusted(self.python)
        try:
            return ask_python(self.run, self.python, inspect.getsource(probe), request, timeout=_TIMEOUT)
        except SynapseError as error:
            raise SynapseError(
                f"{error.msg}: it has to mint and read signing keys, which needs signedjson. Look at 'stderr', and "
                "repair the environment (module synapse_venv). The key file was left as it is.",
                **error.details,
            ) from error


def read_place(path: str) -> Place:
    """Read the key file through a link, if it is one."""
    link = os.readlink(path) if os.path.islink(path) else None
    data = _files.read(path, limit=_LARGEST)
    return Place(data, link, None if data is None else os.stat(path))


def find_candidates(host: Host) -> tuple[keys.Candidate, ...]:
    """Look for other key files beside the key file and among the backups."""
    folder = os.path.dirname(host.path)
    return _key_files.candidates(host.path, host.params["server_name"], [folder, host.params["backup_path"] or folder])


def _reader(host: Host) -> Account | None:
    """Return the account that reads the database: the service's, or the owner of an SQLite file."""
    if host.params["user"] is not None:
        try:
            return _files.account_of(host.params["user"])
        except SynapseError:
            if not host.check_mode:  # a dry run on a bare host predicts: the user is made before the key then
                raise
    if os.geteuid() == 0 and host.params["database"] is not None:
        with contextlib.suppress(OSError):
            status = os.stat(host.params["database"])
            if status.st_uid != 0:
                return Account(status.st_uid, status.st_gid)
    # Root runs nothing that somebody else can change.
    return account_for(None, host.python) if host.has_python else None


def _refuse_secrets(module: AnsibleModule, args: t.Mapping[str, object]) -> None:
    """Refuse parameters that are secret in an option that Ansible shows. Raises ``SynapseError``."""
    for name, value in secret_arguments(args).items():
        if value:
            module.no_log_values.add(value)
        option = f"postgresql.{name}" if name in {"password", "sslpassword"} else "postgresql.passfile"
        raise SynapseError(
            f"postgresql.args holds {name}, and would show it wherever Ansible shows a task's arguments: give it as "
            f"{option} instead."
        )


def _database(host: Host) -> tuple[dict[str, object] | None, str]:
    """Return the probe's request for the database, and how to name it; nothing where there is none to ask."""
    path, postgresql = host.params["database"], host.params["postgresql"]
    if path is not None:
        return ({"path": path}, path) if os.path.lexists(path) else (None, path)
    if postgresql is None:
        return None, ""
    given = {name: value for name, value in postgresql.items() if name != "args" and value is not None}
    _refuse_secrets(host.module, postgresql["args"])
    # Synapse passes the rest to libpq, but for the pool's own settings (cp_*).
    args = {name: value for name, value in postgresql["args"].items() if not name.startswith("cp_")}
    named = given.get("dbname") or given.get("user") or ""
    return {"postgresql": {**args, **given}}, f"the PostgreSQL database {named}".rstrip()


def ask_life(host: Host, verify_keys: t.Sequence[keys.Known]) -> tuple[keys.Events, keys.Published]:
    """Ask the database and the running server whose keys they know. Only public keys are handed over."""
    database, where = _database(host)
    url, server = host.params["published_url"], host.params["server_name"]
    request: dict[str, object] = {}
    if database is not None:
        public = [{"key_id": key.key_id, "verify_key": key.verify_key} for key in verify_keys]
        request["events"] = {"server_name": server, "verify_keys": public, "database": database}
    if url is not None:
        request["published"] = {"server_name": server, "url": url, "timeout": _PUBLISHED_TIMEOUT}
    if not request:
        return keys.Events(), keys.Published()
    if host.check_mode and not host.has_python and host.params["postgresql"] is not None:
        return keys.Events("unasked", where), keys.Published()
    python = host.python if host.has_python else sys.executable
    account = _reader(host)
    try:
        if account is None and host.has_python:
            require_trusted(host.python)
        with scratch(None, account) as folder:
            answer = ask_python(
                host.run,
                python,
                inspect.getsource(probe),
                {**request, "scratch": folder},
                account=account,
                timeout=_TIMEOUT,
            )
    except SynapseError as error:
        reason = f"{error.msg} {' '.join(str(error.details.get('stderr', '')).split())[-200:]}".strip()
        answer = {"events": {"state": "unreadable" if database else "absent", "reason": reason, "signatures": []}}
    told = answer.get("events", {"state": "absent", "reason": "", "signatures": []})
    try:
        signatures = tuple(keys.Signature(**item) for item in told["signatures"])
        events = keys.Events(told["state"], where, told["reason"], signatures)
        published = keys.Published(url or "", dict(answer.get("published", {})))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SynapseError(
            f"{python} was asked whose keys {where or 'the running server'} knows, and what it answered cannot be "
            f"understood ({type(error).__name__}). Something else than Synapse's own environment answers there: look "
            "at it. The key file was left as it is."
        ) from error
    return events, published


def _not_understood(host: Host, what: str) -> SynapseError:
    return SynapseError(
        f"{host.python} was asked about signing keys, and what it answered cannot be understood ({what}). Something "
        "else than Synapse's own environment answers there: look at it. The key file was left as it is."
    )


def derive(host: Host, wanted: t.Sequence[keys.Key], have: t.Mapping[str, str]) -> dict[str, str]:
    """Return the public halves of keys by fingerprint; a process runs only for those that ``have`` lacks."""
    missing = {key.fingerprint: [key.version, key.encoded] for key in wanted if key.fingerprint not in have}
    if host.params["mend"]:
        # What is broken may be the environment as well, and what else lies near may be another server's key.
        return {**have, **{key.fingerprint: public_half(key.seed) for key in wanted if key.fingerprint in missing}}
    derived = host.ask({"derive": missing}).get("derived") if missing else {}
    if not isinstance(derived, dict) or not all(isinstance(derived.get(one), str) for one in missing):
        raise _not_understood(host, "derived")
    return {**have, **derived}


def remembered(record: keys.Record | None) -> dict[str, str]:
    """Return the public halves that the record knows, by fingerprint."""
    record = record or keys.Record()
    pending = record.pending.keys if record.pending is not None else ()
    return {key.fingerprint: key.verify_key for key in (*record.current, *pending)}


def observe(host: Host, wanted: keys.Wanted, place: Place) -> keys.Found:
    """Read the files, then look up what the decision needs, and no more."""
    file = None if place.data is None else keys.parse(place.data)
    data = _files.read(host.record, limit=_LARGEST)
    record = None if data is None else keys.parse_record(data, host.record)
    found = keys.Found(file, place.link, record, host.record, remembered(record))
    need = keys.questions(wanted, found)
    candidates = find_candidates(host) if need.candidates else ()
    ours = [*(file.keys if file else ()), *(file.intact if file else ()), *(wanted.content or ())]
    others = [key for candidate in candidates for key in candidate.keys]
    host.hide([*ours, *others])
    verify_keys = dict(found.verify_keys)
    complete = host.has_python or not host.check_mode or wanted.mend
    if need.derive and complete:
        verify_keys = derive(host, ours, verify_keys)
    if others and (host.has_python or wanted.mend):
        with contextlib.suppress(SynapseError):
            verify_keys = derive(host, others, verify_keys)
    events, published = keys.Events(), keys.Published()
    if need.life:
        events, published = ask_life(host, keys.known([*ours, *others], verify_keys, wanted.now))
    if all(key.fingerprint in verify_keys for key in ours):
        complete = True
    return dataclasses.replace(
        found, verify_keys=verify_keys, events=events, published=published, candidates=candidates, complete=complete
    )


def _name(number: int, *, group: bool = False) -> str:
    """Return a user's or group's name, or its number where the host has no name for it."""
    try:
        return grp.getgrgid(number).gr_name if group else pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Owner, group and mode: ``before`` is ``None`` where there is no file, ``wanted`` where nothing is to be set."""

    before: tuple[int, int, int] | None
    wanted: tuple[int, int, int]
    unknown: bool = False

    @property
    def changed(self) -> bool:
        """Whether an existing file needs other attributes."""
        return self.before is not None and (self.unknown or self.before != self.wanted)

    @staticmethod
    def shown(attributes: tuple[int, int, int] | None) -> dict[str, str]:
        """Return attributes for the diff."""
        if attributes is None:
            return {}
        uid, gid, mode = attributes
        return {"owner": _name(uid), "group": _name(gid, group=True), "mode": f"{mode:04o}"}


def plan_attributes(host: Host, place: Place) -> Attributes:
    """Decide about owner and mode. Raises ``SynapseError`` for a mode or an owner that will not do."""
    mode = _files.parse_mode(host.params["mode"])
    if not keys.mode_is_safe(mode):
        raise SynapseError(
            f'mode {host.params["mode"]!r} would let others than the owner use the signing key: give "0600", or "0640" '
            "where the group has to read it."
        )
    unknown = False
    try:
        ownership = _files.resolve(host.params["owner"], host.params["group"])
    except SynapseError:
        if not host.check_mode:  # a dry run on a bare host predicts: the user is made before the key then
            raise
        ownership, unknown = _files.KEEP, True
    before = None
    if place.status is not None:
        before = (place.status.st_uid, place.status.st_gid, stat.S_IMODE(place.status.st_mode))
    uid, gid = (os.geteuid(), os.getegid()) if before is None else before[:2]
    uid = uid if ownership.uid is None else ownership.uid
    gid = gid if ownership.gid is None else ownership.gid
    wanted = Attributes(before, (uid, gid, mode), unknown)
    if place.link is not None and before is not None:
        wanted = Attributes(before, before)
    if not unknown:
        _check_reader(host, wanted.wanted)
    return wanted


def _check_reader(host: Host, attributes: tuple[int, int, int]) -> None:
    """Refuse owner and mode with which the service could not read its key."""
    if host.params["user"] is None:
        return
    try:
        entry = pwd.getpwnam(host.params["user"])
    except KeyError:
        return
    uid, gid, mode = attributes
    if entry.pw_uid == uid:
        readable = bool(mode & stat.S_IRUSR)
    else:
        readable = bool(mode & stat.S_IRGRP) and gid in os.getgrouplist(entry.pw_name, entry.pw_gid)
    if not readable and entry.pw_uid != 0:
        raise SynapseError(
            f"The user {host.params['user']} that Synapse runs as could not read {host.path} with owner {_name(uid)}, "
            f"group {_name(gid, group=True)} and mode {mode:04o}. Set 'owner', or 'group' and a mode of \"0640\"."
        )


def set_attributes(path: str, attributes: Attributes) -> None:
    """Put owner and mode of the file right; at no instant more than before or after can read it."""
    uid, gid, mode = attributes.wanted
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(handle)
            os.fchmod(handle, stat.S_IMODE(status.st_mode) & mode)
            _files.own(handle, _files.Ownership(uid, gid))
            os.fchmod(handle, mode)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise SynapseError(
            f"Cannot set owner and mode of {_files.describe(path, error)}. Run the task as root ('become: true') or "
            "as the owner."
        ) from error


def mint(host: Host, wanted: keys.Wanted, found: keys.Found) -> tuple[keys.Key, str]:
    """Make a key under an id that this server never had; return it with its public half."""
    record = found.record or keys.Record()
    taken = {
        *(key.key_id for key in (found.file.keys if found.file else ())),
        *(key.key_id for key in record.current),
        *(key.key_id for key in record.retired),
        *found.events.key_ids,
        *found.published.verify_keys,
    }
    if wanted.replaces is not None:
        taken.add(wanted.replaces)
    minted = host.ask({"mint": sorted(taken)}).get("minted")
    texts = minted if isinstance(minted, dict) else {}
    if not all(isinstance(texts.get(name), str) for name in ("version", "seed", "verify_key")):
        raise _not_understood(host, "minted")
    parsed = keys.parse(f"ed25519 {texts['version']} {texts['seed']}".encode("ascii", "replace"))
    host.hide(parsed.keys)
    if len(parsed.keys) != 1 or parsed.errors:
        raise _not_understood(host, "minted")
    return parsed.keys[0], texts["verify_key"]


def keep_backup(host: Host, data: bytes, moment: datetime.datetime) -> str:
    """Keep the present key file under another name, once; return that name."""
    folder = host.params["backup_path"] or os.path.dirname(host.path)
    base = os.path.join(folder, os.path.basename(host.path))
    name = f"{base}.{moment:%Y%m%dT%H%M%SZ}"
    for number in range(1, 100):
        target = name if number == 1 else f"{name}.{number}"
        if os.path.lexists(target):
            continue
        _files.publish_new(_files.stage(target, data, mode=_BACKUP_MODE), target)
        return target
    raise SynapseError(f"{name} and the names after it are taken: move old backups of the key away, and run again.")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What lies on the host at the end, or would."""

    held: tuple[keys.Known, ...]
    record: keys.Record | None
    backup: str | None = None


def _write_record(host: Host, record: keys.Record) -> None:
    _files.write(host.record, keys.render_record(record), mode=_RECORD_MODE)


def _check_folder(host: Host) -> None:
    """Refuse to write where there is no folder: who may enter it is not for this module to guess."""
    folder = os.path.dirname(host.path)
    if not os.path.isdir(folder):
        raise SynapseError(
            f"The folder {folder} for the signing key does not exist. Make it first: root owns it, the service's group "
            "may enter it (mode 0750)."
        )


def apply(
    host: Host, wanted: keys.Wanted, found: keys.Found, *, place: Place, todo: keys.Plan, attributes: Attributes
) -> Outcome:
    """Carry the plan out. Order matters: what an interruption leaves must be understood by the next run."""
    _check_folder(host)
    verify_keys = dict(found.verify_keys)
    lines = todo.keys
    if todo.mint:
        minted, public = mint(host, wanted, found)
        verify_keys[minted.fingerprint] = public
        lines = (minted, *lines)
    after = keys.known(lines, verify_keys, wanted.now)
    record = found.record
    backup = None
    if todo.write_key:
        if todo.action == "rotate" and found.file is not None:
            before = keys.known(found.file.keys, verify_keys, wanted.now)
            record = keys.remember(record, wanted.server_name, before, wanted.expired_ts)
        if record is not None and record.current:
            record = dataclasses.replace(record, pending=keys.Pending(after, wanted.expired_ts))
            _write_record(host, record)
        if todo.backup and place.data is not None:
            backup = keep_backup(host, place.data, datetime.datetime.now(datetime.timezone.utc))
        _write_key(host, lines, attributes, new=place.data is None)
    elif attributes.changed:
        set_attributes(host.path, attributes)
    if todo.write_record:
        record = keys.remember(record, wanted.server_name, after, wanted.expired_ts)
        _write_record(host, record)
    return Outcome(after, record, backup)


def sweep(host: Host) -> None:
    """Remove what an interrupted run left beside the key and the record: it may hold a key that was never used."""
    with contextlib.suppress(OSError):
        _files.clear(host.path)
        _files.clear(host.record)


def _write_key(host: Host, lines: t.Sequence[keys.Key], attributes: Attributes, *, new: bool) -> None:
    """Put the keys into the file, whole; a new file never in the place of one that appeared meanwhile."""
    uid, gid, mode = attributes.wanted
    data = "".join(key.line for key in lines).encode("ascii")
    partial = _files.stage(host.path, data, ownership=_files.Ownership(uid, gid), mode=mode)
    if not new:
        _files.publish(partial, host.path)
        return
    try:
        _files.publish_new(partial, host.path)
    except SynapseError as error:
        raise SynapseError(f"{error.msg} Something else writes the signing key at this moment: run again.") from error


def predict(wanted: keys.Wanted, found: keys.Found, todo: keys.Plan) -> Outcome:
    """Return what is known of the outcome without doing anything."""
    after = keys.known(todo.keys, found.verify_keys, wanted.now)
    if not todo.write_record or not found.complete:
        return Outcome(after, found.record)
    if todo.action == "rotate" and found.file is not None:
        before = keys.known(found.file.keys, found.verify_keys, wanted.now)
        record = keys.remember(found.record, wanted.server_name, before, wanted.expired_ts)
        return Outcome(after, keys.remember(record, wanted.server_name, after, wanted.expired_ts))
    return Outcome(after, keys.remember(found.record, wanted.server_name, after, wanted.expired_ts))


def difference(found: keys.Found, todo: keys.Plan, attributes: Attributes) -> dict[str, dict[str, object]]:
    """Return the diff: ids and attributes, never a key."""
    recorded = [] if found.record is None else [key.key_id for key in found.record.current]
    wanted = attributes.wanted if todo.write_key or attributes.before is not None else None
    return {
        "before": {"key_ids": list(todo.before), "recorded": recorded, **attributes.shown(attributes.before)},
        "after": {
            "key_ids": list(todo.after),
            "recorded": list(todo.after) if todo.write_record else recorded,
            **attributes.shown(wanted),
        },
    }


def want(host: Host) -> keys.Wanted:
    """Read the task's parameters. Raises ``SynapseError`` for content that is no usable key."""
    content = None
    if host.params["content"] is not None:
        parsed = keys.parse(host.params["content"].encode("utf-8", "surrogateescape"))
        host.hide(parsed.keys)
        if parsed.errors:
            reasons = "; ".join(problem.sentence() for problem in parsed.errors)
            raise SynapseError(f"{keys.CONTENT} is not usable as a signing key: {reasons}. Nothing was changed.")
        content = parsed.keys
    now = datetime.datetime.now(datetime.timezone.utc)
    return keys.Wanted(
        path=host.path,
        state=host.params["state"],
        content=content,
        replaces=host.params["replaces"],
        new_identity=host.params["new_identity"],
        server_name=host.params["server_name"],
        now=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        expired_ts=int((now.timestamp() + host.params["expire_after"]) * 1000),
        mend=host.params["mend"],
        mint=host.params["mint"],
    )


@contextlib.contextmanager
def held(host: Host, wait: float) -> t.Iterator[bool]:
    """Keep other runs away from the key, if need be after waiting for them; give whether that could be done.

    The folder is what is locked: the kernel lets go of it however this process ends. Where there is no folder, or none
    that can be locked, the key is still never written over one that appeared meanwhile.
    """
    try:
        handle = os.open(os.path.dirname(host.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    until = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in {errno.EWOULDBLOCK, errno.EACCES} and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                yield error.errno not in {errno.EWOULDBLOCK, errno.EACCES}
                return
            yield True
            return
    finally:
        os.close(handle)


def traces(host: Host) -> tuple[tuple[int, int, int] | None, ...]:
    """Return by what it is noticed that another run has written the key or what is remembered of it."""
    found: list[tuple[int, int, int] | None] = []
    for path in (host.path, host.record):
        try:
            status = os.lstat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was observed, and the plan for it."""

    place: Place
    attributes: Attributes
    found: keys.Found
    todo: keys.Plan

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.todo.changed or self.attributes.changed


def look(host: Host, wanted: keys.Wanted) -> Seen:
    """Observe and plan. Raises ``SynapseError``."""
    place = read_place(host.path)
    attributes = plan_attributes(host, place)
    found = observe(host, wanted, place)
    return Seen(place, attributes, found, keys.plan(wanted, found))


def settle(host: Host, wanted: keys.Wanted) -> tuple[Seen, Outcome]:
    """Look, and do alone what is to be done; what another run wrote meanwhile is seen. Raises ``SynapseError``."""
    before = traces(host)
    seen, refusal = None, None
    try:
        seen = look(host, wanted)
    except SynapseError as error:
        if host.check_mode:
            raise
        refusal = error
    if seen is not None and (host.check_mode or not seen.changed):
        with (
            held(host, 0) if not host.check_mode and seen.place.link is None else contextlib.nullcontext(False)
        ) as alone:
            if alone:
                sweep(host)
        return seen, predict(wanted, seen.found, seen.todo)
    with held(host, _LOCK_WAIT) as alone:
        if not alone:
            raise SynapseError(
                f"Another run works on the signing key {host.path}, and did not end within {_LOCK_WAIT:g} s (it holds "
                "the folder): let it end, then run again. Nothing was changed."
            )
        if seen is None or traces(host) != before:
            if refusal is not None and traces(host) == before:
                raise refusal
            seen = look(host, wanted)
        if seen.place.link is None:
            sweep(host)
        if not seen.changed:
            return seen, predict(wanted, seen.found, seen.todo)
        return seen, apply(host, wanted, seen.found, place=seen.place, todo=seen.todo, attributes=seen.attributes)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Observe, plan, apply."""
    host = Host(module)
    wanted = want(host)
    seen, outcome = settle(host, wanted)
    place, attributes, found, todo, changed = seen.place, seen.attributes, seen.found, seen.todo, seen.changed
    warnings = list(todo.warnings)
    if (
        place.link is not None
        and place.status is not None
        and not keys.mode_is_safe(stat.S_IMODE(place.status.st_mode))
    ):
        warnings.append(
            f"{host.path} is a link to {place.link}, whose mode {stat.S_IMODE(place.status.st_mode):04o} lets others "
            "use the key. What a link points to is not changed here: tighten it there."
        )
    for warning in warnings:
        module.warn(warning)
    result: dict[str, t.Any] = {
        "changed": changed,
        "action": todo.action,
        "key_ids": [key.key_id for key in outcome.held] if found.complete else [key.key_id for key in todo.keys],
        "verify_keys": {key.key_id: key.verify_key for key in outcome.held},
        "old_signing_keys": keys.old_signing_keys(outcome.record),
        "record": host.record,
        "problems": [dataclasses.asdict(problem) for problem in todo.problems],
        "diff": difference(found, todo, attributes),
    }
    if outcome.backup is not None:
        result["backup"] = outcome.backup
    if todo.source is not None:
        result["source"] = todo.source
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
            "content": {"type": "str", "no_log": True},
            "replaces": {"type": "str"},
            "expire_after": {"type": "int", "default": 600},
            "mend": {"type": "bool", "default": False},
            "mint": {"type": "bool", "default": True},
            "new_identity": {"type": "bool", "default": False},
            "python": {"type": "path", "default": "/var/lib/synapse/venv/bin/python"},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str", "default": "0600"},
            "user": {"type": "str"},
            "server_name": {"type": "str"},
            "database": {"type": "path"},
            "postgresql": {
                "type": "dict",
                "options": {
                    "dbname": {"type": "str"},
                    "user": {"type": "str"},
                    "password": {"type": "str", "no_log": True},
                    "sslpassword": {"type": "str", "no_log": True},
                    "passfile": {"type": "path", "no_log": False},
                    "host": {"type": "str"},
                    "port": {"type": "int"},
                    "args": {"type": "dict", "default": {}},
                },
            },
            "published_url": {"type": "str"},
            "record": {"type": "path"},
            "backup_path": {"type": "path"},
        },
        mutually_exclusive=[("database", "postgresql"), ("content", "replaces")],
        required_by={"database": ("server_name",), "postgresql": ("server_name",), "published_url": ("server_name",)},
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except SynapseError as error:
        module.fail_json(msg=error.msg, **error.details)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
