# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._config_files import expand

if t.TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_stands_for_its_yaml_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    (folder / "sub.yaml").mkdir(parents=True)
    for name in ("b.yaml", "a.yaml", "c.yml", "d.yaml.bak"):
        (folder / name).touch()
    main = f"{tmp_path}/homeserver.yaml"
    assert list(expand([main, str(folder)])) == [main, f"{folder}/a.yaml", f"{folder}/b.yaml"]


def test_a_file_that_does_not_exist_is_named_all_the_same(tmp_path: Path) -> None:
    assert list(expand([f"{tmp_path}/none.yaml"])) == [f"{tmp_path}/none.yaml"]
