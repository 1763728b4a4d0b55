# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a fleet as people meet it: in a browser, on a phone and on a screen, in light and in dark."""

from __future__ import annotations

import json
import sys
import time
import typing as t
from pathlib import Path

import pytest
from sample_fleet import HOSTILE, MOMENT, fleet

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_page import page

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Chromium, Tab, program

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PICTURES = Path(__file__).resolve().parents[2] / ".cache" / "browser"
PHONE, SCREEN = 390, 1280
BOTH = pytest.mark.parametrize("width", [PHONE, SCREEN], ids=["phone", "screen"])
SERVERS = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[0].innerText.split('\\n')[0])"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the sample."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(fleet(), MOMENT), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """A browser for all tests."""
    binary = program()
    assert binary is not None, "Chromium is not installed: tests/bin/browser.sh does that, as root on Debian"
    browser = Chromium(binary)
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Chromium, url: str) -> Iterator[Callable[..., Tab]]:
    """Opens the page. Whatever a test does there, the console stays empty and nothing is loaded."""
    tabs = []

    def opened(width: int = SCREEN, **more: t.Any) -> Tab:
        tab = Tab(browser, url + more.pop("anchor", ""), width=width, **more)
        tabs.append(tab)
        return tab

    yield opened
    for tab in tabs:
        assert tab.complaints() == []
        assert {one.partition("#")[0] for one in tab.requests()} <= {url, "data:,"}
        tab.close()


def colour(tab: Tab) -> str:
    """Return the colour of the ground."""
    return str(tab.ask("getComputedStyle(document.body).backgroundColor"))


def column(tab: Tab, name: str) -> int:
    """Return the place of a column, from 1."""
    heads = tab.ask("[...document.querySelectorAll('thead th')].map(head => head.innerText.trim())")
    return int(heads.index(name)) + 1


def fits(tab: Tab) -> bool:
    """Whether nothing sticks out of the page to the side."""
    ends = tab.ask(
        "[...document.querySelectorAll('body *:not(.aside, .aside *)')].map(one => one.getBoundingClientRect().right)"
    )
    return max(*ends, tab.ask("document.documentElement.scrollWidth")) <= tab.width


@BOTH
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_as_wide_as_its_window(visit: Callable[..., Tab], width: int, dark: bool) -> None:
    tab = visit(width, dark=dark)
    assert fits(tab)
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = f"{'phone' if width == PHONE else 'screen'}-{'dark' if dark else 'light'}"
    tab.screenshot(PICTURES / f"{name}.png")
    tab.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert fits(tab)
    tab.screenshot(PICTURES / f"{name}-unfolded.png")


@pytest.mark.parametrize("width", [320, 600, 800, 840, 1024])
def test_it_fits_windows_between(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    tab.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert fits(tab)


def test_hostile_text_stays_text(visit: Callable[..., Tab]) -> None:
    tab = visit()
    assert tab.ask("document.title") == "Synapse: 6 of 12 servers are healthy"
    assert tab.ask("document.images.length") == 0
    assert tab.ask("document.scripts.length") == 1
    assert f"evil{HOSTILE}" in tab.ask(SERVERS)


@BOTH
def test_a_click_sorts_and_another_turns_it_around(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    first = tab.ask(SERVERS)
    head = f"thead th:nth-child({column(tab, 'Server')})"
    assert tab.ask("document.querySelectorAll('[aria-sort]').length") == 0
    tab.click(f"{head} button")
    assert tab.ask(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    assert tab.ask(SERVERS) == sorted(first, key=str.lower)
    assert tab.ask("document.getElementById('said').textContent") == "Sorted by Server, ascending."
    tab.click(f"{head} button")
    assert tab.ask(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    assert tab.ask(SERVERS) == sorted(first, key=str.lower, reverse=True)
    assert tab.ask("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_keyboard_sorts_too(visit: Callable[..., Tab]) -> None:
    tab = visit()
    number = column(tab, "Certificate")
    tab.ask(f"document.querySelector('thead th:nth-child({number}) button').focus()")
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") != "none"
    tab.press("Enter", "\r")
    days = tab.ask(f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{number - 1}].dataset.key || '')")
    known = [int(one) for one in days if one]
    assert known == sorted(known)
    assert 0 < len(known) < len(days)
    # Who has none comes last, whichever way it is sorted.
    assert days[len(known) :] == [""] * (len(days) - len(known))
    tab.press("Enter", "\r")
    days = tab.ask(f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{number - 1}].dataset.key || '')")
    assert [int(one) for one in days if one] == known[::-1]
    assert days[len(known) :] == [""] * (len(days) - len(known))


def test_versions_are_sorted_as_versions_and_findings_the_gravest_first(visit: Callable[..., Tab]) -> None:
    tab = visit()
    tab.click(f"thead th:nth-child({column(tab, 'Version')}) button")
    assert tab.ask(SERVERS)[:2] == ["chat-4.example.com", "chat-2.example.com"]
    tab.click(f"thead th:nth-child({column(tab, 'Findings')}) button")
    assert tab.ask("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert tab.ask(SERVERS)[:3] == ["chat-1.example.com", "keyless.example.org", "chat-3.example.com"]


@BOTH
def test_a_finding_unfolds(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    seen = "document.querySelector('details.finding .body').checkVisibility()"
    assert tab.ask(seen) is False
    tab.click("details.finding summary")
    tab.wait_until(seen)
    tab.press("Enter", "\r")  # the summary has the focus now
    tab.wait_until(f"!{seen}")


def test_all_unfolds_and_folds(visit: Callable[..., Tab]) -> None:
    tab = visit()
    count = "[...document.querySelectorAll('#found details')].filter(one => one.open).length"
    tab.click("#unfold")
    assert tab.ask(count) == tab.ask("document.querySelectorAll('#found details').length") > 10
    tab.wait_until("document.getElementById('unfold').textContent === 'Fold all'")
    tab.click("#unfold")
    assert tab.ask(count) == 0
    tab.wait_until("document.getElementById('unfold').textContent === 'Unfold all'")


def test_a_name_in_the_table_leads_to_its_findings_and_opens_the_first(visit: Callable[..., Tab]) -> None:
    tab = visit()
    tab.click("tbody tr:first-child a")
    tab.wait_until("location.hash === '#host-0'")
    tab.wait_until("document.querySelector('#host-0 details').open")
    tab.wait_until("Math.abs(document.getElementById('host-0').getBoundingClientRect().top) < 100")
    visit(anchor="#host-2").wait_until("document.querySelector('#host-2 details').open")


@BOTH
def test_dark_is_what_the_system_says_until_somebody_chooses(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    light = colour(tab)
    assert tab.ask("document.getElementById('theme').getAttribute('aria-pressed')") == "false"
    tab.colours(dark=True)
    dark = colour(tab)
    assert dark != light
    tab.wait_until("document.getElementById('theme').getAttribute('aria-pressed') === 'true'")
    tab.click("#theme")
    assert colour(tab) == light
    tab.colours(dark=False)
    tab.click("#theme")
    assert colour(tab) == dark
    # What a page stores takes its way through another process: a reload within the same instant may come before it.
    for _attempt in range(20):
        time.sleep(0.1)
        tab.reload()
        if colour(tab) == dark:
            break
    assert colour(tab) == dark


@BOTH
def test_a_remedy_is_copied(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    tab.click("#unfold")
    tab.ask(
        "window.kept = []; navigator.clipboard.writeText = async (text) => { window.kept.push(text); }; "
        "document.querySelector('.copy').dataset.test = '1'"
    )
    tab.click("[data-test]")
    tab.wait_until("document.querySelector('[data-test]').textContent === 'Copied'")
    assert tab.ask("document.getElementById('said').textContent") == "Copied"
    assert tab.ask("window.kept") == [tab.ask("document.querySelector('.typed pre').textContent")]
    assert "matrix_fleet.synapse.repair --limit chat-1.example.com --tags reinstall" in tab.ask("window.kept[0]")


def test_a_remedy_is_copied_without_a_clipboard_too(visit: Callable[..., Tab]) -> None:
    tab = visit()
    tab.click("#unfold")
    tab.ask(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined}); window.kept = []; "
        "document.addEventListener('copy', () => window.kept.push(document.activeElement.value)); "
        "document.querySelector('.copy').dataset.test = '1'"
    )
    tab.click("[data-test]")
    tab.wait_until("document.querySelector('[data-test]').textContent === 'Copied'")
    assert len(tab.ask("window.kept")) == 1
    assert "--tags reinstall" in tab.ask("window.kept[0]")


def test_the_filter_hides_servers_in_the_table_and_beneath_it(visit: Callable[..., Tab]) -> None:
    tab = visit()
    shown = "[...document.querySelectorAll('tbody tr')].filter(row => row.checkVisibility()).length"
    sections = "[...document.querySelectorAll('section.host[data-host]')].filter(one => one.checkVisibility()).length"
    everything = tab.ask(f"[{shown}, {sections}]")
    tab.ask("document.getElementById('filter').focus()")
    tab.call("Input.insertText", text="redis")
    # Its row does not say so; what was found does.
    tab.wait_until(f"{shown} === 1 && {sections} === 1")
    tab.ask("document.getElementById('filter').select()")
    tab.press("Backspace")
    tab.wait_until(f"{shown} === {everything[0]} && {sections} === {everything[1]}")


def test_without_scripts_it_is_a_table_and_findings_that_unfold(visit: Callable[..., Tab]) -> None:
    tab = visit(scripts=False)
    # The protocol may still ask; the page itself has run nothing.
    assert tab.ask("document.querySelectorAll('thead button').length") == 0
    assert tab.ask("[...document.querySelectorAll('button, input')].filter(one => one.checkVisibility()).length") == 0
    assert tab.ask("document.querySelectorAll('tbody tr').length") == 12
    tab.click("details.finding summary")
    tab.wait_until("document.querySelector('details.finding .body').checkVisibility()")


def test_it_is_a_table_for_those_who_hear_it_on_a_phone_too(visit: Callable[..., Tab]) -> None:
    tab = visit(PHONE)
    tab.call("Accessibility.enable")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = [node.get("role", {}).get("value") for node in nodes if not node.get("ignored")]
    assert roles.count("table") == 1
    assert roles.count("row") == 13
    assert roles.count("columnheader") == 7
    assert roles.count("rowheader") == 12
    names = {
        node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "button" and node.get("name")
    }
    assert {"Dark", "Unfold all", "Server", "Certificate"} <= names
    unnamed = [node for node in nodes if node.get("role", {}).get("value") in {"button", "searchbox", "link"}]
    assert all(json.dumps(node.get("name", {}).get("value", "")) != '""' for node in unnamed if not node.get("ignored"))


@BOTH
def test_what_is_touched_is_large_enough(visit: Callable[..., Tab], width: int) -> None:
    tab = visit(width)
    small = tab.ask(
        "[...document.querySelectorAll('button, summary, input')].filter(one => one.checkVisibility())"
        ".map(one => [one.textContent, one.getBoundingClientRect().height]).filter(([text, height]) => height < 24)"
    )
    # WCAG 2.2, 2.5.8: 24 pixels. Heads of columns stand alone in their row, which makes up for it.
    heads = tab.ask("[...document.querySelectorAll('thead button')].map(one => one.textContent)")
    assert [text for text, _height in small if width == PHONE or text not in heads] == []
