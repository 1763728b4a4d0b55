# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Advice that never worked, and lines that only look like it."""

from __future__ import annotations

import os
import pathlib
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor import diagnosis, folklore_look
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.context import Context
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.folklore import (
    RULES,
    Folklore,
    Line,
    bogus_module,
    read,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request, Seen

LINES: list[tuple[str, list[str]]] = [
    ('python -c "from synapse.crypto.signing_key import generate_signing_key"', ["bogus_module"]),
    ("python -m synapse.crypto.signing_key -o /etc/synapse/k", ["bogus_module"]),
    ("from synapse.crypto import signing_key", ["bogus_module"]),
    ("# from synapse.crypto.signing_key import x", []),
    ("from synapse.crypto.event_signing import compute_event_signature", []),
    ("KeyConfig().generate_files({}, {})", ["key_config"]),
    ("python -m synapse.config.homeserver -c x --generate-keys", ["config_module"]),
    ("python -m synapse.config -c x", []),
    ("venv/bin/generate_signing_key -o /etc/synapse/homeserver.signing.key", ["overwrites_key"]),
    ("venv/bin/generate_signing_key", []),
    ("chown -R synapse:synapse /etc/synapse", ["chown_config"]),
    ("chown synapse: -R /etc/matrix-synapse/ && true", ["chown_config"]),
    ("chown -vR synapse /var/lib/synapse", ["chown_config"]),
    ("chown -R root:synapse /etc/synapse", []),
    ("chown synapse /etc/synapse", []),
    ("chown -R synapse /var/lib/synapse/media_store", []),
    ("pip install --upgrade matrix-synapse", ["unpinned"]),
    ("pip3 install -U 'matrix-synapse[all]'", ["unpinned"]),
    ("pip install matrix-synapse==1.163.2", []),
    ("pip install matrix-synapse-ldap3", []),
    ("python -m synapse.app.homeserver -c x --generate-keys", ["generates_keys"]),
    ("ExecStartPre=/opt/venv/bin/synapse_homeserver -c x --generate-keys", ["generates_keys"]),
    ("python -m synapse.app.homeserver -c x", []),
    ("rm -rf /opt/synapse/venv", ["removes_environment"]),
    ('rm -r -f "$VENV"', ["removes_environment"]),
    ("rm -rf /tmp/venv", []),
    ("pip install 'setuptools<81'", ["setuptools_pin"]),
    ("pip install setuptools", []),
]


@pytest.mark.parametrize(("line", "kinds"), LINES)
def test_a_line_is_recognised(line: str, kinds: list[str]) -> None:
    assert [(kind, number) for kind, number, _text, _path in read(f"#!/bin/sh\n{line}\n")] == [
        (kind, 2) for kind in kinds
    ]


def test_each_rule_has_a_line_and_finds_it_and_nothing_else() -> None:
    known = {kind: line for line, kinds in LINES for kind in kinds}
    assert {rule.id for rule in RULES.rules} == {f"folklore.{kind}" for kind in known}
    for kind, line in known.items():
        seen = Seen(Request(), folklore=Folklore((Line(kind, "/root/a.sh", 7, line, exists=True),)))
        (found,) = diagnosis.diagnose(seen, RULES.rules).findings
        assert found.id == f"folklore.{kind}"
        assert found.evidence == f"/root/a.sh, line 7: {line}"
        assert (found.severity, found.repair, found.safe) == ("info", "", False)


def test_a_new_key_file_is_all_right() -> None:
    line = Line("overwrites_key", "/root/a.sh", 1, "generate_signing_key -o /new", exists=False)
    assert diagnosis.diagnose(Seen(Request(), folklore=Folklore((line,))), RULES.rules).findings == ()
    assert diagnosis.diagnose(Seen(Request()), RULES.rules).findings == ()


def test_many_places_are_one_finding() -> None:
    lines = tuple(Line("unpinned", "/a", number, "pip install matrix-synapse") for number in range(1, 6))
    (found,) = diagnosis.diagnose(Seen(Request(), folklore=Folklore(lines)), RULES.rules).findings
    assert found.evidence.endswith("line 3: pip install matrix-synapse and 2 more")


def test_advice_on_the_module_that_never_was() -> None:
    assert "does not exist" in str(bogus_module("synapse.crypto.signing_key"))
    assert "not a fault" in str(bogus_module("synapse.crypto.signing_key"))
    assert bogus_module("synapse.crypto.signing_key.x") is not None
    assert bogus_module("synapse.crypto.keyring") is None
    assert bogus_module("signedjson") is None


def test_scripts_are_read_whatever_they_are(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folklore_look, "_PLACES", (f"{tmp_path}/*",))
    key = tmp_path / "key"
    key.write_text("ed25519 a b")
    script = tmp_path / "renew.sh"
    script.write_text(f"export PGPASSWORD=hunter2; generate_signing_key -o {key}\n")
    (tmp_path / "binary").write_bytes(b"\0pip install matrix-synapse")
    (tmp_path / "large").write_text("pip install matrix-synapse\n" * 10000)
    (tmp_path / "latin").write_bytes(b"pip install matrix-synapse # \xe9\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    def run(*_words: t.Any, **_options: t.Any) -> t.Any:
        pytest.fail("a script is only read")

    request = Request(config_paths=(f"{tmp_path}/etc/homeserver.yaml",), scripts=("/nowhere", str(script)))
    seen = folklore_look.look(Context(request, run, deadline=float("inf")))
    assert [(line.kind, line.path, line.exists) for line in seen.lines] == [
        ("overwrites_key", str(script), True),
        ("unpinned", f"{tmp_path}/latin", False),
    ]
    assert "hunter2" not in repr(seen)
