# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that was seen of one homeserver: what the rules decide from. Plain data."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.access import Access
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.answers import Answers
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.configuration import Configuration
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.database import Database
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.environment import Environment
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.folklore import Folklore
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.host import Host
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.identity import Identity
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.neighbours import Neighbours
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.public import Public
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.service import Service
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.settings import Settings
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.words import Words

__all__ = ["Request", "Seen"]


@dataclass(frozen=True)
class Request:
    """Where the installation is. ``None`` is looked up on the host. Times are in seconds.

    ``user`` is the account that the service runs as. ``public``: whether the server is asked by its public name;
    ``None`` for where the configuration names one (``public_baseurl``). ``scripts``: an operator's own scripts and job
    files to read for advice that never worked.
    """

    config_paths: tuple[str, ...] = ("/etc/synapse/homeserver.yaml",)
    python: str = "/var/lib/synapse/venv/bin/python"
    releases_path: str | None = None
    user: str | None = None
    unit: str | None = "matrix-synapse.service"
    pid_file: str | None = None
    worker_configs: tuple[str, ...] = ()
    worker_units: tuple[str, ...] = ()
    log_files: tuple[str, ...] = ()
    server_name: str | None = None
    public: bool | None = None
    public_url: str | None = None
    ca_bundle: str | None = None
    certificate_days: float = 14.0
    scripts: tuple[str, ...] = ()
    allow_unknown: tuple[str, ...] = ()
    timeout: float = 25.0


@dataclass(frozen=True)
class Seen:
    """What was seen. A part that could not be looked at is ``None``, and ``unseen`` says why, by the part's name."""

    request: Request
    settings: Settings | None = None
    environment: Environment | None = None
    identity: Identity | None = None
    access: Access | None = None
    configuration: Configuration | None = None
    database: Database | None = None
    service: Service | None = None
    words: Words | None = None
    answers: Answers | None = None
    public: Public | None = None
    neighbours: Neighbours | None = None
    host: Host | None = None
    folklore: Folklore | None = None
    unseen: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0
