# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module synapse_health against a real Synapse."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import time
import typing as t

import pytest
import yaml


def wanted(server: t.Any, **options: t.Any) -> dict[str, t.Any]:
    return {
        "urls": [server.url],
        "server_name": server.server_name,
        "signing_key_path": str(server.key_path),
        "python": str(server.python),
        "pid_file": str(server.pid_path),
        "log_file": str(server.log_path),
        **options,
    }


def failing(result: dict[str, t.Any]) -> dict[str, str]:
    return {check["name"]: check["detail"] for check in result["checks"] if not check["ok"]}


def test_a_healthy_server_is_healthy(shared_homeserver: t.Any, run_module: t.Any) -> None:
    result = run_module("synapse_health", **wanted(shared_homeserver))
    assert result["healthy"], result
    assert not result["changed"]
    assert [check["name"] for check in result["checks"]] == ["process", "health", "client", "federation", "key"]
    assert result["version"] == result["expected_version"]
    assert next(iter(result["verify_keys"])).startswith("ed25519:")
    assert "signature verified" in result["checks"][-1]["detail"]


def test_the_published_key_is_compared_with_the_given_ones(shared_homeserver: t.Any, run_module: t.Any) -> None:
    keys = run_module("synapse_health", **wanted(shared_homeserver))["verify_keys"]
    options = wanted(shared_homeserver, signing_key_path=None)
    assert run_module("synapse_health", **options, verify_keys=keys)["healthy"]
    other = {key_id: "A" * 43 for key_id in keys}
    result = run_module("synapse_health", **options, verify_keys=other)
    assert result["failed"]
    assert "publishes another key under the id" in result["msg"]


def test_another_key_in_the_file_than_published_is_found(
    shared_homeserver: t.Any, run_module: t.Any, tmp_path: pathlib.Path
) -> None:
    key = tmp_path / "other.key"
    secret = "QiDr7YMuMmNVXR5mrfUu5EXSpcPKFvUzLjvMcV0jMKE"
    key.write_text(f"ed25519 a_other {secret}\n", encoding="ascii")
    result = run_module("synapse_health", **wanted(shared_homeserver, signing_key_path=key))
    assert "key" in failing(result)
    assert "ed25519:a_other" in result["msg"]
    assert secret not in result["_output"]


@pytest.mark.parametrize("text", ["", "garbage\n", "ed25519 a_1 short\n"])
def test_a_broken_key_file_is_named_and_not_quoted(
    shared_homeserver: t.Any, run_module: t.Any, tmp_path: pathlib.Path, text: str
) -> None:
    key = tmp_path / "broken.key"
    key.write_text(text, encoding="ascii")
    result = run_module("synapse_health", **wanted(shared_homeserver, signing_key_path=key))
    assert "key" in failing(result)
    assert str(key) in result["msg"]
    assert "short" not in result["_output"]


def test_another_version_or_name_than_expected_fails(shared_homeserver: t.Any, run_module: t.Any) -> None:
    result = run_module("synapse_health", **wanted(shared_homeserver, version="1.0.0", server_name="other.test"))
    assert failing(result)["federation"].endswith("is running, 1.0.0 is installed")
    assert failing(result)["key"] == "the server calls itself hs.test, not other.test"


def test_a_wait_for_what_waiting_does_not_mend_ends_early(shared_homeserver: t.Any, run_module: t.Any) -> None:
    started = time.monotonic()
    result = run_module("synapse_health", **wanted(shared_homeserver, version="1.0.0", wait=True, timeout=60))
    assert result["failed"]
    assert time.monotonic() - started < 20


def test_fail_false_returns_the_verdict(shared_homeserver: t.Any, run_module: t.Any) -> None:
    result = run_module("synapse_health", **wanted(shared_homeserver, version="1.0.0", fail=False))
    assert not result.get("failed")
    assert not result["healthy"]
    assert "1.0.0" in result["msg"]


def test_check_mode_looks_as_well(shared_homeserver: t.Any, run_module: t.Any) -> None:
    assert run_module("synapse_health", check=True, **wanted(shared_homeserver))["healthy"]


def test_a_missing_interpreter_is_a_failed_check(shared_homeserver: t.Any, run_module: t.Any) -> None:
    result = run_module("synapse_health", **wanted(shared_homeserver, python="/nowhere/bin/python"))
    assert list(failing(result)) == ["key"]
    assert "the signature could not be verified" in result["msg"]


def test_an_environment_without_signedjson_is_a_failed_check(
    shared_homeserver: t.Any, run_module: t.Any, tmp_path: pathlib.Path
) -> None:
    subprocess.run(["python3", "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    result = run_module("synapse_health", **wanted(shared_homeserver, python=tmp_path / "venv/bin/python"))
    assert "No module named 'signedjson'" in result["msg"]


def test_readiness_is_waited_for(homeserver: t.Any, run_module: t.Any) -> None:
    server = homeserver(start=False)
    server.launch()
    result = run_module("synapse_health", **wanted(server, wait=True, timeout=60))
    assert result["healthy"], result["msg"]


def test_a_server_that_dies_ends_the_wait_with_its_own_words(homeserver: t.Any, run_module: t.Any) -> None:
    server = homeserver(start=False)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        started = time.monotonic()
        server.launch()
        # A process that ended stays a zombie of the test's until it is waited for, and must count as dead.
        result = run_module("synapse_health", **wanted(server, wait=True, timeout=60))
        waited = time.monotonic() - started
    assert result["failed"]
    assert failing(result)["process"].endswith("is gone")
    assert "Address already in use" in result["reason"]
    assert waited < 30


def test_a_hanging_server_does_not_hang_the_module(run_module: t.Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        result = run_module("synapse_health", urls=[f"http://127.0.0.1:{silent.getsockname()[1]}"], timeout=1)
        assert time.monotonic() - started < 8
    assert failing(result)["health"] == "no answer within 1 s"


def test_a_unix_socket_and_a_metrics_listener(homeserver: t.Any, run_module: t.Any) -> None:
    server = homeserver(start=False)
    path = f"{server.folder}/s.sock"
    metrics = server.port + 1
    listeners = server.config["listeners"]
    listeners.append({"path": path, "type": "http", "resources": [{"names": ["federation"]}]})
    listeners.append({"port": metrics, "bind_addresses": ["127.0.0.1"], "type": "metrics"})
    server.config["enable_metrics"] = True
    server.start()
    urls = [
        server.url,
        {"url": f"unix:{path}", "resources": ["federation", "health"]},
        {"url": f"http://127.0.0.1:{metrics}", "resources": ["metrics"]},
    ]
    result = run_module("synapse_health", **wanted(server, urls=urls))
    assert result["healthy"], result["msg"]
    names = [(check["name"], check["target"]) for check in result["checks"]]
    assert ("key", f"unix:{path}") in names
    assert ("metrics", f"http://127.0.0.1:{metrics}") in names


def test_listeners_are_learnt_from_what_synapse_would_read(
    shared_homeserver: t.Any, run_module: t.Any, tmp_path: pathlib.Path
) -> None:
    first, folder = tmp_path / "homeserver.yaml", tmp_path / "conf.d"
    folder.mkdir()
    first.write_text("server_name: elsewhere.test\nlisteners: [{port: 1, type: http}]\n", encoding="utf-8")
    (folder / "10-name.yaml").write_text("report_stats: false\n", encoding="utf-8")
    (folder / "20-listeners.yaml").write_text(yaml.safe_dump({"listeners": shared_homeserver.config["listeners"]}))
    (folder / "30-listeners.yaml.old").write_text("listeners: []\n", encoding="utf-8")
    options = wanted(shared_homeserver, urls=[])
    result = run_module("synapse_health", **options, config_path=[str(first), str(folder)])
    assert result["healthy"], result["msg"]
    assert {check["target"] for check in result["checks"]} >= {shared_homeserver.url}
    # What names the files the other way round is what the first file says.
    result = run_module("synapse_health", **options, config_path=[str(folder), str(first)], timeout=1)
    assert ":1" in result["msg"]
    (folder / "20-listeners.yaml").unlink()
    result = run_module("synapse_health", **options, config_path=[str(folder)])
    assert f"Cannot learn the listeners from {folder}/10-name.yaml: it has no list of listeners" in result["msg"]


def test_well_known_is_looked_at(homeserver: t.Any, run_module: t.Any) -> None:
    server = homeserver(serve_server_wellknown=True, public_baseurl="https://hs.test/")
    options = wanted(server, well_known=True, well_known_url=server.url)
    result = run_module("synapse_health", **options)
    assert result["healthy"], result["msg"]
    assert {"well_known_client", "well_known_server"} <= {check["name"] for check in result["checks"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to look at"),
        ({"urls": ["127.0.0.1:8008"]}, "not the base URL of a server"),
        ({"urls": [{"link": "x"}]}, "neither a URL nor a mapping"),
        ({"urls": [{"url": "http://a", "resources": ["clients"]}]}, "have to be a list out of"),
        ({"urls": ["http://127.0.0.1:1"], "signing_key_path": "/x"}, "signing_key_path needs python"),
        ({"unit": "a", "pid_file": "/b"}, "unit and pid_file exclude each other"),
        ({"urls": ["http://127.0.0.1:1"], "well_known": True}, "well_known needs server_name"),
        ({"urls": ["http://127.0.0.1:1"], "ca_bundle": "/nowhere", "tls": [{"host": "x"}]}, "/nowhere"),
        ({"urls": ["http://127.0.0.1:1"], "user": "no-such-user"}, "no user 'no-such-user'"),
    ],
)
def test_unusable_options_are_refused(run_module: t.Any, options: dict[str, t.Any], words: str) -> None:
    result = run_module("synapse_health", **options)
    assert result["failed"]
    assert words in result["msg"]


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="this host runs systemd")
def test_a_unit_where_there_is_no_systemd_is_a_failed_check(run_module: t.Any) -> None:
    result = run_module("synapse_health", unit="matrix-synapse.service", wait=True)
    assert list(failing(result)) == ["process"]
    assert "pid_file instead of unit" in result["msg"]
