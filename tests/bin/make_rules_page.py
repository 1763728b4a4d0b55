# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make ``docs/rules.md``: every rule of the doctor, as the code has it.

make_rules_page.py            write it
make_rules_page.py --check    say whether it is current, and fail where it is not
"""

from __future__ import annotations

import argparse
import re
import sys
import typing as t
from pathlib import Path

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.diagnosis import RULEBOOKS
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES

if t.TYPE_CHECKING:
    from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import Rule, Rulebook

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "rules.md"

# What each part is about, in the order in which causes are looked for.
PARTS = {
    "host": "The host",
    "environment": "The Python environment",
    "identity": "The signing key",
    "access": "Owners and modes",
    "configuration": "The configuration",
    "database": "The database",
    "neighbours": "Neighbouring services",
    "service": "Unit, process and limits",
    "answers": "What the server answers",
    "public": "The public name",
    "words": "What the logs say",
    "folklore": "Advice that never worked",
    "doctor": "The doctor itself",
}

HEAD = """\
# The rules of the doctor

Made by `make rules` from the code; do not edit. The module `synapse_doctor` decides by these rules what is wrong with
an installation. How its findings are read is told in [The state of a fleet](status.md).

The severity is the usual one; a finding may be graver or less grave than its rule where the case is. *Mended by* names
the tag of the playbook `repair`; *without asking* means that it may do so by itself. *Explains* names the findings that
are not told beside this one, because they only follow from it.

"""


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, one paragraph."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*\[<])", r"\\\1", text)


def anchor(heading: str) -> str:
    """Return the name by which a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(rule: Rule) -> str:
    """Return what is said of one rule."""
    mended = (
        f"`{rule.repair}`{', without asking' if rule.safe else ', once a person has decided it'}" if rule.repair else ""
    )
    explains = [f"`{pattern}`" for pattern in rule.explains]
    if rule.stops:
        explains.append("whatever only shows that the server does not serve")
    facts = [
        ("Severity", rule.severity + (", told where no cause is known" if rule.symptom else "")),
        ("Cause", plain(rule.cause)),
        ("Remedy", plain(rule.remedy)),
        ("Mended by", mended or "a person"),
        ("Explains", ", ".join(explains)),
    ]
    lines = [f"### {rule.id}", "", plain(rule.title), ""]
    lines += [f"- *{name}*: {value}" for name, value in facts if value]
    return "\n".join(lines) + "\n"


def chapter(book: Rulebook) -> str:
    """Return what is said of one part of an installation."""
    return "\n".join([f"## {PARTS[book.part]}\n", *map(section, book.rules)])


def page(books: t.Sequence[Rulebook]) -> str:
    """Return the page."""
    told = [book for book in books if book.rules]
    rules = [rule for book in told for rule in book.rules]
    counts = ", ".join(
        f"{number} {name}" for name in SEVERITIES if (number := sum(one.severity == name for one in rules))
    )
    contents = [f"- [{PARTS[book.part]}](#{anchor(PARTS[book.part])}): {len(book.rules)}" for book in told]
    total = f"{len(rules)} rules: {counts}.\n\n"
    return HEAD + total + "\n".join(contents) + "\n\n" + "\n".join(map(chapter, told))


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not current")
    options = parser.parse_args(arguments)
    text = page(RULEBOOKS)
    if options.check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write("docs/rules.md is not what the code says: make rules\n")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
