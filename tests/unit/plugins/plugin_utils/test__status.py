# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
import typing as t

import pytest
from sample_fleet import answer, finding, fleet

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._status import finding_lines, status_lines

FRAME = 12
WIDTHS = (80, 100, 120, 200)


def table(lines: list[str]) -> list[str]:
    """Return the lines up to the first empty one."""
    return lines[: lines.index("")]


def block(lines: list[str], begin: str) -> list[str]:
    """Return the lines from the one that begins so to the next empty one."""
    start = next(place for place, line in enumerate(lines) if line.startswith(begin))
    return lines[start : lines.index("", start) if "" in lines[start:] else None]


def test_every_host_has_one_line_and_cells_line_up() -> None:
    answers = {
        "one": answer("example.org"),
        "second": answer("example.net", finding("a.b", "error", "Wrong.")),
        "three": {"unreachable": True, "msg": "no route"},
        "four": {"failed": True, "msg": "no Python"},
    }
    assert table(status_lines(answers)) == [
        "host    version  state        C E W I  server name  release       database         key     days",
        "one     1.163.2  healthy      . . . .  example.org  0fe18e3fa5d7  PostgreSQL 17.6  a_Exam  61",
        "second  1.163.2  NOT HEALTHY  . 1 . .  example.net  0fe18e3fa5d7  PostgreSQL 17.6  a_Exam  61",
        "three   -        UNREACHABLE  -        -            -             -                -       -",
        "four    -        UNKNOWN      -        -            -             -                -       -",
    ]


def test_figures_of_two_digits_line_up_too() -> None:
    many = [finding("a.b", "warning", f"Thing {number}.") for number in range(12)]
    head, one, other = table(status_lines({"one": answer("a", *many), "two": answer("b")}))
    assert head.index(" W") + 2 == one.index("12") + 2
    assert len(one.partition("healthy")[2].split("a ")[0]) == len(other.partition("healthy")[2].split("b ")[0])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_fits_the_terminal(width: int) -> None:
    lines = table(status_lines(fleet(), width))
    assert max(map(len, lines)) <= width - FRAME
    assert len(lines) == 13
    assert all(re.match(r"\S+ +(\d\S+|-) +(healthy|NOT HEALTHY|UNREACHABLE|UNKNOWN)", line) for line in lines[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_longer_than_the_terminal_but_for_a_long_word(width: int) -> None:
    for line in status_lines(fleet(), width):
        assert len(line) <= width - FRAME or max(map(len, line.split())) > width - FRAME - 20, line


def test_hosts_with_other_packages_than_the_rest_are_named() -> None:
    answers = {
        host: answer("example.org", release=release)
        for host, release in (("a", "1.163.2-0a"), ("b", "1.163.2-0b"), ("c", "1.163.2-0a"))
    }
    told = "Not all hosts have the same packages. 1.163.2-0a: a, c; 1.163.2-0b: b"
    assert told in status_lines(answers)
    del answers["b"]
    assert not any("same packages" in line for line in status_lines(answers))


def test_many_hosts_with_other_packages_are_counted() -> None:
    answers = {f"h{number}": answer("example.org", release=f"1.163.2-0{number == 3}") for number in range(40)}
    assert "1.163.2-0False: h0, h1, h2 and 36 more; 1.163.2-0True: h3" in " ".join(status_lines(answers))


def test_a_finding_is_told_with_what_to_do() -> None:
    lines = block(status_lines(fleet()), "chat-1.example.com: ")
    assert lines[0] == "chat-1.example.com: NOT HEALTHY, 1 critical, 1 warning, 1 info"
    assert lines[1].startswith(
        "  CRITICAL  The interpreter of the environment is gone. (environment.interpreter_missing)"
    )
    text = "\n".join(lines)
    for words in (
        "    seen    /var/lib",
        "    cause   The",
        "    remedy  ansible-playbook",
        "    hence   service.failed",
    ):
        assert words in text
    assert "    repair  --tags reinstall mends it\n" in text
    assert "Good to know" not in text


def test_what_asks_for_a_decision_says_so() -> None:
    assert "--tags key mends it, once a person has agreed" in "\n".join(status_lines(fleet()))


def test_cause_and_remedy_are_told_of_the_first_host_alone() -> None:
    same = finding("host.full", "warning", "Full.", cause="Too much.", remedy="rm it")
    lines = status_lines({"one": answer("a", same), "two": answer("b", same), "three": answer("c", same)})
    assert sum("rm it" in line for line in lines) == 1
    assert lines.count("    remedy  as on one") == 2


def test_what_is_good_to_know_comes_last_and_each_thing_once() -> None:
    note = finding("environment.unlocked", "info", "No lock file.")
    lines = status_lines({f"host{number}": answer("a", note) for number in range(30)})
    assert lines[-2:] == ["Good to know:", "  No lock file. (environment.unlocked) host0, host1, host2 and 27 more"]
    assert len(lines) == 1 + 30 + 1 + 2 + 1 + 2


def test_a_long_healthy_fleet_is_one_line_a_host() -> None:
    lines = status_lines({f"host{number}": answer("a") for number in range(500)})
    assert len(lines) == 1 + 500 + 1 + 2


def test_a_server_without_a_reason_shows_what_was_asked_in_vain() -> None:
    silent = answer("example.org", healthy=False)
    lines = block(status_lines({"one": silent}), "one: NOT HEALTHY")
    assert lines[1:] == [
        "  in vain   process matrix-synapse.service: failed (failed)",
        "  in vain   client http://127.0.0.1:8008: connection refused",
    ]


def test_lines_of_texts_stay_lines_and_nothing_moves_the_cursor() -> None:
    text = "first\n\x1b[2Jsecond\r\u202ethird\ud800"
    lines = finding_lines({"one": answer("a", finding("a.b", "error", "Wrong.", evidence=text))})
    assert "    seen    first" in lines
    assert "            \\x1b[2Jsecond\\x0d\\u202ethird\\ud800" in lines


def test_findings_alone_are_told_of_healthy_hosts_too() -> None:
    assert finding_lines({"one": answer("a")}) == ["one: healthy, nothing was found"]


def test_no_host_at_all_is_no_error() -> None:
    assert status_lines({})[2] == "0 hosts: none was asked."


def test_a_width_may_come_from_a_command_line() -> None:
    width: t.Any = "100"
    assert status_lines(fleet(), width) == status_lines(fleet(), 100)
