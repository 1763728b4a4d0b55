# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of key files, the record, and every decision about a key, without a host."""

from __future__ import annotations

import base64
import dataclasses
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _signing_key as keys
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

VERSIONS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", min_size=1, max_size=12)
SEEDS = st.binary(min_size=32, max_size=32).filter(lambda seed: len(set(seed)) > 1)
KEYS = st.builds(keys.Key, VERSIONS, SEEDS)

NOW, EXPIRED = "2026-01-01T00:00:00Z", 1_767_225_600_000


def key(number: int, version: str | None = None) -> keys.Key:
    """A made-up key; two numbers are two keys."""
    return keys.Key(version or f"a_{number}", bytes([number]) * 31 + b"x")


OLD, NEW, OTHER = key(1), key(2), key(3)
# Public halves; what they are does not matter here, only that they differ.
PUBLIC = {item.fingerprint: f"public-{item.seed[0]}" for item in (OLD, NEW, OTHER, key(2, "a_1"))}


def known(*items: keys.Key) -> tuple[keys.Known, ...]:
    return keys.known(items, PUBLIC, NOW)


def record(*items: keys.Key, **more: t.Any) -> keys.Record:
    return keys.Record(current=known(*items), **more)


def signed(*items: keys.Key, verdict: str = "ok") -> keys.Events:
    """Events signed by keys, newest first, that were all at hand to verify them."""
    return keys.Events(
        "alive",
        "the database",
        "",
        tuple(keys.Signature(k.key_id, verdict, PUBLIC[k.fingerprint] if verdict == "ok" else None) for k in items),
    )


def found(*items: keys.Key, missing: bool = False, **more: t.Any) -> keys.Found:
    more.setdefault("verify_keys", PUBLIC)
    return keys.Found(None if missing else keys.KeyFile(items), record_path="/the/record", **more)


def wanted(**more: t.Any) -> keys.Wanted:
    return keys.Wanted("/etc/key", now=NOW, expired_ts=EXPIRED, server_name="keys.test", **more)


# The parser


@given(st.lists(KEYS, min_size=1, max_size=5, unique_by=lambda item: item.version))
def test_what_is_written_is_read_back(items: list[keys.Key]) -> None:
    parsed = keys.parse("".join(item.line for item in items).encode())
    assert parsed == keys.KeyFile(tuple(items))
    assert [item.number for item in parsed.keys] == list(range(1, len(items) + 1))


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_parser_and_none_are_accepted_in_silence(data: bytes) -> None:
    parsed = keys.parse(data)
    assert parsed.keys or parsed.errors
    for problem in parsed.problems:
        assert problem.line is None or 1 <= problem.line <= data.count(b"\n") + data.count(b"\r") + 20


def reference(data: bytes) -> list[tuple[str, bytes]] | None:
    """What signedjson 1.1.4 and unpaddedbase64 2.1.0 make of a file, after Synapse has split it; ``None``: refused."""
    try:
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        found = []
        for line in text.splitlines():
            if line.strip():
                algorithm, version, encoded = line.split()
                raw = encoded.encode("ascii")
                seed = base64.b64decode(raw + b"=" * (3 - ((len(raw) + 3) % 4)), altchars=b"-_")
                if algorithm != "ed25519" or len(seed) != 32:
                    return None
                found.append((version, seed))
    except ValueError:
        return None
    return found or None


@st.composite
def mutated(draw: st.DrawFn) -> tuple[keys.Key, bytes]:
    """A key, and its line with one change: a byte replaced, removed, doubled or inserted."""
    item = draw(KEYS)
    line = bytearray(item.line.encode())
    place = draw(st.integers(0, len(line) - 1))
    byte = draw(st.one_of(st.integers(0, 255), st.sampled_from(b" \t\r\n=#/+-_A")))
    kind = draw(st.sampled_from(["replace", "remove", "double", "insert"]))
    if kind == "replace":
        line[place] = byte
    elif kind == "remove":
        del line[place]
    else:
        line.insert(place, line[place] if kind == "double" else byte)
    return item, bytes(line)


@given(mutated())
def test_a_changed_line_is_read_as_synapse_reads_it_or_refused_by_its_number(change: tuple[keys.Key, bytes]) -> None:
    line = change[1]
    parsed = keys.parse(line)
    if parsed.errors:
        assert {problem.line for problem in parsed.errors} <= {1, 2}
    else:
        assert [(item.version, item.seed) for item in parsed.keys] == reference(line)


@given(mutated())
def test_no_message_and_no_repr_shows_a_key(change: tuple[keys.Key, bytes]) -> None:
    item, line = change
    for text in (line, item.encoded.encode(), line + item.line.encode(), b"ed25519 " + item.encoded.encode()):
        parsed = keys.parse(text)
        shown = repr(parsed) + "".join(problem.sentence() for problem in parsed.problems)
        for start in range(0, 43 - 11):
            piece = item.encoded[start : start + 12]
            # The version is public: a piece of the key may stand in its place only if it is the version.
            assert piece not in shown or any(piece in part.version for part in parsed.keys)


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", "empty", None),
        (" \n\t\n", "empty", None),
        ("garbage", "algorithm", 1),
        ("\n\nrsa a_1 AAAA", "algorithm", 3),
        ("# by hand\n" + OLD.line, "algorithm", 1),
        ("-----BEGIN PRIVATE KEY-----", "pem", 1),
        (OLD.encoded, "one-token", 1),
        ("ed25519 " + OLD.encoded, "tokens", 1),
        (OLD.line.rstrip() + " more", "tokens", 1),
        ("ed25519 a_1 " + OLD.encoded[:-1], "seed", 1),
        ("ed25519 a_1 " + OLD.encoded + "A", "seed", 1),
        ("ed25519 a_1 " + OLD.encoded[:10] + "!!!!" + OLD.encoded[10:], "seed", 1),
        ("ed25519 a_1 " + OLD.encoded[:10] + "=" + OLD.encoded[10:], "seed", 1),
        ("ed25519 a_1 " + "A" * 43, "seed", 1),
        (OLD.line + key(2, "a_1").line, "duplicate-id", 2),
        ("\ufeff" + OLD.line, "bom", 1),
        (OLD.line + "\n\u00e9", "encoding", 3),
        ("ed25519\u00a0a_1 " + OLD.encoded, "encoding", 1),
    ],
)
def test_a_broken_file_is_named_with_its_line(text: str, problem: str, line: int | None) -> None:
    (error,) = keys.parse(text.encode()).errors
    assert (error.id, error.line) == (problem, line)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (OLD.line.rstrip(), []),
        (OLD.line.replace("\n", "\r\n"), []),
        ("\n  \n" + OLD.line + "\n", []),
        (OLD.line.replace(" ", "\t"), []),
        (OLD.line.rstrip() + "=\n", []),
        (OLD.line.replace("+", "-").replace("/", "_"), []),
        (OLD.line + OLD.line, ["duplicate-line"]),
        (key(1, "a-1").line, ["version"]),
    ],
)
def test_what_synapse_takes_is_taken(text: str, problems: list[str]) -> None:
    parsed = keys.parse(text.encode())
    assert parsed.keys[0].seed == OLD.seed
    assert not parsed.errors
    assert [problem.id for problem in parsed.problems] == problems


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x1c", "\n\r\n"])
def test_lines_end_where_synapse_ends_them(end: str) -> None:
    parsed = keys.parse((OLD.line.strip() + end + NEW.line).encode())
    assert (parsed.keys, parsed.problems) == ((OLD, NEW), ())


@pytest.mark.parametrize(
    ("mode", "safe"),
    [(0o600, True), (0o640, True), (0o400, True), (0o440, True), (0o644, False), (0o660, False), (0o700, False)],
)
def test_modes(mode: int, safe: bool) -> None:
    assert keys.mode_is_safe(mode) is safe


# The record


def test_the_record_is_read_back_and_holds_no_private_key() -> None:
    memory = record(
        OLD,
        server_name="keys.test",
        retired=(keys.Retired("ed25519:a_0", "public-0", 5),),
        pending=keys.Pending(known(NEW), 7),
    )
    data = keys.render_record(memory)
    assert keys.parse_record(data, "/the/record") == memory
    assert OLD.encoded.encode() not in data
    assert OLD.seed.hex().encode() not in data


INFINITE = (
    b'{"format": 1, "current": [], "retired": [{"key_id": "ed25519:a", "verify_key": "x", "expired_ts": Infinity}]}'
)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1, "current": 5}', b"\xff", INFINITE]
)
def test_what_is_no_record_is_an_error(data: bytes) -> None:
    with pytest.raises(SynapseError, match="/the/record is not a record"):
        keys.parse_record(data, "/the/record")


def test_keys_that_leave_the_file_are_retired_and_keep_their_first_date() -> None:
    first = keys.remember(None, "keys.test", known(OLD), EXPIRED)
    assert (first.retired, first.pending) == ((), None)
    later = tuple(dataclasses.replace(item, first_seen="later") for item in known(OLD, NEW))
    both = keys.remember(first, None, later, EXPIRED)
    assert [item.first_seen for item in both.current] == [NOW, "later"]
    assert both.server_name == "keys.test"
    rotated = keys.remember(both, None, known(NEW), EXPIRED)
    assert keys.old_signing_keys(rotated) == {"ed25519:a_1": {"key": "public-1", "expired_ts": EXPIRED}}
    back = keys.remember(rotated, None, known(OLD), EXPIRED)
    assert list(keys.old_signing_keys(back)) == ["ed25519:a_2"]


def test_an_interrupted_rotation_keeps_the_time_that_it_had() -> None:
    memory = record(OLD, pending=keys.Pending(known(NEW), 7))
    assert keys.remember(memory, None, known(NEW), EXPIRED).retired == (keys.Retired("ed25519:a_1", "public-1", 7),)


def test_a_banned_key_is_never_published_as_an_old_one() -> None:
    (banned,) = keys.BANNED
    memory = keys.Record(current=(keys.Known("ed25519:1", banned, "f", NOW),))
    assert keys.remember(memory, None, known(NEW), EXPIRED).retired == ()


def test_an_id_that_is_in_use_again_is_not_published_as_an_old_one() -> None:
    memory = keys.remember(record(OLD), None, keys.known([key(2, "a_1")], PUBLIC, NOW), EXPIRED)
    assert keys.old_signing_keys(memory) == {}
    assert keys.old_signing_keys(None) == {}


# What has to be asked


@pytest.mark.parametrize(
    ("order", "host", "asks"),
    [
        ({}, found(OLD, record=record(OLD)), keys.Questions()),
        ({"content": (OLD,)}, found(OLD, record=record(OLD)), keys.Questions()),
        ({"state": "rotated"}, found(OLD, record=record(OLD)), keys.Questions()),
        ({"content": (NEW,)}, found(OLD, record=record(OLD)), keys.Questions(derive=True)),
        ({}, found(OLD), keys.Questions(derive=True, life=True, candidates=True)),
        ({}, found(NEW, record=record(OLD)), keys.Questions(derive=True, life=True, candidates=True)),
        ({}, found(NEW, record=record(OLD, pending=keys.Pending(known(NEW), 1))), keys.Questions(derive=True)),
        ({}, found(missing=True), keys.Questions(life=True, candidates=True)),
        ({"new_identity": True}, found(missing=True), keys.Questions()),
        ({"content": (NEW,)}, found(missing=True), keys.Questions(derive=True, life=True)),
    ],
)
def test_only_what_a_decision_needs_is_asked(order: dict[str, t.Any], host: keys.Found, asks: keys.Questions) -> None:
    assert keys.questions(wanted(**order), host) == asks


# Decisions that act


CANDIDATE = keys.Candidate("/etc/key.bak", (OLD,), own=True)
EMPTY = keys.Events("empty", "the database")
BROKEN = keys.parse(b"garbage")
PENDING = record(OLD, pending=keys.Pending(known(NEW), 7))


@pytest.mark.parametrize(
    ("order", "host", "action", "after"),
    [
        ({}, found(missing=True), "create", ["<new>"]),
        ({}, found(missing=True, events=EMPTY), "create", ["<new>"]),
        ({}, found(missing=True, record=keys.Record(pending=keys.Pending(known(NEW), 7))), "create", ["<new>"]),
        ({"new_identity": True}, found(missing=True, record=record(OLD), events=signed(OLD)), "create", ["<new>"]),
        ({"new_identity": True, "mint": False}, found(missing=True), "create", ["<new>"]),
        (
            {"mend": True, "mint": False},
            found(missing=True, record=record(OLD), candidates=(CANDIDATE,)),
            "restore",
            ["a_1"],
        ),
        ({}, found(OLD, record=record(OLD)), "keep", ["a_1"]),
        ({}, found(OLD, record=record(OLD), events=signed(NEW)), "keep", ["a_1"]),
        ({}, found(OLD), "record", ["a_1"]),
        ({}, found(OLD, events=signed(OLD, OLD)), "record", ["a_1"]),
        ({}, found(OLD, events=signed(OLD, NEW, verdict="unchecked")), "record", ["a_1"]),
        ({}, found(OLD, events=EMPTY), "record", ["a_1"]),
        ({}, found(OLD, events=keys.Events("unreadable", "the database", "locked")), "keep", ["a_1"]),
        ({}, found(OLD, NEW, record=record(OLD)), "record", ["a_1", "a_2"]),
        ({}, found(NEW, OLD, record=record(OLD)), "record", ["a_2", "a_1"]),
        ({}, found(OLD, record=record(OLD, NEW)), "record", ["a_1"]),
        ({}, found(NEW, record=PENDING), "record", ["a_2"]),
        ({}, found(OLD, record=PENDING), "keep", ["a_1"]),
        ({"new_identity": True}, found(NEW, record=record(OLD)), "record", ["a_2"]),
        ({"new_identity": True}, found(NEW, events=signed(OLD)), "record", ["a_2"]),
        ({"content": (OLD,)}, found(missing=True), "restore", ["a_1"]),
        ({"content": (OLD,)}, found(missing=True, record=record(OLD)), "restore", ["a_1"]),
        ({"content": (OLD,)}, found(missing=True, events=signed(OLD)), "restore", ["a_1"]),
        ({"content": (NEW,), "new_identity": True}, found(missing=True, record=record(OLD)), "restore", ["a_2"]),
        ({"content": (OLD,)}, dataclasses.replace(found(), file=BROKEN, record=record(OLD)), "restore", ["a_1"]),
        ({"content": (OLD,)}, found(NEW, record=record(OLD)), "restore", ["a_1"]),
        ({"content": (OLD,)}, found(NEW, events=signed(OLD)), "restore", ["a_1"]),
        ({"content": (OLD,), "new_identity": True}, found(NEW), "restore", ["a_1"]),
        ({"content": (OLD,)}, found(OLD, record=record(OLD)), "keep", ["a_1"]),
        ({"content": (OLD,)}, found(OLD, OTHER, record=record(OLD, OTHER)), "keep", ["a_1", "a_3"]),
        ({"content": (OLD, OTHER)}, found(OLD, record=record(OLD)), "restore", ["a_1", "a_3"]),
        (
            {"content": (OLD, OTHER)},
            found(NEW, OTHER, record=record(NEW, OTHER, retired=(keys.Retired("ed25519:a_1", "public-1", 5),))),
            "keep",
            ["a_2", "a_3"],
        ),
        (
            {"content": (OLD,)},
            found(NEW, record=record(NEW, retired=(keys.Retired("ed25519:a_1", "public-1", 5),))),
            "keep",
            ["a_2"],
        ),
        ({"state": "rotated"}, found(OLD, record=record(OLD)), "rotate", ["<new>"]),
        ({"state": "rotated"}, found(OLD, OTHER, record=record(OLD, OTHER)), "rotate", ["<new>", "a_3"]),
        ({"state": "rotated"}, found(OLD), "rotate", ["<new>"]),
        ({"state": "rotated"}, found(NEW, record=PENDING), "record", ["a_2"]),
        ({"state": "rotated", "replaces": "ed25519:a_1"}, found(OLD, record=record(OLD)), "rotate", ["<new>"]),
        ({"state": "rotated", "replaces": "ed25519:a_1"}, found(NEW, record=PENDING), "record", ["a_2"]),
        (
            {"state": "rotated", "replaces": "ed25519:a_1"},
            found(NEW, record=keys.remember(record(OLD), None, known(NEW), 5)),
            "keep",
            ["a_2"],
        ),
    ],
)
def test_what_is_done(order: dict[str, t.Any], host: keys.Found, action: str, after: list[str]) -> None:
    todo = keys.plan(wanted(**order), host)
    assert todo.action == action
    assert list(todo.after) == [f"ed25519:{version}" for version in after]
    assert todo.changed is (action != "keep")
    assert todo.write_key is (action in {"create", "restore", "rotate"})
    assert todo.mint is ("<new>" in after)
    assert todo.backup is (action in {"restore", "rotate"} and host.file is not None)
    assert "x" * 5 not in repr(todo)
    for item in (OLD, NEW, OTHER):
        assert item.encoded not in repr(todo)
        assert repr(item.seed) not in repr(todo)


@pytest.mark.parametrize(
    ("order", "host", "words"),
    [
        (
            {},
            found(missing=True, record=record(OLD)),
            [
                "is missing",
                "/the/record remembers ed25519:a_1",
                "as 'content' (synapse_signing_key_content in the role)",
                "'new_identity: true' (synapse_new_identity in the role), once",
            ],
        ),
        ({}, found(missing=True, events=signed(NEW)), ["holds accounts or events of keys.test, signed by ed25519:a_2"]),
        ({}, found(missing=True, events=keys.Events("alive", "the database")), ["holds accounts or events"]),
        (
            {},
            found(missing=True, events=keys.Events("unreadable", "the database", "locked")),
            ["cannot be read (locked)"],
        ),
        (
            {},
            found(missing=True, published=keys.Published("http://s", {"ed25519:a_9": "public-9"})),
            ["http://s publishes ed25519:a_9"],
        ),
        (
            {},
            found(missing=True, candidates=(CANDIDATE,)),
            ["/etc/key.bak holds ed25519:a_1", "The key is in /etc/key.bak"],
        ),
        (
            {},
            found(missing=True, record=record(NEW), candidates=(CANDIDATE,)),
            ["Restore the key file from a backup (other keys lie in /etc/key.bak)"],
        ),
        (
            {},
            found(NEW, record=record(OLD)),
            ["was replaced", "ed25519:a_2", "record knows ed25519:a_1 (verify key public-1"],
        ),
        ({}, found(key(2, "a_1"), record=record(OLD)), ["another key under the same id ed25519:a_1"]),
        ({}, found(NEW, record=record(OLD), candidates=(CANDIDATE,)), ["The key is in /etc/key.bak"]),
        ({}, found(NEW, record=record(OLD, pending=keys.Pending(known(OTHER), 7))), ["was replaced"]),
        ({}, found(NEW, events=signed(OLD)), ["was replaced", "newest event in the database is signed by ed25519:a_1"]),
        ({}, found(key(2, "a_1"), events=signed(OLD, verdict="mismatch")), ["signatures are another key's"]),
        ({}, found(NEW, published=keys.Published("http://s", {"ed25519:a_1": "public-1"})), ["http://s publishes"]),
        ({}, dataclasses.replace(found(), file=BROKEN), ["not usable: line 1", "left as it is"]),
        ({"mint": False}, found(missing=True, events=EMPTY), ["is missing", "no new one was to be made", "a backup"]),
        ({"new_identity": True}, dataclasses.replace(found(), file=BROKEN), ["not usable: line 1"]),
        ({"content": (NEW,)}, found(missing=True, record=record(OLD)), ["not the key that this server had"]),
        ({"content": (NEW,)}, found(missing=True, events=signed(OLD)), ["not the key that this server had"]),
        ({"content": (NEW,)}, found(OLD), ["nothing shows"]),
        ({"content": (NEW,)}, found(OLD, record=record(OLD)), ["nothing shows"]),
        ({"content": (NEW, OTHER)}, found(NEW, record=record(OLD)), ["nothing shows"]),
        ({"content": (NEW, OLD)}, found(OLD, OTHER, record=record(OLD, OTHER)), ["nothing shows"]),
        ({"content": (NEW,)}, found(OLD, events=signed(OLD)), ["nothing shows"]),
        ({"state": "rotated"}, found(missing=True), ["no signing key at /etc/key"]),
        ({"state": "rotated"}, found(NEW, record=record(OLD)), ["was replaced"]),
        ({"state": "rotated", "content": (OLD,)}, found(NEW, record=record(OLD)), ["ask for one of them"]),
        (
            {"state": "rotated", "replaces": "ed25519:typo"},
            found(OLD, record=record(OLD)),
            ["which is no key of this server", "signs with ed25519:a_1"],
        ),
        ({}, found(missing=True, link="/mnt/key"), ["is a link to /mnt/key, whose target is missing"]),
        ({"state": "rotated"}, found(OLD, record=record(OLD), link="/mnt/key"), ["never replaced"]),
        ({}, found(OLD, record=record(OLD, server_name="other.test")), ["cannot be renamed"]),
    ],
)
def test_what_is_refused(order: dict[str, t.Any], host: keys.Found, words: list[str]) -> None:
    with pytest.raises(SynapseError) as refusal:
        keys.plan(wanted(**order), host)
    for word in words:
        assert word in refusal.value.msg
    for item in (OLD, NEW, OTHER):
        assert item.encoded not in refusal.value.msg + repr(refusal.value.details)


def test_older_events_of_another_key_are_told_of() -> None:
    todo = keys.plan(wanted(), found(NEW, events=signed(NEW, OLD)))
    assert todo.action == "record"
    assert "signed by ed25519:a_1" in todo.warnings[0]
    assert "old_signing_keys" in todo.warnings[0]


def test_one_id_for_two_keys_is_seen_in_old_events_too() -> None:
    events = keys.Events(
        "alive", "d", "", (keys.Signature("ed25519:a_2", "ok", "public-2"), keys.Signature("ed25519:a_2", "mismatch"))
    )
    with pytest.raises(SynapseError, match="another key's"):
        keys.plan(wanted(), found(NEW, events=events))


def test_a_banned_key_is_refused_unless_it_is_rotated_away() -> None:
    (banned,) = keys.BANNED
    host = found(OLD, verify_keys={OLD.fingerprint: banned})
    with pytest.raises(SynapseError, match="ELEMENTSEC-2025-1670"):
        keys.plan(wanted(), host)
    assert keys.plan(wanted(state="rotated"), host).action == "rotate"


def test_a_public_key_in_the_place_of_the_private_one_is_refused() -> None:
    memory = keys.Record(current=(keys.Known("ed25519:a_1", OLD.encoded, "f", NOW),))
    with pytest.raises(SynapseError, match="is the public key"):
        keys.plan(wanted(new_identity=True), found(OLD, record=memory))


def test_another_server_may_take_over_a_path_when_asked_to() -> None:
    host = found(OLD, record=record(OLD, server_name="other.test"))
    assert keys.plan(wanted(new_identity=True), host).action == "record"


def test_without_an_environment_a_dry_run_predicts_and_says_so() -> None:
    for order in ({}, {"content": (NEW,)}):
        todo = keys.plan(wanted(**order), found(OLD, verify_keys={}, complete=False))
        assert todo.changed
        assert "environment is missing" in todo.warnings[0]
