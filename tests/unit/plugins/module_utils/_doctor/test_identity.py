# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import sys
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import access_look, identity_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import (
    ENTER,
    READ,
    Access,
    Item,
    Node,
    Who,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import Answers
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import diagnose
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import RULES, Identity
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._ed25519 import public_half
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult, process_runner

if t.TYPE_CHECKING:
    import pathlib

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Finding

SERVER = "example.org"


def seed(number: int) -> str:
    return base64.b64encode(bytes(range(number, number + 32))).decode().rstrip("=")


def line(version: str = "a_one", number: int = 1) -> str:
    return f"ed25519 {version} {seed(number)}\n"


def half(number: int = 1) -> str:
    return public_half(bytes(range(number, number + 32)))


KEY, OTHER = line(), line("a_two", 2)


class Host:
    """A folder that plays the host; its database is a file of the form that Synapse's has."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.key = folder / f"{SERVER}.signing.key"
        self.record = folder / f"{SERVER}.signing.key.verify_keys.json"
        self.config: dict[str, t.Any] = {
            "server_name": SERVER,
            "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
            "media_store_path": str(folder / "media"),
        }
        self.extra = ""
        self.processes = 0
        self.managed = False

    def live(self, *signed_by: str) -> None:
        """Give it a user, and events with signatures of these ids."""
        with contextlib.closing(sqlite3.connect(self.folder / "homeserver.db")) as database:
            database.execute("CREATE TABLE events (event_id, sender, room_id, stream_ordering)")
            database.execute("CREATE TABLE event_json (event_id, json)")
            database.execute("CREATE TABLE rooms (room_id, room_version)")
            database.execute("CREATE TABLE users (name)")
            database.execute("INSERT INTO users VALUES ('@ann:example.org')")
            for number, key_id in enumerate(signed_by, start=1):
                event = {"sender": "@ann:example.org", "signatures": {SERVER: {key_id: "x"}}}
                database.execute("INSERT INTO events VALUES (?, ?, 'r', ?)", [number, event["sender"], number])
                database.execute("INSERT INTO event_json VALUES (?, ?)", [number, json.dumps(event)])
            database.commit()

    def remember(self, *given: tuple[str, int], server: str = SERVER, retired: tuple[keys.Retired, ...] = ()) -> None:
        """Write the record of these keys."""
        several = keys.parse("".join(line(*one) for one in given).encode()).keys
        halves = {key.fingerprint: public_half(key.seed) for key in several}
        record = keys.Record(server, keys.known(several, halves, "2026-01-01T00:00:00Z"), retired)
        self.record.write_bytes(keys.render_record(record))

    def context(self) -> Context:
        yaml = self.folder / "homeserver.yaml"
        text = json.dumps(self.config) if not self.extra else self.extra
        yaml.write_text(text, encoding="utf-8")
        inner = process_runner()

        def run(*arguments: t.Any, **options: t.Any) -> CommandResult:
            self.processes += 1
            return inner(*arguments, **options)

        context = Context(Request((str(yaml),), python=sys.executable), run, time.monotonic() + 20)
        context.settings = Settings(
            (ConfigFile(str(yaml), keys=tuple(self.config), managed=self.managed),), self.config
        )
        context.texts = {str(yaml): text}
        return context

    def look(self) -> Identity:
        return identity_look.look(self.context())

    def findings(self, **parts: t.Any) -> list[Finding]:
        context = self.context()
        seen = Seen(Request(), settings=context.settings, identity=identity_look.look(context), **parts)
        result = diagnose(seen, RULES.rules)
        assert not any(one.id == "doctor.rule_failed" for one in result.findings)
        told = json.dumps([one.as_dict() for one in result.findings]) + repr(seen)
        for number in range(1, 9):
            assert seed(number) not in told
        return list(result.findings)

    def one(self, **parts: t.Any) -> Finding:
        (finding,) = self.findings(**parts)
        return finding


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def test_public_halves_are_those_of_the_standard() -> None:
    """RFC 8032, 7.1."""
    for private, public in (
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        ),
    ):
        assert base64.b64decode(public_half(bytes.fromhex(private)) + "=").hex() == public


def test_a_recorded_key_needs_no_process_and_has_no_finding(host: Host) -> None:
    host.key.write_text(KEY)
    host.remember(("a_one", 1))
    assert host.findings() == []
    assert host.processes == 0
    found = host.look()
    assert found.key_ids == ("ed25519:a_one",)
    assert found.verify_keys == {"ed25519:a_one": half()}


def test_a_key_that_signed_the_events_has_no_finding(host: Host) -> None:
    host.key.write_text(KEY)
    host.live("ed25519:a_one")
    assert host.findings() == []
    assert host.look().events.state == "alive"


def test_the_look_writes_nothing(host: Host) -> None:
    host.live("ed25519:a_one")
    context = host.context()
    before = {path.name: path.stat().st_mtime_ns for path in host.folder.iterdir()}
    identity_look.look(context)
    assert {path.name: path.stat().st_mtime_ns for path in host.folder.iterdir()} == before


# ---------------------------------------------------------------------------------------- a key is missing


def access(folder: str, mode: int) -> Access:
    node = Node(folder, "folder", 0, 900, mode)
    return Access(Who("synapse", 900, 900, (900,), "synapse"), (Item("config_folder", folder, ENTER, (node,)),))


def test_a_missing_key_of_a_living_server_is_critical_and_never_made(host: Host) -> None:
    host.live("ed25519:a_one")
    finding = host.one(access=access(str(host.folder), 0o770))
    assert (finding.id, finding.severity, finding.repair, finding.safe) == (
        *("identity.key_missing", "critical", "key"),
        False,
    )
    assert "ed25519:a_one" in finding.evidence
    assert "Never start" in finding.remedy
    assert "without a word" in finding.cause


def test_a_folder_that_the_service_cannot_write_is_its_protection(host: Host) -> None:
    host.live()
    assert "Permission denied" in host.one(access=access(str(host.folder), 0o750)).cause


@pytest.mark.parametrize("with_record", [False, True])
def test_the_copy_that_is_the_servers_own_is_named(host: Host, with_record: bool) -> None:
    host.live("ed25519:a_one")
    copies = host.folder / "backup"
    copies.mkdir()
    (copies / "signing.key").write_text(KEY)
    (host.folder / f"{SERVER}.signing.key.bak").write_text(OTHER)
    if with_record:
        host.remember(("a_one", 1))
    finding = host.one()
    # Without the record, the id in the events alone is no proof: the signatures here are none.
    assert (finding.id, finding.safe) == ("identity.key_missing", with_record)
    assert str(copies / "signing.key") in finding.remedy


def test_a_dangling_link_is_mounted_and_not_replaced(host: Host) -> None:
    host.live("ed25519:a_one")
    host.key.symlink_to("/nonexistent/vault/key")
    finding = host.one()
    assert (finding.id, finding.repair) == ("identity.key_missing", "")
    assert "/nonexistent/vault/key" in finding.evidence


def test_a_server_that_never_lived_gets_its_first_key(host: Host) -> None:
    finding = host.one()
    assert (finding.id, finding.severity, finding.safe) == ("identity.key_never_made", "error", True)


@pytest.mark.parametrize("trace", ["media/local_content/aa", "backups/homeserver-1.sqlite3"])
def test_media_and_backups_show_a_life_too(host: Host, trace: str) -> None:
    (host.folder / trace).mkdir(parents=True)
    finding = host.one()
    assert (finding.id, finding.safe) == ("identity.key_missing", False)


def test_a_database_that_cannot_be_asked_is_no_proof_of_a_new_server(host: Host) -> None:
    (host.folder / "homeserver.db").write_bytes(b"this is no database, whatever its name says" * 100)
    finding = host.one()
    assert finding.id == "identity.key_missing"
    assert "not certain" in finding.summary


def test_a_running_server_is_left_running(host: Host) -> None:
    host.live("ed25519:a_one")
    finding = host.one(answers=Answers(published={"ed25519:a_one": half()}))
    assert finding.remedy.startswith("The running server still signs with ed25519:a_one")


def test_a_broken_configuration_does_not_hide_a_missing_key(host: Host) -> None:
    host.extra = f"signing_key_path: '{host.folder}/my.key' # ours\nlisteners: [\n"
    context = host.context()
    broken = ConfigFile(str(host.folder / "homeserver.yaml"), "it is not YAML", 2)
    context.settings = Settings((broken,), {})
    seen = Seen(Request(), settings=context.settings, identity=identity_look.look(context))
    (finding,) = diagnose(seen, RULES.rules).findings
    assert finding.id == "identity.key_missing"
    assert f"{host.folder}/my.key" in finding.summary


@pytest.mark.parametrize("managed", [False, True])
@pytest.mark.parametrize("lived", [False, True])
def test_a_key_under_another_name_is_named_in_the_configuration(host: Host, managed: bool, lived: bool) -> None:
    host.managed = managed
    (host.folder / "homeserver.signing.key").write_text(KEY)
    if lived:
        host.live("ed25519:a_one")
    (finding,) = host.findings()
    if lived:  # the signatures here cannot be verified
        assert finding.id == "identity.key_missing"
        return
    assert (finding.id, finding.repair, finding.safe) == ("identity.key_elsewhere", "config" if managed else "", False)
    assert f"signing_key_path: {host.folder}/homeserver.signing.key" in finding.remedy


def test_a_key_that_signed_and_lies_elsewhere_is_no_missing_key(host: Host) -> None:
    (host.folder / "homeserver.signing.key").write_text(KEY)
    host.live("ed25519:a_one")
    found = host.look()
    signed = replace(found.events, signatures=(keys.Signature("ed25519:a_one", "ok", half()),))
    way = replace(found.way, action="restore", source=str(host.folder / "homeserver.signing.key"))
    seen = Seen(Request(), identity=replace(found, events=signed, way=way))
    assert [one.id for one in diagnose(seen, RULES.rules).findings] == ["identity.key_elsewhere"]


def test_relative_and_default_places(host: Host) -> None:
    context = host.context()
    assert access_look.key_path(context) == str(host.key)
    host.config["signing_key_path"] = "keys/one.key"
    assert access_look.key_path(host.context()) == "/keys/one.key"


# ---------------------------------------------------------------------------------------- a key is malformed


@pytest.mark.parametrize(
    ("content", "words", "safe"),
    [
        (b"# ours\n" + KEY.encode(), "comment", True),
        (b"\xef\xbb\xbf" + KEY.encode(), "byte order mark", True),
        (KEY.encode("utf-16"), "ASCII", True),
        (KEY.encode().strip() + b" # ours\n", "three words", True),
        (KEY.encode() + "# clé\n".encode(), "ASCII", True),
        (KEY.encode() + b"ed25519 a_old " + seed(2)[:20].encode(), "bytes", True),
        (KEY.encode()[:30], "", False),
        (b"ed25519 a_one !!!\n", "base64", False),
        (b"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n", "PEM", False),
        (b"rsa a_one " + seed(1).encode(), "ed25519", False),
        (b"ed25519 a_one\n", "three words", False),
        (seed(1).encode(), "without algorithm", False),
        (b"", "empty", False),
        (b"\xff\x00\x80" * 20, "ASCII", False),
        (b"# ed25519 a_one " + seed(1).encode(), "comment", False),
    ],
)
def test_what_is_wrong_with_the_file_is_said_and_a_whole_key_in_it_is_kept(
    host: Host, content: bytes, words: str, safe: bool
) -> None:
    host.key.write_bytes(content)
    host.remember(("a_one", 1))
    finding = host.one()
    assert (finding.id, finding.severity, finding.safe) == ("identity.key_malformed", "critical", safe)
    assert words in finding.summary
    assert finding.repair == "key"
    if safe:
        assert host.look().way.source == str(host.key)


def test_without_any_evidence_a_damaged_line_is_not_thrown_away(host: Host) -> None:
    host.key.write_text(KEY + "ed25519 a_old short\n")
    assert not host.one().safe


def test_what_synapse_reads_has_no_finding(host: Host) -> None:
    for content in (KEY.replace("\n", "\r\n"), f"\n{KEY}\n\n", KEY.strip(), f"  {KEY}"):
        host.key.write_bytes(content.encode())
        assert host.findings() == []


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_is_no_file_is_named(host: Host, what: str) -> None:
    if what == "folder":
        host.key.mkdir()
    else:
        os.mkfifo(host.key)
    assert host.one().id == "identity.key_no_file"


def test_of_two_keys_with_one_id_the_known_one_is_kept(host: Host) -> None:
    host.key.write_text(KEY + line("a_one", 2))
    assert (host.one().id, host.one().safe) == ("identity.key_duplicate_id", False)
    host.remember(("a_one", 1))
    finding = host.one()
    assert (finding.id, finding.safe) == ("identity.key_duplicate_id", True)
    assert "line 1 is the one" in finding.summary


def test_several_keys_are_legal(host: Host) -> None:
    host.key.write_text(KEY + OTHER)
    finding = host.one()
    assert (finding.id, finding.severity) == ("identity.several_keys", "info")


# ---------------------------------------------------------------------------------------- a key was replaced


@pytest.mark.parametrize("copy", [False, True])
def test_a_replaced_key_is_told_by_the_record(host: Host, copy: bool) -> None:
    host.remember(("a_one", 1))
    host.key.write_text(OTHER)
    if copy:
        (host.folder / f"{SERVER}.signing.key.old").write_text(KEY)
    finding = host.one()
    assert (finding.id, finding.severity, finding.safe) == ("identity.key_replaced", "critical", copy)
    assert "signature mismatch" in finding.cause
    assert "generate_signing_key" in finding.cause


def test_a_replaced_key_is_told_by_the_ids_of_the_events(host: Host) -> None:
    host.live("ed25519:a_one")
    host.key.write_text(OTHER)
    assert host.one().id == "identity.key_replaced"


def test_a_rotated_key_is_none_that_was_replaced(host: Host) -> None:
    host.live("ed25519:a_one", "ed25519:a_two")
    host.key.write_text(OTHER)
    assert host.findings() == []


@pytest.mark.parametrize("with_record", [False, True])
def test_a_key_that_somebody_meant_to_replace_is_only_remarked_upon(host: Host, with_record: bool) -> None:
    host.live("ed25519:a_one")
    if with_record:
        host.remember(("a_one", 1))
    host.key.write_text(OTHER)
    host.config["old_signing_keys"] = {"ed25519:a_one": {"key": half(), "expired_ts": 1700000000000}}
    assert (host.one().id, host.one().severity) == ("identity.key_rotated", "info")
    host.key.write_text(line("a_one", 2))
    assert with_record is (host.findings() != [])  # the signatures here cannot be verified


def test_the_record_of_another_server_is_told_once(host: Host) -> None:
    host.remember(("a_one", 1), server="other.example")
    host.key.write_text(KEY)
    assert host.one().id == "identity.record_of_another"


def test_a_record_that_is_none_is_a_warning(host: Host) -> None:
    host.key.write_text(KEY)
    host.record.write_text("{")
    assert (host.one().id, host.one().severity) == ("identity.record_damaged", "warning")


def test_an_earlier_key_has_to_be_published(host: Host) -> None:
    host.key.write_text(KEY)
    host.remember(("a_one", 1), retired=(keys.Retired("ed25519:a_zero", half(5), 1700000000000),))
    finding = host.one()
    assert finding.id == "identity.retired_unpublished"
    assert f'"ed25519:a_zero": {{key: "{half(5)}", expired_ts: 1700000000000}}' in finding.remedy
    host.config["old_signing_keys"] = {"ed25519:a_zero": {"key": half(5), "expired_ts": 1700000000000}}
    assert host.findings() == []


def test_a_private_half_among_the_old_keys_is_told(host: Host) -> None:
    host.key.write_text(KEY)
    host.config["old_signing_keys"] = {"ed25519:a_zero": {"key": seed(1), "expired_ts": 1}}
    context = host.context()
    found = identity_look.look(context)
    assert found.old_private == ("ed25519:a_zero",)
    seen = Seen(Request(), settings=context.settings, identity=found)
    assert [one.id for one in diagnose(seen, RULES.rules).findings] == ["identity.old_key_private"]
    for nonsense in ([], {"x": 1}, {"ed25519:x": {"key": 7}}, "text", {"ed25519:x": {"key": "ü b"}}):
        host.config["old_signing_keys"] = nonsense
        assert host.look().old_private == ()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no mapping of key ids"),
        ("text", "no mapping of key ids"),
        ({"rsa:x": {"key": "x", "expired_ts": 1}}, "does not begin with ed25519:"),
        ({"ed25519:x": "text"}, "no mapping with key"),
        ({"ed25519:x": {"key": half()}}, "lacks expired_ts"),
        ({"ed25519:x": {}}, "lacks key and expired_ts"),
        ({"ed25519:x": {"key": half()[:20], "expired_ts": 1}}, "32 bytes"),
        ({"ed25519:x": {"key": 7, "expired_ts": 1}}, "32 bytes"),
        ({"ed25519:x": {"key": half() + "=", "expired_ts": 1}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_what_synapse_cannot_read_of_the_old_keys(host: Host, entries: object, words: str | None) -> None:
    host.key.write_text(KEY)
    host.config["old_signing_keys"] = entries
    if words is None:
        assert host.findings() == []
        return
    finding = host.one()
    assert (finding.id, finding.severity, finding.repair) == ("identity.old_keys_malformed", "critical", "")
    assert words in finding.summary


def test_the_public_half_in_the_place_of_the_private_one_is_told(host: Host) -> None:
    host.remember(("a_one", 1))
    host.key.write_text(f"ed25519 a_one {half()}\n")
    assert host.one().id == "identity.key_known_to_others"


def test_a_banned_key_is_told(host: Host) -> None:
    (banned,) = keys.BANNED
    seen = Seen(
        Request(), identity=Identity(kind="file", path="/k", lines=(identity_look.Line(1, "ed25519:x", banned),))
    )
    assert [one.id for one in diagnose(seen, RULES.rules).findings] == ["identity.key_known_to_others"]


# ---------------------------------------------------------------------------------------- in line, and modes


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("nonsense", "identity.key_inline_invalid"),
        ("ed25519 a_one", "identity.key_inline_invalid"),
        (KEY.strip(), "identity.key_inline"),
    ],
)
@pytest.mark.parametrize("quote", ["'", '"', ""])
def test_a_key_in_the_configuration_is_judged_like_a_file(host: Host, text: str, finding: str, quote: str) -> None:
    host.config["signing_key"] = "***"
    host.extra = (
        f"server_name: {SERVER}\nsigning_key: {quote}{text}{quote}  # inline\n" if quote else f"signing_key: {text}"
    )
    host.managed = True
    found = host.findings()
    assert [one.id for one in found] == [finding]
    assert found[0].repair == ("config" if finding.endswith("invalid") else "")


@pytest.mark.parametrize("value", [None, [], {}, 7])
def test_what_is_no_text_is_no_key(host: Host, value: object) -> None:
    host.config["signing_key"] = value
    host.extra = "signing_key:\n"
    assert host.one().id == "identity.key_inline_invalid"


def test_another_key_in_the_configuration_is_told_by_the_events(host: Host) -> None:
    host.live("ed25519:a_one")
    host.config["signing_key"] = "***"
    database = host.folder / "homeserver.db"
    host.extra = f"database: {{name: sqlite3, args: {{database: {database}}}}}\nsigning_key: '{OTHER.strip()}'\n"
    assert [one.id for one in host.findings()] == ["identity.key_replaced", "identity.key_inline"]


def key_item(owner: int, group: int, mode: int) -> Access:
    folder = Node("/etc/synapse", "folder", 0, 900, 0o750, "root", "synapse")
    node = Node("/etc/synapse/key", "file", owner, group, mode, "root" if owner == 0 else "synapse")
    return Access(Who("synapse", 900, 900, (900,), "synapse"), (Item("key", "/etc/synapse/key", READ, (folder, node)),))


@pytest.mark.parametrize(
    ("owner", "group", "mode", "finding", "remedy"),
    [
        (0, 0, 0o600, "identity.key_unreadable", "chown root:synapse /etc/synapse/key && chmod 0640"),
        (900, 900, 0o200, "identity.key_unreadable", "chmod 0600"),
        (900, 900, 0o644, "identity.key_exposed", "chmod 0640"),
        (0, 0, 0o604, "identity.key_exposed", "chown root:synapse /etc/synapse/key && chmod 0640"),
        (900, 900, 0o660, "identity.key_exposed", "chmod 0640"),
    ],
)
def test_owner_and_mode_of_the_key(owner: int, group: int, mode: int, finding: str, remedy: str) -> None:
    seen = Seen(Request(), access=key_item(owner, group, mode))
    (told,) = diagnose(seen, RULES.rules).findings
    assert told.id == finding
    assert (told.repair, told.safe) == ("permissions", True)
    assert remedy in told.remedy


@pytest.mark.parametrize(("owner", "group", "mode"), [(900, 900, 0o600), (0, 900, 0o640), (900, 900, 0o400)])
def test_usual_owners_and_modes_are_fine(owner: int, group: int, mode: int) -> None:
    assert diagnose(Seen(Request(), access=key_item(owner, group, mode)), RULES.rules).findings == ()
