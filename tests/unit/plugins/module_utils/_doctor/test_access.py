# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import access_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import (
    ENTER,
    READ,
    RULES,
    WRITE,
    Access,
    Fix,
    Item,
    Node,
    Who,
    blocker,
    may,
    wanted,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import diagnose
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import CommandResult

if t.TYPE_CHECKING:
    import pathlib

WHO = Who("synapse", 900, 900, (900,), "synapse")
NAMES = {0: "root", 900: "synapse", 1000: "bob"}


def node(path: str, owner: int = 0, group: int = 0, mode: int = 0o755, kind: str = "folder") -> Node:
    return Node(path, kind, owner, group, mode, NAMES.get(owner, ""), NAMES.get(group, ""))


def file(path: str, owner: int = 0, group: int = 900, mode: int = 0o640) -> Node:
    return node(path, owner, group, mode, "file")


ROOT = (node("/"),)
ETC = (*ROOT, node("/etc"), node("/etc/synapse", 0, 900, 0o750))
DATA = (*ROOT, node("/var"), node("/var/lib"), node("/var/lib/synapse", 0, 900, 0o1770))
CONFIG = Item("config", "/etc/synapse/homeserver.yaml", READ, (*ETC, file("/etc/synapse/homeserver.yaml")))
LOG_CONFIG = Item("log_config", "/etc/synapse/log.yaml", READ, (*ETC, file("/etc/synapse/log.yaml")), "log_config")
SECRET = Item("secret", "/etc/synapse/form", READ, (*ETC, file("/etc/synapse/form")), "form_secret_path")
KEY = Item("key", "/etc/synapse/key", READ, (*ETC, file("/etc/synapse/key", 900, 900, 0o600)), "signing_key_path")
FOLDER = Item("config_folder", "/etc/synapse", ENTER, ETC)
DATABASE = Item("database", "/var/lib/synapse/db", READ | WRITE, (*DATA, file("/var/lib/synapse/db", 900, 900, 0o640)))
DATABASE_FOLDER = Item("database_folder", "/var/lib/synapse", READ | WRITE | ENTER, DATA)
MEDIA = Item(
    "media",
    "/var/lib/synapse/media",
    READ | WRITE | ENTER,
    (*DATA, node("/var/lib/synapse/media", 900, 900, 0o750)),
    "media_store_path",
)
LOG = Item(
    "log",
    "/var/log/synapse/homeserver.log",
    WRITE,
    (*ROOT, node("/var/log/synapse", 900, 900, 0o750), file("/var/log/synapse/homeserver.log", 900, 900)),
)
LOG_FOLDER = Item("log_folder", "/var/log/synapse", WRITE | ENTER, LOG.nodes[:-1])
PYTHON = Item(
    "environment",
    "/var/lib/synapse/venv/bin/python",
    READ | ENTER,
    (*DATA, node("/var/lib/synapse/releases"), node("/usr/bin/python3", kind="file")),
)
HEALTHY = Access(
    WHO,
    (CONFIG, LOG_CONFIG, SECRET, KEY, FOLDER, DATABASE, DATABASE_FOLDER, MEDIA, LOG, LOG_FOLDER, PYTHON),
    managed=True,
    config_folders=("/etc/synapse",),
    environment="/var/lib/synapse/releases/1",
)


def with_node(seen: Access, changed: Node) -> Access:
    """Return what is seen where one object is another."""
    items = (
        replace(item, nodes=tuple(changed if one.path == changed.path else one for one in item.nodes))
        for item in seen.items
    )
    return replace(seen, items=tuple(items))


def found(seen: Access, *, consequences: bool = False) -> list[str]:
    result = diagnose(Seen(Request(), access=seen), RULES.rules)
    return [one.id for one in (result.consequences if consequences else result.findings)]


def fixes(seen: Access) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {fix.path: (fix.owner, fix.group, fix.mode) for fix in wanted(seen)}


def mended(seen: Access) -> Access:
    """Return what is seen after the changes that are wanted."""
    numbers = {name: number for number, name in NAMES.items()}
    for fix in wanted(seen):
        for item in seen.items:
            for one in item.nodes:
                if one.path == fix.path and fix.mode != "a+rX":
                    owner = one.uid if fix.owner is None else numbers[fix.owner]
                    group = one.gid if fix.group is None else numbers[fix.group]
                    mode = one.mode if fix.mode is None else int(fix.mode, 8)
                    seen = with_node(seen, node(one.path, owner, group, mode, one.kind))
    return replace(seen, foreign=(), unreadable=())


def test_nothing_is_said_of_a_server_as_the_collection_makes_it() -> None:
    assert found(HEALTHY) == []
    assert wanted(HEALTHY) == []


def test_nothing_is_said_where_the_account_is_not_known() -> None:
    assert found(replace(HEALTHY, who=None)) == []
    assert wanted(None) == []


@pytest.mark.parametrize(
    ("given", "needs", "expected"),
    [
        (file("/x", 900, 0, 0o400), READ, True),
        (file("/x", 900, 900, 0o040), READ, False),  # the owner's digit counts, whatever the group may
        (file("/x", 0, 900, 0o604), READ, False),
        (file("/x", 0, 0, 0o604), READ, True),
        (file("/x", 0, 0, 0o640), READ, False),
        (node("/x", 0, 900, 0o770), READ | WRITE | ENTER, True),
        (node("/x", 0, 900, 0o760), ENTER, False),
    ],
)
def test_the_first_class_that_fits_decides(given: Node, needs: int, expected: bool) -> None:
    assert may(given, WHO, needs) is expected
    assert may(given, replace(WHO, uid=0), needs)


def test_what_the_kernel_grants_is_granted() -> None:
    closed = replace(CONFIG, nodes=(*ETC, file("/etc/synapse/homeserver.yaml", 0, 0, 0o600)))
    assert blocker(closed, WHO) == closed.nodes[-1]
    assert blocker(replace(closed, granted=True), WHO) is None


BROKEN = [
    ("access.config_unreadable", file(CONFIG.path, 0, 0, 0o600), ("root", "synapse", "0640")),
    ("access.config_unreadable", file(CONFIG.path, 0, 900, 0o600), (None, None, "0640")),
    ("access.config_unreadable", file(CONFIG.path, 900, 900, 0o040), (None, None, "0440")),
    ("access.log_config_unreadable", file(LOG_CONFIG.path, 0, 0, 0o640), ("root", "synapse", "0640")),
    ("access.secret_unreadable", file(SECRET.path, 0, 0, 0o600), ("root", "synapse", "0640")),
    ("access.database_unwritable", file(DATABASE.path, 0, 0, 0o644), ("synapse", "synapse", None)),
    ("access.database_unwritable", node("/var/lib/synapse"), ("root", "synapse", "1770")),
    ("access.media_unwritable", node(MEDIA.path, 0, 0, 0o755), ("synapse", "synapse", None)),
    ("access.log_unwritable", file(LOG.path, 0, 0, 0o644), ("synapse", "synapse", None)),
    ("access.log_unwritable", node(LOG_FOLDER.path, 0, 0, 0o755), ("synapse", "synapse", None)),
    ("access.folder_closed", node("/etc/synapse", 0, 0, 0o700), ("root", "synapse", "0750")),
    ("access.folder_closed", node("/etc/synapse", 0, 900, 0o700), (None, None, "0750")),
    ("access.secrets_exposed", file(SECRET.path, 0, 900, 0o644), (None, None, "0640")),
    ("access.secrets_exposed", file(CONFIG.path, 0, 900, 0o644), (None, None, "0640")),
    ("access.config_folder_writable", node("/etc/synapse", 900, 900, 0o755), ("root", "synapse", "0750")),
    ("access.config_folder_writable", node("/etc/synapse", 0, 900, 0o770), ("root", "synapse", "0750")),
]


@pytest.mark.parametrize(("finding", "changed", "fix"), BROKEN)
def test_a_fault_has_one_finding_the_least_change_and_no_second_one(
    finding: str, changed: Node, fix: tuple[str | None, str | None, str | None]
) -> None:
    seen = with_node(HEALTHY, changed)
    (first,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert first.id == finding
    assert changed.path in first.evidence
    assert (first.repair, first.safe) == ("permissions", True)
    assert changed.path in first.remedy
    assert fixes(seen) == {changed.path: fix}
    after = mended(seen)
    assert found(after) == []
    assert wanted(after) == []


def test_no_change_lets_others_in() -> None:
    for _finding, changed, _fix in BROKEN:
        after = mended(with_node(HEALTHY, changed))
        for item in after.items:
            if item.purpose in ("config", "secret", "key", "log_config"):
                assert not item.nodes[-1].mode & 0o027, item


def test_a_key_is_the_services_own_on_a_host_of_the_collection_and_keeps_its_owner_elsewhere() -> None:
    closed = with_node(HEALTHY, file(KEY.path, 0, 0, 0o600))
    assert fixes(closed) == {KEY.path: ("synapse", "synapse", "0600")}
    assert fixes(replace(closed, managed=False)) == {KEY.path: ("root", "synapse", "0640")}
    wide = replace(with_node(HEALTHY, file(KEY.path, 0, 0, 0o644)), managed=False)
    assert fixes(wide) == {KEY.path: ("root", "synapse", "0640")}
    assert fixes(replace(with_node(HEALTHY, file(KEY.path, 900, 900, 0o604)), managed=False)) == {
        KEY.path: (None, None, "0600")
    }


def test_what_follows_from_a_closed_folder_is_mended_with_it_and_not_told_beside_it() -> None:
    seen = with_node(with_node(HEALTHY, node("/etc/synapse", 0, 0, 0o700)), file(CONFIG.path, 0, 0, 0o600))
    assert found(seen) == ["access.folder_closed"]
    assert set(fixes(seen)) == {"/etc/synapse", CONFIG.path}
    assert found(mended(seen)) == []


def test_an_unreadable_configuration_explains_its_neighbours() -> None:
    seen = with_node(with_node(HEALTHY, file(CONFIG.path, 0, 0, 0o600)), file(LOG_CONFIG.path, 0, 0, 0o600))
    assert found(seen) == ["access.config_unreadable"]
    assert found(seen, consequences=True) == ["access.log_config_unreadable"]


@pytest.mark.parametrize("changed", [node("/etc", 0, 0, 0o700), node("/", 0, 0, 0o700), node("/var/lib", 0, 0, 0o750)])
def test_folders_of_the_host_are_named_and_not_changed(changed: Node) -> None:
    seen = with_node(HEALTHY, changed)
    assert found(seen)[0] == "access.folder_closed"
    assert wanted(seen) == []
    assert diagnose(Seen(Request(), access=seen), RULES.rules).findings[0].repair == ""


def test_another_persons_folder_is_not_opened() -> None:
    seen = with_node(HEALTHY, node("/etc/synapse", 1000, 1000, 0o700))
    assert found(seen) == ["access.folder_closed"]
    assert fixes(seen) == {}


def test_what_another_person_owns_is_not_taken_without_asking() -> None:
    seen = with_node(HEALTHY, file(DATABASE.path, 1000, 1000, 0o600))
    (fix,) = wanted(seen)
    assert (fix.owner, fix.safe) == ("synapse", False)
    left = with_node(HEALTHY, file(DATABASE.path, 991, 991, 0o600))  # of an account that is gone
    assert wanted(left)[0].safe


def test_the_configurations_folder_is_never_given_to_the_service_for_its_data() -> None:
    item = replace(DATABASE_FOLDER, path="/etc/synapse", nodes=ETC)
    seen = replace(HEALTHY, items=(CONFIG, item))
    assert found(seen) == ["access.database_unwritable"]
    assert wanted(seen) == []
    assert "folder of its own" in diagnose(Seen(Request(), access=seen), RULES.rules).findings[0].remedy


def test_a_folder_with_data_and_configuration_is_only_remarked_upon() -> None:
    folder = node("/data", 900, 900, 0o750)
    items = (
        Item("config_folder", "/data", ENTER, (*ROOT, folder)),
        Item("database", "/data/homeserver.db", READ | WRITE, (*ROOT, folder, file("/data/homeserver.db", 900, 900))),
    )
    seen = Access(WHO, items, config_folders=("/data",))
    (finding,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert (finding.id, finding.severity, finding.repair) == ("access.config_folder_writable", "info", "")
    assert wanted(seen) == []


def test_the_folder_of_a_host_made_by_hand_is_taken_back_only_where_that_was_asked_for() -> None:
    seen = replace(with_node(HEALTHY, node("/etc/synapse", 900, 900, 0o755)), managed=False)
    (finding,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert (finding.severity, finding.safe) == ("warning", False)
    assert wanted(seen) == [Fix("/etc/synapse", "root", "synapse", "0750", safe=False)]


def test_secrets_that_only_the_folder_protects_are_remarked_upon_on_hosts_made_by_hand() -> None:
    seen = replace(with_node(HEALTHY, file(SECRET.path, 0, 900, 0o644)), managed=False)
    assert diagnose(Seen(Request(), access=seen), RULES.rules).findings[0].severity == "info"
    opened = with_node(seen, node("/etc/synapse", 0, 900, 0o755))
    assert diagnose(Seen(Request(), access=opened), RULES.rules).findings[0].severity == "warning"
    plain = replace(with_node(HEALTHY, file(CONFIG.path, 0, 900, 0o644)), managed=False)
    assert found(plain) == []
    assert found(replace(plain, inline=(CONFIG.path,))) == ["access.secrets_exposed"]


def test_a_log_that_cannot_be_rotated_is_a_warning() -> None:
    seen = with_node(HEALTHY, node(LOG_FOLDER.path, 0, 0, 0o755))
    assert diagnose(Seen(Request(), access=seen), RULES.rules).findings[0].severity == "warning"
    new = replace(seen, items=(replace(LOG, missing=True, nodes=LOG.nodes[:-1]), seen.items[-2]))
    assert diagnose(Seen(Request(), access=with_node(new, seen.items[-2].nodes[-1])), RULES.rules).findings[
        0
    ].severity == ("critical")


def test_foreign_things_in_the_media_store_are_given_to_the_service_and_nothing_else() -> None:
    strange = node(f"{MEDIA.path}/local_content", 0, 0, 0o700)
    seen = replace(HEALTHY, foreign=(strange,))
    (finding,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert finding.id == "access.media_unwritable"
    assert wanted(seen) == [Fix(MEDIA.path, "synapse", "synapse", recurse=True)]


@pytest.mark.parametrize(("owner", "repair"), [(0, "permissions"), (1000, "reinstall")])
def test_an_environment_is_opened_only_where_root_owns_it(owner: int, repair: str) -> None:
    inside = node("/var/lib/synapse/releases/1/lib", owner, 0, 0o700)
    seen = replace(HEALTHY, unreadable=(inside,))
    (finding,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert (finding.id, finding.repair) == ("access.environment_unreadable", repair)
    expected = [Fix("/var/lib/synapse/releases/1", mode="a+rX", recurse=True)] if owner == 0 else []
    assert wanted(seen) == expected


@pytest.mark.parametrize(
    ("purpose", "finding"),
    [("tls", "access.tls_unreadable"), ("appservice", "access.appservice_unreadable")],
)
def test_other_files_of_the_service(purpose: str, finding: str) -> None:
    item = Item(purpose, "/etc/synapse/x", READ, (*ETC, file("/etc/synapse/x", 0, 0, 0o600)), "an_option")
    assert found(Access(WHO, (item,))) == [finding]
    readable = replace(item, nodes=(*ETC, file("/etc/synapse/x")))
    assert found(Access(WHO, (readable,))) == []


def test_a_worker_that_cannot_read_its_configuration_is_named() -> None:
    item = Item("worker_config", "/etc/synapse/w.yaml", READ, (*ETC, file("/etc/synapse/w.yaml", 0, 0, 0o600)))
    assert found(Access(WHO, (item,))) == ["access.worker_config_unreadable"]


def test_the_private_key_of_tls_is_left_to_its_group() -> None:
    item = Item("tls", "/etc/x.pem", READ, (*ROOT, file("/etc/x.pem", 0, 110, 0o640)), "tls_private_key_path")
    item = replace(item, nodes=(*ROOT, replace(item.nodes[-1], group="ssl-cert")))
    seen = Access(WHO, (item,))
    assert "usermod --append --groups ssl-cert synapse" in (
        diagnose(Seen(Request(), access=seen), RULES.rules).findings[0].remedy
    )
    assert wanted(seen) == []


def test_a_refusal_beside_owner_and_mode_is_called_one() -> None:
    seen = replace(HEALTHY, items=(replace(CONFIG, granted=False),))
    (finding,) = diagnose(Seen(Request(), access=seen), RULES.rules).findings
    assert "access control list" in finding.cause
    assert (finding.repair, finding.safe) == ("", False)


# ------------------------------------------------------------------------------------------------------------- the look


def no_process(*_arguments: t.Any, **_options: t.Any) -> CommandResult:
    return CommandResult(127, "", "")


def context(folder: pathlib.Path, config: dict[str, t.Any], **request: t.Any) -> Context:
    yaml = folder / "homeserver.yaml"
    yaml.touch()
    given = Request(config_paths=(str(yaml),), python=str(folder / "venv/bin/python"), user="65533", **request)
    result = Context(given, no_process, time.monotonic() + 10)
    result.settings = Settings((ConfigFile(str(yaml), keys=tuple(config)),), config)
    return result


def test_the_way_to_a_file_is_followed_through_links(tmp_path: pathlib.Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "x").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "round").symlink_to("round")
    nodes, missing = access_look.nodes_of(str(tmp_path / "link" / "x"))
    assert not missing
    assert [one.path for one in nodes[-2:]] == [str(real), str(real / "x")]
    assert access_look.nodes_of(str(tmp_path / "round"))[1]
    nodes, missing = access_look.nodes_of(str(tmp_path / "none" / "x"))
    assert missing
    assert nodes[-1].path == str(tmp_path)
    assert access_look.nodes_of(str(real / ".." / "real"))[0][-1].path == str(real)


def test_what_the_configuration_names_is_looked_at(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.yaml").write_text(f"handlers: {{file: {{filename: {tmp_path}/a.log, when: midnight}}}}\n")
    (tmp_path / "db").touch()
    (tmp_path / "db-wal").touch()
    config = {
        "server_name": "example.org",
        "form_secret_path": str(tmp_path / "form"),
        "oidc_providers": [{"client_secret_path": str(tmp_path / "oidc")}],
        "log_config": str(tmp_path / "log.yaml"),
        "database": {"name": "sqlite3", "args": {"database": str(tmp_path / "db")}},
        "media_store_path": str(tmp_path / "media"),
        "listeners": [{"tls": True}],
        "tls_private_key_path": str(tmp_path / "tls.key"),
        "app_service_config_files": [str(tmp_path / "bridge.yaml"), 7],
        "macaroon_secret_key": "***",
    }
    seen = access_look.look(context(tmp_path, config))
    assert seen.who == Who("65533", 65533, 65533, (65533,), "65533")
    assert seen.inline == (str(tmp_path / "homeserver.yaml"),)
    looked = {(item.purpose, os.path.basename(item.path)) for item in seen.items}
    assert looked >= {
        ("config", "homeserver.yaml"),
        ("key", "example.org.signing.key"),
        ("secret", "form"),
        ("secret", "oidc"),
        ("log_config", "log.yaml"),
        ("log", "a.log"),
        ("database", "db"),
        ("database", "db-wal"),
        ("media", "media"),
        ("tls", "tls.key"),
        ("appservice", "bridge.yaml"),
        ("environment", "python"),
    }


@pytest.mark.parametrize("value", [7, ["x"], {}, "", "a\0b", None, True])
def test_nonsense_in_the_configuration_is_passed_over(tmp_path: pathlib.Path, value: object) -> None:
    config = dict.fromkeys(
        [
            *("form_secret_path", "log_config", "database", "databases", "media_store_path", "listeners", "pid_file"),
            *("signing_key_path", "app_service_config_files", "media_storage_providers", "server_name"),
        ],
        value,
    )
    seen = access_look.look(context(tmp_path, config))
    diagnose(Seen(Request(), access=seen), RULES.rules)


def test_a_relative_path_is_not_judged_where_nobody_knows_what_it_is_relative_to(tmp_path: pathlib.Path) -> None:
    seen = access_look.look(context(tmp_path, {"media_store_path": "media", "log_config": "log.yaml"}))
    assert not list(seen.of("media", "log_config"))


def test_the_look_writes_nothing(tmp_path: pathlib.Path) -> None:
    given = context(tmp_path, {"media_store_path": str(tmp_path / "media"), "server_name": "x"})
    before = sorted(os.listdir(tmp_path))
    access_look.look(given)
    assert sorted(os.listdir(tmp_path)) == before
