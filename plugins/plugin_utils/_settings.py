# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's settings must be like, and what can be read from them. Runs on the controller; no I/O, no Ansible."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._secret_names import is_secret_name

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["refusals", "refusals_by_manager", "secret_values"]

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOSTNAME = re.compile(rf"^(?=.{{1,230}}$){_LABEL}(?:\.{_LABEL})*$")
_ACCOUNT = re.compile(r"^[a-z_][a-z0-9_-]{0,30}\$?$")
_UNIT = re.compile(r"^[A-Za-z0-9:_.-]{1,200}$")
_VERSION = re.compile(r"^[0-9]+(\.[0-9]+){1,2}((a|b|rc)[0-9]+)?$")
_ENVIRONMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_MEMORY = re.compile(r"^([0-9]+[KMGT]?|[0-9]{1,2}%|infinity)$")
_KEY_LINE = re.compile(r"^ed25519 [A-Za-z0-9_]+ [A-Za-z0-9+/]{43}=?$")
# Units and the first lines of scripts cannot carry every character; without systemd there are no units.
_PLAIN_PATH = re.compile(r"^/[A-Za-z0-9_./@+:,=~-]*$")
_BLANK_PATH = re.compile(r"^/[A-Za-z0-9_./@+:,=~ -]*$")

_EXTRA = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
# A name, perhaps with extras, versions, an address and a marker: what comes first must be a name, and it is one line.
_REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\s*([\[(<>=!~@;].*)?$")
_PATHS = (
    "synapse_venv_path",
    "synapse_releases_path",
    "synapse_data_path",
    "synapse_media_path",
    "synapse_config_path",
    "synapse_log_path",
    "synapse_signing_key_path",
    "synapse_transaction_path",
    "synapse_backup_path",
)
_COUNTS = {
    "synapse_keep_releases": (1, 100),
    "synapse_keep_backups": (1, 1000),
    "synapse_upgrade_timeout": (5, 86400),
    "synapse_log_days": (1, 3650),
    "synapse_health_timeout": (5, 86400),
}
# "false" given as text would count as true.
_SWITCHES = (
    "synapse_carry_plugins",
    "synapse_report_stats",
    "synapse_manage_user",
    "synapse_offline",
    "synapse_no_secrets_in_config",
    "synapse_service_enabled",
    "synapse_new_identity",
    "synapse_health_well_known",
    "synapse_backup_database",
)
_HIDDEN = ("/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/")  # noqa: S108 - named, not used
_SECRETS = ("synapse_macaroon_secret_key", "synapse_registration_shared_secret", "synapse_form_secret")

# Options of Synapse that the role sets itself, and the variable to set instead.
_OWNED = {
    "server_name": "synapse_server_name",
    "report_stats": "synapse_report_stats",
    "public_baseurl": "synapse_public_baseurl",
    "listeners": "synapse_listeners",
    "media_store_path": "synapse_media_path",
    "signing_key_path": "synapse_signing_key_path",
    "signing_key": "synapse_signing_key_content",
    "macaroon_secret_key": "synapse_macaroon_secret_key",
    "macaroon_secret_key_path": "synapse_macaroon_secret_key",
    "registration_shared_secret": "synapse_registration_shared_secret",
    "registration_shared_secret_path": "synapse_registration_shared_secret",
    "form_secret": "synapse_form_secret",
    "form_secret_path": "synapse_form_secret",
    "log_config": "synapse_log_level and synapse_log_days",
    "pid_file": "synapse_data_path",
}


def _server_name_refusal(name: str) -> str | None:
    """Why ``name`` is no server name (Matrix specification, appendices, "Server name"), or ``None``."""
    allowed = "allowed is a host name such as example.org, an IPv4 or bracketed IPv6 address, with an optional :port"
    match = re.match(r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?$", name)
    if match is None:
        return allowed
    host, port = match.group(1), match.group(2) or ""
    if port and not 1 <= int(port) <= 65535:
        return "the port must lie between 1 and 65535"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return allowed
        return None
    if host != host.lower():
        return f"upper case makes names that other servers take for different ones: write {name.lower()}"
    return None if _HOSTNAME.match(host) else allowed


def _refuse_switches(settings: Mapping[str, t.Any]) -> Iterator[str]:
    for variable in _SWITCHES:
        if not isinstance(settings[variable], bool):
            yield (
                f"{variable} is the text {settings[variable]!r}: allowed are true and false; on the command line write "
                f"-e '{{\"{variable}\": false}}', in an INI inventory True or False."
            )


def _refuse_names(settings: Mapping[str, t.Any]) -> Iterator[str]:
    name = str(settings["synapse_server_name"])
    reason = _server_name_refusal(name)
    if reason:
        yield f"synapse_server_name is {name!r}: {reason}."
    version = str(settings["synapse_version"])
    if not _VERSION.match(version):
        yield f"synapse_version is {version!r}: allowed is a released version such as 1.163.2."
    for variable in ("synapse_user", "synapse_group"):
        account = str(settings[variable])
        if not _ACCOUNT.match(account):
            yield f"{variable} is {account!r}: allowed are at most 31 lower-case letters, digits, '_' and '-'."
        elif account == "root" and settings["synapse_manage_user"]:
            yield f"{variable} is 'root': a homeserver needs no privileges; name an account of its own."
    unit = str(settings["synapse_service_name"])
    if not _UNIT.match(unit) or unit.endswith(".service"):
        yield f"synapse_service_name is {unit!r}: allowed is a unit's name without '.service', such as matrix-synapse."


def _refuse_accounts(settings: Mapping[str, t.Any]) -> Iterator[str]:
    if not settings["synapse_manage_user"] and settings["_synapse_service_manager"] == "systemd":
        yield (
            "synapse_manage_user is false and the server would run under systemd: its files would belong to the "
            "connecting user and not to synapse_user. Leave it true (an account that exists is used), or set "
            "synapse_service_manager to daemon."
        )
    home = str(settings["synapse_user_home"])
    if home and not _PLAIN_PATH.match(home) and settings["synapse_manage_user"]:
        yield f"synapse_user_home is {home!r}: allowed is an absolute path, or nothing."


def _refuse_paths(settings: Mapping[str, t.Any]) -> Iterator[str]:
    systemd = settings["_synapse_service_manager"] == "systemd"
    pattern = _PLAIN_PATH if systemd else _BLANK_PATH
    for variable in _PATHS:
        path = str(settings[variable])
        if not pattern.match(path) or path == "/" or posixpath.normpath(path) != path:
            yield (
                f"{variable} is {path!r}: allowed is an absolute path, no blanks, quotes, '..' or needless slashes, "
                "not '/' itself."
            )
        elif systemd and f"{path}/".startswith(_HIDDEN):
            yield (
                f"{variable} is {path!r}: under systemd the service sees neither homes nor temporary folders; "
                "choose a place such as /srv/synapse."
            )
    seen: dict[str, str] = {}
    for variable in _PATHS:
        path = str(settings[variable]).rstrip("/")
        if path in seen:
            yield f"{variable} is {path!r}, and so is {seen[path]}: give each a place of its own."
        seen[path] = variable
    releases = str(settings["synapse_releases_path"]).rstrip("/")
    if str(settings["synapse_venv_path"]).startswith(f"{releases}/"):
        yield (
            f"synapse_venv_path is {settings['synapse_venv_path']!r}, inside synapse_releases_path ({releases}): "
            "the link to the live release has to lie outside of the folder of releases."
        )
    for variable in ("synapse_ca_bundle", "synapse_python"):
        path = str(settings[variable])
        if path and not path.startswith("/"):
            yield f"{variable} is {path!r}: allowed is an absolute path on the host, or nothing."


def _refuse_numbers(settings: Mapping[str, t.Any]) -> Iterator[str]:
    for variable, (least, most) in _COUNTS.items():
        if not least <= int(settings[variable]) <= most:
            yield f"{variable} is {settings[variable]}: allowed is a number from {least} to {most}."
    memory = str(settings["synapse_service_memory_max"])
    if memory and not _MEMORY.match(memory):
        yield f"synapse_service_memory_max is {memory!r}: allowed is systemd's notation, such as 4G, 60% or infinity."
    for name, value in settings["synapse_service_environment"].items():
        if not _ENVIRONMENT.match(str(name)) or "\n" in str(value):
            yield f"synapse_service_environment has {name!r}: allowed are variables' names with values of one line."


def _refuse_secrets(settings: Mapping[str, t.Any]) -> Iterator[str]:
    """Refusals of secrets. They never show what was given."""
    for variable in _SECRETS:
        secret = str(settings[variable])
        if secret and (len(secret) < 16 or secret != secret.strip() or "\n" in secret):
            yield (
                f"{variable} was given {len(secret)} characters (not shown): allowed is one line of at least 16 "
                "characters without blanks around it, or nothing, and the host mints one."
            )
    for number, line in enumerate(str(settings["synapse_signing_key_content"]).splitlines(), start=1):
        if line.strip() and not _KEY_LINE.match(line.strip()):
            yield (
                f"synapse_signing_key_content, line {number} (not shown), is no signing key: allowed are lines of the "
                "form 'ed25519 KEYID BASE64', as they stand in the file that is to be restored."
            )


def _refuse_packages(settings: Mapping[str, t.Any]) -> Iterator[str]:
    patterns = {
        "synapse_extras": (_EXTRA, "names of extras of matrix-synapse, such as jwt"),
        "synapse_extra_packages": (_REQUIREMENT, "requirement specifiers, such as matrix-synapse-ldap3==0.3.0"),
        "synapse_extra_index_urls": (re.compile(r"^(https?|file)://\S+$"), "URLs"),
        "synapse_find_links": (re.compile(r"^(/|(https?|file)://)\S+$"), "absolute paths and URLs"),
        "synapse_worker_units": (_UNIT, "names of units, such as matrix-synapse-worker@sync1.service"),
        "synapse_allow_unknown_options": (re.compile(r"^[^\s.]+(\.[^\s.]+)*$"), "dotted names of options"),
    }
    for variable, (pattern, allowed) in patterns.items():
        for item in settings[variable]:
            if not isinstance(item, str) or not pattern.match(item):
                # An address may hold a password.
                given = "an address that is none (not shown)" if "link" in variable or "url" in variable else repr(item)
                yield f"{variable} has {given}: allowed are {allowed}."


def _refuse_sources(settings: Mapping[str, t.Any]) -> Iterator[str]:
    if settings["synapse_offline"] and not settings["synapse_find_links"] and not settings["synapse_wheelhouse"]:
        yield "synapse_offline is true and synapse_find_links is empty: name the host's folder with the wheels."
    if settings["synapse_wheelhouse"] and any("://" in str(link) for link in settings["synapse_find_links"]):
        yield (
            "synapse_wheelhouse is set and synapse_find_links has an address (not shown): hosts with a wheelhouse ask "
            "nobody else, so leave out one of them. Folders on the host are allowed."
        )
    for variable in ("synapse_public_baseurl", "synapse_public_url", "synapse_index_url"):
        url = str(settings[variable])
        schemes = ("https://", "http://", "file://") if variable == "synapse_index_url" else ("https://", "http://")
        if url and (not url.startswith(schemes) or re.search(r"\s", url)):
            yield f"{variable} is {url!r}: allowed is a URL that starts with {' or '.join(schemes)}."


def _refuse_shape(where: str, listener: Mapping[str, t.Any]) -> Iterator[str]:
    """Why the lists of a listener are none."""
    addresses = listener.get("bind_addresses")
    if addresses is not None and not isinstance(addresses, list):
        yield f"{where}.bind_addresses is {addresses!r}: allowed is a list of addresses."
    resources = listener.get("resources")
    if resources is not None and not (
        isinstance(resources, list) and all(isinstance(item, dict) and item.get("names") for item in resources)
    ):
        yield f"{where}.resources is {resources!r}: allowed is a list of mappings, each with names, such as [client]."


def _refuse_listeners(settings: Mapping[str, t.Any]) -> Iterator[str]:
    listeners = settings["synapse_listeners"]
    if not listeners:
        yield "synapse_listeners is empty: a server without a listener answers nobody. Leave it out for the default."
    taken: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(listeners):
        where = f"synapse_listeners[{index}]"
        if listener.get("type") not in ("http", "metrics", "manhole"):
            yield f"{where}.type is {listener.get('type')!r}: allowed are http, metrics and manhole."
        yield from _refuse_shape(where, listener)
        if "path" in listener:
            continue
        port = listener.get("port")
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            yield f"{where}.port is {port!r}: allowed is a number from 1 to 65535."
            continue
        addresses = listener.get("bind_addresses") or [listener.get("bind_address") or "::"]
        for address in addresses if isinstance(addresses, list) else []:
            other = taken.setdefault((str(address), port), index)
            if other != index:
                yield f"{where} wants {address} port {port}, as synapse_listeners[{other}] does: only one can have it."
    tls = [str(index) for index, listener in enumerate(listeners) if listener.get("tls")]
    if tls and not settings["synapse_config"].get("tls_certificate_path"):
        yield (
            f"synapse_listeners[{tls[0]}].tls is true and synapse_config has no tls_certificate_path: "
            "set that and tls_private_key_path, or let a reverse proxy do TLS."
        )


def _refuse_config(settings: Mapping[str, t.Any]) -> Iterator[str]:
    if "databases" in settings["synapse_config"]:
        yield "synapse_config has databases, in which the role cannot look for the server's events: use database."
    for option, variable in _OWNED.items():
        if option in settings["synapse_config"]:
            yield f"synapse_config has {option}, which the role sets: set {variable} instead."
    if "database" in settings["synapse_config"]:
        yield from _refuse_database(settings["synapse_config"]["database"])


def _refuse_database(database: t.Any) -> Iterator[str]:
    """Why the server's events could not be found with this. What is given is not shown: it may hold a password."""
    example = "{name: psycopg2, args: {...}} or {name: sqlite3, args: {database: /path}}"
    if not isinstance(database, dict) or database.get("name") not in ("sqlite3", "psycopg2"):
        yield f"synapse_config.database (not shown) names no database that Synapse knows: allowed is {example}."
    elif not isinstance(database.get("args"), dict):
        yield f"synapse_config.database has no args: allowed is {example}."
    elif database["name"] == "sqlite3" and not str(database["args"].get("database") or "").startswith("/"):
        yield "synapse_config.database.args.database is no absolute path: name the SQLite file."


def refusals(settings: Mapping[str, t.Any]) -> list[str]:
    """Return one sentence for each role variable that cannot work: its name, what was given, what is allowed.

    ``settings`` maps the names of the role's variables to their values. Values of secrets never appear.
    """
    checks = (
        _refuse_switches,
        _refuse_accounts,
        _refuse_names,
        _refuse_paths,
        _refuse_numbers,
        _refuse_secrets,
        _refuse_packages,
        _refuse_sources,
        _refuse_listeners,
        _refuse_config,
    )
    return [sentence for check in checks for sentence in check(settings)]


def refusals_by_manager(settings: Mapping[str, t.Any]) -> dict[str, list[str]]:
    """Return ``refusals`` of a host not known yet: ``always``, and ``systemd`` where that manages its services."""
    chosen = settings["synapse_service_manager"]
    if chosen != "auto":
        return {"always": refusals({**settings, "_synapse_service_manager": chosen}), "systemd": []}
    anywhere = refusals({**settings, "_synapse_service_manager": "daemon"})
    under_systemd = refusals({**settings, "_synapse_service_manager": "systemd"})
    return {"always": anywhere, "systemd": [sentence for sentence in under_systemd if sentence not in anywhere]}


def _spellings(secret: str) -> Iterator[str]:
    """A secret as YAML may write it: on one line or on several, with quotes doubled or escaped."""
    for line in {secret, *(line.strip() for line in secret.splitlines())}:
        if len(line) >= 4:
            yield from (line, line.replace("'", "''"), line.replace("\\", "\\\\").replace('"', '\\"'))


def secret_values(config: t.Any) -> list[str]:
    """Return every value in ``config`` that stands under a name which says that it is a secret, at any depth."""
    found: list[str] = []

    def walk(value: t.Any, secret: bool) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, is_secret_name(str(name)) or (secret and not isinstance(inner, (dict, list))))
        elif isinstance(value, (list, tuple)):
            for inner in value:
                walk(inner, secret)
        elif secret and value is not None and not isinstance(value, bool) and len(str(value)) >= 4:
            found.extend(_spellings(str(value)))

    walk(config, secret=False)
    return sorted(set(found))
