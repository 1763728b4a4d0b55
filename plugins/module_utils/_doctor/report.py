# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of one homeserver: the result of the module, of the monitor and of the report, as one mapping. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import wanted

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import Diagnosis
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Seen

__all__ = ["report_of", "sentence"]


def _healthy(seen: Seen, diagnosis: Diagnosis) -> bool:
    """Whether the server was seen to serve, and nothing grave is known of it."""
    serves = seen.answers is not None and seen.answers.healthy
    return serves and not diagnosis.count("critical") and not diagnosis.count("error")


def sentence(diagnosis: Diagnosis, healthy: bool) -> str:
    """Return the diagnosis in one sentence."""
    if not diagnosis.findings:
        return "Healthy: nothing is wrong." if healthy else "It does not serve, and no reason was found."
    counts = ", ".join(f"{number} {severity}" for severity, number in diagnosis.counts.items() if number)
    return f"{'Healthy' if healthy else 'Not healthy'} ({counts}): {diagnosis.findings[0].summary}"


def report_of(seen: Seen, diagnosis: Diagnosis) -> dict[str, t.Any]:
    """Return everything that is told. Every key is always there; what is not known is ``None``."""
    settings, environment, identity, database = seen.settings, seen.environment, seen.identity, seen.database
    healthy = _healthy(seen, diagnosis)
    return {
        "healthy": healthy,
        "summary": sentence(diagnosis, healthy),
        "counts": diagnosis.counts,
        "findings": [finding.as_dict() for finding in diagnosis.findings],
        "consequences": [finding.as_dict() for finding in diagnosis.consequences],
        "server_name": settings.server_name if settings is not None else None,
        "version": environment.version if environment is not None else None,
        "release": environment.release if environment is not None else None,
        "key_ids": list(identity.key_ids) if identity is not None else [],
        "signing_key_path": identity.path if identity is not None else None,
        "permissions": [asdict(fix) for fix in wanted(seen.access)],
        "database": database.shown() if database is not None else None,
        "certificate_days": seen.public.certificate_days if seen.public is not None else None,
        "checks": list(seen.answers.checks) if seen.answers is not None else [],
        "unseen": dict(seen.unseen),
    }
