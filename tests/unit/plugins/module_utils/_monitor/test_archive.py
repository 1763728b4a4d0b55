# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._monitor import archive, command

if t.TYPE_CHECKING:
    from pathlib import Path

PACKAGE = command.__name__.rpartition(".plugins.")[0]
PART = f"{PACKAGE.replace('.', '/')}/plugins/module_utils"


def test_the_sources_are_the_files_themselves_probes_too() -> None:
    sources = archive.sources_of(PACKAGE)
    for name in ("_doctor/examine.py", "_monitor/command.py", "_runner.py", "_probes/settings.py"):
        assert f"{PART}/{name}" in sources
    with open(str(command.__file__), encoding="utf-8") as stream:
        assert sources[f"{PART}/_monitor/command.py"] == stream.read()


def test_the_same_files_make_the_same_bytes() -> None:
    sources = {"b/x.py": "X = 1\n", "a.py": "Y = 2\n"}
    assert archive.pack(sources, "a", "/usr/bin/python3") == archive.pack(
        dict(reversed(sources.items())), "a", "/usr/bin/python3"
    )


def test_the_archive_runs_by_itself_and_hands_on_the_exit_status(tmp_path: Path) -> None:
    source = "import sys\n\ndef main():\n    print(sys.flags.isolated, sys.argv[1])\n    return 7\n"
    path = tmp_path / "app.pyz"
    path.write_bytes(archive.pack({"one/two/three.py": source}, "one.two.three", sys.executable))
    path.chmod(0o755)
    done = subprocess.run([str(path), "word"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "1 word\n")


def test_the_monitor_runs_without_anything_of_ansible(tmp_path: Path) -> None:
    path = tmp_path / "app.pyz"
    sources = archive.sources_of(PACKAGE)
    path.write_bytes(archive.pack(sources, command.__name__, sys.executable))
    settings = tmp_path / "settings.json"
    settings.write_text(f'{{"request": {{"unit": "", "python": "/nowhere/bin/python"}}, "state": "{tmp_path}"}}')
    # -S: no site-packages, so that an import of anything but the standard library fails.
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path), str(settings)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "last.json").exists()
    assert "import ansible" not in "".join(sources.values())
