# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is in the files that the doctor reads, it answers, and prints no secret.

MATRIX_FLEET_MUTATIONS says how many files are damaged in all, a handful at a time; MATRIX_FLEET_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import subprocess
import typing as t

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.command import ask
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.finding import SEVERITIES
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.seen import Request
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import process_runner
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import synapse_python

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver

MUTATIONS = int(os.environ.get("MATRIX_FLEET_MUTATIONS", "40"))
SEED = int(os.environ.get("MATRIX_FLEET_SEED", "0")) or secrets.randbelow(2**32)
AT_ONCE = 8
# Of a secret that was damaged itself, its parts are as secret.
TELLING = 12


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def flipped(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _bit in range(chance.choice((1, 1, 3, 20))):
        if found:
            found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def repeated(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    end = min(len(data), begin + chance.randrange(200))
    return data[:end] + data[begin:]


def cut(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    return data[:begin] + data[begin + chance.randrange(200) :]


def noise(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    words = (
        b"\0",
        b"\xff\xfe",
        b"\t",
        b"{{ x }}",
        b"!!python/object:os.system ",
        b"&a *a ",
        b"'",
        b'"',
        b": ",
        b"\r\n",
        b"-",
    )
    return data[:begin] + b"".join(chance.choices(words, k=chance.randrange(1, 6))) + data[begin:]


def shuffled(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def nothing(data: bytes, chance: random.Random) -> bytes:
    return b"\0" * len(data) if chance.random() < 0.5 else b""


DAMAGES = (truncated, flipped, flipped, repeated, cut, noise, shuffled, nothing)


def write_over(path: Path, data: bytes) -> None:
    """Replace a file by another of the same mode: what else bears its content (hard links) keeps it."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


class Installation:
    """A configured server with an environment of its own, and all files that the doctor reads of it."""

    def __init__(self, server: Homeserver, database: Path) -> None:
        folder = server.folder
        self.secrets = [secrets.token_hex(24) for _number in range(6)]
        server.config.update(
            macaroon_secret_key=self.secrets[0],
            registration_shared_secret=self.secrets[1],
            form_secret=self.secrets[2],
            turn_shared_secret=self.secrets[3],
            turn_uris=["turn:turn.example.org"],
            email={
                "smtp_host": "mail.example.org",
                "smtp_user": "synapse",
                "smtp_pass": self.secrets[4],
                "notif_from": "A <a@example.org>",
            },
            public_baseurl="http://127.0.0.1:9/",
            redis={"enabled": False, "password": self.secrets[5]},
            app_service_config_files=[str(folder / "bridge.yaml")],
            old_signing_keys={"ed25519:a_old": {"key": "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw", "expired_ts": 1}},
        )
        server.write()
        shutil.copyfile(database, server.database_path)
        key = folder / "homeserver.signing.key"
        seed = secrets.token_urlsafe(32).replace("-", "A").replace("_", "B")
        key.write_text(f"ed25519 a_test {seed}\n", encoding="ascii")
        self.secrets.append(seed)
        token = secrets.token_hex(24)
        bridge = {
            "id": "bridge",
            "url": None,
            "as_token": token,
            "hs_token": f"{token}-hs",
            "sender_localpart": "bridge",
            "namespaces": {"users": [], "rooms": [], "aliases": []},
        }
        (folder / "bridge.yaml").write_text(json.dumps(bridge), encoding="utf-8")
        self.secrets.append(token)
        worker = {
            "worker_app": "synapse.app.generic_worker",
            "worker_name": "one",
            "worker_listeners": [{"type": "http", "port": server.port + 1, "resources": [{"names": ["client"]}]}],
            "worker_log_config": str(folder / "log.yaml"),
        }
        (folder / "worker.yaml").write_text(json.dumps(worker), encoding="utf-8")
        server.log_path.write_text(
            "2026-11-23 14:45:01,123 - root - 360 - WARNING - main - ***** STARTING SERVER *****\n"
            f"2026-11-23 14:45:02,123 - synapse.x - 12 - ERROR - main - password={self.secrets[4]} was refused\n"
            "Traceback (most recent call last):\n"
            '  File "/x/synapse/config/_base.py", line 3, in read\n'
            "    config.get('listeners')\n"
            "ValueError: no such thing\n",
            encoding="utf-8",
        )
        environment = folder / "venv"
        # No hard links: with its pyvenv.cfg damaged, an interpreter runs what the system's .pth files say, here.
        subprocess.run(["cp", "-a", str(synapse_python().parents[1]), str(environment)], check=True)
        (environment / "release.json").write_text('{"version": "1.163.2", "packages": {}}', encoding="utf-8")
        packages = next(environment.glob("lib/python3.*/site-packages"))
        metadata = next(packages.glob("matrix_synapse-*.dist-info"))
        self.request = Request(
            config_paths=(str(server.config_path),),
            python=str(environment / "bin" / "python"),
            unit="",
            pid_file=str(server.pid_path),
            worker_configs=(str(folder / "worker.yaml"),),
            log_files=(str(server.log_path),),
            public=False,
        )
        server.pid_path.write_text("999999\n", encoding="ascii")
        self.files = [
            server.config_path,
            server.config_path,  # the one that matters most
            folder / "log.yaml",
            folder / "bridge.yaml",
            folder / "worker.yaml",
            key,
            server.log_path,
            server.pid_path,
            server.database_path,
            environment / "pyvenv.cfg",
            environment / "release.json",
            metadata / "METADATA",
            metadata / "RECORD",
            packages / "synapse" / "__init__.py",
            packages / "synapse" / "config" / "server.py",
        ]
        self.sound = {path: path.read_bytes() for path in self.files}

    def restore(self) -> None:
        for path, data in self.sound.items():
            if not path.exists() or path.read_bytes() != data:
                path.unlink(missing_ok=True)
                path.write_bytes(data)

    def telling(self) -> set[str]:
        """Return every part of a secret that would give it away."""
        return {word[at : at + TELLING] for word in self.secrets for at in range(len(word) - TELLING + 1)}


@pytest.fixture(scope="module")
def installation(make_homeserver: Callable[..., Homeserver], _prepared_database: Path) -> Installation:
    return Installation(make_homeserver(), _prepared_database)


def test_the_installation_is_sound_before_it_is_damaged(installation: Installation) -> None:
    report = ask(process_runner(), installation.request)
    parts = {finding["id"].partition(".")[0] for finding in report["findings"] if finding["severity"] == "critical"}
    assert not parts & {"configuration", "identity", "environment", "database"}, report["findings"]


@pytest.mark.parametrize("turn", range(-(-MUTATIONS // AT_ONCE)))
def test_whatever_the_files_hold_there_is_an_answer_without_secrets(installation: Installation, turn: int) -> None:
    chance = random.Random(SEED + turn)
    damaged = []
    try:
        for _file in range(AT_ONCE):
            path, damage = chance.choice(installation.files), chance.choice(DAMAGES)
            write_over(path, damage(path.read_bytes(), chance))
            damaged.append(f"{damage.__name__} {path.name}")
        report = ask(process_runner(), installation.request)
    finally:
        installation.restore()
    how = f"MATRIX_FLEET_SEED={SEED + turn}: {damaged}"
    text = json.dumps(report)
    assert [word for word in installation.telling() if word in text] == [], how
    assert all(finding["severity"] in SEVERITIES and finding["summary"] for finding in report["findings"]), how
    assert [one for one in report["findings"] if one["id"] == "doctor.rule_failed"] == [], how
    assert [why for why in report["unseen"].values() if "while it was looked at" in why] == [], how
    assert report["healthy"] is False, how
