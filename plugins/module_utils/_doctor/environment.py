# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment that Synapse runs in: interpreter, packages, files. Pure."""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Clue, Rulebook
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.requirements import SYNAPSE, allows
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import version_key

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.requirements import Lack
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._venv import Finding as Observation

__all__ = ["RULES", "Environment", "features_of", "modules_of"]

RULES = Rulebook("environment")

_REINSTALL = (
    "ansible-playbook matrix_fleet.synapse.repair --tags reinstall builds the same version of Synapse in a folder of "
    "its own, proves it, and switches to it; what is there stays as it is. By hand: make a new virtual environment "
    "beside this one, install the same versions into it, and point the link or the unit to it."
)
_MOST = 3
# What cannot be told from a package's name: which package has the class that a configuration names.
_PACKAGES = {
    "ldap_auth_provider": "matrix-synapse-ldap3",
    "rest_auth_provider": "matrix-synapse-rest-password-provider",
    "s3_storage_provider": "synapse-s3-storage-provider",
    "shared_secret_authenticator": "matrix-synapse-shared-secret-auth",
    "synapse_auto_accept_invite": "synapse-auto-accept-invite",
    "synapse_http_antispam": "synapse-http-antispam",
    "synapse_simple_antispam": "synapse-simple-antispam",
    "synapse_user_restrictions": "synapse-user-restrictions",
}
# The extras that every release of the collection has.
_ALWAYS_THERE = {"cache-memory", "jwt", "oidc", "redis", "url-preview"}
# What an environment that does not run makes of the other parts.
_FOLLOWS = (
    "configuration.missing_package",
    "configuration.database_driver",
    "configuration.unasked",
    "service.program_*",
    "service.release_gone",
    "service.step",
    "service.stopped",
)


@dataclass(frozen=True)
class Environment:
    """What was seen. ``version`` is Synapse's, ``release`` the name of the folder behind the link.

    ``version`` is known as far as it can be: where the environment is gone, it is what served last. ``kind`` says what
    lies at ``path``: ``nothing``, a ``file``, a link that is ``dangling``, a ``folder``, a ``link`` to one, a
    ``release`` of the collection, the ``system`` where there is no environment of its own; or that it is ``hidden``
    from us. ``observed`` is what the files show, ``proven`` that they are as they were when the release was proven.

    Seen by its own interpreter as the service's user: ``running`` (its version), or else ``silence`` (why it does not
    start) or ``unanswered`` (it took too long); ``absent`` modules, by what of each cannot be found; ``failed`` modules
    and libraries, by the error; ``unreadable`` files, and the folder that is the ``barrier``.
    """

    version: str | None = None
    release: str | None = None
    path: str = ""
    kind: str = "folder"
    target: str = ""
    user: str | None = None
    observed: tuple[Observation, ...] = ()
    proven: bool = False
    unproven: str = ""
    running: str = ""
    silence: str = ""
    unanswered: str = ""
    prefix: str = ""
    libraries: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    damaged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modified: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacks: tuple[Lack, ...] = ()
    extras: Mapping[str, tuple[Lack, ...]] = field(default_factory=dict)
    pythons: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    barrier: str = ""
    importers: Mapping[str, bool] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    untrusted: str = ""
    writable: str = ""
    packaged: str = ""
    machine: str = ""
    libc: str = ""

    def evidence(self, *ids: str) -> list[str]:
        """Return what the files show of these kinds."""
        return [one.evidence for one in self.observed if one.id in ids]

    @property
    def stands(self) -> bool:
        """Whether there is something to look into."""
        return self.kind not in {"nothing", "file", "dangling", "hidden"}

    @property
    def minor(self) -> str:
        """The minor version of the interpreter, empty where it does not start."""
        return ".".join(self.running.split(".")[:2])


def _some(items: Iterable[str], most: int = _MOST) -> str:
    listed = list(items)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"


def features_of(settings: Settings | None) -> list[tuple[str, str]]:
    """Return the extras of Synapse that are needed, each with the option that needs it (synapse/config, 1.163.2)."""
    if settings is None:
        return []
    found = []
    if settings.get("jwt_config"):  # read even where "enabled" is false (synapse/config/jwt.py)
        found.append(("jwt", "jwt_config"))
    if settings.get("oidc_providers") or settings.get("oidc_config", "enabled"):
        found.append(("oidc", "oidc_providers" if settings.get("oidc_providers") else "oidc_config"))
    saml = settings.get("saml2_config")
    if isinstance(saml, dict) and saml and saml.get("enabled", True):
        found.append(("saml2", "saml2_config"))
    if settings.get("redis", "enabled"):
        found.append(("redis", "redis.enabled"))
    if settings.get("sentry") is not None:
        found.append(("sentry", "sentry"))
    if settings.get("opentracing", "enabled"):
        found.append(("opentracing", "opentracing.enabled"))
    if settings.get("url_preview_enabled"):
        found.append(("url-preview", "url_preview_enabled"))
    if settings.get("caches", "track_memory_usage"):
        found.append(("cache-memory", "caches.track_memory_usage"))
    return found


def modules_of(settings: Settings | None) -> dict[str, str]:
    """Return the classes that the configuration loads, by name, and the option that names each (synapse/config)."""
    if settings is None:
        return {}
    found: dict[str, str] = {}

    def add(name: t.Any, option: str) -> None:
        if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
            if name.startswith(("synapse.util.ldap_auth_provider.", "synapse.rest.media.v1.")):
                return  # old names that Synapse translates itself
            found.setdefault(name, option)

    for option in ("modules", "password_providers", "media_storage_providers", "spam_checker"):
        for entry in settings.mappings(option):
            add(entry.get("module"), option)
    for path in (
        ("spam_checker", "module"),
        ("third_party_event_rules", "module"),
        ("presence", "presence_router", "module"),
        ("saml2_config", "user_mapping_provider", "module"),
        ("oidc_config", "user_mapping_provider", "module"),
    ):
        add(settings.get(*path), path[0])
    for position in range(len(settings.mappings("oidc_providers"))):
        add(settings.get("oidc_providers", position, "user_mapping_provider", "module"), "oidc_providers")
    if settings.get("ldap_config", "enabled"):
        add("ldap_auth_provider.LdapAuthProvider", "ldap_config")
    return found


def _psycopg2_wanted(seen: Seen) -> bool:
    return seen.settings is not None and seen.settings.engine == "psycopg2"


def _mended(found: Environment, clue: Clue) -> Clue:
    """Return the clue as it is for an environment that the collection can replace, or with what mends another one."""
    if found.packaged:
        remedy = f"apt-get install --reinstall {found.packaged}: this environment belongs to that package."
    elif found.kind == "system":
        remedy = (
            "This Synapse is installed into the system's own Python: mend it with whatever installed it there, or "
            "deploy it with the collection, into an environment of its own."
        )
    else:
        return clue
    return replace(clue, remedy=remedy, repair="", safe=False)


@RULES.rule(
    "missing",
    severity="critical",
    cause="It was never installed here, was removed, or was moved: an environment works only where it was made.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _missing(seen: Seen) -> Iterable[Clue]:
    """There is no environment where the service looks for one."""
    found = seen.environment
    if found is None or found.kind not in {"nothing", "file"}:
        return
    if found.kind == "file":
        yield Clue(
            f"{found.path} is a file, where the virtual environment (venv) of Synapse is expected.",
            found.path,
            remedy=f"mv {found.path} {found.path}.old, then: {_REINSTALL}",
            repair="",
            safe=False,
        )
    elif found.beside:
        yield Clue(
            f"The venv moved: there is no virtual environment at {found.path}, but one at {found.beside[0]}.",
            f"{found.path} does not exist; the shebang of each script in {found.beside[0]}/bin names another place",
            cause=(
                "A venv was moved or renamed. The scripts in its bin folder begin with the absolute path of their "
                "interpreter (the shebang), so they start nothing any more."
            ),
            remedy=f"mv -T {found.beside[0]} {found.path} puts it back where it was made. Otherwise: {_REINSTALL}",
        )
    else:
        known = f"; Synapse {found.version} served last" if found.version else ""
        yield Clue(
            f"No Synapse is installed at {found.path}: there is no virtual environment (venv).",
            f"{found.path} does not exist{known}",
        )


@RULES.rule(
    "link_dangling",
    severity="critical",
    cause="The release that the link leads to was removed or moved, or its file system is not mounted.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _link_dangling(seen: Seen) -> Iterable[Clue]:
    """The link to the live release leads nowhere."""
    found = seen.environment
    if found is not None and found.kind == "dangling":
        yield Clue(
            f"The environment {found.path} is a dangling symlink: the release it leads to is gone.",
            f"{found.path} leads to {found.target}, which does not exist",
        )


@RULES.rule(
    "noexec",
    severity="critical",
    cause="The file system is mounted noexec, so that neither scripts start nor compiled extensions load.",
    remedy=(
        "Put the environment on a file system that allows execution: set synapse_venv_path and synapse_releases_path "
        "to folders on one (such as /opt/synapse) and deploy; or take noexec from the line in /etc/fstab and "
        "mount -o remount,exec MOUNTPOINT, where that is what you want."
    ),
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _noexec(seen: Seen) -> Iterable[Clue]:
    """The environment lies on a file system that is mounted noexec."""
    found = seen.environment
    if found is not None and found.evidence("noexec"):
        yield Clue(
            f"The virtual environment {found.path} is on a mount with the option noexec, where nothing of it can run.",
            found.evidence("noexec")[0],
        )


@RULES.rule(
    "interpreter_missing",
    severity="critical",
    cause=(
        "The Python that the environment was made from was upgraded to another version or removed: a distribution "
        "upgrade, apt, pyenv or uv."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _interpreter_missing(seen: Seen) -> Iterable[Clue]:
    """The interpreter of the environment is gone."""
    found = seen.environment
    if found is not None and found.stands:
        for evidence in found.evidence("interpreter_missing"):
            summary = f"The Python interpreter of the venv {found.path} is gone: bin/python is a dangling symlink."
            yield _mended(found, Clue(summary, evidence))


def _barred(found: Environment) -> bool:
    """Whether the service's user, but not everybody, is kept out."""
    return bool(found.unreadable or found.barrier)


@RULES.rule(
    "unreadable",
    severity="critical",
    cause=(
        "It was installed or changed under a strict umask (077), or a mode was taken away afterwards. What root can "
        "read and the service's user cannot, Python reports as a module that does not exist."
    ),
    remedy="chmod -R a+rX on the folder in the evidence; do not give the environment to the service's user.",
    repair="reinstall",
    safe=True,
    # Where owners and modes were looked at, they say the same more precisely.
    symptom=True,
    explains=("environment.*", *_FOLLOWS),
)
def _unreadable(seen: Seen) -> Iterable[Clue]:
    """The service's user cannot read the environment."""
    found = seen.environment
    if found is None or not found.stands or not _barred(found):
        return
    what = [found.barrier] if found.barrier else list(found.unreadable)
    who = f"the service's user {found.user}" if found.user else "this user"
    here = f"{found.target or found.path}/"
    clue = Clue(
        f"The virtual environment (venv) is not readable by {who}: permission denied, though it works as root.",
        f"{who} cannot read or enter {_some(what)}",
        remedy=f"chmod -R a+rX {what[0]}",
    )
    if here.startswith(f"{what[0]}/") and here != f"{what[0]}/":
        # A new environment would lie behind the same closed door.
        clue = replace(clue, remedy=f"chmod a+x {what[0]}", repair="permissions")
    elif not f"{what[0]}/".startswith(here):
        evidence = f"{clue.evidence}, where the interpreter of the venv is"
        clue = replace(clue, evidence=evidence, remedy=f"Use an interpreter that everybody can read. {_REINSTALL}")
    yield _mended(found, clue)


@RULES.rule(
    "interpreter_broken",
    severity="critical",
    cause=(
        "The interpreter itself is damaged, is for another processor, or lacks its standard library or a system "
        "library since the last upgrade."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _interpreter_broken(seen: Seen) -> Iterable[Clue]:
    """The interpreter of the environment does not start."""
    found = seen.environment
    if found is None or not found.stands or _barred(found) or found.evidence("interpreter_missing"):
        return
    if found.silence:
        summary = f"The Python interpreter of the venv {found.path} does not start."
        yield _mended(found, Clue(summary, found.silence))


@RULES.rule(
    "config_missing",
    severity="critical",
    cause="Its file pyvenv.cfg is missing or damaged, which tells the interpreter where its packages are.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _config_missing(seen: Seen) -> Iterable[Clue]:
    """The interpreter does not take the folder for its environment."""
    found = seen.environment
    if found is None or not found.running or found.kind == "system" or not found.prefix:
        return
    here = found.target or found.path
    if found.prefix != here:
        yield _mended(
            found,
            Clue(
                f"The interpreter of the venv {found.path} does not use it: pyvenv.cfg is missing or damaged.",
                f"{found.path}/bin/python looks for packages under {found.prefix}, not under {here}",
            ),
        )


@RULES.rule(
    "interpreter_changed",
    severity="critical",
    cause=(
        "The system's python3 became another minor version (a distribution upgrade), and the packages lie in a folder "
        "that is made for the old one."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _interpreter_changed(seen: Seen) -> Iterable[Clue]:
    """The interpreter is of another minor version than the packages are for."""
    found = seen.environment
    if found is None or not found.running or not found.libraries or found.kind == "system":
        return
    others = [one for one in found.libraries if one != found.minor]
    if found.minor not in found.libraries or (others and "synapse" in found.absent):
        yield _mended(
            found,
            Clue(
                f"Python version mismatch: the venv's interpreter is Python {found.minor}, its site-packages are for "
                f"{_some(others)}.",
                f"{found.path}/bin/python is Python {found.running}; packages lie in "
                + _some(f"lib/python{one}/site-packages" for one in others),
            ),
        )


@RULES.rule(
    "extension_mismatch",
    severity="critical",
    cause=(
        "The packages were copied or linked from an environment of another Python version. Compiled extensions are "
        "made for one minor version (its ABI)."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _extension_mismatch(seen: Seen) -> Iterable[Clue]:
    """The compiled extensions are for another version of Python."""
    found = seen.environment
    if found is not None and found.running:
        for evidence in found.evidence("extension_mismatch"):
            summary = f"The compiled extensions in the venv are for another Python (ABI): rebuild it for {found.minor}."
            yield _mended(found, Clue(summary, evidence))


@RULES.rule(
    "metadata_missing",
    severity="critical",
    cause=(
        "An upgrade was interrupted, or only the package's folder was copied: without its metadata Synapse does not "
        "know its own version and requirements, and does not start (PackageNotFoundError)."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _metadata_missing(seen: Seen) -> Iterable[Clue]:
    """Synapse's files are there, its metadata is not."""
    found = seen.environment
    if found is None or not found.running or "synapse" in found.absent:
        return
    if SYNAPSE not in found.packages:
        summary = "The package metadata of Synapse (matrix_synapse-*.dist-info) is missing from the venv."
        yield _mended(found, Clue(summary, f"{found.path} has the folder synapse, and no dist-info for it"))


@RULES.rule(
    "synapse_missing",
    severity="critical",
    cause="The installation was interrupted, or what was installed here was removed.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.*", *_FOLLOWS),
)
def _synapse_missing(seen: Seen) -> Iterable[Clue]:
    """There is an environment without Synapse."""
    found = seen.environment
    if found is not None and found.running and "synapse" in found.absent and not _barred(found):
        yield _mended(
            found,
            Clue(
                f"Synapse is not installed in the venv {found.path}: No module named 'synapse'.",
                f"{found.path} holds {len(found.packages)} packages; the module synapse is not among their files",
            ),
        )


@RULES.rule(
    "files_damaged",
    severity="critical",
    cause=(
        "An installation was interrupted or ran out of space, the power failed, or files of another version were "
        "copied over these."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=(
        "environment.import_failed",
        "environment.extension_broken",
        "environment.changed",
        "environment.files_modified",
        "environment.leftover",
        "environment.module_missing",
        "environment.metadata_duplicate",
        *_FOLLOWS,
    ),
)
def _files_damaged(seen: Seen) -> Iterable[Clue]:
    """Files of installed packages are missing, empty or cut off."""
    found = seen.environment
    if found is None or not found.stands:
        return
    needed = {name: files for name, files in found.damaged.items() if name in found.needed or name == SYNAPSE}
    if not needed:
        return
    names = sorted(needed, key=lambda name: (name != SYNAPSE, name))
    files = [file for name in names for file in needed[name]]
    errors = [error for path, error in sorted(found.failed.items()) if path.endswith(tuple(files))]
    rust = " (synapse_rust)" if any("synapse_rust" in file for file in files) else ""
    yield _mended(
        found,
        Clue(
            f"A corrupt installation: files of {_some(names)}{rust} are missing or modified, against their RECORD.",
            "; ".join([_some(files), *errors[:1]]),
        ),
    )


def _driver(found: Environment) -> str:
    """How the import of psycopg2 failed, empty where it did not."""
    return found.failed.get("psycopg2", "")


def _library(found: Environment) -> str:
    """The shared object that psycopg2 lacks, empty where it lacks none."""
    missing = re.search(r"(\S+\.so\S*): cannot open shared object", _driver(found))
    return missing[1] if missing else ""


@RULES.rule(
    "psycopg2_conflict",
    severity="warning",
    cause=(
        "The packages psycopg2 and psycopg2-binary own the same files: where one is removed or upgraded, the other "
        "loses them, and still counts as installed."
    ),
    remedy="Keep one. " + _REINSTALL,
    repair="reinstall",
    explains=("environment.changed", "environment.extension_broken", "environment.files_modified"),
)
def _psycopg2_conflict(seen: Seen) -> Iterable[Clue]:
    """Two packages own the files of psycopg2."""
    found = seen.environment
    if found is None or not found.running:
        return
    both = {"psycopg2", "psycopg2-binary"} <= set(found.packages)
    # Where files are gone that the record of a package has, somebody else has taken them.
    robbed = sorted(name for name in found.damaged if name in {"psycopg2", "psycopg2-binary"})
    if _psycopg2_wanted(seen) and robbed and _driver(found) and not _library(found):
        other = "psycopg2" if robbed[0] == "psycopg2-binary" else "psycopg2-binary"
        yield _mended(
            found,
            Clue(
                "psycopg2 counts as installed and its files are gone: a conflict of psycopg2 and psycopg2-binary.",
                f"{robbed[0]} {found.packages.get(robbed[0], '')} lacks {_some(found.damaged[robbed[0]])}",
                severity="critical",
                cause=(
                    f"psycopg2 and psycopg2-binary own the same files. {other} was removed or replaced, and took the "
                    f"files of {robbed[0]} along."
                ),
                safe=True,
            ),
        )
    elif both:
        yield _mended(
            found,
            Clue(
                "psycopg2 and psycopg2-binary are both installed and own the same files: a conflict once one goes.",
                f"psycopg2 {found.packages['psycopg2']} and psycopg2-binary {found.packages['psycopg2-binary']}",
            ),
        )


@RULES.rule(
    "psycopg2_missing",
    severity="critical",
    cause=(
        "Synapse was installed without the extra postgres. It says 'psycopg2 module is not installed' only when it "
        "starts; its check of the configuration does not look."
    ),
    remedy=(
        "Install psycopg2-binary, which needs neither pg_config nor a compiler; never set the database to sqlite3 "
        "instead, which is an empty server. " + _REINSTALL
    ),
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.changed", "database.*", *_FOLLOWS),
)
def _psycopg2_missing(seen: Seen) -> Iterable[Clue]:
    """The database is PostgreSQL, and its driver is not installed."""
    found = seen.environment
    if found is None or not found.running or not _psycopg2_wanted(seen) or "synapse" in found.absent:
        return
    if found.absent.get("psycopg2") and not {"psycopg2", "psycopg2-binary"} & set(found.damaged):
        yield _mended(
            found,
            Clue(
                "The database is PostgreSQL, and psycopg2 is not installed in the venv: the extra postgres is missing.",
                "database.name is psycopg2; No module named 'psycopg2'",
            ),
        )


@RULES.rule(
    "libpq_missing",
    severity="critical",
    cause=(
        "A psycopg2 that was built from source needs the system's libpq, which was removed or became another version. "
        "Synapse reports every failed import as 'psycopg2 module is not installed', which is not so."
    ),
    remedy=(
        "apt-get install libpq5 (postgresql-libs or libpq elsewhere) and start the service; or use psycopg2-binary, "
        "which brings its own: " + _REINSTALL
    ),
    repair="reinstall",
    safe=True,
    stops=True,
    explains=(
        "environment.extension_broken",
        "environment.changed",
        "environment.files_modified",
        "database.*",
        *_FOLLOWS,
    ),
)
def _libpq_missing(seen: Seen) -> Iterable[Clue]:
    """psycopg2 is installed, and does not load."""
    found = seen.environment
    if found is None or not _psycopg2_wanted(seen):
        return
    error, library = _driver(found), _library(found)
    robbed = {"psycopg2", "psycopg2-binary"} & set(found.damaged)
    if error and "psycopg2" not in found.absent and (library or not robbed):
        name = f"the shared object {library} is missing" if library else "its library is damaged"
        what = " (libpq)" if "libpq" in library else ""
        yield _mended(found, Clue(f"psycopg2 is installed and does not load: {name}{what}.", error))


def _lack(lack: Lack) -> str:
    state = "which is not installed" if lack.found is None else f"found {lack.found}"
    return f"{lack.by} needs {lack.wanted}, {state}"


@RULES.rule(
    "dependency_missing",
    severity="critical",
    cause="An installation was interrupted, the disk was full, or a package was removed by hand.",
    remedy=_REINSTALL + " Do not type what Synapse itself advises (pip install --upgrade --force): it upgrades others.",
    repair="reinstall",
    safe=True,
    stops=True,
    explains=(
        "environment.extra_missing",
        "environment.changed",
        "environment.leftover",
        "environment.import_failed",
        "environment.dependency_version",
        *_FOLLOWS,
    ),
)
def _dependency_missing(seen: Seen) -> Iterable[Clue]:
    """A package that Synapse needs is not installed."""
    found = seen.environment
    if found is None or not found.running or "synapse" in found.absent:
        return
    missing = [one for one in found.lacks if one.found is None]
    if missing:
        names = _some(dict.fromkeys(one.name for one in missing))
        yield _mended(
            found,
            Clue(
                f"A missing dependency: Synapse needs {names}, which is not installed (what pip check says).",
                "; ".join(_lack(one) for one in missing[:_MOST]),
            ),
        )


@RULES.rule(
    "dependency_version",
    severity="critical",
    cause="Another package, or somebody by hand, replaced it with a version that will not do.",
    remedy=_REINSTALL + " Do not type what Synapse itself advises (pip install --upgrade --force): it upgrades others.",
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.changed", "environment.files_modified", "environment.import_failed", *_FOLLOWS),
)
def _dependency_version(seen: Seen) -> Iterable[Clue]:
    """A package is installed in a version that Synapse refuses."""
    found = seen.environment
    if found is None or not found.running or "synapse" in found.absent:
        return
    wrong = [one for one in found.lacks if one.found is not None and one.by == SYNAPSE]
    if wrong:
        yield _mended(
            found,
            Clue(
                f"A dependency has the wrong version: the requirement {_some(one.wanted for one in wrong)} is not met "
                "(what pip check says).",
                "; ".join(_lack(one) for one in wrong[:_MOST]),
            ),
        )


@RULES.rule(
    "dependency_conflict",
    severity="warning",
    cause="A package was upgraded or installed alone, without asking what the others need.",
    remedy=_REINSTALL,
    repair="reinstall",
    explains=("environment.changed",),
)
def _dependency_conflict(seen: Seen) -> Iterable[Clue]:
    """Two of Synapse's dependencies do not fit together."""
    found = seen.environment
    if found is None or not found.running:
        return
    wrong = [one for one in found.lacks if one.found is not None and one.by != SYNAPSE]
    if wrong:
        yield _mended(
            found,
            Clue(
                "Installed packages do not fit together (what pip check says).",
                "; ".join(_lack(one) for one in wrong[:_MOST]),
            ),
        )


@RULES.rule(
    "extra_missing",
    severity="critical",
    cause="Synapse was installed, or installed anew, without the extra that this feature needs, and refuses to start.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.changed", *_FOLLOWS),
)
def _extra_missing(seen: Seen) -> Iterable[Clue]:
    """A feature is on, and the packages for it are not installed."""
    found = seen.environment
    if found is None or not found.running or "synapse" in found.absent:
        return
    grouped: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for extra, option in features_of(seen.settings):
        if extra in found.extras:
            grouped.setdefault(tuple(one.name for one in found.extras[extra]), []).append((extra, option))
    for names, features in grouped.items():
        extras = [extra for extra, _option in features]
        lacks = "; ".join(_lack(one) for one in found.extras[extras[0]][:_MOST])
        same = [name for name, others in found.extras.items() if tuple(one.name for one in others) == names]
        lacks += f"; extras that bring it: {', '.join(same)}"
        shown = " and ".join(f"{option} (extra {extra})" for extra, option in features)
        clue = Clue(f"{shown} needs {_some(names)}, which the venv does not have in the right version.", lacks)
        others = [extra for extra in extras if extra not in _ALWAYS_THERE]
        if others:
            remedy = (
                f"Set synapse_extras: [{', '.join(others)}] in the inventory and deploy; do not take the option out."
            )
            clue = Clue(clue.summary, clue.evidence, remedy=remedy, repair="", safe=False)
        yield _mended(found, clue)


@RULES.rule(
    "module_missing",
    severity="critical",
    cause=(
        "The environment was made anew (a rebuild) without the plugin, which is no dependency of Synapse. It refuses "
        "to start, with ModuleNotFoundError."
    ),
    remedy="Add the package to synapse_extra_packages in the inventory and deploy; do not take the module out.",
    stops=True,
    explains=("environment.changed", *_FOLLOWS),
)
def _module_missing(seen: Seen) -> Iterable[Clue]:
    """The configuration loads a module that is not installed."""
    found = seen.environment
    if found is None or not found.running or "synapse" in found.absent:
        return
    for name, option in modules_of(seen.settings).items():
        module = name.rpartition(".")[0]
        part = found.absent.get(module)
        if not part or part.partition(".")[0] == "synapse":
            continue
        top = module.partition(".")[0]
        package = _PACKAGES.get(top, "")
        evidence = f"{option}: {name}; ModuleNotFoundError: No module named '{part}'"
        other = found.elsewhere.get(top)
        if other:
            evidence += f"; {other} has it"
        what = f"the package {package}" if package else "the package that it comes in (ask who wrote it)"
        yield _mended(
            found,
            Clue(
                f"The configured module {top} is not installed in the venv; a rebuild without it loses it.",
                evidence,
                remedy=(
                    f"Add {what} to synapse_extra_packages in the inventory, with its version, and deploy; do not take "
                    "the module out of the configuration, which could lock its users out."
                ),
            ),
        )


@RULES.rule(
    "extension_broken",
    severity="critical",
    cause="It is damaged, is for another processor, or was built from source and lacks a system library now.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.import_failed", "environment.changed", "environment.files_modified", *_FOLLOWS),
)
def _extension_broken(seen: Seen) -> Iterable[Clue]:
    """A compiled extension does not load."""
    found = seen.environment
    if found is None or not found.running:
        return
    broken = {
        path: error
        for path, error in sorted(found.failed.items())
        if path.startswith("/") and ("/psycopg2/" not in path or _psycopg2_wanted(seen))
    }
    if broken:
        names = _some(posixpath.basename(path).partition(".")[0] for path in broken)
        error, *_others = broken.values()
        yield _mended(found, Clue(f"The compiled extension {names} of the venv does not load.", error))


@RULES.rule(
    "import_failed",
    severity="critical",
    cause="Something that the packages' own records do not show: a damaged cache, a stray file, a missing library.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    stops=True,
    explains=("environment.changed", "environment.files_modified", *_FOLLOWS),
)
def _import_failed(seen: Seen) -> Iterable[Clue]:
    """Synapse's program cannot be imported."""
    found = seen.environment
    if found is None:
        return
    failed = {name: error for name, error in found.failed.items() if name.startswith("synapse.app.")}
    for name, error in sorted(failed.items(), reverse=True)[:1]:
        yield _mended(
            found, Clue(f"Synapse cannot be imported from the venv: {error[:200]}", f"import {name}: {error}")
        )


@RULES.rule(
    "python_too_old",
    severity="error",
    cause="Synapse was forced into an environment of a Python that it does not support.",
    remedy="Install a newer Python beside the system's, name it with synapse_python, and deploy.",
)
def _python_too_old(seen: Seen) -> Iterable[Clue]:
    """The environment's Python is not one that this Synapse supports."""
    found = seen.environment
    if found is not None and found.running and found.pythons and not allows(found.pythons, found.running):
        yield Clue(
            f"Synapse {found.version} does not support Python {found.running} (Requires-Python {found.pythons}).",
            f"{found.path}/bin/python is Python {found.running}",
        )


@RULES.rule(
    "python_ends",
    severity="warning",
    cause=(
        "Since 1.142.0 Synapse needs Python 3.10 (Requires-Python). On an older one, an unpinned pip install gives the "
        "last version that still supports it, without a word."
    ),
    remedy="Install Python 3.10 or newer beside the system's, set synapse_python to it, and run the playbook upgrade.",
)
def _python_ends(seen: Seen) -> Iterable[Clue]:
    """The environment's Python is too old for newer versions of Synapse."""
    found = seen.environment
    if found is not None and found.running and version_key(found.running) < version_key("3.10"):
        yield Clue(
            f"Python {found.minor} gets no newer Synapse than 1.141.0: later ones need Python 3.10 (Requires-Python).",
            f"{found.path}/bin/python is Python {found.running}; Synapse is {found.version or 'unknown'}",
        )


@RULES.rule(
    "scripts_elsewhere",
    severity="error",
    cause=(
        "The folder was moved, renamed or copied: the shebang lines of the scripts in bin name the interpreter at the "
        "place where the venv was made. What is started as python -m still works."
    ),
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
)
def _scripts_elsewhere(seen: Seen) -> Iterable[Clue]:
    """The environment was moved, and its scripts start an interpreter of another place."""
    found = seen.environment
    if found is not None and found.stands and found.kind != "system":
        for evidence in found.evidence("scripts_elsewhere"):
            summary = f"The venv was moved to {found.target or found.path}: the shebang of the scripts in bin is wrong."
            yield _mended(found, Clue(summary, evidence))


@RULES.rule(
    "metadata_duplicate",
    severity="error",
    cause="An upgrade was interrupted, or files were copied: which version counts is a matter of chance.",
    remedy=_REINSTALL,
    repair="reinstall",
    safe=True,
    explains=("environment.changed", "environment.dependency_version", "environment.leftover"),
)
def _metadata_duplicate(seen: Seen) -> Iterable[Clue]:
    """Packages are recorded twice, or without their metadata."""
    found = seen.environment
    if found is None or not found.stands:
        return
    evidence = found.evidence("distribution_duplicate", "distribution_incomplete")
    if evidence:
        yield _mended(
            found, Clue("The package metadata (dist-info) in the venv is duplicated or incomplete.", _some(evidence))
        )


@RULES.rule(
    "leftover",
    severity="warning",
    cause="pip renames a package's folder to one that begins with ~ while it replaces it, and was killed.",
    remedy=_REINSTALL,
    repair="reinstall",
)
def _leftover(seen: Seen) -> Iterable[Clue]:
    """An interrupted pip left folders behind."""
    found = seen.environment
    if found is not None:
        for evidence in found.evidence("distribution_leftover"):
            yield _mended(found, Clue("pip was interrupted in the venv and left folders behind.", evidence))


@RULES.rule(
    "files_modified",
    severity="warning",
    cause="Somebody edited installed files; the next version brings them back as they were.",
    remedy="Keep the changes elsewhere if they are meant. " + _REINSTALL,
    repair="reinstall",
)
def _files_modified(seen: Seen) -> Iterable[Clue]:
    """Installed files were edited by hand."""
    found = seen.environment
    if found is None or not found.stands:
        return
    others = {name: files for name, files in found.damaged.items() if name not in found.needed and name != SYNAPSE}
    if _psycopg2_wanted(seen):
        others = {name: files for name, files in others.items() if not name.startswith("psycopg2")}
    changed = {**others, **found.modified}
    if changed:
        yield _mended(
            found,
            Clue(
                f"Installed files of {_some(sorted(changed))} are modified, against their RECORD.",
                _some(file for name in sorted(changed) for file in changed[name]),
            ),
        )


@RULES.rule(
    "changed",
    severity="warning",
    cause="Somebody installed or removed packages in the release that serves. The next deployment replaces it.",
    remedy=(
        "Name what is meant to be there in synapse_extra_packages, and deploy: a release of its own is built with it. "
        "Never install into the environment that serves."
    ),
    repair="reinstall",
)
def _changed(seen: Seen) -> Iterable[Clue]:
    """The packages of a release are not those that it was proven with."""
    found = seen.environment
    if found is None or not found.stands:
        return
    gone = found.evidence("distribution_missing", "distribution_version")
    more = found.evidence("distribution_foreign")
    if gone or more:
        yield Clue(
            "The packages of the release that serves were changed after it was proven.",
            "; ".join([_some(gone)] * bool(gone) + more),
            # What was added by hand would be lost.
            safe=bool(gone) and not more,
        )


@RULES.rule(
    "unproven",
    severity="warning",
    cause="It was switched to by hand, or its manifest was removed: nobody knows that it is whole.",
    remedy=_REINSTALL,
    repair="reinstall",
)
def _unproven(seen: Seen) -> Iterable[Clue]:
    """The release that serves was never proven."""
    found = seen.environment
    if found is not None and found.unproven:
        yield Clue(f"The release that {found.path} leads to was never proven.", found.unproven)


@RULES.rule(
    "untrusted",
    severity="warning",
    cause="Somebody typed chown -R on the data folder. What lies there could be anybody's, and root would start it.",
    remedy=(
        "ansible-playbook matrix_fleet.synapse.repair --tags reinstall moves that folder aside and builds a release in "
        "one that belongs to root. Giving it back to root does not help: what was put there stays."
    ),
    repair="reinstall",
    safe=True,
    explains=("environment.writable", "environment.unproven"),
)
def _untrusted(seen: Seen) -> Iterable[Clue]:
    """Others than root can change the releases."""
    found = seen.environment
    if found is None:
        return
    if found.untrusted:
        yield Clue("The folder of the releases can be changed by another user than root.", found.untrusted)
    elif ".untrusted" in posixpath.basename(posixpath.dirname(found.target)):
        yield Clue(
            "The server runs from a release that was set aside, because another user than root could change it.",
            f"{found.path} leads to {found.target}",
            cause="A repair moved that folder aside and was interrupted before a new release took its place.",
        )


@RULES.rule(
    "writable",
    severity="warning",
    cause="The environment was made by, or given to, the service's user: a compromised server could change its code.",
    remedy="chown -R root:root on the folder in the evidence, and chmod -R go-w; or: " + _REINSTALL,
    repair="reinstall",
)
def _writable(seen: Seen) -> Iterable[Clue]:
    """The service can change the code that it runs."""
    found = seen.environment
    if found is not None and found.writable and found.stands:
        yield Clue(
            f"The service's user {found.user} can change the virtual environment that it runs from.", found.writable
        )


@RULES.rule(
    "pkg_resources_missing",
    severity="error",
    cause="setuptools 82 removed the module pkg_resources, and an old package still imports it.",
    remedy="Upgrade what imports it; where it is Synapse (before 1.139.0), run the playbook upgrade.",
    explains=("words.pkg_resources*",),
)
def _pkg_resources_missing(seen: Seen) -> Iterable[Clue]:
    """Something imports pkg_resources, which is not there any more."""
    found = seen.environment
    if found is None or not found.running or _setuptools(found.packages) == "present":
        return
    names = sorted(name for name, guarded in found.importers.items() if not guarded)
    if names:
        setuptools = found.packages.get("setuptools")
        state = f"setuptools {setuptools} has it no more" if setuptools else "setuptools is not installed"
        yield Clue(f"{_some(names)} imports pkg_resources, which is missing: {state}.", f"{_some(names)}: {state}")


@RULES.rule(
    "pkg_resources",
    severity="info",
    cause=(
        "From setuptools 80.9 to 81 the module pkg_resources says so whenever it is imported. Synapse itself has not "
        "imported it since 1.139.0, so that pinning setuptools below 81 changes nothing for it."
    ),
    remedy="Nothing has to be done. What goes away with the warning is the old package that is named.",
    explains=("words.pkg_resources*",),
)
def _pkg_resources(seen: Seen) -> Iterable[Clue]:
    """A package still imports pkg_resources, which is deprecated: harmless."""
    found = seen.environment
    if found is None or not found.running or _setuptools(found.packages) != "present":
        return
    if found.importers:
        names = sorted(found.importers)
        yield Clue(
            f"{_some(names)} imports pkg_resources, which setuptools {found.packages['setuptools']} calls deprecated: "
            "harmless.",
            f"the installed package that imports it: {_some(names)}",
        )


def _setuptools(packages: Mapping[str, str]) -> str:
    """Whether the setuptools that is there has ``pkg_resources``: ``present`` or ``gone`` (removed in 82.0.0)."""
    version = packages.get("setuptools")
    return "present" if version is not None and version_key(version) < version_key("82") else "gone"


@RULES.rule(
    "unanswered",
    severity="warning",
    cause="The host is very busy or out of memory, a file system hangs, or the Python is older than the doctor knows.",
    remedy="Look again when the host has less to do.",
    symptom=True,
)
def _unanswered(seen: Seen) -> Iterable[Clue]:
    """The environment's interpreter gives no answer, although it starts."""
    found = seen.environment
    if found is not None and found.unanswered:
        summary = "The Python of the venv gave no answer in time, so that it was seen from the outside alone."
        yield Clue(summary, found.unanswered)


@RULES.rule(
    "no_wheels",
    severity="info",
    cause="Synapse's wheels are for x86-64 and arm64 with glibc 2.28 (manylinux_2_28) or musl 1.2, or newer.",
    remedy="Build the wheel elsewhere and give it with synapse_find_links or synapse_wheelhouse; install no Rust here.",
)
def _no_wheels(seen: Seen) -> Iterable[Clue]:
    """For this platform there are no wheels of Synapse."""
    found = seen.environment
    if found is None or not found.machine:
        return
    glibc = re.match(r"glibc (\d+)\.(\d+)", found.libc)
    old = glibc is not None and (int(glibc[1]), int(glibc[2])) < (2, 28)
    if found.machine not in {"x86_64", "aarch64"} or old:
        yield Clue(
            f"There is no wheel of Synapse for this platform ({found.machine}, {found.libc or 'another C library'}): a "
            "reinstallation would need Rust.",
            f"{found.machine}, {found.libc}; wheels are manylinux_2_28 and musllinux_1_2, x86_64 and aarch64",
        )
