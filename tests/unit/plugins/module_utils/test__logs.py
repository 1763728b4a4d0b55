# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisive line, in what Synapse 1.163.2 was recorded to print and to log when it could not start."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._logs import (
    decisive_line,
    latest_start,
    latest_words,
    of_unit,
    redact,
)

RECORDED = pathlib.Path(__file__).parent / "recorded" / "startup"

WHY = {
    "asmissing.log": "FileNotFoundError: [Errno 2] No such file or directory: '/etc/synapse/as.yaml'",
    "dbdir.log": "sqlite3.OperationalError: unable to open database file",
    "intsecret.out": (
        "AttributeError: 'int' object has no attribute 'encode' (in synapse/config/key.py: "
        'self.macaroon_secret_key = macaroon_secret_key.encode("utf-8"))'
    ),
    "keybad.out": (
        "nacl.exceptions.ValueError: The seed must be exactly 32 bytes long "
        "(in synapse/config/key.py: key = decode_signing_key_base64()"
    ),
    "keydir.out": (
        "Error in configuration at 'signing_key': Error accessing file '/etc/synapse/hs.key': "
        "[Errno 21] Is a directory: '/etc/synapse/hs.key'"
    ),
    "locked.log": "sqlite3.OperationalError: database is locked",
    "logdir.out": (
        "ValueError: Unable to configure handler 'file': "
        "FileNotFoundError: [Errno 2] No such file or directory: '/etc/synapse/nologs/hs.log'"
    ),
    "maxup.out": (
        "ValueError: invalid literal for int() with base 10: '50MB' (while reading the option max_upload_size)"
    ),
    "nomodule.out": (
        "ModuleNotFoundError: No module named 'nosuch' "
        "(in synapse/config/modules.py: self.loaded_modules.append(load_module(module, config_path)))"
    ),
    "noname.out": "Error in configuration: Missing mandatory `server_name` config option.",
    "pgargs.log": 'psycopg2.ProgrammingError: invalid dsn: invalid connection option "allow_unsafe"',
    "pgdown.log": (
        'psycopg2.OperationalError: connection to server at "127.0.0.1", port 1 failed: Connection refused '
        "Is the server running on that host and accepting TCP/IP connections?"
    ),
    "pidbad.log": "Unable to create the pidfile.",
    "port.log": (
        "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:18008: "
        "[Errno 98] Address already in use."
    ),
    "port.out": (
        "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:18008: "
        "[Errno 98] Address already in use."
    ),
    "secretpath.out": (
        "Error in configuration at 'macaroon_secret_key_path': Error accessing file '/etc/synapse/nope': "
        "[Errno 2] No such file or directory: '/etc/synapse/nope'"
    ),
    "toonew.log": "ValueError: Cannot use this database as it is too new for the server to understand",
    "yaml.out": (
        "yaml.scanner.ScannerError: while scanning for the next token found character '\\t' "
        'that cannot start any token in "hs.yaml", line 15, column 1'
    ),
    # systemd 252, journalctl --output cat: no blank lines, and systemd's own lines in between.
    "journal-config.txt": "Error in configuration: Missing mandatory `server_name` config option.",
    "journal-port.txt": (
        "twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008: "
        "[Errno 98] Address already in use."
    ),
    "good.log": None,
}


@pytest.mark.parametrize(("name", "why"), sorted(WHY.items()))
def test_decisive_line_of_a_recorded_start(name: str, why: str | None) -> None:
    text = (RECORDED / name).read_text(encoding="utf-8")
    assert decisive_line(latest_start(text)) == why


def test_open_registration_is_named_as_the_error_in_the_configuration() -> None:
    line = decisive_line((RECORDED / "openreg.out").read_text(encoding="utf-8"))
    assert line is not None
    assert line.startswith("Error in configuration: You have enabled open registration without any verification.")


def test_every_recording_is_in_the_table() -> None:
    assert {path.name for path in RECORDED.iterdir()} == {*WHY, "openreg.out"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", None),
        ("all is well\n", None),
        (
            "matrix-synapse.service: Failed to locate executable /srv/venv/bin/python: No such file or directory\n"
            "matrix-synapse.service: Main process exited, code=exited, status=203/EXEC\n",
            "matrix-synapse.service: Failed to locate executable /srv/venv/bin/python: No such file or directory",
        ),
        (
            "/srv/venv/bin/python: Error while finding module specification for 'synapse.app.homeserver' "
            "(ModuleNotFoundError: No module named 'synapse')\nmatrix-synapse.service: Failed with result 'exit-code'.",
            "/srv/venv/bin/python: Error while finding module specification for 'synapse.app.homeserver' "
            "(ModuleNotFoundError: No module named 'synapse')",
        ),
        (
            "matrix-synapse.service: Failed to set up user namespacing: No space left on device\n"
            "matrix-synapse.service: Failed at step USER spawning /srv/venv/bin/python: No space left on device\n"
            "matrix-synapse.service: Main process exited, code=exited, status=217/USER\n",
            "matrix-synapse.service: Failed to set up user namespacing: No space left on device",
        ),
        (
            "matrix-synapse.service: A process of this unit has been killed by the OOM killer.\nlast words",
            "matrix-synapse.service: A process of this unit has been killed by the OOM killer.",
        ),
        (
            "2026-11-23 14:49:33,247 - synapse.x - 27 - ERROR - main - the disk has gone\n"
            "2026-11-23 14:49:34,247 - synapse.x - 28 - INFO - main - goodbye\n",
            "the disk has gone",
        ),
        (
            "2026-11-23 15:55:02,001 - synapse.x - 27 - ERROR - main - somebody else could not be reached\n"
            "2026-11-23 15:56:21,970 - synapse.app.homeserver - 159 - WARNING - atexit - Stopping daemon.\n"
            "2026-11-23 15:56:21,971 - twisted - 273 - ERROR - sentinel -     sys.exit(0)\n"
            "2026-11-23 15:56:21,971 - twisted - 273 - ERROR - sentinel - SystemExit: 0\n",
            None,
        ),
        ("Traceback (most recent call last):\n  File", None),
        ("Traceback (most recent call last):\n" * 5, None),
    ],
)
def test_decisive_line(text: str, why: str | None) -> None:
    assert decisive_line(text) == why


def test_a_configuration_error_comes_before_an_exception_that_is_in_the_same_text() -> None:
    text = (
        "Traceback (most recent call last):\n  File \"x\"\nValueError: x\n\nError in configuration at 'a':\n  bad\n\n"
    )
    assert decisive_line(text) == "Error in configuration at 'a': bad"


def test_what_is_wrong_with_a_secret_is_said_and_the_secret_is_not() -> None:
    text = "Error in configuration at 'macaroon_secret_key':\n  Config option must be a string, password: hunter2\n\n"
    assert decisive_line(text) == (
        "Error in configuration at 'macaroon_secret_key': Config option must be a string, password: ***"
    )


def test_the_last_traceback_counts() -> None:
    traceback = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n{}\n\n'
    text = traceback.format("ValueError: old") + "restarted\n" + traceback.format("OSError: new")
    assert decisive_line(text) == "OSError: new"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("password=hunter2 host=x", "password=*** host=x"),
        ("password: hunter2", "password: ***"),
        ("'registration_shared_secret': 'a b c'", "'registration_shared_secret': ***"),
        ('{"as_token": "abc", "x": 1}', '{"as_token": ***, "x": 1}'),
        ("postgresql://synapse:hunter2@db/x", "postgresql://synapse:***@db/x"),
        ("ed25519 a_1 " + "A" * 43, "ed25519 a_1 ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("token syt_YWJj_abcdefgh_123456 is unknown", "token *** is unknown"),
        ("macaroon_secret_key_path: /etc/synapse/x", "macaroon_secret_key_path: /etc/synapse/x"),
        ("nothing to hide", "nothing to hide"),
        ("rd' e44e3b0fc0abbe44e3b0fc0a was refused", "rd' *** was refused"),
        ("}e44e3b0fc0ab", "}***"),
        ("of Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw.", "of ***."),
        ("<x at 0x7efef92efed0>", None),
        ("/srv/releases/1.163.2-cp311-e44e3b0fc0ab/bin: $Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw", None),
        ("550e8400-e29b-41d4-a716-446655440000 at 20261124T041054Z, 123456789012", None),
        ("synapse.storage.databases.main.ServerSigningKeyStore2", None),
    ],
)
def test_redact(text: str, wanted: str | None) -> None:
    assert redact(text) == (text if wanted is None else wanted)


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    line = decisive_line(text)
    assert line is None or "\n" not in line


@given(st.lists(st.sampled_from((RECORDED / "logdir.out").read_text("utf-8").splitlines()), max_size=40))
def test_no_shuffled_traceback_breaks_it(lines: list[str]) -> None:
    line = decisive_line("\n".join(lines))
    assert line is None or "\n" not in line


def test_of_several_starts_in_a_journal_the_latest_that_says_why_is_quoted() -> None:
    config = (RECORDED / "journal-config.txt").read_text(encoding="utf-8")
    port = (RECORDED / "journal-port.txt").read_text(encoding="utf-8")
    starting = "Starting ms.service...\n"
    assert latest_words(f"{starting}{config}{starting}{port}{starting}") == WHY["journal-port.txt"]
    assert latest_words(f"{starting}{port}{starting}{config}{starting}") == WHY["journal-config.txt"]
    killed = "Started ms.service.\nms.service: Main process exited, code=killed, status=9/KILL\n"
    assert latest_words(f"{config}{killed}{starting}") == "ms.service: Main process exited, code=killed, status=9/KILL"
    assert latest_words("") is None


def test_latest_start_is_the_last_one() -> None:
    text = "a\n1 - ***** STARTING SERVER *****\nb\n2 - ***** STARTING SERVER *****\nc\n"
    assert latest_start(text) == "2 - ***** STARTING SERVER *****\nc\n"
    assert latest_start("a\n") == "a\n"


@pytest.mark.parametrize("unit", ["matrix-synapse", "matrix-synapse.service"])
def test_what_a_unit_said_and_what_root_said_of_it(unit: str) -> None:
    name = "matrix-synapse.service"
    first, *others = " ".join(of_unit(unit)).split(" + ")
    assert first == f"_SYSTEMD_UNIT={name}"
    assert f"_UID=0 UNIT={name}" in others
    # A field without an underscore is anybody's to write.
    assert all(one.startswith("_UID=0 ") for one in others)


def test_other_units_keep_their_suffix() -> None:
    assert of_unit("synapse-monitor.timer")[0] == "_SYSTEMD_UNIT=synapse-monitor.timer"
