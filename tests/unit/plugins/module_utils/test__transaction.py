# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _transaction
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._transaction import (
    Change,
    Entry,
    Found,
    Item,
    Journal,
)

ABSENT, FOLDER, OTHER = Found("absent"), Found("directory", 0, 0, 0o755), Found("other")
OLD = Found("file", 0, 0, 0o644, content=b"old")
LINK = Found("link", 0, 0, 0o777, target="one")


def file(**more: t.Any) -> Item:
    return Item(**{"path": "/f", "state": "file", "content": b"new", **more})


def link(**more: t.Any) -> Item:
    return Item(**{"path": "/f", "state": "link", "target": "two", **more})


def folder(**more: t.Any) -> Item:
    return Item(**{"path": "/f", "state": "directory", **more})


def gone(**more: t.Any) -> Item:
    return Item(**{"path": "/f", "state": "absent", **more})


def plan(item: Item, found: Found) -> Change | None:
    changes = _transaction.plan([item], {item.path: found}, uid=5, gid=6)
    return changes[0] if changes else None


@pytest.mark.parametrize(
    ("item", "found", "action", "rights"),
    [
        (file(), ABSENT, "write", (5, 6, 0o644)),
        (file(secret=True), ABSENT, "write", (5, 6, 0o600)),
        (file(mode=0o640, uid=1, gid=2), ABSENT, "write", (1, 2, 0o640)),
        (file(), OLD, "write", (0, 0, 0o644)),
        (file(mode=0o600), OLD, "write", (0, 0, 0o600)),
        (file(), LINK, "write", (5, 6, 0o644)),
        (file(content=b"old"), OLD, None, None),
        (file(content=b"old", mode=0o644, uid=0, gid=0), OLD, None, None),
        (file(content=b"old", mode=0o600), OLD, "attributes", (0, 0, 0o600)),
        (file(content=b"old", gid=3), OLD, "attributes", (0, 3, 0o644)),
        (file(content=b"old", unknown=("owner synapse",)), OLD, "attributes", (0, 0, 0o644)),
        (file(content=None, generate=32, secret=True), ABSENT, "write", (5, 6, 0o600)),
        (
            file(content=None, generate=32, secret=True),
            dataclasses.replace(OLD, content=b" \n"),
            "write",
            (0, 0, 0o644),
        ),
        (file(content=None, generate=32, secret=True), OLD, None, None),
        (file(content=None, generate=32, secret=True, mode=0o600), OLD, "attributes", (0, 0, 0o600)),
        (file(content=None, generate=32), dataclasses.replace(LINK, reaches_text=True), None, None),
        (link(), ABSENT, "link", (5, 6, 0o777)),
        (link(), LINK, "link", (0, 0, 0o777)),
        (link(), OLD, "link", (5, 6, 0o777)),
        (link(target="one"), LINK, None, None),
        (link(target="one", mode=0o600), LINK, None, None),
        (link(target="one", uid=4), LINK, "attributes", (4, 0, 0o777)),
        (link(keep_as="/k"), FOLDER, "exchange", (5, 6, 0o777)),
        (folder(), ABSENT, "directory", (5, 6, 0o755)),
        (folder(mode=0o700, gid=1), ABSENT, "directory", (5, 1, 0o700)),
        (folder(), FOLDER, None, None),
        (folder(mode=0o750), FOLDER, "attributes", (0, 0, 0o750)),
        (gone(), ABSENT, None, None),
        (gone(), OLD, "remove", (0, 0, 0o644)),
        (gone(), LINK, "remove", (0, 0, 0o777)),
    ],
)
def test_what_to_do(item: Item, found: Found, action: str | None, rights: tuple[int, int, int] | None) -> None:
    change = plan(item, found)
    assert (None if change is None else change.action) == action
    assert (None if change is None else (change.uid, change.gid, change.mode)) == rights


@pytest.mark.parametrize(
    ("item", "found", "words"),
    [
        (file(), FOLDER, "is a folder, where a file is wanted"),
        (file(), OTHER, "neither file, link nor folder"),
        (link(), OTHER, "where a link is wanted"),
        (folder(), OLD, "is a file, where a folder is wanted"),
        (folder(), LINK, "is a link, where a folder is wanted"),
        (gone(), FOLDER, "where nothing is wanted"),
        (file(content=None, generate=32), LINK, "there is no secret"),
        (file(content=None, generate=32), dataclasses.replace(ABSENT, in_use=True), "is missing, and"),
    ],
)
def test_what_is_in_the_way_is_refused(item: Item, found: Found, words: str) -> None:
    with pytest.raises(SynapseError, match=words):
        plan(item, found)


def test_folders_come_first_and_parents_before_children() -> None:
    items = [
        file(path="/a/b/c/f"),
        folder(path="/a/b/c"),
        gone(path="/old"),
        folder(path="/a"),
        folder(path="/a/b"),
        link(path="/l"),
    ]
    found = {item.path: ABSENT for item in items} | {"/old": OLD}
    changes = _transaction.plan(items, found, uid=0, gid=0)
    assert [change.item.path for change in changes] == ["/a", "/a/b", "/a/b/c", "/a/b/c/f", "/old", "/l"]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([file(path="relative")], "not a plain absolute path"),
        ([file(path="/a/../b")], "not a plain absolute path"),
        ([file(path="/a/")], "not a plain absolute path"),
        ([file(path="//a")], None),
        ([file(path="/a"), gone(path="/a")], "listed twice"),
        ([file(path="/a"), file(path="/a/b/c")], "would lie below /a"),
        ([link(path="/a"), folder(path="/a/b")], "would lie below /a"),
        ([folder(path="/a"), file(path="/a/b")], None),
        ([file(path="/a"), file(path="/ab")], None),
        ([file(path="/t/current/0")], "transaction's own folder"),
        ([folder(path="/t"), file(path="/tt")], None),
        ([file(generate=15)], "16 to 4096"),
        ([file(generate=16)], None),
    ],
)
def test_contradictions(items: list[Item], words: str | None) -> None:
    if words is None:
        _transaction.check_items(items, "/t")
    else:
        with pytest.raises(SynapseError, match=words):
            _transaction.check_items(items, "/t")


def journal(*pairs: tuple[Item, Found], before: Journal | None = None) -> Journal | None:
    items = [item for item, _facts in pairs]
    found = {item.path: facts for item, facts in pairs}
    changes = _transaction.plan(items, found, uid=0, gid=0)
    return _transaction.journal_with(before, changes, found, items, "now")


def test_only_a_change_that_asks_for_a_restart_opens_the_journal() -> None:
    assert journal((file(restart=False), OLD)) is None
    assert journal((file(content=b"old", mode=0o600), OLD)) is None
    assert journal((folder(), ABSENT)) is None
    assert journal((file(content=b"old"), OLD)) is None
    opened = journal((file(), OLD), (file(path="/quiet", restart=False), OLD), (folder(path="/d"), ABSENT))
    assert opened is not None
    assert [entry.path for entry in opened.entries] == ["/f", "/quiet"]
    assert opened.paths == ("/f",)


@pytest.mark.parametrize(
    ("pairs", "first"),
    [
        ([(file(), ABSENT), (link(path="/l"), ABSENT)], True),
        ([(file(), ABSENT), (link(path="/l"), LINK)], False),
        # Unchanged, but it was there: so was an installation.
        ([(file(), ABSENT), (link(path="/l", target="one"), LINK)], False),
        # Secrets, folders and what no server reads say nothing.
        ([(file(), ABSENT), (file(path="/s", content=None, generate=16), OLD), (folder(path="/d"), FOLDER)], True),
        ([(file(), ABSENT), (file(path="/q", restart=False), OLD)], True),
    ],
)
def test_a_first_deployment_is_told_from_a_later_one(pairs: list[tuple[Item, Found]], first: bool) -> None:
    opened = journal(*pairs)
    assert opened is not None
    assert opened.first is first


def test_a_later_look_may_find_that_there_was_an_installation() -> None:
    minted = (file(path="/s", content=None, generate=16, secret=True), ABSENT)
    opened = journal(minted, (file(path="/given", secret=True), ABSENT))
    assert opened is not None
    assert opened.first is True
    # Nothing changes in this run, and yet it is seen that there was a configuration.
    later = journal((file(content=b"old"), OLD), before=opened)
    assert later is not None
    assert later.first is False
    # What the transaction itself brought is no such sign.
    again = journal((file(path="/given", secret=True), Found("file", content=b"new")), before=opened)
    assert again == opened


def test_the_oldest_saved_state_stays() -> None:
    opened = journal((file(), OLD))
    assert opened is not None
    later = journal((file(content=b"newer"), Found("file", content=b"new")), (gone(path="/g"), OLD), before=opened)
    assert later is not None
    assert [(entry.path, entry.content) for entry in later.entries] == [("/f", b"old"), ("/g", b"old")]
    assert later.opened == "now"
    assert journal((file(content=b"old"), OLD), before=opened) == opened


def test_what_was_saved_quietly_may_ask_for_a_restart_later() -> None:
    opened = journal((file(path="/a"), OLD), (file(restart=False), OLD))
    assert opened is not None
    assert opened.paths == ("/a",)
    later = journal((file(content=b"newer"), Found("file", content=b"new")), before=opened)
    assert later is not None
    assert later.paths == ("/a", "/f")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
entries = st.builds(
    Entry,
    path=names.map("/".__add__),
    kind=st.sampled_from(["absent", "file", "link", "directory"]),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mode=st.integers(0, 0o7777),
    target=st.none() | names,
    kept=st.none() | names,
    restart=st.booleans(),
    minted=st.booleans(),
    secret=st.booleans(),
)


@given(st.lists(entries), st.booleans())
def test_a_journal_is_read_as_it_was_written(found: list[Entry], first: bool) -> None:
    found = [
        dataclasses.replace(
            entry,
            content=b"c" if entry.kind == "file" else None,
            target=entry.target or ("there" if entry.kind == "link" else None),
        )
        for entry in found
    ]
    written = Journal("now", first, tuple(found))
    assert _transaction.journal_from(json.loads(json.dumps(written.data())), lambda _: b"c") == written


@pytest.mark.parametrize(
    "damage",
    [{"version": 2}, {"items": None}, {"items": [{}]}, {"items": [{"kind": "socket"}]}, {"first": ...}, None, []],
)
def test_a_damaged_journal_is_not_believed(damage: t.Any) -> None:
    data: t.Any = Journal("now", False, (Entry("/a", "absent"),)).data()
    if isinstance(damage, dict):
        data = {**data, **damage} if ... not in damage.values() else {"version": 1, "items": []}
    else:
        data = damage
    with pytest.raises((ValueError, KeyError, TypeError)):
        _transaction.journal_from(data, lambda _: b"")


@pytest.mark.parametrize(
    "damage",
    [
        {"copy": 3},
        {"copy": None},
        {"uid": float("inf")},
        {"uid": 2**32},
        {"gid": -1},
        {"gid": True},
        {"mode": "77777"},
        {"mode": 416},
        {"path": None},
        {"kept": 1},
        {"target": []},
        {"restart": "no"},
        {"kind": "link", "target": None},
    ],
)
def test_an_entry_that_was_tampered_with_is_not_believed(damage: dict[str, t.Any]) -> None:
    data = Journal("now", False, (Entry("/a", "file", content=b"a"),)).data()
    _transaction.journal_from(data, lambda _: b"a")
    data["items"][0].update(damage)
    with pytest.raises(ValueError, match=r"in it|names no copy|does not say where"):
        _transaction.journal_from(data, lambda _: b"a")


def test_a_relative_path_in_a_journal_is_not_believed() -> None:
    with pytest.raises(ValueError, match="relative path"):
        _transaction.journal_from(Journal("now", False, (Entry("a", "absent"),)).data(), lambda _: b"")


WAS_FILE, WAS_ABSENT = Entry("/f", "file", 0, 0, 0o644, b"old"), Entry("/f", "absent")
WAS_LINK, WAS_FOLDER = Entry("/f", "link", 0, 0, 0o777, target="one"), Entry("/f", "directory", 0, 0, 0o755, kept="/k")


@pytest.mark.parametrize(
    ("entry", "now", "kept", "todo"),
    [
        (WAS_FILE, OLD, None, "nothing"),
        (WAS_FILE, ABSENT, None, "write"),
        (WAS_FILE, LINK, None, "write"),
        (WAS_FILE, dataclasses.replace(OLD, content=b"new"), None, "write"),
        (WAS_FILE, dataclasses.replace(OLD, mode=0o600), None, "attributes"),
        (WAS_FILE, dataclasses.replace(OLD, uid=1), None, "attributes"),
        (WAS_ABSENT, ABSENT, None, "nothing"),
        (WAS_ABSENT, OLD, None, "remove"),
        (WAS_ABSENT, LINK, None, "remove"),
        (WAS_ABSENT, FOLDER, None, "remove_directory"),
        (WAS_LINK, LINK, None, "nothing"),
        (WAS_LINK, dataclasses.replace(LINK, target="two"), None, "link"),
        (WAS_LINK, OLD, None, "link"),
        (WAS_LINK, ABSENT, None, "link"),
        (WAS_FOLDER, LINK, FOLDER, "exchange_back"),
        (WAS_FOLDER, ABSENT, FOLDER, "rename_back"),
        (WAS_FOLDER, FOLDER, LINK, "drop_kept"),
        (WAS_FOLDER, FOLDER, ABSENT, "nothing"),
        (dataclasses.replace(WAS_FOLDER, kept=None, mode=0o700), FOLDER, None, "attributes"),
        (dataclasses.replace(WAS_ABSENT, minted=True), OLD, None, "nothing"),
    ],
)
def test_the_way_back(entry: Entry, now: Found, kept: Found | None, todo: str) -> None:
    assert _transaction.undoing(entry, now, kept) == todo


@pytest.mark.parametrize(
    ("entry", "now", "kept"),
    [(WAS_FILE, FOLDER, None), (WAS_LINK, OTHER, None), (WAS_FOLDER, LINK, ABSENT), (WAS_FOLDER, OLD, FOLDER)],
)
def test_the_way_back_never_destroys_what_it_does_not_know(entry: Entry, now: Found, kept: Found | None) -> None:
    with pytest.raises(SynapseError, match="Cannot put back"):
        _transaction.undoing(entry, now, kept)


SECRET = b"correct horse"


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (file(content=SECRET, secret=True), ABSENT),
        (file(content=SECRET, secret=True), dataclasses.replace(OLD, content=SECRET + b"!")),
        (file(content=None, generate=20, secret=True), dataclasses.replace(OLD, content=b"")),
        (gone(secret=True), dataclasses.replace(OLD, content=SECRET)),
        (link(secret=True), dataclasses.replace(OLD, content=SECRET)),
    ],
)
def test_a_secret_is_in_no_diff_and_no_repr(item: Item, found: Found) -> None:
    change = plan(item, found)
    assert change is not None
    shown = json.dumps(_transaction.diff_of(change)) + repr(change) + repr(_transaction.entry_of(change))
    back = _transaction.diff_of_undoing(_transaction.entry_of(change), dataclasses.replace(found, content=SECRET))
    assert "horse" not in shown + json.dumps(back)
    assert "characters)" in json.dumps(_transaction.diff_of(change))


def test_secrets_of_one_length_still_make_a_difference() -> None:
    change = plan(file(content=b"12345", secret=True), dataclasses.replace(OLD, content=b"54321"))
    assert change is not None
    [diff] = _transaction.diff_of(change)
    assert (diff["before"], diff["after"]) == ("(secret, 5 characters)\n", "(new secret, 5 characters)\n")


@pytest.mark.parametrize(
    ("item", "found", "before", "after"),
    [
        (file(content=b"a\n"), dataclasses.replace(OLD, content=b"b\n"), "b\n", "a\n"),
        (
            file(content=b"\xff"),
            dataclasses.replace(OLD, content=b"a\0"),
            "(2 bytes, not text)\n",
            "(1 bytes, not text)\n",
        ),
        (link(), LINK, "link to one\n", "link to two\n"),
        (link(keep_as="/k"), FOLDER, "folder\n", "link to two\n"),
        (gone(), OLD, "old", ""),
    ],
)
def test_what_a_diff_shows(item: Item, found: Found, before: str, after: str) -> None:
    change = plan(item, found)
    assert change is not None
    [diff] = _transaction.diff_of(change)
    assert (diff["before"], diff["after"]) == (before, after)


HAND_MADE = """\
server_name: example.org
macaroon_secret_key: "horse 1"
password_config:
  enabled: true
database:
  args: {user: synapse, password: horse2, host: db}
registration_shared_secret_path: /etc/synapse/secrets/registration
oidc_providers:
  - client_secret: |
      horse 3

      horse 4
    client_id: shown
turn_shared_secret: >-
  horse 5
redis_url: redis://user:horse6@cache
-----BEGIN EC PRIVATE KEY-----
horse7
-----END EC PRIVATE KEY-----
report_stats: false
"""


def test_a_file_that_was_made_by_hand_shows_no_secret_and_all_the_rest() -> None:
    change = plan(file(content=b"server_name: example.org\n"), dataclasses.replace(OLD, content=HAND_MADE.encode()))
    assert change is not None
    [diff] = _transaction.diff_of(change)
    back = _transaction.diff_of_undoing(_transaction.entry_of(change), ABSENT)
    assert "horse" not in diff["before"] + back["after"]
    for line in HAND_MADE.splitlines():
        if "horse" not in line:
            assert line in diff["before"].splitlines()


def test_a_difference_that_is_not_shown_is_said_to_be_there() -> None:
    change = plan(file(content=b"form_secret: abc\n"), dataclasses.replace(OLD, content=b"form_secret: abd\n"))
    assert change is not None
    [diff] = _transaction.diff_of(change)
    assert diff["before"] == "form_secret: ***\n"
    assert diff["after"] == "form_secret: ***\n(differs in what is not shown)\n"
    back = _transaction.diff_of_undoing(_transaction.entry_of(change), Found("file", content=b"form_secret: abc\n"))
    assert back["before"] != back["after"]


@given(st.text())
def test_masking_loses_no_line(text: str) -> None:
    assert len(_transaction.masked(text).splitlines()) == len(text.splitlines())


def test_a_diff_names_users_that_do_not_exist_yet() -> None:
    change = plan(file(unknown=("owner synapse",)), ABSENT)
    assert change is not None
    assert "owner synapse, which this host does not have yet" in _transaction.diff_of(change)[1]["after"]


items = st.one_of(
    st.builds(file, content=st.binary(max_size=3), mode=st.none() | st.integers(0, 0o7777), secret=st.booleans()),
    st.builds(link, target=st.sampled_from(["one", "two"])),
    st.builds(folder, mode=st.none() | st.integers(0, 0o7777)),
    st.builds(gone),
)
states = st.one_of(
    st.just(ABSENT),
    st.builds(Found, kind=st.just("file"), mode=st.integers(0, 0o7777), content=st.binary(max_size=3)),
    st.builds(Found, kind=st.just("link"), mode=st.just(0o777), target=st.sampled_from(["one", "two"])),
    st.builds(Found, kind=st.just("directory"), mode=st.integers(0, 0o7777)),
)


@given(items, states)
def test_a_plan_reaches_its_aim_and_every_change_shows_and_has_a_way_back(item: Item, found: Found) -> None:
    try:
        change = plan(item, found)
    except SynapseError:
        return
    if change is None:
        return
    assert _transaction.diff_of(change), "what changes must be shown"
    after = _after(change)
    assert plan(dataclasses.replace(item, keep_as=None), after) is None, "a second run would change something"
    kept = found if change.action == "exchange" else None
    entry = dataclasses.replace(_transaction.entry_of(change), kept="/k" if kept else None)
    assert _transaction.undoing(entry, after, kept) != "nothing"
    assert _transaction.undoing(entry, found, ABSENT if kept else None) == "nothing"


def _after(change: Change) -> Found:
    item = change.item
    if item.state == "absent":
        return ABSENT
    kind = item.state
    return Found(kind, change.uid, change.gid, change.mode, content=item.content, target=item.target)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  smtp_pass: 'it''s a phrase: of many words'", "  smtp_pass: ***"),
        ('- client_secret: "a # b"', "- client_secret: ***"),
        ("dsn: postgresql://synapse:Pa55@db", "dsn: ***"),
        ("registration_requires_token: true", "registration_requires_token: true"),
        ("macaroon_secret_key_path: /etc/synapse/secrets/macaroon_secret_key", None),
        ("server_name: example.org", None),
    ],
)
def test_a_secret_is_masked_to_the_end_of_its_value(line: str, shown: str | None) -> None:
    assert _transaction.masked(f"{line}\n") == f"{shown or line}\n"


def remembered(*entries: Entry) -> Journal:
    return Journal("now", first=False, entries=entries)


NOW = dataclasses.replace(LINK, target="two")


@pytest.mark.parametrize(
    ("journals", "targets"),
    [
        ([remembered(WAS_LINK)], ["one"]),
        ([remembered(dataclasses.replace(WAS_LINK, target="two")), remembered(WAS_LINK)], ["one"]),
        ([remembered(WAS_FOLDER)], ["/k"]),
        ([remembered(WAS_LINK), remembered(dataclasses.replace(WAS_LINK, target="zero"))], ["one"]),
        ([remembered(dataclasses.replace(WAS_FILE, path="/other")), remembered(WAS_LINK)], [None, "one"]),
        ([remembered(dataclasses.replace(WAS_FILE, path="/other", minted=True)), remembered(WAS_LINK)], ["one"]),
    ],
)
def test_how_far_back_a_change_is_taken_back(journals: list[Journal], targets: list[str | None]) -> None:
    assert [item.target for item in _transaction.reverting(journals, "/f", NOW)] == targets


def test_of_several_changes_of_a_path_the_oldest_state_comes_back() -> None:
    newer, older = (Entry("/other", "file", 1, 2, 0o640, text, secret=True) for text in (b"newer", b"older"))
    [other, _link] = _transaction.reverting([remembered(newer), remembered(older, WAS_LINK)], "/f", NOW)
    assert other == Item("/other", "file", content=b"older", uid=1, gid=2, mode=0o640, secret=True)


@pytest.mark.parametrize(
    "journals", [[], [remembered(WAS_ABSENT)], [remembered(dataclasses.replace(WAS_LINK, target="two"))]]
)
def test_where_nothing_served_before_there_is_nothing_to_take_back(journals: list[Journal]) -> None:
    with pytest.raises(SynapseError, match="nothing to go back to"):
        _transaction.reverting(journals, "/f", NOW)


WAS_TWO = dataclasses.replace(WAS_LINK, target="two")


@pytest.mark.parametrize(
    ("unfinished", "now", "target"),
    [
        # An upgrade from one to two, before and after its link was made.
        (remembered(WAS_LINK), "two", "one"),
        (remembered(WAS_LINK), "one", "one"),
        # Going back from two to one, before and after its link was made.
        (dataclasses.replace(remembered(WAS_TWO), reverts=True), "two", "one"),
        (dataclasses.replace(remembered(WAS_TWO), reverts=True), "one", "one"),
    ],
)
def test_a_run_that_was_interrupted_is_taken_back_or_finished_and_not_one_before_it(
    unfinished: Journal, now: str, target: str
) -> None:
    committed = [remembered(dataclasses.replace(WAS_LINK, target="zero"))]
    if unfinished.reverts:
        committed.insert(0, remembered(WAS_LINK))
    [item] = _transaction.reverting(committed, "/f", dataclasses.replace(LINK, target=now), unfinished)
    assert item.target == target


def test_what_an_interrupted_way_back_took_up_from_an_earlier_run_comes_back_too() -> None:
    other = Entry("/other", "file", 1, 2, 0o640, b"proven")
    unfinished = dataclasses.replace(remembered(other, WAS_TWO), reverts=True)
    items = _transaction.reverting([remembered(WAS_LINK)], "/f", NOW, unfinished)
    assert {item.path: item.target or item.content for item in items} == {"/other": b"proven", "/f": "one"}


def test_a_first_deployment_that_was_interrupted_has_nothing_to_go_back_to() -> None:
    with pytest.raises(SynapseError, match="nothing to go back to"):
        _transaction.reverting([], "/f", NOW, remembered(WAS_ABSENT))


def test_where_links_led_before() -> None:
    entries = (
        Entry("/venv", "link", target="/releases/one"),
        Entry("/folder", "directory", kept="/releases/adopted"),
        Entry("/made", "directory"),
        Entry("/config", "file", content=b""),
        Entry("/new", "absent"),
    )
    led = _transaction.links_before(Journal("now", False, entries))
    assert led == {"/venv": "/releases/one", "/folder": "/releases/adopted"}


def test_a_journal_says_whose_it_is_and_one_of_an_older_version_does_not() -> None:
    journal = dataclasses.replace(remembered(WAS_LINK), run="one")
    assert _transaction.journal_from(journal.data(), lambda _name: b"") == journal
    data = {name: value for name, value in journal.data().items() if name != "run"}
    assert _transaction.journal_from(data, lambda _name: b"").run is None
    with pytest.raises(ValueError, match="run"):
        _transaction.journal_from({**data, "run": 1}, lambda _name: b"")


@pytest.mark.parametrize(
    ("whose", "run", "another"),
    [("one", "two", True), ("one", "one", False), (None, "two", False), ("one", None, False)],
)
def test_whose_a_transaction_is(whose: str | None, run: str | None, another: bool) -> None:
    assert _transaction.is_of_another(dataclasses.replace(remembered(WAS_LINK), run=whose), run) is another


@pytest.mark.parametrize("reverts", [True, False])
def test_a_journal_says_whether_it_was_going_back(reverts: bool) -> None:
    journal = dataclasses.replace(remembered(WAS_LINK), reverts=reverts)
    assert _transaction.journal_from(journal.data(), lambda _name: b"") == journal
    with pytest.raises(ValueError, match="reverts"):
        _transaction.journal_from({**journal.data(), "reverts": 1}, lambda _name: b"")
