# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page as text; tests/browser looks at it with a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from sample_fleet import HOSTILE, MOMENT, answer, finding, fleet

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_page import page
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_script import SCRIPT
from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils._report_style import DARK, LIGHT, STYLE, WORDS

VOID = {"meta", "link", "input", "br", "path", "rect"}


class Reader(HTMLParser):
    """Reads a page strictly: every element that is opened has to be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def read() -> Reader:
    """The page of the sample."""
    return Reader(page(fleet(), MOMENT))


def test_hostile_text_is_shown_and_makes_no_element(read: Reader) -> None:
    assert len(read.of("script")) == len(read.of("style")) == 1
    assert read.of("img") == []
    assert not [name for _tag, attributes in read.elements for name in attributes if name.startswith("on")]
    words = "".join(read.words)
    for text in (
        f"evil{HOSTILE}",
        "<img src=x onerror=alert(1)> {{ 7 * 7 }}",
        "</details></td><style>",
        "\\x1b[31mred",
    ):
        assert text in words


@pytest.mark.parametrize(
    "name",
    ["host", "server_name", "version", "release", "key", "summary", "evidence", "cause", "remedy", "id", "message"],
)
def test_no_value_reaches_the_page_as_markup(name: str) -> None:
    bad = "\"'><b onclick=x>&amp;"
    told = {name: bad} if name in {"evidence", "cause", "remedy"} else {}
    found = finding(bad if name == "id" else "a.b", "error", bad if name == "summary" else "Wrong.", **told)
    one = answer(bad if name == "server_name" else "example.org", found)
    if name in {"version", "release"}:
        one[name] = bad
    if name == "key":
        one["key_ids"] = [bad]
    hosts = {bad if name == "host" else "one": {"msg": bad} if name == "message" else one}
    read = Reader(page(hosts, MOMENT))
    assert read.of("b") == []
    assert bad in "".join(read.words)


def test_a_moment_that_is_none_is_shown_as_it_is() -> None:
    read = Reader(page({}, "<i>now</i>"))
    assert read.of("i") == []
    assert "<i>now</i>" in "".join(read.words)


def test_the_policy_allows_this_style_and_this_script_alone(read: Reader) -> None:
    policy = next(one["content"] for one in read.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = {
        name: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for name, text in (("script-src", SCRIPT), ("style-src", STYLE))
    }
    assert rules == {
        "default-src": "'none'",
        **digests,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_loaded_from_anywhere(read: Reader) -> None:
    for tag, attributes in read.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
        assert "style" not in attributes
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_every_link_leads_somewhere_on_the_page(read: Reader) -> None:
    ids = [attributes["id"] for _tag, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(one["href"])[1:] for one in read.of("a")} <= set(ids)


def test_without_scripts_nothing_waits_for_one(read: Reader) -> None:
    hidden = [one for tag, one in read.elements if tag in {"button", "div"} and "data-script" in one]
    assert hidden
    assert all("hidden" in one for one in hidden)
    loose = [one for one in read.of("button") if "hidden" not in one and one.get("id") != "unfold"]
    assert loose == []


def test_severity_is_said_in_words_and_drawn_in_a_form_of_its_own(read: Reader) -> None:
    drawn = {}
    for word, severity in (("Critical", "critical"), ("Error", "error"), ("Warning", "warning"), ("Info", "info")):
        assert word in read.words
        match = re.search(rf'class="severity {severity}"><svg[^>]*><path [^>]*d="([^"]+)"', page(fleet(), MOMENT))
        assert match is not None
        drawn[match[1]] = severity
    assert len(drawn) == 4


def test_bars_have_one_unit_for_each_finding(read: Reader) -> None:
    units = [str(one["class"]) for one in read.of("rect") if one["class"] != "base"]
    assert {name: units.count(name) for name in units} == {"critical": 2, "error": 3, "warning": 5, "info": 3}
    heights = {one["class"]: int(str(one["height"])) for one in read.of("rect")}
    assert heights["critical"] > heights["error"] > heights["warning"] > heights["info"]


def test_who_needs_attention_comes_first() -> None:
    rows = re.findall(
        r'<tr role="row" data-host.*?<span class="state \w+">.*?</svg>([\w ]+)</span>', page(fleet(), MOMENT)
    )
    assert rows == ["Not healthy"] * 4 + ["Out of reach"] + ["Unknown"] + ["Healthy"] * 6


def test_a_healthy_server_takes_one_row_and_no_section() -> None:
    text = page({f"host{number}": answer("a") for number in range(200)}, MOMENT)
    assert "All 200 servers are healthy" in text
    assert '<section class="host"' not in text
    assert len(text) < 300_000


def test_the_command_that_repairs_names_one_host_whatever_it_is_called() -> None:
    found = finding("a.b", "error", "Wrong.", repair="key")
    read = Reader(page({"$(reboot); x": answer("a", found)}, MOMENT))
    assert "--limit '$(reboot); x' --tags key" in "".join(read.words)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2)."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("ground", ["ground", "box"])
def test_words_can_be_read(colours: dict[str, str], word: str, ground: str) -> None:
    assert contrast(colours[word], colours[ground]) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_what_can_be_touched_can_be_seen(colours: dict[str, str]) -> None:
    assert contrast(colours["strong"], colours["ground"]) >= 3


def test_every_colour_is_one_of_the_two_sets() -> None:
    rules = STYLE.partition("box-sizing")[2]
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", rules) == []
    assert {*re.findall(r"var\(--(\w+)\)", rules)} <= set(LIGHT)
    assert set(LIGHT) == set(DARK)
