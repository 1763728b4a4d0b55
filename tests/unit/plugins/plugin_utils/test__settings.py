"""The role's settings: what is refused, and what can be read from them."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._settings import (
    refusals,
    refusals_by_manager,
    secret_values,
)

ROLE = Path(__file__).parents[4] / "roles" / "synapse"


@pytest.fixture
def settings() -> dict[str, t.Any]:
    """The role's defaults with a server name, with the few values that are derived from others filled in."""
    found = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    return found | {
        "synapse_server_name": "example.org",
        "_synapse_service_manager": "systemd",
        "synapse_user_home": "/var/lib/synapse",
        "synapse_venv_path": "/var/lib/synapse/venv",
        "synapse_releases_path": "/var/lib/synapse/releases",
        "synapse_media_path": "/var/lib/synapse/media_store",
        "synapse_signing_key_path": "/etc/synapse/homeserver.signing.key",
        "synapse_transaction_path": "/etc/synapse/.transaction",
        "synapse_backup_path": "/var/lib/synapse/backups",
        "synapse_backup_database": True,
        "synapse_keep_backups": 3,
        "synapse_upgrade_timeout": 600,
        "synapse_worker_units": [],
    }


def test_every_variable_is_judged_here_or_by_its_type() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    judged = set(yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["_synapse_judged"])
    by_type = {name for name, spec in specs["options"].items() if spec["type"] == "bool" or "choices" in spec}
    # Whether there is such a file is seen where files are seen: in the task.
    elsewhere = {"synapse_lock_file"}
    # No deployment reads them; synapse_doctor and the filters of the report judge what they are given.
    elsewhere |= {"synapse_config_files", "synapse_worker_configs", "synapse_report_dir", "synapse_status_width"}
    elsewhere |= {"synapse_doctor_certificate_days", "synapse_doctor_scripts", "synapse_doctor_timeout"}
    assert set(specs["options"]) - judged - by_type == elsewhere


def test_the_defaults_and_a_server_name_are_enough(settings: dict[str, t.Any]) -> None:
    assert refusals(settings) == []


@pytest.mark.parametrize(
    "package",
    ["a", "matrix-synapse-ldap3==0.3.0", "x[y]>=1,<2", "z @ https://example.org/z", "w; python_version<'4'"],
)
def test_packages_that_are_allowed(settings: dict[str, t.Any], package: str) -> None:
    assert refusals(settings | {"synapse_extra_packages": [package]}) == []


def test_a_wheelhouse_is_enough_to_be_offline_and_goes_with_folders_alone(settings: dict[str, t.Any]) -> None:
    carried = settings | {"synapse_wheelhouse": "/srv/synapse.wheelhouse", "synapse_find_links": ["/srv/wheels"]}
    assert refusals(carried) == []
    assert refusals(carried | {"synapse_find_links": [], "synapse_offline": True}) == []
    told = refusals(carried | {"synapse_find_links": ["https://user:hush@example.org/wheels"]})
    assert len(told) == 1
    assert "synapse_find_links has an address (not shown)" in told[0]
    assert "hush" not in told[0]


@pytest.mark.parametrize(
    "name", ["example.org", "a.b-c.example", "example.org:8448", "192.0.2.7", "[2001:db8::7]:443", "localhost"]
)
def test_server_names_that_are_allowed(settings: dict[str, t.Any], name: str) -> None:
    assert refusals(settings | {"synapse_server_name": name}) == []


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("synapse_server_name", "", "allowed is a host name"),
        ("synapse_server_name", "https://example.org", "allowed is a host name"),
        ("synapse_server_name", "exa mple.org", "allowed is a host name"),
        ("synapse_server_name", "Example.org", "write example.org"),
        ("synapse_server_name", "example.org:99999", "between 1 and 65535"),
        ("synapse_server_name", "[::zz]", "allowed is a host name"),
        ("synapse_version", "latest", "a released version such as"),
        ("synapse_user", "root", "an account of its own"),
        ("synapse_user", "Sy napse", "lower-case letters"),
        ("synapse_service_name", "matrix-synapse.service", "without '.service'"),
        ("synapse_data_path", "var/lib/synapse", "an absolute path"),
        ("synapse_data_path", "/", "not '/' itself"),
        ("synapse_config_path", "/etc/../synapse", "an absolute path"),
        ("synapse_log_path", "/var/lib/synapse", "a place of its own"),
        ("synapse_log_path", "/var/log/synapse/", "needless slashes"),
        ("synapse_data_path", "/home/synapse", "neither homes nor temporary folders"),
        ("synapse_report_stats", "false", "is the text 'false'"),
        ("synapse_manage_user", False, "would run under systemd"),
        ("synapse_user_home", "home", "an absolute path, or nothing"),
        ("synapse_config", {"databases": {}}, "use database"),
        ("synapse_keep_releases", 0, "from 1 to 100"),
        ("synapse_health_timeout", 1, "from 5 to"),
        ("synapse_upgrade_timeout", 1, "from 5 to"),
        ("synapse_keep_backups", 0, "from 1 to 1000"),
        ("synapse_backup_database", "no", "true and false"),
        ("synapse_backup_path", "backups", "absolute path"),
        ("synapse_worker_units", ["a unit"], "names of units"),
        ("synapse_service_memory_max", "lots", "such as 4G"),
        ("synapse_service_environment", {"A B": "1"}, "values of one line"),
        ("synapse_macaroon_secret_key", "short", "5 characters (not shown)"),
        ("synapse_signing_key_content", "ed25519 a_1 x", "line 1 (not shown)"),
        ("synapse_offline", True, "synapse_find_links is empty"),
        ("synapse_public_baseurl", "matrix.example.org", "a URL that starts with https://"),
        ("synapse_listeners", [], "answers nobody"),
        ("synapse_listeners", [{"type": "http", "port": "8008"}], "port is '8008'"),
        ("synapse_listeners", [{"type": "htpp", "port": 8008}], "http, metrics and manhole"),
        ("synapse_listeners", [{"type": "http", "port": 8008, "tls": True}], "tls_certificate_path"),
        ("synapse_listeners", [{"type": "http", "port": 1}, {"type": "http", "port": 1}], "only one can have it"),
        ("synapse_config", {"signing_key_path": "/x"}, "set synapse_signing_key_path instead"),
        ("synapse_config", {"database": {"name": "sqlite3"}}, "has no args"),
        ("synapse_config", {"database": {"name": "mysql", "args": {"password": "hush"}}}, "(not shown)"),
        ("synapse_config", {"database": {"name": "sqlite3", "args": {"database": "a.db"}}}, "no absolute path"),
        ("synapse_venv_path", "/var/lib/synapse/releases/venv", "outside of the folder of releases"),
        ("synapse_ca_bundle", "ca.pem", "an absolute path on the host"),
        ("synapse_python", "python3", "an absolute path on the host"),
        ("synapse_extras", ["a b"], "names of extras"),
        ("synapse_extra_packages", ["--index-url=x"], "requirement specifiers"),
        ("synapse_extra_index_urls", ["user:secret@host"], "(not shown)"),
        ("synapse_find_links", ["wheels"], "absolute paths and URLs"),
        ("synapse_allow_unknown_options", ["a b"], "dotted names"),
        ("synapse_listeners", [{"type": "http", "port": 1, "bind_addresses": 5}], "a list of addresses"),
        ("synapse_listeners", [{"type": "http", "port": 1, "resources": [{}]}], "each with names"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    settings: dict[str, t.Any], variable: str, value: t.Any, told: str
) -> None:
    sentences = refusals(settings | {variable: value})
    assert len(sentences) == 1
    assert variable in sentences[0]
    assert told in sentences[0]


def test_all_wrong_settings_are_told_at_once(settings: dict[str, t.Any]) -> None:
    assert len(refusals(settings | {"synapse_version": "x", "synapse_log_days": 0, "synapse_listeners": []})) == 3


@pytest.mark.parametrize(
    ("manager", "always", "systemd"),
    [("auto", "", "neither homes nor"), ("systemd", "neither homes nor", ""), ("daemon", "", "")],
)
def test_what_depends_on_the_host_is_left_to_it(
    settings: dict[str, t.Any], manager: str, always: str, systemd: str
) -> None:
    del settings["_synapse_service_manager"]
    judged = refusals_by_manager(
        settings | {"synapse_service_manager": manager, "synapse_log_path": "/home/log", "synapse_log_days": 0}
    )
    assert len(judged["always"]) == 1 + bool(always)
    assert len(judged["systemd"]) == bool(systemd)
    assert always in " ".join(judged["always"])
    assert systemd in " ".join(judged["systemd"])
    assert "synapse_log_days is 0" in " ".join(judged["always"])


def test_a_refused_secret_is_not_shown(settings: dict[str, t.Any]) -> None:
    told = refusals(settings | {"synapse_form_secret": "hush-hush", "synapse_signing_key_content": "hush-hush"})
    assert len(told) == 2
    assert "hush" not in " ".join(told)


def test_secrets_are_found_at_any_depth_and_places_are_not() -> None:
    config = {
        "database": {"args": {"password": "hunter22", "user": "synapse"}},
        "turn_shared_secret": "turn-turn",
        "turn_shared_secret_path": "/etc/synapse/turn",
        "oidc_providers": [{"client_secret": "oidc-oidc", "client_id": "name"}],
        "enable_registration_token": "no secret",
        "registration_requires_token": True,
        "email": {"smtp_pass": 1, "smtp_password": None},
    }
    assert secret_values(config) == ["hunter22", "oidc-oidc", "turn-turn"]


def test_a_secret_is_found_as_yaml_may_write_it() -> None:
    found = secret_values({"key_password": "it's", "private_key": "-----BEGIN-----\nabcdefgh\n"})
    assert {"it's", "it''s", "abcdefgh"} <= set(found)
