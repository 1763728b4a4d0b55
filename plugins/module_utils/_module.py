# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``AnsibleModule`` for options whose values must stay out of what it writes. The one file here that needs Ansible."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["DiscreetModule"]

_HIDDEN = "NOT_LOGGING_PARAMETER"


def _none(params: Mapping[str, t.Any]) -> Iterable[str]:
    return ()


# ansible-core ships no types, so mypy knows nothing of the class, nor of what it calls.
class DiscreetModule(AnsibleModule):  # type: ignore[misc, unused-ignore]
    """Keeps the options ``unlogged`` out of the host's own log, and what ``secrets`` names out of the result.

    For what ``no_log`` cannot do. Of a list of mappings the log gets the text, where the line breaks of a secret are
    escaped, so that the search for it fails; and ``no_log`` takes every text of an option out of the result, also the
    folder that half of the paths there begin with. ``secrets`` is asked with the options, or none of them where they
    were refused.
    """

    def __init__(
        self,
        *,
        unlogged: Sequence[str],
        secrets: Callable[[Mapping[str, t.Any]], Iterable[str]] = _none,
        **settings: t.Any,
    ) -> None:
        # The invocation is logged while the options are being read.
        self._unlogged = frozenset(unlogged)
        self._secrets = secrets
        super().__init__(**settings)  # type: ignore[no-untyped-call]

    def log(self, msg: str, log_args: dict[str, t.Any] | None = None) -> None:
        if log_args and not self._unlogged.isdisjoint(log_args):
            log_args = {name: _HIDDEN if name in self._unlogged else value for name, value in log_args.items()}
            msg = "Invoked with " + " ".join(f"{name}={value}" for name, value in log_args.items())
        super().log(msg, log_args=log_args)  # type: ignore[no-untyped-call]

    def exit_json(self, **result: t.Any) -> t.NoReturn:
        self._hide()
        super().exit_json(**result)

    def fail_json(self, *message: str, **result: t.Any) -> t.NoReturn:
        self._hide()
        super().fail_json(*message, **result)

    def _hide(self) -> None:
        self.no_log_values.update(self._secrets(getattr(self, "params", None) or {}))
