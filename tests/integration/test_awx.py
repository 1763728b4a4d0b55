# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates for AWX: the data are right, and the playbook that loads them speaks to an AWX as ``awx.awx`` does.

The AWX here is a stand-in of a few endpoints that keeps what it is sent, and refuses surveys as AWX does
(``awx/api/views/__init__.py``, ``JobTemplateSurveySpec``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from ansible_collections.matrix_fleet.synapse.plugins.plugin_utils import _settings

if t.TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
AWX = ROOT / "docs" / "awx"
TEMPLATES: list[dict[str, t.Any]] = yaml.safe_load((AWX / "job_templates.yml").read_text(encoding="utf-8"))[
    "synapse_job_templates"
]
QUESTIONS = [(one["playbook"], question) for one in TEMPLATES for question in one["survey_spec"]["spec"]]
DEFAULTS = yaml.safe_load((ROOT / "roles" / "synapse" / "defaults" / "main.yml").read_text(encoding="utf-8"))
KINDS = {"text", "textarea", "password", "multiplechoice", "multiselect", "integer", "float"}


def complaints(survey: t.Any) -> list[str]:
    """Return why AWX would refuse a survey."""
    if not isinstance(survey.get("name"), str) or not isinstance(survey.get("description"), str):
        return ["name and description have to be texts"]
    if not isinstance(survey.get("spec"), list) or not survey["spec"]:
        return ["spec has to be a list with questions"]
    found = []
    variables = [question.get("variable") for question in survey["spec"]]
    if len(set(variables)) != len(variables):
        found.append("a variable is asked for twice")
    for question in survey["spec"]:
        lacking = [name for name in ("question_name", "variable", "type", "required") if name not in question]
        if lacking or question["type"] not in KINDS or not isinstance(question["required"], bool):
            found.append(f"{question}: lacks {lacking}, or has a wrong type")
        elif question["type"] == "integer" and not isinstance(question["default"], int):
            found.append(f"{question['variable']}: the default is no integer")
        elif question["type"] == "text" and not isinstance(question["default"], str):
            found.append(f"{question['variable']}: the default is no text")
        else:
            size = question["default"] if question["type"] == "integer" else len(question["default"])
            if not question["min"] <= size <= question["max"]:
                found.append(f"{question['variable']}: the default is out of range")
    return found


class StandIn(ThreadingHTTPServer):
    """Keeps job templates and surveys, and knows the things that they refer to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.known = {
            "organizations": ["Default"],
            "projects": ["Synapse"],
            "inventories": ["Synapse"],
            "execution_environments": ["Synapse"],
            "credentials": ["Synapse hosts"],
        }
        self.templates: list[dict[str, t.Any]] = []
        self.surveys: dict[int, dict[str, t.Any]] = {}
        self.credentials: dict[int, list[int]] = {}

    def found(self, kind: str, name: str | None) -> list[dict[str, t.Any]]:
        """Return the things of a kind with a name."""
        if kind == "job_templates":
            return [one for one in self.templates if one["name"] == name]
        return [
            {"id": number, "name": one, "type": kind, "url": f"/api/v2/{kind}/{number}/"}
            for number, one in enumerate(self.known[kind], start=1)
            if one == name
        ]

    def create(self, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        """Keep a new job template."""
        number = len(self.templates) + 1
        url = f"/api/v2/job_templates/{number}/"
        related = {"survey_spec": f"{url}survey_spec/", "credentials": f"{url}credentials/"}
        self.templates.append({**fields, "id": number, "type": "job_template", "url": url, "related": related})
        return self.templates[-1]


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, format: str, *args: t.Any) -> None:  # noqa: A002 - the name that is overridden
        """Keep quiet."""

    def answer(self, body: t.Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def listing(self, results: list[t.Any]) -> None:
        self.answer({"count": len(results), "next": None, "previous": None, "results": results})

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        kind, *rest = address.path.removeprefix("/api/v2/").strip("/").split("/")
        query = parse_qs(address.query)
        if self.headers["Authorization"] != "Bearer a-token":
            self.answer({"detail": "who are you"}, 401)
        elif rest[1:] == ["survey_spec"]:
            self.answer(self.server.surveys.get(int(rest[0]), {}))
        elif rest[1:] == ["credentials"]:
            self.listing([{"id": number} for number in self.server.credentials.get(int(rest[0]), [])])
        elif kind == "job_templates" and rest:
            self.answer(self.server.templates[int(rest[0]) - 1])
        else:
            self.listing(self.server.found(kind, query.get("name", query.get("or__name", [None]))[0]))

    def do_POST(self) -> None:
        kind, *rest = urlsplit(self.path).path.removeprefix("/api/v2/").strip("/").split("/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if rest[1:] == ["survey_spec"]:
            why = complaints(body)
            self.server.surveys[int(rest[0])] = body
            self.answer({"error": "; ".join(why)} if why else {}, 400 if why else 200)
        elif rest[1:] == ["credentials"]:
            self.server.credentials.setdefault(int(rest[0]), []).append(body["id"])
            self.send_response(204)
            self.end_headers()
        elif kind == "job_templates":
            self.answer(self.server.create(body), 201)
        else:
            self.answer({}, 405)


@pytest.fixture
def awx() -> Iterator[StandIn]:
    """An AWX with a project, an inventory, an execution environment and a credential, and no job template."""
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def load(awx: StandIn, home: Path) -> str:
    """Load the job templates as the guide says; return what was printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "CONTROLLER_"))}
    ended = subprocess.run(
        [
            *(
                str(Path(sys.executable).parent / "ansible-playbook"),
                "docs/awx/load.yml",
                "-e",
                "awx_organization=Default",
            ),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
        ],
        cwd=ROOT,
        env={
            **kept,
            "HOME": str(home),
            "CONTROLLER_HOST": f"http://127.0.0.1:{awx.server_port}",
            "CONTROLLER_OAUTH_TOKEN": "a-token",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]
    return ended.stdout


def test_the_job_templates_load_and_load_again_without_a_change(awx: StandIn, tmp_path: Path) -> None:
    assert "changed=1 " in load(awx, tmp_path)
    assert [one["name"] for one in awx.templates] == [one["name"] for one in TEMPLATES]
    for kept, template in zip(awx.templates, TEMPLATES, strict=True):
        assert kept["playbook"] == template["playbook"]
        assert kept["survey_enabled"] is True
        assert (kept["organization"], kept["project"], kept["inventory"], kept["execution_environment"]) == (1, 1, 1, 1)
        assert awx.surveys[kept["id"]] == template["survey_spec"]
        assert awx.credentials[kept["id"]] == [1]
        assert json.loads(kept.get("extra_vars") or "{}") == template.get("extra_vars", {})
        for name, value in template.items():
            assert name in {"name", "description", "playbook", "survey_spec", "extra_vars"} or kept[name] == value
    assert "changed=0 " in load(awx, tmp_path)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda one: str(one["name"]))
def test_a_job_template_starts_a_playbook_that_the_project_has(template: dict[str, t.Any]) -> None:
    imported = yaml.safe_load((AWX / "project" / template["playbook"]).read_text(encoding="utf-8"))
    names = [one["ansible.builtin.import_playbook"].removeprefix("matrix_fleet.synapse.") for one in imported]
    assert names == [Path(template["playbook"]).stem]
    assert (ROOT / "playbooks" / template["playbook"]).exists()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda one: str(one["name"]))
def test_awx_accepts_the_survey(template: dict[str, t.Any]) -> None:
    assert complaints(template["survey_spec"]) == []


@pytest.mark.parametrize(("playbook", "question"), QUESTIONS)
def test_a_survey_asks_for_variables_that_exist_with_their_defaults(playbook: str, question: dict[str, t.Any]) -> None:
    variable = question["variable"]
    if variable == "synapse_hosts":
        text = (ROOT / "playbooks" / playbook).read_text(encoding="utf-8")
        assert re.search(rf"synapse_hosts \| default\('{question['default']}'", text)
    else:
        assert DEFAULTS[variable] == question["default"]
    if question["type"] == "integer":
        assert (question["min"], question["max"]) == _settings._COUNTS[variable]


def test_no_survey_asks_for_what_differs_from_host_to_host() -> None:
    """Its answer would hold for every host of the job."""
    assert {question["variable"] for _playbook, question in QUESTIONS} <= {
        "synapse_hosts",
        "synapse_health_timeout",
        "synapse_status_fail_on",
        "synapse_upgrade_timeout",
        "synapse_version",
    }


def test_the_guide_lists_the_templates() -> None:
    text = (ROOT / "docs" / "awx.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Synapse: [^|]+?) \| `([^`]+)` \|", text, re.MULTILINE)
    assert rows == [(one["name"], one["playbook"]) for one in TEMPLATES]
