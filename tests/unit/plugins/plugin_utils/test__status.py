# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._status import status_lines


def test_lines_name_what_failed_and_line_up() -> None:
    lines = status_lines(
        {
            "one": {"healthy": True, "version": "1.163.2", "release": "1.163.2-0a"},
            "second": {"healthy": False, "checks": [{"name": "process", "ok": False, "detail": "not running"}]},
            "three": {"unreachable": True, "msg": "no route"},
        }
    )
    assert lines == [
        "one     1.163.2  healthy      1.163.2-0a",
        "second  -        NOT HEALTHY  process: not running",
        "three   -        UNREACHABLE  no route",
    ]


def test_hosts_with_other_packages_than_the_rest_are_named() -> None:
    answers = {
        host: {"healthy": True, "version": "1.163.2", "release": release}
        for host, release in (("a", "1.163.2-0a"), ("b", "1.163.2-0b"), ("c", "1.163.2-0a"))
    }
    assert status_lines(answers)[3:] == ["Not all hosts have the same packages. 1.163.2-0a: a, c; 1.163.2-0b: b"]
    del answers["b"]
    assert len(status_lines(answers)) == 2
