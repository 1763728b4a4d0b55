# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role derives before it gives a server a fresh environment, rendered by Ansible."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.matrix_fleet.synapse.tests.integration.test_role_decisions import derived


def finding(name: str, repair: str, severity: str = "critical", *, safe: bool = True) -> dict[str, t.Any]:
    return {
        "id": name,
        "severity": severity,
        "repair": repair,
        "safe": safe,
        "summary": f"About {name}.",
        "evidence": "",
    }


def seen(
    *findings: dict[str, t.Any], consequences: tuple[dict[str, t.Any], ...] = (), **more: t.Any
) -> dict[str, t.Any]:
    releases = {"exists": True, "uid": 0, "woth": False, **more}
    return {
        "_synapse_diagnosis": {"findings": list(findings), "consequences": list(consequences), "version": "1.163.2"},
        "_synapse_releases_seen": {"stat": releases},
        "_synapse_switched": {"pending": True},
        "_synapse_host": {"run": "0123456789abcdef"},
    }


DANGLING = finding("environment.link_dangling", "reinstall")
MISSING = finding("environment.missing", "reinstall")
BROKEN = finding("environment.interpreter_missing", "reinstall")
KEY = finding("identity.key_missing", "", safe=False)
CASES = {
    "gone": seen(DANGLING),
    "moved": seen(MISSING),
    "broken": seen(BROKEN),
    "both": seen(MISSING, finding("environment.untrusted", "reinstall", "warning")),
    "chowned": seen(BROKEN, uid=998),
    "open": seen(BROKEN, woth=True),
    "consequence": seen(BROKEN, consequences=(finding("environment.untrusted", "reinstall", "warning"),)),
    "keyless": seen(BROKEN, KEY),
    "empty": seen(BROKEN, finding("database.file_missing", "", safe=False)),
    "misconfigured": seen(BROKEN, finding("configuration.refused", "config")),
    "none": seen(MISSING, exists=False),
}


def test_what_a_fresh_environment_is_made_of_and_whether_the_server_is_started(tmp_path: Path) -> None:
    names = ("_synapse_link_lost", "_synapse_releases_untrusted", "_synapse_start_now", "_synapse_more_follows")
    found = derived(tmp_path, CASES, *names)
    assert {case for case, one in found.items() if one["_synapse_link_lost"]} == {"gone", "moved", "none"}
    untrusted = {case for case, one in found.items() if one["_synapse_releases_untrusted"]}
    assert untrusted == {"both", "chowned", "open", "consequence"}
    # Without its key or its data a server would begin with new ones.
    assert {case for case, one in found.items() if not one["_synapse_start_now"]} == {"keyless", "empty"}
    assert {case for case, one in found.items() if one["_synapse_more_follows"]} == {"misconfigured"}


def test_a_release_that_is_asked_for_by_its_tag_is_always_a_new_one(tmp_path: Path) -> None:
    found = derived(tmp_path, {"gone": CASES["gone"]}, "_synapse_link_lost", tags="reinstall")
    assert found == {"gone": {"_synapse_link_lost": False}}
