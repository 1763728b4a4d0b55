# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report on a fleet as one page for people. Runs on the controller; no I/O, no Ansible."""

from __future__ import annotations

import html
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report import report_text

if t.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["page"]


def page(answers: Mapping[str, Mapping[str, t.Any]], moment: str) -> str:
    """Return the page."""
    return f"<!doctype html><title>Synapse</title><pre>{html.escape(report_text(answers, moment))}</pre>\n"
