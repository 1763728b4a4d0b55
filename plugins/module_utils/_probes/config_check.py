# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's own interpreter: what does this version of Synapse make of a configuration?

One import of Synapse and one parse for each process (main and workers). The parsed mappings record every option
that Synapse asks for, the file system is read-only, and files that are not written yet are seen as if they were.
The answer holds facts, and no value of a secret. Standard library only at import time; needs nothing from Ansible.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import json
import logging
import os
import pwd
import re
import stat
import sys
import types
import typing as t

Path = t.Tuple[t.Union[str, int], ...]

# ---------------------------------------------------------------------------------------------------------------
# Secrets: found by the names of their options, and taken out of every text that leaves this process.

SECRET_NAME = re.compile(
    r"secret|passw|_pass$|pepper|token|private|signing_key|(^|_)dsn$|(^|_)key$|macaroon|credential", re.IGNORECASE
)
NOT_A_SECRET = re.compile(
    r"_(path|file|paths|files|lifetime|timeout|endpoint|methods?|alg|id|interval|bypass|bits|size|uri|url|limit|count)$"
    r"|^(registration_requires_token|key_refresh_interval|enable_registration_token_3pid_bypass|token_timeout)$",
    re.IGNORECASE,
)
PASSWORD_IN_URL = re.compile(r"://[^/\s@]*?:([^/\s]+)@")
PASSWORD_IN_DSN = re.compile(r"password\s*=\s*('(?:[^'\\]|\\.)*'|\S+)")
HIDDEN = "***"


def is_secret_name(name: str) -> bool:
    """Return whether the value of an option of this name must not be shown."""
    return SECRET_NAME.search(name) is not None and NOT_A_SECRET.search(name) is None


def secrets_in(value: object, *, inside: bool = False) -> t.Iterator[str]:
    """Yield every text in ``value`` that is, or holds, a secret."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from secrets_in(item, inside=inside or is_secret_name(str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item, inside=inside)
    elif isinstance(value, bool) or value is None:
        return
    elif inside:
        yield str(value)
    elif isinstance(value, str):
        yield from (match.group(1) for match in PASSWORD_IN_URL.finditer(value))
        yield from (match.group(1).strip("'") for match in PASSWORD_IN_DSN.finditer(value))


class Redactor:
    """Takes every known secret out of a text, in each form in which Python or JSON would show it."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Remember one secret, whole and line by line."""
        for part in {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}:
            if part:
                self._forms.update((part, repr(part)[1:-1], json.dumps(part)[1:-1], ascii(part)[1:-1]))
        self._pattern = None

    def add_all(self, value: object) -> None:
        """Remember every secret that a parsed configuration holds."""
        for secret in secrets_in(value):
            self.add(secret)

    def add_content(self, content: str) -> None:
        """Remember what a secret file holds: whole, and word by word, as messages about keys quote single words."""
        self.add(content)
        for word in content.split():
            if len(word) > 8:
                self.add(word)

    def __call__(self, text: str) -> str:
        """Return ``text`` without any secret."""
        if self._pattern is None:
            forms = sorted(self._forms, key=len, reverse=True)
            # A secret of one to three characters is a part of many words: it is hidden where it stands alone.
            short = [r"(?<!\w)" + re.escape(form) + r"(?!\w)" for form in forms if len(form) < 4]
            self._pattern = re.compile(
                "|".join([re.escape(form) for form in forms if len(form) > 3] + short) or r"(?!)"
            )
        return self._pattern.sub(HIDDEN, text)

    def tree(self, value: t.Any, *, text: bool = False) -> t.Any:
        """Return a JSON value in which every text that Synapse or Python wrote is redacted.

        Names of options, files and accounts stay as they are: a password is often a word such as synapse.
        """
        if isinstance(value, str):
            return self(value) if text else value
        if isinstance(value, dict):
            return {key: self.tree(item, text=text or key in WRITTEN_BY_OTHERS) for key, item in value.items()}
        return [self.tree(item, text=text) for item in value] if isinstance(value, (list, tuple)) else value


# The parts of the answer that hold words of Synapse, Python or PyYAML, which may quote a value.
WRITTEN_BY_OTHERS = ("message", "causes", "text", "error", "driver", "broken", "context")


# ---------------------------------------------------------------------------------------------------------------
# Paths inside a configuration.


def dotted(path: Path) -> str:
    """Write a path as an operator reads it: ``listeners[0].port``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def matches(pattern: tuple[str, ...], path: Path) -> bool:
    """Return whether ``path`` lies at or under ``pattern``, in which ``*`` stands for one element."""
    return len(path) >= len(pattern) and all(p in ("*", part) for p, part in zip(pattern, path))


# Mappings whose keys are data or belong to somebody else; what is in them is not for Synapse's parser to know.
# From synapse/config/*.py of 1.163.2.
FREE = [
    tuple(text.split("."))
    for text in (
        "database.args",
        "databases.*.args",
        "listeners.*.additional_resources.*",
        "worker_listeners.*.additional_resources.*",
        "extra_well_known_client_content.*",
        "saml2_config.sp_config.*",
        "mau_appservice_trial_days.*",
        "mau_limit_reserved_threepids.*.*",
        "user_consent.server_notice_content.*",
        "default_power_level_content_override.*",
        "opentracing.jaeger_config.*",
        "caches.per_cache_factors.*",
        "oidc_config.additional_authorization_parameters.*",
        "oidc_providers.*.additional_authorization_parameters.*",
        "old_signing_keys.*.*",
        "trusted_key_servers.*.verify_keys.*",
        "password_config.policy.*",
        "matrix_rtc.transports.*.*",
        "room_list_publication_rules.*.*",
        "alias_creation_rules.*.*",
    )
]


def is_free(path: Path, raw: t.Mapping[str, t.Any]) -> bool:
    """Return whether ``path`` lies in a mapping of free keys: one of ``FREE``, or the ``config`` of a module."""
    if any(matches(pattern, path) for pattern in FREE):
        return True
    value: t.Any = raw
    for position, part in enumerate(path[:-1]):
        if part == "config" and isinstance(value, dict) and position:
            return not str(value.get("module", "synapse.")).startswith("synapse.")
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return False


# ---------------------------------------------------------------------------------------------------------------
# Mappings that record what is asked of them.


class Trace:
    """What one run of Synapse's parser asked for."""

    def __init__(self) -> None:
        self.read: set[Path] = set()
        self.asked: dict[Path, set[str]] = {}
        self.covered: set[Path] = set()
        self.whole: list[tuple[Path, list[str]]] = []
        self.last: Path = ()
        self.last_present: Path = ()

    def ask(self, path: Path, key: object, present: bool) -> None:
        """Note that ``key`` of the mapping at ``path`` was asked for."""
        name = str(key)
        self.asked.setdefault(path, set()).add(name)
        self.last = (*path, name)
        if present:
            self.read.add(self.last)
            self.last_present = self.last

    def ask_all(self, path: Path, keys: t.Iterable[object]) -> None:
        """Note that the mapping at ``path`` was read as a whole."""
        names = [str(key) for key in keys]
        self.read.update((*path, name) for name in names)
        self.whole.append((path, names))
        self.last = self.last_present = path

    def known_only(self, path: Path, names: t.Iterable[str], known: t.Iterable[str]) -> None:
        """Correct ``ask_all``: of the names given at ``path``, only those in ``known`` mean something."""
        allowed = set(known)
        self.asked.setdefault(path, set()).update(allowed)
        for name in names:
            if name in allowed:
                self.covered.add((*path, name))
            else:
                self.read.discard((*path, name))


class Recorded(t.Dict[t.Any, t.Any]):
    """A dict that tells a ``Trace`` about every look into it."""

    def __init__(self, data: t.Mapping[t.Any, t.Any], path: Path, trace: Trace) -> None:
        super().__init__({key: recorded(value, (*path, str(key)), trace) for key, value in data.items()})
        self.path = path
        self.trace = trace

    def get(self, key: t.Any, default: t.Any = None) -> t.Any:
        self.trace.ask(self.path, key, dict.__contains__(self, key))
        return dict.get(self, key, default)

    def __getitem__(self, key: t.Any) -> t.Any:
        self.trace.ask(self.path, key, dict.__contains__(self, key))
        return dict.__getitem__(self, key)

    def __contains__(self, key: object) -> bool:
        present = dict.__contains__(self, key)
        self.trace.ask(self.path, key, present)
        return present

    def pop(self, key: t.Any, *default: t.Any) -> t.Any:
        self.trace.ask(self.path, key, dict.__contains__(self, key))
        return dict.pop(self, key, *default)

    def setdefault(self, key: t.Any, default: t.Any = None) -> t.Any:
        self.trace.ask(self.path, key, dict.__contains__(self, key))
        return dict.setdefault(self, key, default)

    def keys(self) -> t.Any:
        self.trace.ask_all(self.path, dict.keys(self))
        return dict.keys(self)

    def values(self) -> t.Any:
        self.trace.ask_all(self.path, dict.keys(self))
        return dict.values(self)

    def items(self) -> t.Any:
        self.trace.ask_all(self.path, dict.keys(self))
        return dict.items(self)

    def __iter__(self) -> t.Iterator[t.Any]:
        self.trace.ask_all(self.path, dict.keys(self))
        return dict.__iter__(self)

    def copy(self) -> t.Any:
        return Recorded(dict(dict.items(self)), self.path, self.trace)

    def __deepcopy__(self, memo: t.Any) -> t.Any:
        return self.copy()

    def __reduce__(self) -> t.Any:
        return dict, (dict(dict.items(self)),)


def recorded(value: t.Any, path: Path, trace: Trace) -> t.Any:
    """Return a copy of ``value`` in which every mapping is ``Recorded``."""
    if isinstance(value, dict):
        plain = dict(dict.items(value))
        return Recorded(plain, path, trace)
    if isinstance(value, list):
        return [recorded(item, (*path, index), trace) for index, item in enumerate(value)]
    return value


def branches(value: t.Any, path: Path = ()) -> t.Iterator[tuple[Path, t.Any]]:
    """Yield the path and value of every key in a configuration, parents first."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, str(key)), item
            yield from branches(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from branches(item, (*path, index))


# ---------------------------------------------------------------------------------------------------------------
# A file system that shows files which are not written yet, and that cannot be written to.


class Stage:
    """Stands between Synapse's parser and the file system while it parses.

    ``files`` maps absolute paths to their coming text; ``None`` is a file whose content is not known yet.
    """

    def __init__(self, files: t.Mapping[str, str | None], directories: t.Iterable[str]) -> None:
        self.files = {os.path.abspath(path): text for path, text in files.items()}
        self.directories = {os.path.abspath(path) for path in directories}
        for path in [*self.files, *self.directories]:
            folder = os.path.dirname(path)
            while folder not in self.directories and folder != os.path.dirname(folder):
                self.directories.add(folder)
                folder = os.path.dirname(folder)
        self.made: set[str] = set()
        self.refused: list[str] = []
        self._open = builtins.open
        self._stat = os.stat
        self._listdir = os.listdir

    @staticmethod
    def _path(file: t.Any) -> str | None:
        if isinstance(file, (str, os.PathLike)):
            path = os.fspath(file)
            return os.path.abspath(path) if isinstance(path, str) else None
        return None

    def text(self, path: str) -> str:
        """Return the coming text of a file; a key that nobody else has where it is not known yet."""
        text = self.files[path]
        if text is None:
            import base64

            text = "ed25519 a_pending " + base64.b64encode(os.urandom(32)).decode().rstrip("=") + "\n"
        return text

    def open(self, file: t.Any, mode: str = "r", *args: t.Any, **kwargs: t.Any) -> t.Any:
        """Stand in for ``open``."""
        path = self._path(file)
        if path is not None and any(letter in mode for letter in "wax+"):
            self.refused.append(path)
            raise OSError(errno.EROFS, "the check writes nothing", path)
        if path is not None and path not in self.files and self._blocks(path):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder", path)
        if path in self.files:
            return io.BytesIO(self.text(path).encode()) if "b" in mode else io.StringIO(self.text(path))
        return self._open(file, mode, *args, **kwargs)

    def _blocks(self, path: str) -> bool:
        """Return whether whoever opens ``path`` may have to wait for somebody else."""
        try:
            mode = self._stat(path).st_mode
        except (OSError, ValueError):
            return False
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def stat(self, file: t.Any, *args: t.Any, **kwargs: t.Any) -> os.stat_result:
        """Stand in for ``os.stat``."""
        path = self._path(file)
        if path in self.files:
            return os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, os.geteuid(), os.getegid(), 1, 0, 0, 0))
        try:
            return self._stat(file, *args, **kwargs)
        except FileNotFoundError:
            if path in self.directories or path in self.made:
                return os.stat_result((stat.S_IFDIR | 0o700, 1, 1, 2, os.geteuid(), os.getegid(), 0, 0, 0, 0))
            raise

    def listdir(self, file: t.Any = ".") -> list[t.Any]:
        """Stand in for ``os.listdir``."""
        path = self._path(file)
        coming = {os.path.basename(name) for name in self.files if os.path.dirname(name) == path}
        try:
            return sorted({*self._listdir(file), *coming})
        except FileNotFoundError:
            if path in self.directories:
                return sorted(coming)
            raise

    def makedirs(self, file: t.Any, *args: t.Any, **kwargs: t.Any) -> None:
        """Stand in for ``os.makedirs`` and ``os.mkdir``: the folder is seen from now on, and not made."""
        path = self._path(file)
        if path is not None:
            self.made.add(path)

    @contextlib.contextmanager
    def set(self) -> t.Iterator[None]:
        """Put the stage between the process and the file system."""
        stand_ins = {"stat": self.stat, "listdir": self.listdir, "makedirs": self.makedirs, "mkdir": self.makedirs}
        originals = {name: getattr(os, name) for name in stand_ins}
        for name, function in stand_ins.items():
            setattr(os, name, function)
        # pathlib takes the function from io, everybody else from builtins.
        builtins.open = io.open = t.cast("t.Any", self.open)
        try:
            yield
        finally:
            builtins.open = io.open = self._open
            for name, function in originals.items():
                setattr(os, name, function)


# ---------------------------------------------------------------------------------------------------------------
# YAML with line numbers.


class Document:
    """One file of a configuration: its data, and where each option stands in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.data: t.Any = None
        self.failure: dict[str, t.Any] | None = None
        self.lines: dict[Path, int] = {}
        self.duplicates: list[tuple[Path, list[int]]] = []

    @classmethod
    def load(cls, path: str) -> Document:
        """Read and parse one file as Synapse does (``yaml.safe_load``), keeping the line of every key."""
        import yaml

        document = cls(path)
        try:
            with open(path, encoding="utf-8") as stream:
                text = stream.read()
            loader = yaml.SafeLoader(text)
            try:
                node = loader.get_single_node()
                if node is not None:
                    document._locate(yaml, node, ())
                    document.data = loader.construct_document(node)
            finally:
                loader.dispose()
        except OSError as error:
            document.failure = {"kind": "file", "message": error.strerror or str(error), "errno": error.errno}
        except UnicodeDecodeError as error:
            document.failure = {"kind": "yaml", "message": f"the file is not UTF-8 text: {error.reason}", "line": None}
        except yaml.YAMLError as error:
            document.failure = yaml_failure(error)
        return document

    def _locate(self, yaml: t.Any, node: t.Any, path: Path) -> None:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                self._locate(yaml, item, (*path, index))
        elif isinstance(node, yaml.MappingNode):
            found: dict[str, list[int]] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                here = (*path, str(key.value))
                if key.tag != "tag:yaml.org,2002:merge":
                    found.setdefault(key.value, []).append(key.start_mark.line + 1)
                self.lines[here] = key.start_mark.line + 1
                self._locate(yaml, value, here)
            self.duplicates.extend(((*path, name), lines) for name, lines in found.items() if len(lines) > 1)


def yaml_failure(error: t.Any) -> dict[str, t.Any]:
    """Turn a YAML error into data, without the lines of the file that PyYAML quotes."""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if re.search(r"alias|tag|constructor", problem):
        # What is named here may be the beginning of an unquoted secret.
        problem = re.sub(r"['\"].*['\"]", HIDDEN, problem)
    mark = getattr(error, "problem_mark", None)
    context = getattr(error, "context_mark", None)
    return {
        "kind": "yaml",
        "message": problem,
        "line": None if mark is None else mark.line + 1,
        "column": None if mark is None else mark.column + 1,
        "context": getattr(error, "context", None),
        "context_line": None if context is None else context.line + 1,
    }


# ---------------------------------------------------------------------------------------------------------------
# Synapse's own verdict.


def describe(error: BaseException) -> str:
    """Return what an exception says, without the input that pydantic shows in pieces."""
    details = getattr(error, "errors", None)
    if callable(details) and type(error).__module__.startswith("pydantic"):
        found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}".lstrip(": ") for item in details()]
        return "; ".join(found)
    if isinstance(error, OSError) and error.strerror:
        return f"[Errno {error.errno}] {error.strerror}: {error.filename!r}"
    message = getattr(error, "message", None) or getattr(error, "msg", None)
    if message is None and len(error.args) > 1 and isinstance(error.args[0], str):
        message = error.args[0]  # attrs adds the attribute, the class and the value
    message = message or str(error)
    return str(message).strip() or type(error).__name__


def causes_of(error: BaseException) -> list[str]:
    """Return what the errors behind an error say, outermost first."""
    found = []
    cause = error.__cause__
    while cause is not None:
        found.append(describe(cause))
        cause = cause.__cause__
    return found


def errno_of(error: BaseException | None) -> int | None:
    """Return the error number of the operating system behind an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        error = error.__cause__
    return None


def keywords_of(message: str) -> list[str]:
    """Return the names that the class in ``X.__init__() got an unexpected keyword argument`` does take."""
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword", message)
    for module in list(sys.modules.values()) if match else ():
        if getattr(module, "__name__", "").startswith("synapse."):
            found = module.__dict__.get(t.cast("re.Match[str]", match).group(1))
            if isinstance(found, type):
                return [name for name in inspect.signature(found).parameters if name != "self"]
    return []


class Run:
    """One process of the homeserver: what Synapse says about the configuration it would be started with."""

    def __init__(self, name: str, documents: list[Document], *, secrets_allowed: bool) -> None:
        self.name = name
        self.documents = documents
        self.secrets_allowed = secrets_allowed
        self.trace = Trace()
        self.failures: list[dict[str, t.Any]] = []
        self.notes: list[dict[str, str]] = []
        self.config: t.Any = None
        self.words: list[str] = []
        self.raw: dict[str, t.Any] = {}
        for document in documents:
            if isinstance(document.data, dict):
                self.raw.update({str(key): value for key, value in document.data.items()})

    def fail(self, error: BaseException, section: str | None = None) -> None:
        """Note an exception of Synapse's parser, with the option that it was about."""
        path, known = self._path_of(error, section)
        kind = "config" if type(error).__name__ == "ConfigError" else "crash"
        entry = {
            "kind": kind,
            "type": type(error).__name__,
            "path": list(path),
            "message": describe(error),
            "causes": causes_of(error),
            "errno": errno_of(error),
            "section": section,
            "known": known,
            "missing": isinstance(error, KeyError) and self.trace.last not in self.trace.read,
        }
        if entry not in self.failures:
            self.failures.append(entry)

    def _path_of(self, error: BaseException, section: str | None) -> tuple[Path, list[str]]:
        given = getattr(error, "path", None)
        if type(error).__name__ == "ConfigError" and given and not isinstance(given, str):
            return self._indexed(self._corrected([str(part) for part in given])), []
        message = describe(error)
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", message)
        if unexpected:
            for path, names in reversed(self.trace.whole):
                if unexpected.group(1) in names:
                    return (*path, unexpected.group(1)), keywords_of(message)
        if isinstance(error, KeyError) and error.args and str(error.args[0]) == str(self.trace.last[-1:][0]):
            return self.trace.last, []
        if section is None or type(error).__name__ == "ConfigError":
            named = self._named_in(message)
            if named:
                return named, []
        return (() if section is None else self.trace.last_present), []

    def _named_in(self, message: str) -> Path:
        """Return the option that a message speaks of: one that is set, or else one that was asked for."""
        quoted = re.findall(r"[`'\"]([\w.]+)[`'\"]", message)
        words = [word.rstrip(".") for word in re.findall(r"[a-z][a-z0-9.]*_[a-z0-9_.]+", message)]
        for names in (quoted, words):
            for known in (self.raw, self.trace.asked.get((), ())):
                for name in names:
                    if name.split(".")[0] in known:
                        return tuple(name.split("."))
        return ()

    def _corrected(self, given: list[str]) -> list[str]:
        """Return the path that was meant: Synapse says ``experimental`` for ``experimental_features``."""
        if given[0] in self.raw:
            return given
        meant = [path for path in self.trace.read if path[-1] == given[-1]]
        return [str(part) for part in meant[0]] if len(meant) == 1 else given

    def _indexed(self, given: list[str]) -> Path:
        """Turn Synapse's ``<item 0>`` and ``0`` into positions of lists."""
        value: t.Any = self.raw
        path: Path = ()
        for part in given:
            digits = re.fullmatch(r"(?:<item )?(\d+)>?", part)
            step: str | int = int(digits.group(1)) if digits and isinstance(value, list) else part
            path = (*path, step)
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                value = None
        return path

    # -- the parts of Synapse that are exchanged ------------------------------------------------------------------

    def read_config_files(self, config_files: t.Any) -> Recorded:
        """Stand in for ``synapse.config._base.read_config_files``: the same merge, recorded."""
        merged: dict[t.Any, t.Any] = {}
        for document in self.documents:
            if isinstance(document.data, dict):
                merged.update(document.data)
        return Recorded(merged, (), self.trace)

    def sections(self, config: t.Any, name: str, *args: t.Any, **kwargs: t.Any) -> dict[str, t.Any]:
        """Stand in for ``RootConfig.invoke_all``: goes on after a failure, so that all of them are found."""
        results = {}
        for config_class in config.config_classes:
            section = config_class.section
            part = getattr(config, section)
            if not hasattr(part, name):
                continue
            try:
                if name == "read_config":
                    self._read_section(part, args, kwargs)
                else:
                    results[section] = getattr(part, name)(*args, **kwargs)
            except Exception as error:
                if not (self.failures and self._follows(error)):
                    self.fail(error, section if name == "read_config" else None)
        return results

    @staticmethod
    def _follows(error: Exception) -> bool:
        """Return whether an error only says that an earlier section is missing."""
        return isinstance(error, AttributeError) and "Config' object has no attribute" in str(error)

    def _read_section(self, part: t.Any, args: t.Any, kwargs: t.Any) -> None:
        """Let one section read the configuration; where it refuses an inline secret, find all that it refuses."""
        base = importlib.import_module("synapse.config._base")
        self.trace.last = self.trace.last_present = ()
        hidden: list[tuple[t.Any, str, t.Any]] = []
        while True:
            try:
                part.read_config(*args, **kwargs)
            except base.ConfigError as error:
                holder = self._inline_secret(error, args[0]) if not self.secrets_allowed else None
                if holder is None:
                    if not hidden:
                        raise
                    break
                self.fail(error, part.section)
                self.failures[-1]["kind"] = "inline"
                mapping, key = holder
                hidden.append((mapping, key, dict.__getitem__(mapping, key)))
                dict.__delitem__(mapping, key)
                continue
            except Exception:  # whatever a section raises for want of the secret that was taken from it
                if not hidden:
                    raise
                break
            return
        for mapping, key, value in hidden:
            dict.__setitem__(mapping, key, value)
        kwargs = {**kwargs, "allow_secrets_in_config": True}
        part.read_config(*args, **kwargs)

    @staticmethod
    def _inline_secret(error: t.Any, config: t.Any) -> tuple[t.Any, str] | None:
        if "in-line secret" not in str(error.msg) or not error.path:
            return None
        mapping = config
        for key in list(error.path)[:-1]:
            mapping = dict.get(mapping, key) if isinstance(mapping, dict) else None
        key = str(list(error.path)[-1])
        return (mapping, key) if isinstance(mapping, dict) and dict.__contains__(mapping, key) else None

    def model(self, fields: t.Iterable[str], data: t.Mapping[str, t.Any]) -> None:
        """Note what a pydantic model makes of the mapping that was just spread into it; it ignores the rest."""
        if self.trace.whole and set(self.trace.whole[-1][1]) == set(data):
            self.trace.known_only(self.trace.whole[-1][0], data, fields)

    def _checked_class(self) -> t.Any:
        """Return Synapse's configuration class, made to go on after a failure."""
        original = importlib.import_module("synapse.config.homeserver").HomeServerConfig
        run = self

        def invoke_all(config: t.Any, name: str, *args: t.Any, **kwargs: t.Any) -> t.Any:
            return run.sections(config, name, *args, **kwargs)

        def validate_config(config: t.Any) -> None:
            try:
                original.validate_config(config)
            except Exception as error:
                if not (run.failures and run._follows(error)):
                    run.fail(error)

        members: dict[str, t.Any] = {"invoke_all": invoke_all}
        if hasattr(original, "validate_config"):
            members["validate_config"] = validate_config
        return type("HomeServerConfig", (original,), members)

    def parse(self) -> None:
        """Let Synapse parse and validate the configuration, and note all that happens."""
        base: t.Any = importlib.import_module("synapse.config._base")
        texts = {
            "server_name": base.MISSING_SERVER_NAME,
            "report_stats": base.MISSING_REPORT_STATS_CONFIG_INSTRUCTIONS,
        }
        self.failures.extend(missing(name, text) for name, text in texts.items() if name not in self.raw)
        if "server_name" not in self.raw:
            return
        argv = [arg for document in self.documents for arg in ("--config-path", document.path)]
        if not self.secrets_allowed:
            argv.append("--no-secrets-in-config")
        originals = base.find_config_files, base.read_config_files
        base.find_config_files = list_of
        base.read_config_files = self.read_config_files
        with self._listening():
            try:
                self.config = self._checked_class().load_config("", argv)
            except SystemExit:
                self.failures.append(exited(secrets_allowed=self.secrets_allowed))
            except Exception as error:
                self.fail(error)
            finally:
                base.find_config_files, base.read_config_files = originals

    @contextlib.contextmanager
    def _listening(self) -> t.Iterator[None]:
        """Collect what Synapse logs as a warning or worse, and what its pydantic models ignore."""
        notes = self.notes

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                notes.append({"level": record.levelname, "logger": record.name, "text": record.getMessage().strip()})

        listener = Listener(logging.WARNING)
        root = logging.getLogger()
        root.addHandler(listener)
        MODELS.append(self)
        try:
            yield
        finally:
            MODELS.pop()
            root.removeHandler(listener)


MODELS: list[Run] = []


def list_of(search_paths: t.Iterable[str]) -> list[str]:
    """Stand in for ``find_config_files``: the files have been found."""
    return list(search_paths)


def missing(name: str, text: str) -> dict[str, t.Any]:
    """Return the failure for a mandatory option that is not set."""
    return {
        "kind": "config",
        "type": "ConfigError",
        "path": [name],
        "message": " ".join(text.split()),
        "causes": [],
        "errno": None,
        "section": None,
        "known": [],
        "missing": True,
    }


def exited(*, secrets_allowed: bool) -> dict[str, t.Any]:
    """Return the failure for a Synapse that gave up on its command line."""
    text = "Synapse refused its own command line"
    if not secrets_allowed:
        text = "this version of Synapse has no --no-secrets-in-config"
    return {**missing("", text), "path": [], "kind": "exit", "missing": False}


def watch_models() -> None:
    """Make Synapse's pydantic models tell which keys they would silently ignore."""
    try:
        models = importlib.import_module("synapse.util.pydantic_models")
        parse_model = models.ParseModel
    except (ImportError, AttributeError):
        return
    original = parse_model.__init__

    def watched(self: t.Any, **data: t.Any) -> None:
        fields = getattr(type(self), "model_fields", {})
        if MODELS:
            names = set(fields) | {field.alias for field in fields.values() if getattr(field, "alias", None)}
            MODELS[-1].model(names, data)
        original(self, **data)

    parse_model.__init__ = watched
    workers = sys.modules.get("synapse.config.workers")
    validate = getattr(workers, "parse_and_validate_mapping", None)
    if workers is None or validate is None:
        return

    def parse_and_validate_mapping(config: t.Any, model_type: t.Any) -> t.Any:
        fields: set[str] = set()
        for model in t.get_args(model_type) or (model_type,):
            fields.update(getattr(model, "model_fields", {}))
        for value in dict(config).values() if isinstance(config, dict) else ():
            if isinstance(value, Recorded):
                names = [str(key) for key in dict.keys(value)]
                value.trace.read.update((*value.path, name) for name in names)
                value.trace.known_only(value.path, names, fields)
        return validate(config, model_type)

    # Synapse's own module, whose name is replaced for this process; no types of it are at hand.
    workers.parse_and_validate_mapping = parse_and_validate_mapping  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------
# The words of this version: which names occur in its configuration code at all?


def constants(code: types.CodeType) -> t.Iterator[str]:
    """Yield every text constant of a code object and of those within it."""
    waiting: list[t.Any] = list(code.co_consts)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (tuple, frozenset)):
            waiting.extend(value)
        elif isinstance(value, types.CodeType):
            waiting.extend(value.co_consts)


def words_of(*packages: str) -> set[str]:
    """Return the option-like words in the code of the given packages, from their compiled files."""
    words: set[str] = set()
    for package in packages:
        for folder in getattr(importlib.import_module(package), "__path__", []):
            for name in sorted(os.listdir(folder)):
                if name.endswith(".py"):
                    module = package if name == "__init__.py" else f"{package}.{name[:-3]}"
                    words.update(words_of_module(module))
    return {word for word in words if re.fullmatch(r"[A-Za-z][\w.-]{0,79}", word)}


def words_of_module(name: str) -> set[str]:
    """Return the text constants of one module, with dotted ones also in pieces; nothing is imported."""
    words: set[str] = set()
    spec = importlib.util.find_spec(name)
    code = getattr(spec.loader, "get_code", lambda _name: None)(name) if spec else None
    for word in constants(code) if code else ():
        words.add(word)
        words.update(word.split("."))
    return words


def unread(run: Run) -> list[dict[str, t.Any]]:
    """Return the options that Synapse's parser never looked at, topmost only."""
    found: list[Path] = []
    for path, _value in branches(run.raw):
        if isinstance(path[-1], int) or path in run.trace.read:
            continue
        if any(path[:length] in run.trace.covered or path[:length] in found for length in range(1, len(path))):
            continue
        # A mapping that nobody looked into was handed on as it is, or its section failed before.
        if (len(path) == 1 or path[:-1] in run.trace.asked) and not is_free(path, run.raw):
            found.append(path)
    if not found:
        return []
    words = words_of("synapse.config")
    if any(path[0] in ("database", "databases") for path in found):
        # These two mappings are handed on as they are; what is in them is read when the database is opened.
        storage = words_of_module("synapse.storage.database") | words_of_module("synapse.storage.engines.postgres")
        found = [path for path in found if path[0] not in ("database", "databases") or path[-1] not in storage]
    run.words = sorted(words)
    return [
        {
            "path": list(path),
            "known": path[-1] in words,
            "siblings": sorted(run.trace.asked.get(path[:-1], ())),
        }
        for path in found
    ]


def vocabulary(run: Run) -> dict[str, list[str]]:
    """Return every name that was asked for, by the mapping it was asked of; ``*`` stands for a position."""
    names: dict[str, set[str]] = {}
    for path, asked in run.trace.asked.items():
        names.setdefault(".".join("*" if isinstance(part, int) else part for part in path), set()).update(asked)
    return {path: sorted(asked) for path, asked in sorted(names.items())}


# ---------------------------------------------------------------------------------------------------------------
# Facts beside the verdict. None of them holds a value that could be a secret.

BOOLEAN_WORDS = ("yes", "no", "true", "false", "on", "off", "y", "n")
FILE_OPTION = re.compile(
    r"_path$|_paths$|_file$|^pid_file$|^log_config$|^worker_log_config$|_dir$|_directory$|^passfile$|^template_dir$"
)
NOT_A_FILE_OPTION = re.compile(r"^(public_|web_)|_uri_path$|^jwks|_url")
SECRET_FILE = re.compile(r"(secret|password|passw|token|(^|_)key)s?_(path|file)$|^passfile$")
FOLDER_OPTION = re.compile(r"_dir$|_directory$|^media_store_path$|^backup_media_store_path$|^ca_path$")


def options_of(run: Run) -> list[dict[str, t.Any]]:
    """Return kind and place of every option that is Synapse's own, with the text where it is a word for yes or no."""
    found = []
    for path, value in branches(run.raw):
        if isinstance(path[-1], int):
            continue
        entry: dict[str, t.Any] = {"path": list(path), "kind": type(value).__name__, "free": is_free(path, run.raw)}
        secret = any(isinstance(part, str) and is_secret_name(part) for part in path)
        if isinstance(value, str) and not secret and value.lower() in BOOLEAN_WORDS:
            entry["word"] = value.lower()
        if isinstance(value, str) and not value:
            entry["empty"] = True
        if isinstance(value, list):
            entry["kinds"] = sorted({type(item).__name__ for item in value})
        found.append(entry)
    return found


def file_facts(stage: Stage, path: str, redactor: Redactor | None = None) -> dict[str, t.Any]:
    """Return what the service's account sees at ``path``; the content is read, and none of it is returned."""
    facts: dict[str, t.Any] = {"path": path, "coming": path in stage.files or path in stage.directories}
    if facts["coming"]:
        facts["empty"] = stage.files.get(path) == ""
        return facts
    try:
        if path in stage.made:
            os.lstat(path)
        status = os.stat(path)
    except OSError as error:
        return {**facts, "errno": error.errno, "error": error.strerror, "blocked": blocked_at(path)}
    facts.update(
        mode=stat.S_IMODE(status.st_mode),
        owner=owner_name(status.st_uid),
        folder=stat.S_ISDIR(status.st_mode),
        exposed=bool(status.st_mode & stat.S_IROTH) and all_may_reach(path),
        writable=os.access(path, os.W_OK),
    )
    if facts["folder"]:
        facts["writable"] = os.access(path, os.W_OK | os.X_OK)
        return facts
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            content = stream.read(1 << 20)
    except OSError as error:
        return {**facts, "errno": error.errno, "error": error.strerror}
    facts["empty"] = not content.strip()
    if redactor is not None:
        redactor.add_content(content.decode(errors="replace"))
    return facts


def owner_name(uid: int) -> str:
    """Return the name of a user, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def all_may_reach(path: str) -> bool:
    """Return whether every account may enter all folders above ``path``."""
    folder = os.path.dirname(os.path.realpath(path))
    while True:
        try:
            if not os.stat(folder).st_mode & stat.S_IXOTH:
                return False
        except OSError:
            return False
        if folder == os.path.dirname(folder):
            return True
        folder = os.path.dirname(folder)


def blocked_at(path: str) -> str | None:
    """Return the first folder above ``path`` that this account may not enter or that is missing."""
    parts = path.split(os.sep)
    for length in range(2, len(parts)):
        folder = os.sep.join(parts[:length])
        if not os.path.isdir(folder) or not os.access(folder, os.X_OK):
            return folder
    return None


def creatable(stage: Stage, path: str) -> dict[str, t.Any]:
    """Return whether this account could make the folder or file at ``path``, and which folder decides that."""
    folder = os.path.dirname(path)
    while folder != os.path.dirname(folder) and (folder in stage.made or not os.path.isdir(folder)):
        folder = os.path.dirname(folder)
    coming = folder in stage.directories and not stage_sees(folder)
    return {"parent": folder, "creatable": coming or os.access(folder, os.W_OK | os.X_OK)}


def stage_sees(path: str) -> bool:
    """Return whether ``path`` is on the disk itself."""
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def paths_of(run: Run, stage: Stage, redactor: Redactor) -> list[dict[str, t.Any]]:
    """Return facts about every file and folder that an option names."""
    found = []
    for path, value in branches(run.raw):
        name = str(path[-1])
        if not isinstance(value, str) or not value or not is_path_option(path, run):
            continue
        secret = SECRET_FILE.search(name) is not None and "pub" not in name
        absolute = os.path.abspath(value)
        facts = file_facts(stage, absolute, redactor if secret else None)
        if "errno" in facts:
            facts.update(creatable(stage, absolute))
        facts.update(
            option=list(path),
            secret=secret,
            folder_option=FOLDER_OPTION.search(name) is not None,
            relative=not os.path.isabs(value),
            given=value,
        )
        found.append(facts)
    return found


def is_path_option(path: Path, run: Run) -> bool:
    """Return whether the option at ``path`` names a file or folder."""
    name = str(path[-1])
    if path[-2:] == ("args", "database"):
        parent: t.Any = run.raw
        for part in path[:-2]:
            parent = parent[part]
        return bool(parent.get("name", "sqlite3") == "sqlite3" and parent["args"]["database"] != ":memory:")
    if path[-1] == "passfile":
        return True
    if isinstance(path[-1], int) or is_free(path, run.raw):
        return False
    return FILE_OPTION.search(name) is not None and NOT_A_FILE_OPTION.search(name) is None


def listeners_of(run: Run) -> list[dict[str, t.Any]]:
    """Return the listeners as Synapse understood them."""
    worker = run.name != "main"
    section = getattr(run.config, "worker" if worker else "server", None)
    found = []
    for index, listener in enumerate(getattr(section, "worker_listeners" if worker else "listeners", None) or []):
        options = getattr(listener, "http_options", None)
        found.append(
            {
                "option": ["worker_listeners" if worker else "listeners", index],
                "type": getattr(listener, "type", None),
                "port": getattr(listener, "port", None),
                "addresses": [str(item) for item in getattr(listener, "bind_addresses", None) or []],
                "socket": getattr(listener, "path", None),
                "tls": bool(getattr(listener, "tls", False)),
                "resources": sorted({n for r in getattr(options, "resources", ()) for n in r.names}),
            }
        )
    return found


def listed(value: t.Any) -> list[t.Any]:
    """Return a list as it is, and nothing for all else: a text would fall apart into letters."""
    return value if isinstance(value, list) else []


def settings_of(run: Run) -> dict[str, t.Any]:
    """Return the few effective settings that the checks across sections and processes need."""
    config = run.config

    def at(section: str, name: str, default: t.Any = None) -> t.Any:
        return getattr(getattr(config, section, None), name, default)

    return {
        "engines": [str(item.config.get("name", "sqlite3")) for item in at("database", "databases", ())],
        "redis": bool(at("redis", "redis_enabled", False)),
        "worker_app": at("worker", "worker_app"),
        "worker_name": at("worker", "worker_name"),
        "instance_map": {
            ("main" if name == "master" else str(name)): {
                key: getattr(place, key, None) for key in ("host", "port", "path")
            }
            for name, place in (at("worker", "instance_map") or {}).items()
        },
        "metrics": bool(at("metrics", "enable_metrics", False)),
        "federation_off": run.raw.get("federation_domain_whitelist") == [],
        "daemonize": bool(at("server", "daemonize", False)),
        "log_config": at("logging", "log_config"),
        "worker_log_config": at("worker", "worker_log_config"),
        "media_store_path": at("media", "media_store_path"),
        "media_given": "media_store_path" in run.raw,
        "media_used": bool(at("media", "can_load_media_repo", False)),
        "app_services": [
            item for item in listed(at("appservice", "app_service_config_files")) if isinstance(item, str)
        ],
        "inline_secrets": [
            list(path)
            for path, value in branches(run.raw)
            if isinstance(value, str) and value and isinstance(path[-1], str) and is_secret_name(path[-1])
        ],
    }


def log_facts(stage: Stage, path: str) -> dict[str, t.Any]:
    """Return what is wrong with a log configuration, without opening any of its handlers."""
    facts: dict[str, t.Any] = {"path": path, "problems": [], "targets": []}
    if stage.files.get(path, "") is None:
        return facts
    document = Document.load(path)
    if document.failure is not None:
        return {**facts, "failure": document.failure}
    problems: list[dict[str, t.Any]] = facts["problems"]
    data = document.data

    def problem(place: Path, text: str) -> None:
        line = next((document.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in document.lines), None)
        problems.append({"path": list(place), "message": text, "line": line})

    if not isinstance(data, dict) or not data:
        problem((), "the file is empty or is not a mapping")
    elif data.get("structured"):
        problem(("structured",), "this way of structured logging was removed in Synapse 1.54.0")
    elif data.get("version") != 1:
        problem(("version",), "the mapping must say 'version: 1'")
    else:
        check_logging(data, problem)
        facts["targets"] = log_targets(stage, data)
    return facts


def log_targets(stage: Stage, data: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """Return facts about the files that the handlers of a log configuration write to."""
    targets = []
    for name, handler in (data.get("handlers") or {}).items():
        filename = handler.get("filename") if isinstance(handler, dict) else None
        if isinstance(filename, str):
            place = os.path.abspath(filename)
            facts = {**file_facts(stage, place), **creatable(stage, place)}
            targets.append({**facts, "handler": str(name), "relative": not os.path.isabs(filename)})
    return targets


def check_logging(data: t.Mapping[str, t.Any], problem: t.Callable[[Path, str], None]) -> None:
    """Do what ``logging.config.dictConfig`` does (Python's logging/config.py), but make no handler."""
    import logging.config

    configurator = logging.config.DictConfigurator({"version": 1})
    kinds: dict[str, dict[str, t.Any]] = {}
    for kind in ("filters", "formatters", "handlers", "loggers"):
        value = data.get(kind) or {}
        if not isinstance(value, dict):
            problem((kind,), "a mapping is needed here")
            value = {}
        kinds[kind] = value
    for kind in ("filters", "formatters", "handlers"):
        for name, item in kinds[kind].items():
            if isinstance(item, dict):
                check_factory(configurator, kind, str(name), item, problem)
            else:
                problem((kind, str(name)), "a mapping is needed here")
    for name, handler in kinds["handlers"].items():
        if isinstance(handler, dict):
            check_references(("handlers", str(name)), handler, kinds, problem)
    for name, logger in kinds["loggers"].items():
        check_references(("loggers", str(name)), logger if isinstance(logger, dict) else {}, kinds, problem)
    root = data.get("root")
    check_references(("root",), root if isinstance(root, dict) else {}, kinds, problem)


def check_factory(
    configurator: t.Any, kind: str, name: str, item: t.Mapping[str, t.Any], problem: t.Callable[[Path, str], None]
) -> None:
    """Find the class behind a handler, formatter or filter, and whether a handler's class takes its settings."""
    field = "()" if "()" in item else "class"
    if field not in item:
        if kind == "handlers":
            problem((kind, name), "the handler has no class")
        return
    try:
        found = configurator.resolve(item[field]) if isinstance(item[field], str) else item[field]
    except Exception as error:
        problem((kind, name, field), f"cannot be imported: {describe(error.__cause__ or error)}")
        return
    if kind != "handlers" or field == "()":
        return
    own = (
        "class",
        "level",
        "formatter",
        "filters",
        "target",
        ".",
        "queue",
        "listener",
        "handlers",
        "respect_handler_level",
    )
    given = [str(key) for key in item if key not in own and str(key).isidentifier()]
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [word for word in given if word not in parameters and not open_ended]
    named = [parameter for parameter in parameters.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    needed = [
        parameter.name for parameter in named if parameter.default is parameter.empty and parameter.name not in item
    ]
    for word in unknown:
        problem((kind, name, word), f"{item['class']} does not take {word!r} (it takes {', '.join(parameters)})")
    if needed and not unknown:
        problem((kind, name), f"{item['class']} needs {', '.join(needed)}")


def check_references(
    place: Path,
    item: t.Mapping[str, t.Any],
    kinds: t.Mapping[str, t.Mapping[str, t.Any]],
    problem: t.Callable[[Path, str], None],
) -> None:
    """Check the level and the names of handlers, formatters and filters that one entry refers to."""
    level = item.get("level")
    if level is not None and not isinstance(level, int) and level not in logging._nameToLevel:
        problem((*place, "level"), f"{level!r} is not a log level")
    for field, kind in (("handlers", "handlers"), ("filters", "filters")):
        names = item.get(field) or []
        for name in names if isinstance(names, list) else [names]:
            if name not in kinds[kind]:
                problem((*place, field), f"there is no entry {name!r} under '{kind}'")
    for field, kind in (("formatter", "formatters"), ("target", "handlers")):
        name = item.get(field)
        if isinstance(name, str) and name not in kinds[kind]:
            problem((*place, field), f"there is no entry {name!r} under '{kind}'")


def app_service_facts(run: Run, stage: Stage, redactor: Redactor) -> list[dict[str, t.Any]]:
    """Let Synapse load the registrations of application services: each alone, then all of them together."""
    files = settings_of(run)["app_services"]
    if not files or run.config is None:
        return []
    module = importlib.import_module("synapse.config.appservice")
    host = str(run.raw.get("server_name"))
    found = []
    good = []
    for index, path in enumerate(files):
        place = os.path.abspath(path)
        entry: dict[str, t.Any] = {"option": ["app_service_config_files", index], "path": path, "error": None}
        if stage.files.get(place, "") is not None:
            document = Document.load(path)
            redactor.add_all(document.data)
            facts = file_facts(stage, place)
            entry.update(failure=document.failure, exposed=facts.get("exposed", False), mode=facts.get("mode"))
            if document.failure is None:
                entry["error"] = load_app_services(module, host, [path])
                if entry["error"] is None:
                    good.append(path)
        entry["relative"] = not os.path.isabs(path)
        found.append(entry)
    together = load_app_services(module, host, good) if len(good) > 1 else None
    if together is not None:
        found.append({"option": ["app_service_config_files"], "path": "", "error": together, "relative": False})
    return found


def load_app_services(module: t.Any, host: str, files: list[str]) -> str | None:
    """Return what Synapse has against these registrations, or ``None``."""
    try:
        module.load_appservices(host, files)
    except Exception as error:
        return f"{type(error).__name__}: {describe(error)}"
    return None


def tls_facts(run: Run) -> dict[str, t.Any] | None:
    """Let Synapse read certificate and key where a listener speaks TLS, and compare the two."""
    tls = getattr(run.config, "tls", None)
    if tls is None or not any(listener["tls"] for listener in listeners_of(run)):
        return None
    if not (tls.tls_certificate_file and tls.tls_private_key_file):
        return None  # Synapse has said so.
    facts: dict[str, t.Any] = {}
    for option, read in (
        ("tls_certificate_path", "read_tls_certificate"),
        ("tls_private_key_path", "read_tls_private_key"),
    ):
        try:
            facts[option] = getattr(tls, read)()
        except Exception as error:
            text = (
                describe(error) if type(error).__name__ == "ConfigError" else "the file is not a PEM file of that kind"
            )
            return {"option": [option], "message": text, "causes": causes_of(error), "errno": errno_of(error)}
    from OpenSSL import crypto

    certificate, key = facts["tls_certificate_path"], facts["tls_private_key_path"]
    if crypto.dump_publickey(crypto.FILETYPE_PEM, certificate.get_pubkey()) != crypto.dump_publickey(
        crypto.FILETYPE_PEM, key
    ):
        return {"option": ["tls_private_key_path"], "message": "the private key does not belong to the certificate"}
    if certificate.has_expired():
        return {"option": ["tls_certificate_path"], "message": "the certificate has expired", "expired": True}
    return None


def key_facts(run: Run) -> list[dict[str, t.Any]]:
    """Return what can be proven about each entry of ``old_signing_keys``."""
    entries = run.raw.get("old_signing_keys")
    if not isinstance(entries, dict):
        return []
    import base64

    seeds = {}
    verify_keys = {}
    for key in getattr(getattr(run.config, "key", None), "signing_key", None) or []:
        seeds[bytes(key)] = f"ed25519:{key.version}"
        verify_keys[bytes(key.verify_key)] = f"ed25519:{key.version}"
    found = []
    for name, entry in entries.items():
        facts: dict[str, t.Any] = {"option": ["old_signing_keys", str(name)]}
        value = entry.get("key") if isinstance(entry, dict) else None
        try:
            raw = base64.b64decode(str(value).split()[-1] + "===") if value else b""
        except (ValueError, IndexError):
            raw = b""
        facts["length"] = len(raw)
        facts["private_of"] = seeds.get(raw)
        facts["current"] = verify_keys.get(raw)
        facts["valid_point"] = valid_point(raw)
        expired = entry.get("expired_ts") if isinstance(entry, dict) else None
        facts["expired_ts"] = expired if isinstance(expired, int) else None
        facts["expired_kind"] = type(expired).__name__
        found.append(facts)
    return found


def valid_point(raw: bytes) -> bool | None:
    """Return whether 32 bytes can be an Ed25519 verify key: on the curve, in the main subgroup (RFC 8032)."""
    try:
        from nacl import bindings

        return len(raw) == 32 and bool(bindings.crypto_core_ed25519_is_valid_point(raw))
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError):  # no PyNaCl, or one that cannot tell
        return None


def driver_facts(run: Run) -> list[dict[str, t.Any]]:
    """Return why the PostgreSQL driver cannot be used, or which of its arguments it does not know; connects nowhere."""
    found: list[dict[str, t.Any]] = []
    for index, database in enumerate(getattr(getattr(run.config, "database", None), "databases", None) or []):
        if database.config.get("name") != "psycopg2":
            continue
        option = ["database"] if "database" in run.raw else ["databases", str(database.name)]
        try:
            extensions = importlib.import_module("psycopg2.extensions")
        except ImportError as error:
            return [{"option": [*option, "name"], "driver": str(error), "index": index}]
        args = database.config.get("args") or {}
        for name in args if isinstance(args, dict) else ():
            if name.startswith("cp_") or name in ("dsn", "connection_factory", "cursor_factory", "async", "async_"):
                continue
            try:
                extensions.make_dsn(**{("dbname" if name == "database" else name): "1"})
            except Exception:  # each driver has an error of its own for a name that libpq does not know
                known = name in words_of_module("synapse.storage.engines.postgres") | words_of_module(
                    "synapse.storage.database"
                )
                found.append({"option": [*option, "args", name], "driver": None, "synapse": known})
    return found


@functools.lru_cache(maxsize=None)
def worker_apps() -> frozenset[str]:
    """Return the applications that a worker may be: its program names them all, and asserts that it is one."""
    words = words_of_module("synapse.app.generic_worker")
    named = {word for word in words if re.fullmatch(r"synapse\.app\.\w+", word)}
    return frozenset(named - {"synapse.app.homeserver"}) or frozenset({"synapse.app.generic_worker"})


def replication_secrets(runs: list[Run]) -> list[bool]:
    """Return for each run whether it has the replication secret of the main process."""
    values = [getattr(getattr(run.config, "worker", None), "worker_replication_secret", None) for run in runs]
    return [value == values[0] for value in values]


# ---------------------------------------------------------------------------------------------------------------


def find_files(paths: t.Iterable[str]) -> list[str]:
    """Return the files behind ``--config-path`` arguments: ``find_config_files`` of synapse/config/_base.py."""
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            entries = [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".yaml")]
            found.extend(sorted(entry for entry in entries if os.path.isfile(entry)))
        else:
            found.append(path)
    return found


def document_facts(document: Document, stage: Stage) -> dict[str, t.Any]:
    """Return the facts about one file of the configuration."""
    facts = file_facts(stage, os.path.abspath(document.path))
    return {
        **facts,
        "path": document.path,
        "failure": document.failure,
        "mapping": isinstance(document.data, dict),
        "duplicates": [{"path": list(path), "lines": lines} for path, lines in document.duplicates],
    }


def lines_of(run: Run) -> dict[str, t.Any]:
    """Return file and line of every option, from the file whose value counts."""
    lines: dict[str, t.Any] = {}
    for index, document in enumerate(run.documents):
        top = document.data if isinstance(document.data, dict) else {}
        replaced = {str(key) for key in top}
        lines = {path: place for path, place in lines.items() if re.split(r"[.\[]", path)[0] not in replaced}
        lines.update({dotted(path): [index, line] for path, line in document.lines.items()})
    return lines


def run_facts(run: Run, stage: Stage, redactor: Redactor) -> dict[str, t.Any]:
    """Return all facts about one process."""
    missing_options = unread(run)
    return {
        "process": run.name,
        "documents": [document_facts(document, stage) for document in run.documents],
        "failures": run.failures,
        "notes": run.notes,
        "read": sorted(map(list, run.trace.read), key=str),
        "unread": missing_options,
        "vocabulary": vocabulary(run) if missing_options else {},
        "words": run.words,
        "options": options_of(run),
        "paths": paths_of(run, stage, redactor),
        "listeners": listeners_of(run),
        "settings": settings_of(run),
        "lines": lines_of(run),
    }


def log_config_of(run: Run) -> tuple[str, str] | None:
    """Return option and path of the log configuration that one process uses."""
    option = "log_config" if run.name == "main" else "worker_log_config"
    value = run.raw.get(option)
    return (option, os.path.abspath(value)) if isinstance(value, str) and value else None


def check(request: t.Mapping[str, t.Any], redactor: Redactor) -> dict[str, t.Any]:
    """Answer a request: ``main`` and ``workers`` (paths), ``files``, ``directories``, ``secrets_allowed``."""
    for text in request["files"].values():
        if text is not None and "\n" in text.strip():
            continue
        redactor.add(text or "")
    stage = Stage(request["files"], request["directories"])
    logging.getLogger().addHandler(logging.NullHandler())
    importlib.import_module("synapse.config.homeserver")
    watch_models()
    # Inside a checkout of anything, Synapse adds the branch and commit of that (synapse/__init__.py, 1.163.2).
    version = str(importlib.import_module("synapse").__version__).partition(" ")[0]
    with stage.set():
        main = [Document.load(path) for path in find_files(request["main"])]
        workers = [(path, [*main, Document.load(path)]) for path in request["workers"]]
        runs = [Run("main", main, secrets_allowed=request["secrets_allowed"])]
        runs += [Run(path, files, secrets_allowed=request["secrets_allowed"]) for path, files in workers]
        for run in runs:
            redactor.add_all(run.raw)
        for run in runs:
            if any(isinstance(document.data, dict) for document in run.documents):
                run.parse()
        facts = [run_facts(run, stage, redactor) for run in runs]
        logs = {option_path for option_path in map(log_config_of, runs) if option_path is not None}
        answer = {
            "version": version,
            "runs": facts,
            "logs": {path: log_facts(stage, path) for _option, path in sorted(logs)},
            "app_services": app_service_facts(runs[0], stage, redactor),
            "tls": tls_facts(runs[0]),
            "old_keys": key_facts(runs[0]),
            "driver": driver_facts(runs[0]),
            "same_secret": replication_secrets(runs),
            "apps": {
                run.name: run.raw.get("worker_app") in worker_apps()
                for run in runs[1:]
                if isinstance(run.raw.get("worker_app"), str)
            },
            "refused": stage.refused,
            "root": os.geteuid() == 0,
            "account": owner_name(os.geteuid()),
        }
    return answer


def main() -> None:
    """Read the request from stdin, write the answer as the last line of stdout."""
    sys.dont_write_bytecode = True
    request = json.load(sys.stdin)
    redactor = Redactor()
    answer: dict[str, t.Any]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            answer = check(request, redactor)
        except ImportError as error:
            answer = {"broken": f"{type(error).__name__}: {error}"}
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            line = trace.tb_lineno if trace is not None else 0
            answer = {"broken": f"{type(error).__name__} in line {line} of the probe: {describe(error)}"}
        answer = redactor.tree(answer)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    # A process this short has no use for collecting garbage, nor for taking a thousand modules down in order.
    gc.disable()
    main()
    sys.stdout.flush()
    os._exit(0)
