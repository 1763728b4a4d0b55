# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins of a hand-made environment come along when a release takes its place, and going back to it works."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.request
from pathlib import Path

import packaging
import pytest

from ansible_collections.matrix_fleet.synapse.tests.integration import module_process
from ansible_collections.matrix_fleet.synapse.tests.integration.homeserver import Homeserver
from ansible_collections.matrix_fleet.synapse.tests.integration.light_synapse import (
    _uv,
    lock_of,
    place_uv,
    synapse_wheel,
    wheel,
)
from ansible_collections.matrix_fleet.synapse.tests.integration.test_synapse_venv import Answer, Site

DEV = ["matrix-synapse>=1 ; extra == 'dev'"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Wheels of two plugins beside those of the light Synapse; the second one does not import."""
    site = Site(tmp_path_factory.mktemp("plugins"))
    wheel(site.wheels, "light-auth", "1.1", {"light_auth.py": "class Module:\n    pass\n"}, requires=DEV)
    wheel(site.wheels, "light-rules", "0.3", {"light_rules/__init__.py": "import gone\n"}, requires=DEV)
    wheel(site.wheels, "light-store", "2.0", {"light_store.py": "class Store:\n    pass\n"}, requires=["light-a"])
    synapse_wheel(site.wheels, "1.9.0")
    # What the proof reads requirements with, and what comes along with packages that the operator names.
    read = {f"packaging/{one.name}": one.read_text() for one in Path(packaging.__file__).parent.glob("*.py")}
    more = lock_of(wheel(site.wheels, "packaging", packaging.__version__, read))
    wheel(site.wheels, "psycopg2-binary", "2.9", {"psycopg2/__init__.py": ""})
    site.locks = {version: lock + more for version, lock in site.locks.items()}
    return site


@pytest.fixture
def site(ground: Site) -> Site:
    shutil.rmtree(ground.root / "host", ignore_errors=True)
    place_uv(ground.releases)
    return ground


def by_hand(site: Site, *packages: str) -> None:
    """Make an environment at the path as people do."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site.path], check=True)
    command = [
        _uv(),
        "pip",
        "install",
        "--quiet",
        "--no-cache",
        "--no-config",
        "--no-index",
        "--find-links",
        site.wheels,
    ]
    subprocess.run([*command, "--python", site.path / "bin/python", "matrix-synapse==1.9.0", *packages], check=True)


def fates(answer: Answer) -> dict[str, tuple[bool, str]]:
    assert not answer.get("failed"), answer.get("msg")
    return {one["name"]: (one["carried"], one["reason"]) for one in answer["plugins"]}


def test_a_plugin_is_carried_written_down_and_stays_until_it_is_no_longer_wanted(site: Site) -> None:
    by_hand(site, "light-auth==1.1")
    predicted = site.run(check=True)
    adopted = site.run()
    assert fates(predicted) == fates(adopted) == {"light-auth": (True, "")}
    assert adopted["plugins"][0]["version"] == "1.1"
    assert adopted["plugins"][0]["modules"] == ["light_auth"]
    assert "light-auth==1.1" in json.dumps(adopted["warnings"])
    assert (site.packages() / "light_auth.py").exists()
    record = json.loads((site.releases / f"{adopted['previous_release']}.json").read_text())
    assert record["plugins"] == [{"name": "light-auth", "version": "1.1", "modules": ["light_auth"]}]
    again = site.run()
    assert not again["changed"]
    assert fates(again) == fates(adopted)
    assert not again.get("warnings")
    later = site.run("2.0.1")
    assert fates(later) == {"light-auth": (True, "")}
    assert (site.packages() / "light_auth.py").exists()
    assert later["packages_changed"]["changed"] == {"matrix-synapse": {"before": "2.0.0", "after": "2.0.1"}}
    assert not site.run("2.0.1")["changed"]
    without = site.run("2.0.1", carry_plugins=False)
    assert fates(without) == {"light-auth": (False, "'carry_plugins' is false")}
    assert not (site.packages() / "light_auth.py").exists()
    assert not site.run("2.0.1", carry_plugins=False)["changed"]


def test_a_plugin_is_carried_without_activation_and_after_somebody_else_s_switch(site: Site) -> None:
    by_hand(site, "light-auth==1.1")
    built = site.run(activate=False)
    assert not site.run(activate=False)["changed"]
    site.path.rename(Path(built["adopt_as"]))
    site.path.symlink_to(built["release_path"])
    switched = site.run()
    assert not switched["changed"]
    assert fates(switched) == {"light-auth": (True, "")}


def test_the_trial_of_check_mode_has_the_plugins_too(site: Site) -> None:
    by_hand(site, "light-auth==1.1")
    place_uv(site.root / "host/trial/releases")
    predicted = site.run(check=True, trial_path=str(site.root / "host/trial"))
    assert fates(predicted) == {"light-auth": (True, "")}
    assert list(Path(predicted["trial_python"]).parents[1].glob("lib/*/site-packages/light_auth.py"))


def test_the_configuration_names_plugins_that_nothing_else_gives_away(site: Site) -> None:
    by_hand(site, "light-store==2.0")
    (site.packages() / "loose_module.py").write_text("class Loose:\n    pass\n")
    config = site.root / "homeserver.yaml"
    config.write_text(
        "media_storage_providers:\n  - module: light_store.Store\nmodules: [{module: 'loose_module.Loose'}]\n"
    )
    adopted = site.run(config_path=str(config))
    assert fates(adopted) == {
        "light-store": (True, ""),
        "loose_module": (False, "it is a file without a package, put there by hand"),
    }
    assert not site.run(config_path=str(config))["changed"]
    config.unlink()
    assert not site.run(config_path=str(config))["changed"], "the release remembers"


def test_a_plugin_that_does_not_import_is_left_out_and_told(site: Site) -> None:
    by_hand(site, "light-auth==1.1", "light-rules==0.3")
    adopted = site.run()
    assert fates(adopted)["light-auth"] == (True, "")
    carried, reason = fates(adopted)["light-rules"]
    assert not carried
    assert "No module named 'gone'" in reason
    assert "light-rules was in the environment made by hand" in json.dumps(adopted["warnings"])
    assert not list(site.packages().glob("light_rules*"))
    again = site.run()
    assert not again["changed"]
    assert fates(again) == fates(adopted)


def test_a_plugin_that_cannot_be_had_is_left_out_and_told(site: Site) -> None:
    by_hand(site, "light-auth==1.1", "light-store==2.0")
    info = next(site.packages().glob("light_auth-*.dist-info"))
    metadata = info / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.1", "Version: 1.0.9"))
    (site.root / "homeserver.yaml").write_text("  - module: light_store.Store\n")
    adopted = site.run(config_path=str(site.root / "homeserver.yaml"))
    assert fates(adopted)["light-store"] == (True, "")
    carried, reason = fates(adopted)["light-auth"]
    assert not carried
    assert "light-auth==1.0.9" in reason
    assert not site.run()["changed"]


def test_what_came_from_no_index_is_not_taken_from_one(site: Site) -> None:
    by_hand(site, "light-auth==1.1")
    info = next(site.packages().glob("light_auth-*.dist-info"))
    (info / "direct_url.json").write_text(json.dumps({"url": "https://me:pa55@h.example/x.git", "vcs_info": {}}))
    adopted = site.run()
    carried, reason = fates(adopted)["light-auth"]
    assert not carried
    assert "it was installed from https://***@h.example/x.git" in reason
    assert "pa55" not in json.dumps(adopted)
    assert adopted["release"] == f"2.0.0-{adopted['lock_digest'][:12]}"
    assert not site.run()["changed"]


def test_what_the_operator_names_is_not_carried_twice(site: Site) -> None:
    by_hand(site, "light-auth==1.1")
    adopted = site.run(extra_packages=["light-auth"])
    assert fates(adopted) == {"light-auth": (True, "'extra_packages' names it")}
    assert not site.run(extra_packages=["light-auth"])["changed"]


# ------------------------------------------------------------------------------------------------------- the real one


def _answers(url: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.2)
    return False


@pytest.fixture
def place() -> t.Iterator[Path]:
    """A folder that every user can reach, which a folder of pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="matrix-fleet-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users")
def test_a_real_hand_made_synapse_with_a_plugin_is_adopted_and_serves_again(
    place: Path, make_homeserver: t.Callable[..., Homeserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, owner = place / "venv", pwd.getpwnam("nobody")
    python = "/usr/bin/python3" if sys.version_info[:2] == (3, 11) else sys.executable
    subprocess.run([python, "-m", "venv", path], check=True)
    old = Path(__file__).with_name("old-synapse.txt")
    install = [_uv(), "pip", "install", "--quiet", "--python", path / "bin/python"]
    subprocess.run([*install, "--no-deps", "-r", old], check=True)
    subprocess.run([*install, "matrix-synapse-ldap3==0.4.0", "-c", old], check=True)
    subprocess.run(["chown", "-R", "nobody:", path], check=True)
    server = make_homeserver()
    server.config["modules"] = [
        {
            "module": "ldap_auth_provider.LdapAuthProviderModule",
            "config": {
                "enabled": True,
                "uri": "ldap://127.0.0.1:1",
                "base": "ou=users,dc=example,dc=org",
                "attributes": {"uid": "cn", "mail": "mail", "name": "givenName"},
            },
        }
    ]
    server.write()
    monkeypatch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv"))
    place_uv(place / "releases")
    options = {"path": str(path), "config_path": str(server.config_path)}
    adopted = module_process.run("synapse_venv", options, place / "answer.json")
    assert [
        (one["name"], one["version"], one["modules"], one["carried"], one["reason"]) for one in adopted["plugins"]
    ] == [("matrix-synapse-ldap3", "0.4.0", ["ldap_auth_provider.LdapAuthProviderModule"], True, "")]
    again = module_process.run("synapse_venv", options, place / "answer.json")
    assert not again["changed"]
    kept = place / "releases" / adopted["previous_release"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o755
    assert kept.stat().st_uid == owner.pw_uid
    for version in (adopted["version"], "1.150.0"):
        program = path / "bin/python"
        command = [program, "-m", "synapse.app.homeserver", "--config-path", server.config_path]
        with (place / "server.log").open("w") as log:
            process = subprocess.Popen(command, cwd=server.folder, stdout=log, stderr=log)
        try:
            assert _answers(server.url, 90), (place / "server.log").read_text()[-3000:]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        said = subprocess.run(
            [program, "-I", "-c", "import synapse; print(synapse.__version__)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == version
        # A script's first line names the path that the link has now.
        script = subprocess.run([path / "bin/synapse_homeserver", "--help"], capture_output=True, text=True, check=True)
        assert "--config-path" in script.stdout
        link = path.with_name("link")
        link.symlink_to(kept)
        link.replace(path)
    forward = module_process.run("synapse_venv", options, place / "answer.json")
    assert forward["changed"]
    assert forward["release"] == adopted["release"], "the release is there, and is not built again"
