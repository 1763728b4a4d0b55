# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a homeserver, its libraries and its service manager write when something is wrong, and what that means. Pure.

The wording is that of Synapse 1.163.2, Twisted 26.10, psycopg2 2.9 with libpq 15, SQLite 3.40, systemd 252 and 257,
glibc 2.36 and CPython 3.11; patterns hold on to the part that has been the same for years.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _logs

__all__ = ["RUNNING", "STARTING", "Entry", "Match", "Message", "recognise", "recurring"]

_QUARTER = 900.0
_HOURS = 6 * 3600.0
_LENGTH = 300
# A line without any of these words is not looked at more closely: most lines of a healthy server.
_HINT = re.compile(
    r"(?i)error|exception|panic|fail|fatal|cannot|couldn.t|unable|denied|refused|no space|locked|emfile|too many"
    r"|timed out|timeout|inconsistent|missing|lacks|no module|killed|unexpected|not installed|incorrect|generating"
    r"|enable_metrics|ld_preload|pkg_resources|retrying|exist|malformed|read-?only|invalid|in use|too new|too old"
    r"|starting up|closed|terminating|noauth|wrongpass|illegal|bad system|pidfile|unsupported|slots"
)


@dataclass(frozen=True)
class Message:
    """One kind of message. ``summary`` is told with the line; ``least`` and ``within`` (seconds) count for a server
    that is up: so many of them, the latest of them so recent. A group in ``pattern`` counts different values alone."""

    name: str
    title: str
    pattern: t.Pattern[str]
    summary: str
    cause: str
    remedy: str
    repair: str = ""
    safe: bool = False
    severity: str = "critical"
    least: int = 1
    within: float = _HOURS


@dataclass(frozen=True)
class Entry:
    """A line that was written, and when, in seconds since 1970, where that is known."""

    text: str
    time: float | None = None


@dataclass(frozen=True)
class Match:
    """A kind of message that was found: its latest line, how many there were, and when the latest one was written."""

    name: str
    line: str
    count: int = 1
    time: float | None = None


def _pattern(*parts: str) -> t.Pattern[str]:
    return re.compile("|".join(f"(?:{part})" for part in parts))


_REINSTALL = "ansible-playbook matrix_fleet.synapse.repair --tags reinstall"
_CONFIG = "Correct the option that the line names; ansible-playbook matrix_fleet.synapse.repair --tags config"
_PERMISSIONS = "ansible-playbook matrix_fleet.synapse.repair --tags permissions"

# Why a server that is down does not start. The first that fits the decisive line counts, else the first that fits any.
STARTING = (
    Message(
        "key_generated",
        "The server made, or tried to make, a new signing key.",
        _pattern(r"Generating signing key file"),
        "Synapse found no signing key and set about making a new one, which is another identity.",
        "The key file was missing when the server was started: Synapse makes one by itself since 1.67.0.",
        "Do not start it again. Bring the old key back from a backup: ansible-playbook matrix_fleet.synapse.repair "
        "--tags key",
        "key",
    ),
    Message(
        "psycopg2",
        "The driver for PostgreSQL cannot be loaded.",
        _pattern(r"psycopg2 module is not installed", r"No module named 'psycopg2", r"libpq\.so"),
        "Synapse cannot load psycopg2, the driver for PostgreSQL, or its library libpq.",
        "The environment has no psycopg2, or the system's libpq.so.5 is missing; Synapse says 'not installed' for "
        "both.",
        f"apt-get install libpq5; {_REINSTALL}",
        "reinstall",
        True,
    ),
    Message(
        "python_broken",
        "The interpreter itself cannot start.",
        _pattern(
            r"Fatal Python error",
            r"No module named 'encodings'",
            r"init_fs_encoding",
            r"Could not find platform dependent",
        ),
        "The Python interpreter of the environment cannot start.",
        "The system's Python was removed or upgraded beneath the environment.",
        _REINSTALL,
        "reinstall",
        True,
    ),
    Message(
        "missing_module",
        "A Python module is missing.",
        _pattern(r"No module named '?[\w.]+'?", r"PackageNotFoundError", r"Unable to load module at"),
        "Synapse cannot import a Python module.",
        "The environment is incomplete: an interrupted installation, a module of the configuration that was not "
        "installed along, or another Python than it was made for.",
        f"{_REINSTALL} (modules of your own belong into synapse_extra_packages)",
        "reinstall",
        True,
    ),
    Message(
        "broken_library",
        "A library is damaged or does not fit.",
        _pattern(
            r"cannot import name",
            r"undefined symbol",
            r"cannot open shared object file",
            r"file too short",
            r"invalid ELF header",
            r"wrong ELF class",
            r"failed to map segment",
            r"version `?\w+_[\d.]+'? not found",
            r"error while loading shared libraries",
            r"PanicException|pyo3_runtime",
            r"[Ii]llegal instruction",
        ),
        "A library of the environment cannot be loaded.",
        "Files of the environment are damaged or of another version, or a library of the system is missing.",
        _REINSTALL,
        "reinstall",
        True,
    ),
    Message(
        "dependency",
        "A dependency is missing or has the wrong version.",
        _pattern(r"DependencyException", r"Missing Requirements?", r"needs [\w.-]+\S*, but got", r"VersionConflict"),
        "A package that Synapse needs is missing or too old.",
        "Packages were installed, removed or upgraded beside Synapse.",
        _REINSTALL,
        "reinstall",
        True,
    ),
    Message(
        "database_too_new",
        "The database is newer than the installed Synapse.",
        _pattern(r"too new for the server to understand", r"database .* is too new"),
        "The database was used by a newer Synapse than the one that is installed.",
        "Synapse was downgraded, or an old release was put back after a migration.",
        "Install the newer version again (it stands in the log of the day before), or restore the backup of the "
        "database "
        "that was made before the upgrade.",
    ),
    Message(
        "database_sequence",
        "A sequence of the database lags behind its table.",
        _pattern(r"sequence '?\w+'? is inconsistent", r"is inconsistent with associated"),
        "A sequence of PostgreSQL is behind the rows that it numbers.",
        "The database was restored, or failed over, without its sequences.",
        "Stop Synapse, run the SQL that the message names (SELECT setval(...)) as the database's owner, then start it.",
    ),
    Message(
        "database_locale",
        "The database has the wrong collation.",
        _pattern(r"incorrect collation", r"incorrect ctype", r"IncorrectDatabaseSetup"),
        "The database's collation or ctype is not C.",
        "It was created without LC_COLLATE='C' LC_CTYPE='C'; indexes may break with the system's next locale.",
        "Dump it, create it anew: createdb --encoding=UTF8 --locale=C --template=template0 --owner=synapse synapse, "
        "and "
        "restore.",
    ),
    Message(
        "database_refused",
        "The database does not accept connections.",
        _pattern(
            r"connection to server .* failed: (?:Connection refused|No such file|Connection timed out|No route)",
            r"could not connect to server",
            r"Is the server running",
            r"database system is (?:starting up|shutting down|in recovery mode|not yet accepting)",
        ),
        "PostgreSQL does not accept the connection.",
        "It is stopped, still starting, or listens on another host, port or socket than the configuration says.",
        "systemctl status postgresql; systemctl start postgresql; compare host and port under database.args",
        "service",
        True,
    ),
    Message(
        "database_login",
        "The database refuses the login.",
        _pattern(
            r"password authentication failed",
            r"no pg_hba\.conf entry",
            r"(?:Peer|Ident) authentication failed",
            r"role \".*?\" does not exist",
            r"no password supplied",
            r"role \".*?\" is not permitted to log in",
        ),
        "PostgreSQL refuses the login of Synapse.",
        "User or password in the configuration is not what PostgreSQL knows, or pg_hba.conf does not let it in.",
        "Compare database.args.user and its password; set it anew in psql with \\password synapse",
    ),
    Message(
        "database_missing",
        "The database does not exist.",
        _pattern(r"database \".*?\" does not exist"),
        "PostgreSQL has no database of that name.",
        "It was dropped, never created, or database.args names another one.",
        "Compare database.args.dbname with psql -l. Do not create an empty one where there was one with data: restore "
        "it.",
    ),
    Message(
        "database_connections",
        "The database has no connection left.",
        _pattern(r"too many clients already", r"remaining connection slots", r"too many connections for"),
        "PostgreSQL has no free connection left.",
        "max_connections is lower than what Synapse (cp_max for each process) and others take together.",
        "Raise max_connections in postgresql.conf, or lower database.args.cp_max; then restart PostgreSQL.",
    ),
    Message(
        "database_privilege",
        "Synapse lacks rights in the database.",
        _pattern(
            r"InsufficientPrivilege",
            r"permission denied for (?:schema|table|relation|database|sequence)",
            r"must be owner of",
        ),
        "The role of Synapse has no right to something in the database.",
        "Tables belong to another role after a restore, or PostgreSQL 15 and newer give no right to schema public.",
        "ALTER DATABASE synapse OWNER TO synapse; ALTER SCHEMA public OWNER TO synapse; REASSIGN OWNED BY OLD TO "
        "synapse;",
    ),
    Message(
        "database_damaged",
        "The database is damaged.",
        _pattern(
            r"database disk image is malformed",
            r"file is not a database",
            r"invalid page in block",
            r"could not read block",
            r"contains unexpected zero page",
            r"missing chunk number",
            r"could not open relation",
        ),
        "The database is damaged.",
        "A disk failed, a copy was made of a running database, or a file was cut off.",
        "Stop Synapse, copy the database as it is, and restore the latest good backup; look at dmesg for disk errors.",
    ),
    Message(
        "database_schema",
        "The database's tables are not those of this version.",
        _pattern(
            r"relation \".*?\" (?:already exists|does not exist)",
            r"DuplicateTable|UndefinedTable|DuplicateColumn|UndefinedColumn",
            r"no such table|no such column|table \w+ already exists|duplicate column name",
        ),
        "The tables of the database do not fit its recorded schema version.",
        "A restore was partial, or schema_version was lost or changed.",
        "Restore the whole database from one backup; do not edit schema_version.",
    ),
    Message(
        "database_readonly",
        "The database cannot be written.",
        _pattern(
            r"attempt to write a readonly database", r"in a read-only transaction", r"unable to open database file"
        ),
        "The database cannot be opened for writing.",
        "File or folder belongs to another account, the unit's sandbox forbids it, or PostgreSQL is a standby.",
        f"ls -l the file and its folder; {_PERMISSIONS}; ReadWritePaths= of the unit",
        "permissions",
        True,
    ),
    Message(
        "database_locked",
        "The database is locked by another process.",
        _pattern(r"database is locked"),
        "Another process holds the SQLite database.",
        "A second Synapse, a backup or a shell has it open, or it lies on NFS.",
        "fuser -v FILE names who has it open.",
    ),
    Message(
        "disk_full",
        "A disk is full.",
        _pattern(r"No space left on device", r"database or disk is full", r"could not extend file", r"quota exceeded"),
        "A disk is full (ENOSPC): Synapse cannot write.",
        "Logs without rotation, media or the database have filled the file system.",
        "df -h; df -i; make room: rotate and compress old logs, purge remote media; do not remove the open log.",
    ),
    Message(
        "disk_failed",
        "A disk failed or is read-only.",
        _pattern(r"Read-only file system", r"Input/output error", r"disk I/O error", r"Stale file handle"),
        "A file system failed, or is mounted read-only.",
        "After an error the kernel mounts a file system read-only; network file systems go stale.",
        "dmesg | tail; findmnt; mend the disk first, then mount it writable again.",
    ),
    Message(
        "memory",
        "There is no memory left.",
        _pattern(r"MemoryError", r"Cannot allocate memory", r"[Oo]ut of memory", r"oom-kill|OOM killer"),
        "There is no memory left.",
        "The host, or the unit's MemoryMax=, is too small for this server.",
        "free -m; raise MemoryMax= or the host's memory; lower caches.global_factor.",
    ),
    Message(
        "too_many_files",
        "Too many files are open.",
        _pattern(r"Too many open files", r"EMFILE encountered", r"\[Errno 24\]"),
        "Synapse may not open any more files (EMFILE, ulimit, LimitNOFILE).",
        "Each client, federated server and database connection is an open file.",
        "systemctl edit UNIT, '[Service]', 'LimitNOFILE=65536'; systemctl daemon-reload; systemctl restart UNIT",
    ),
    Message(
        "pid_file",
        "The pid file cannot be written.",
        _pattern(r"Unable to (?:create|write pid to) the pidfile"),
        "Synapse cannot write its pid_file (daemonize).",
        "Its folder is missing, as in /run after a reboot, or may not be written to.",
        "RuntimeDirectory= in the unit, or another pid_file",
    ),
    Message(
        "pid_file_locked",
        "Another server holds the pid file.",
        _pattern(r"Unable to lock on the pidfile"),
        "Another Synapse runs and holds the pid_file.",
        "The server was started twice.",
        "fuser -v the pid_file names it; stop it by its id.",
    ),
    Message(
        "port_in_use",
        "A port is taken.",
        _pattern(r"Address already in use", r"Errno 98\b"),
        "Another process listens on a port or socket of Synapse already.",
        "A second Synapse, an older unit, or another service has it.",
        "ss -ltnp shows who; stop that, or choose another port.",
    ),
    Message(
        "cannot_bind",
        "An address cannot be listened on.",
        _pattern(
            r"Cannot assign requested address",
            r"Address family not supported",
            r"CannotListenError",
            r"Couldn't listen",
        ),
        "Synapse cannot listen on an address that is configured.",
        "The address is not this host's, IPv6 is off, a port below 1024 needs a capability, or the unit forbids the "
        "address family.",
        "ip address; correct bind_addresses of that listener.",
    ),
    Message(
        "yaml",
        "A configuration file is not YAML.",
        _pattern(
            r"yaml\.\w+\.\w+Error", r"found character .* cannot start any token", r"mapping values are not allowed"
        ),
        "A configuration file is not valid YAML.",
        "A tab, a wrong indentation or an unquoted special character.",
        _CONFIG,
        "config",
    ),
    Message(
        "log_config",
        "The log configuration is wrong.",
        _pattern(
            r"Unable to (?:configure|add) (?:handler|root|formatter|logger|filter)",
            r"Cannot resolve '",
            r"dictionary doesn't specify a version",
        ),
        "Synapse cannot use its log configuration.",
        "A handler, formatter or file that it names does not exist.",
        _CONFIG,
        "config",
    ),
    Message(
        "config_denied",
        "The service's user may not read a file of the configuration.",
        _pattern(r"(?:PermissionError|Permission denied).*\.(?:ya?ml|signing\.key|key|pem|crt)\b"),
        "The service's user has no permission for a file of the configuration.",
        "It belongs to root alone, or its folder may not be entered.",
        _PERMISSIONS,
        "permissions",
        True,
    ),
    Message(
        "config",
        "The configuration is refused.",
        _pattern(r"Error in configuration", r"ConfigError", r"while reading the option", r"in synapse/config/\w+\.py"),
        "Synapse refuses its configuration.",
        "An option is missing, misspelt or of the wrong type.",
        _CONFIG,
        "config",
    ),
    Message(
        "denied",
        "A file may not be used.",
        _pattern(r"PermissionError", r"Permission denied", r"Operation not permitted"),
        "Synapse has no permission for a file that it needs.",
        "Files belong to another account than the service runs as, or its sandbox forbids them.",
        _PERMISSIONS,
        "permissions",
        True,
    ),
    Message(
        "missing_file",
        "A file is missing.",
        _pattern(r"FileNotFoundError", r"No such file or directory"),
        "Synapse needs a file that does not exist.",
        "It was moved or removed, or its file system is not mounted.",
        "Put it back, or correct the option that names it.",
    ),
    Message(
        "tls",
        "A TLS certificate or key cannot be used.",
        _pattern(
            r"key values mismatch",
            r"PEM_read_bio|no start line|bad decrypt",
            r"(?:ee key|ca md) too (?:small|weak)",
            r"OpenSSL\.SSL\.Error",
        ),
        "Synapse cannot use its TLS certificate or key.",
        "Certificate and key do not belong together, or one of them is no PEM file.",
        "openssl x509 -noout -pubkey -in CERTIFICATE and openssl pkey -pubout -in KEY must print the same.",
    ),
    Message(
        "workers",
        "The configuration of workers is incomplete.",
        _pattern(
            r"does not appear in `?instance_map",
            r"Missing data for a worker",
            r"assert .*(?:redis_enabled|worker_app)",
            r"WriterLocations",
        ),
        "The configuration of workers is incomplete.",
        "instance_map, stream_writers, redis or worker_app do not fit together.",
        _CONFIG,
        "config",
    ),
    Message(
        "dns",
        "A name cannot be resolved.",
        _pattern(
            r"could not translate host name", r"Name or service not known", r"Temporary failure in name resolution"
        ),
        "A host that the configuration names cannot be resolved.",
        "A name server does not answer, or the name is wrong.",
        "getent hosts NAME; /etc/resolv.conf",
    ),
    Message(
        "redis",
        "Redis cannot be used.",
        _pattern(
            r"Connection to redis server .* failed",
            r"\bNOAUTH\b|\bWRONGPASS\b",
            r"MISCONF Redis",
            r"redis.*(?:refused|failed)",
        ),
        "Synapse cannot use Redis.",
        "Redis is stopped, listens elsewhere, or refuses the password.",
        "systemctl start redis-server; compare redis.host, redis.port and the password",
        "service",
        True,
    ),
)

# What a server that is up complains of. Told where it happened since its start, often enough, and lately.
RUNNING = (
    Message(
        "disk_full_running",
        "The running server met a full disk.",
        _pattern(r"No space left on device", r"database or disk is full", r"could not extend file", r"quota exceeded"),
        "A disk is full (ENOSPC): Synapse could not write its log, its database or media.",
        "Logs without rotation, media or the database have filled the file system.",
        "df -h; df -i; make room: rotate and compress old logs, purge remote media; do not remove the open log.",
        severity="error",
        within=_QUARTER,
    ),
    Message(
        "disk_failed_running",
        "The running server met a failed disk.",
        _pattern(r"Read-only file system", r"\[Errno 5\]|Input/output error", r"disk I/O error", r"Stale file handle"),
        "A file system failed, or is mounted read-only.",
        "After an error the kernel mounts a file system read-only; network file systems go stale.",
        "dmesg | tail; findmnt; mend the disk first.",
        severity="error",
        within=_QUARTER,
    ),
    Message(
        "too_many_files",
        "The running server may not open any more files.",
        _pattern(r"Too many open files", r"EMFILE encountered", r"\[Errno 24\]"),
        "Synapse may not open any more files (EMFILE, ulimit, LimitNOFILE).",
        "Each client, federated server and database connection is an open file.",
        "systemctl edit UNIT, '[Service]', 'LimitNOFILE=65536'; systemctl daemon-reload; systemctl restart UNIT",
        severity="error",
    ),
    Message(
        "media_unwritable",
        "Media cannot be stored or read.",
        _pattern(
            r"(?:PermissionError|OSError|FileNotFoundError|NotADirectoryError): .*"
            r"(?:local_content|remote_content|local_thumbnails|remote_thumbnail|url_cache)"
        ),
        "Synapse cannot write to its media_store: uploads fail.",
        "Folders in it belong to another account, as after a restore as root, or are not mounted.",
        f"chown -R synapse:synapse on the media_store alone; {_PERMISSIONS}",
        "permissions",
        True,
        severity="error",
    ),
    Message(
        "database_damaged_running",
        "The running server met a damaged database.",
        _pattern(
            r"database disk image is malformed",
            r"invalid page in block",
            r"could not read block",
            r"unexpected zero page",
            r"missing chunk number",
        ),
        "The database is damaged.",
        "A disk failed, or the system's locale changed beneath indexes.",
        "Stop Synapse, copy the database as it is; REINDEX, or restore the latest good backup.",
    ),
    Message(
        "database_readonly_running",
        "The running server cannot write its database.",
        _pattern(r"attempt to write a readonly database", r"in a read-only transaction"),
        "Synapse cannot write to its database.",
        "The file belongs to another account, or PostgreSQL is a standby now.",
        f"ls -l the file and its folder; {_PERMISSIONS}",
        "permissions",
        True,
        severity="error",
        within=_QUARTER,
    ),
    Message(
        "database_connections_running",
        "The running server gets no connection to its database.",
        _pattern(r"too many clients already", r"remaining connection slots", r"too many connections for"),
        "PostgreSQL has no free connection left for Synapse.",
        "max_connections is lower than what Synapse (cp_max for each process) and others take together.",
        "Raise max_connections in postgresql.conf, or lower database.args.cp_max; then restart PostgreSQL.",
        severity="error",
        within=_QUARTER,
    ),
    Message(
        "database_lost",
        "The running server cannot reach its database.",
        _pattern(
            r"connection to server .* failed: ",
            r"could not connect to server",
            r"server closed the connection unexpectedly",
            r"terminating connection due to administrator",
        ),
        "Synapse loses its connection to PostgreSQL.",
        "PostgreSQL was stopped or restarted, or something between them cuts connections.",
        "systemctl status postgresql; journalctl -u postgresql -n 50",
        "service",
        True,
        severity="error",
        least=3,
        within=60.0,
    ),
    Message(
        "database_locked_running",
        "The running server finds its database locked.",
        _pattern(r"sqlite3\.OperationalError: database is locked"),
        "The SQLite database is locked again and again.",
        "A second process has it open, or the server has outgrown SQLite.",
        "fuser -v FILE names who has it open; move to PostgreSQL.",
        severity="warning",
        least=3,
        within=_QUARTER,
    ),
    Message(
        "database_privilege_running",
        "The running server lacks rights in the database.",
        _pattern(r"InsufficientPrivilege", r"permission denied for (?:schema|table|relation|sequence)"),
        "The role of Synapse has no right to something in the database.",
        "Tables belong to another role after a restore.",
        "REASSIGN OWNED BY OLD TO synapse; ALTER SCHEMA public OWNER TO synapse;",
        severity="error",
    ),
    Message(
        "events_refused",
        "Events cannot be stored.",
        _pattern(
            r"Error persisting",
            r"Failed to persist",
            r"UniqueViolation: .*(?:event|stream)",
            r"ForeignKeyViolation",
            r"IntegrityError: .*events",
        ),
        "Synapse cannot store events in its database.",
        "The database is inconsistent: a partial restore, two servers on one database, or a damaged index.",
        "Stop Synapse; look for a second process on this database; restore the latest good backup if it stays.",
        severity="error",
        least=3,
    ),
    Message(
        "statement_timeout",
        "Queries of the database take too long.",
        _pattern(r"canceling statement due to statement timeout"),
        "Queries of the database take longer than its statement_timeout.",
        "The database is overloaded, or has no statistics after a restore.",
        "ANALYZE the database; see what runs: SELECT * FROM pg_stat_activity.",
        severity="warning",
        least=3,
    ),
    Message(
        "background_update",
        "A background update of the database fails.",
        _pattern(r"Error doing update"),
        "A background update of the database fails again and again.",
        "What it works on is damaged or too slow; later versions may need that it is done.",
        "The traceback after that line in the log names the reason.",
        severity="warning",
        least=2,
    ),
    Message(
        "redis_lost",
        "The running server cannot reach Redis.",
        _pattern(r"Connection to redis server .* failed", r"\bNOAUTH\b|\bWRONGPASS\b", r"MISCONF Redis"),
        "Synapse cannot reach Redis: its processes do not hear of each other's changes.",
        "Redis is stopped, listens elsewhere, or refuses the password.",
        "systemctl start redis-server; compare redis.host, redis.port and the password",
        "service",
        True,
        severity="error",
        within=60.0,
    ),
    Message(
        "replication",
        "Main process and workers do not reach each other.",
        _pattern(
            r"request connection failed; retrying",
            r"Invalid Authorization header",
            r"Timed out waiting for repl stream",
            r"Connected to wrong remote",
        ),
        "Main process and workers do not reach each other (replication).",
        "instance_map names a port that nobody serves, a worker is down, or worker_replication_secret differs.",
        "Compare instance_map with the replication listeners, and worker_replication_secret in all files.",
        severity="error",
        least=3,
        within=_QUARTER,
    ),
    Message(
        "proxy_headers",
        "The reverse proxy does not say how clients connected.",
        _pattern(r"forwarded request lacks an x-forwarded-proto header"),
        "The reverse proxy sends X-Forwarded-For, and not X-Forwarded-Proto.",
        "Synapse then assumes https for all requests; the proxy's location lacks a header.",
        "nginx: proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;",
        severity="warning",
        least=10,
    ),
    Message(
        "metrics_off",
        "A listener for metrics serves none.",
        _pattern(r"Metrics listener configured, but enable_metrics is not True"),
        "A metrics listener is configured, and enable_metrics is not true.",
        "Without enable_metrics Synapse does not open that listener.",
        "enable_metrics: true in the configuration, then restart; or remove the listener.",
        "config",
        severity="warning",
    ),
    Message(
        "mail",
        "Mail cannot be sent.",
        _pattern(
            r"SMTP(?:Connect|Authentication|Delivery|Client|Protocol)\w*Error",
            r"smtp.*(?:refused|failed)",
            r"Failed to send \w*\s?e?mail",
        ),
        "Synapse cannot send mail: password resets and notifications do not arrive.",
        "The mail server refuses the connection or the login.",
        "Compare email.smtp_host, smtp_port, smtp_user and require_transport_security.",
        severity="warning",
        least=2,
    ),
    Message(
        "oidc",
        "An OpenID provider cannot be used.",
        _pattern(r"Error while preloading OIDC provider"),
        "Login by an OpenID provider does not work.",
        "The provider's metadata cannot be fetched: its name, its certificate, or a firewall.",
        "curl -sS ISSUER/.well-known/openid-configuration from this host",
        severity="warning",
    ),
    Message(
        "appservice",
        "An application service does not answer.",
        _pattern(r"push_bulk to (\S+) (?:threw|failed|received)"),
        "An application service (bridge) does not take its events.",
        "The bridge is stopped, or its url or token in the registration file is wrong.",
        "systemctl status of the bridge; compare url and hs_token in its registration file",
        severity="warning",
        least=1,
        within=_QUARTER,
    ),
    Message(
        "trust",
        "This host trusts no certificates of other servers.",
        _pattern(
            r"\[([\w.:-]+)\] Request failed: .*"
            r"(?i:certificate verify failed|unable to get local issuer|certificate_verify_failed)"
        ),
        "The certificates of many other servers are refused: federation does not work.",
        "The host's bundle of authorities is old or missing, or its clock is wrong.",
        "apt-get install --reinstall ca-certificates; update-ca-certificates; timedatectl",
        severity="warning",
        least=20,
    ),
    Message(
        "soft_limit",
        "The limit of open files could not be raised.",
        _pattern(r"Failed to set file or core limit"),
        "Synapse could not raise its limit of open files (soft_file_limit).",
        "soft_file_limit of the configuration is higher than LimitNOFILE= of the unit.",
        "Raise LimitNOFILE= (systemctl edit UNIT), or remove soft_file_limit.",
        severity="warning",
    ),
    Message(
        "memory_running",
        "The running server has no memory left.",
        _pattern(r"^MemoryError|\bMemoryError\b", r"Cannot allocate memory"),
        "Synapse has no memory left.",
        "The host, or the unit's MemoryMax=, is too small for this server.",
        "free -m; raise MemoryMax= or the host's memory; lower caches.global_factor.",
        severity="error",
    ),
    Message(
        "pkg_resources",
        "A package still uses pkg_resources.",
        _pattern(r"pkg_resources is deprecated as an API"),
        "A Python package imports pkg_resources, which setuptools 82 no longer has; today the warning is harmless.",
        "The path before the message is the package that imports it; Synapse itself has not done so since 1.139.0.",
        "Nothing has to be done now. Upgrade the package that the line names, before setuptools.",
        severity="info",
    ),
    Message(
        "preload",
        "A library of LD_PRELOAD is missing.",
        _pattern(r"object '\S+' from LD_PRELOAD cannot be preloaded"),
        "The library in LD_PRELOAD does not exist; the loader ignores it.",
        "jemalloc was removed or has another path on this release of the system.",
        "apt-get install libjemalloc2, or correct LD_PRELOAD",
        severity="warning",
    ),
)


def _quoted(line: str) -> str:
    text = _logs.redact(" ".join(line.split()))
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def recognise(entries: t.Sequence[Entry], line: str | None) -> Match | None:
    """Return the kind of message that says why a server did not start: that of the decisive line, else of any line."""
    if line is not None:
        for message in STARTING:
            if message.pattern.search(line):
                return Match(message.name, _quoted(line))
        return None
    telling = [entry for entry in entries if _HINT.search(entry.text)]
    for message in STARTING:
        for entry in reversed(telling):
            if message.pattern.search(entry.text):
                return Match(message.name, _quoted(entry.text), 1, entry.time)
    return None


def recurring(entries: t.Iterable[Entry], now: float) -> tuple[Match, ...]:
    """Return the kinds of messages of a server that is up that count: often enough, and lately."""
    found: dict[str, tuple[Match, set[str]]] = {}
    for entry in entries:
        if not _HINT.search(entry.text):
            continue
        for message in RUNNING:
            hit = message.pattern.search(entry.text)
            if hit is None:
                continue
            match, values = found.get(message.name, (Match(message.name, "", 0), set()))
            if hit.groups() and hit.group(1):
                values.add(hit.group(1))
            found[message.name] = (Match(message.name, entry.text, match.count + 1, entry.time or match.time), values)
            break
    told = []
    for message in RUNNING:
        if message.name not in found:
            continue
        match, values = found[message.name]
        recent = match.time is None or now - match.time <= message.within
        if recent and (len(values) if values else match.count) >= message.least:
            told.append(Match(match.name, _quoted(match.line), match.count, match.time))
    return tuple(told)
