# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the host what it needs of a wheelhouse on the controller, and carries that there, if anything, and no more."""

from __future__ import annotations

import os
import secrets
import typing as t

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.matrix_fleet.synapse.plugins.module_utils import _files
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._lock import digest_of, parse
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse import Manifest, Target, refusal
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._wheelhouse_archive import head_of, part_of
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._progress import Heartbeat

display = Display()


class ActionModule(ActionBase):
    """Runs the module of the same name: once where nothing is to be carried, else once more after carrying."""

    # A temporary folder on the host is made only where something is carried.
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module and return its result."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "host")
        try:
            with Heartbeat(f"[{host}] {self._task.get_name()}", display.display):
                result.update(self._carry(task_vars))
        except SynapseError as error:
            result.update({"failed": True, "msg": error.msg})
        finally:
            # ansible-core ships no types: here and below mypy knows nothing of what is called.
            self._remove_tmp_path(self._connection._shell.tmpdir)  # type: ignore[no-untyped-call]
        return result

    def _carry(self, task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        arguments = dict(self._task.args)
        source = os.path.expanduser(str(arguments.get("src") or ""))
        manifest = head_of(source).manifest
        _check_origin(source, manifest, str(arguments.get("made_from") or ""))
        arguments.update(
            digest=manifest.digest, lock_digest=manifest.lock_digest, version=manifest.synapse, carried=None
        )
        answer: dict[str, t.Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        if answer.get("failed") or not answer.get("needed"):
            return answer
        target = answer["target"]
        reason = refusal(
            manifest, Target(target["python"], target["architecture"], target["libc"]), str(target["glibc"])
        )
        if reason:
            raise SynapseError(reason)
        if self._task.check_mode:
            return answer
        local = _extract(source, manifest, str(target["name"]))
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        arguments["carried"] = self._connection._shell.join_path(folder, "wheelhouse.tar")
        self._transfer_file(local, arguments["carried"])  # type: ignore[no-untyped-call]
        self._fixup_perms2((folder, arguments["carried"]))  # type: ignore[no-untyped-call]
        return dict(self._execute_module(module_args=arguments, task_vars=task_vars))


def _check_origin(source: str, manifest: Manifest, lock: str) -> None:
    if not lock:
        return
    data = _files.read(os.path.expanduser(lock))
    if data is None:
        raise SynapseError(f"'made_from' is {lock}: the controller has no such file. Nothing was changed.")
    if digest_of(parse(data.decode("utf-8", "replace"), lock)) != manifest.made_from:
        raise SynapseError(
            f"The wheelhouse {source} was gathered from another lock than {lock}: gather it again from this one. "
            "Nothing was changed."
        )


def _extract(source: str, manifest: Manifest, target: str) -> str:
    """Return the part of an archive that one kind of host takes, as a file that all hosts of a run share.

    It lies in the folder that Ansible makes for a run and removes at its end.
    """
    folder: str = constants.DEFAULT_LOCAL_TMP  # type: ignore[attr-defined]  # made when Ansible reads its settings
    path = os.path.join(folder, f"wheelhouse-{manifest.digest[:12]}-{target}.tar")
    if not os.path.exists(path):
        # Several hosts may need it at once; each makes its own, and the last one stays.
        mine = f"{path}.{secrets.token_hex(4)}"
        _files.write(mine, part_of(source, manifest, target), mode=0o600)
        os.replace(mine, path)
    return path
