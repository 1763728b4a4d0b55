# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the configuration files as this process, so that a file which the service cannot read is seen all the same."""

from __future__ import annotations

import glob
import inspect
import os
import stat
import sys
import typing as t
from dataclasses import replace

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_files import expand
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import ConfigFile, Settings
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._probes import settings as probe
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError, ask_python

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context

__all__ = ["look"]

_LARGEST = 4 * 1024 * 1024  # bytes
_MANAGED = b"# Managed by Ansible (matrix_fleet.synapse)."


def _one(path: str) -> tuple[ConfigFile, str | None]:
    """Return what is known of a file, and its text where it is one."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ConfigFile(path, "it does not exist", missing=True), None
    except OSError as error:
        return ConfigFile(path, f"it cannot be looked at: {error.strerror}"), None
    file = ConfigFile(
        path, uid=status.st_uid, gid=status.st_gid, mode=stat.S_IMODE(status.st_mode), size=status.st_size
    )
    if not stat.S_ISREG(status.st_mode):
        return replace(file, problem="it is no regular file"), None
    try:
        data = _files.read(path, limit=_LARGEST) or b""
    except SynapseError:
        return replace(file, problem="it cannot be read"), None
    file = replace(file, managed=data.startswith(_MANAGED))
    if b"\0" in data:
        return replace(file, problem="it holds zero bytes: what wrote it was cut off"), None
    try:
        return file, data.decode("utf-8")
    except UnicodeDecodeError as error:
        return replace(file, problem="it is not UTF-8", line=data[: error.start].count(b"\n") + 1), None


def _libraries(environment: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(environment), "lib", "python3.*", "site-packages")))


def _ask(context: Context, texts: list[list[str]]) -> dict[str, t.Any]:
    """Ask the environment's interpreter, or this one where that does not answer. Raises ``SynapseError``."""
    request = {"texts": texts, "libraries": _libraries(context.environment)}
    source, account = inspect.getsource(probe), context.account()
    try:
        answer = ask_python(
            context.run, context.request.python, source, request, account=account, timeout=context.left(5.0)
        )
        if answer.get("problem") is None:
            return answer
    except SynapseError:
        pass  # the environment is looked at elsewhere
    return ask_python(context.run, sys.executable, source, request, account=account, timeout=context.left(5.0))


def look(context: Context) -> Settings:
    """Read the files and let a YAML library say what is in them; fills ``context.texts`` too."""
    found = [_one(path) for path in expand(context.request.config_paths)]
    texts = [[file.path, text] for file, text in found if text is not None]
    context.texts = {file.path: text for file, text in found if text is not None}
    files = {file.path: file for file, _text in found}
    if not texts:
        return Settings(tuple(files.values()), {}, "there is no configuration that can be read")
    try:
        answer = _ask(context, texts)
    except SynapseError as error:
        return Settings(tuple(files.values()), {}, error.msg)
    for facts in answer.get("files") or ():
        file = files[facts["path"]]
        keys, numbers = tuple(facts["keys"]), tuple(facts["numbers"])
        files[file.path] = replace(file, problem=facts["problem"], line=facts["line"], keys=keys, numbers=numbers)
    config = answer.get("config")
    return Settings(tuple(files.values()), config if isinstance(config, dict) else {}, answer.get("problem"))
