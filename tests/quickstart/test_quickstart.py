# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make quickstart`` as somebody meets it who has just cloned the project: no root, nothing set up.

Everything here shares one clone and one server. Each test takes it running and leaves it running.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import typing as t
import urllib.error
import urllib.request

import pytest
from conversation import Account, converse

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the first hour of a stranger may write into the clone.
WRITTEN = {".quickstart", ".venv-quickstart", ".cache"}
# What is theirs of our environment: where packages come from, and whom to trust. Not where we cache them.
HANDED_ON = re.compile(r"(?i)(PIP_|UV_|SSL_CERT_|REQUESTS_CA_BUNDLE$|LANG$|LC_|(https?|no|all)_proxy$)")
KEPT_BACK = re.compile(r"(PIP_CACHE_DIR|PIP_CONFIG_FILE|UV_CACHE_DIR|UV_PYTHON.*)$")
RECAP = re.compile(r"^localhost\s+: ok=\d+\s+changed=(\d+)\s+unreachable=0\s+failed=(\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command printed, each line with when it came, and how it ended."""

    code: int
    lines: tuple[tuple[float, str], ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for _second, line in self.lines)

    @property
    def changed(self) -> int:
        """How many tasks changed something, as the last line says."""
        found = RECAP.search(self.text)
        assert found is not None, self.text
        return int(found.group(1))

    def when(self, pattern: str) -> float:
        """When the first line came that the pattern is found in."""
        found = next((moment for moment, line in self.lines if re.search(pattern, line)), None)
        assert found is not None, f"no line has {pattern}: {self.text}"
        return found


@dataclasses.dataclass
class Clone:
    """A clone of this checkout in the hands of its own user."""

    folder: pathlib.Path
    home: pathlib.Path
    scratch: pathlib.Path
    port: int
    user: pwd.struct_passwd
    say: Callable[[str], None]

    @property
    def url(self) -> str:
        """Where the homeserver answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> pathlib.Path:
        """The folder of the homeserver."""
        return self.folder / ".quickstart"

    @property
    def pid(self) -> int:
        """The process that the pid file names."""
        return int((self.state / "data" / "homeserver.pid").read_text(encoding="ascii"))

    @property
    def password(self) -> str:
        """The administrator's."""
        return (self.state / "admin.password").read_text(encoding="utf-8").strip()

    def secrets(self) -> set[str]:
        """Everything that nobody may print, as far as it exists by now."""
        files = [self.state / "admin.password", self.state / "config" / "homeserver.signing.key"]
        files += (self.state / "config" / "secrets").glob("*")
        # Of a key file's line the last word is the secret, and of the others it is the only one.
        return {path.read_text(encoding="utf-8").split()[-1] for path in files if path.exists()}

    def environment(self) -> dict[str, str]:
        """What a fresh log-in of the user would have."""
        kept = {name: value for name, value in os.environ.items() if HANDED_ON.match(name)}
        kept = {name: value for name, value in kept.items() if not KEPT_BACK.match(name)}
        if self.user.pw_uid == os.getuid():
            search, python = os.environ["PATH"], os.environ.get("PYTHON")
        else:
            search, python = "/usr/local/bin:/usr/bin:/bin", None
        kept.update(PATH=search, HOME=str(self.home), TMPDIR=str(self.scratch), USER=self.user.pw_name)
        return {**kept, "PYTHON": python} if python else kept

    def run(self, *command: str) -> Said:
        """Run a command in the clone, as its user; note when each line came."""
        if self.user.pw_uid != os.getuid():
            identity = (f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups")
            command = ("setpriv", *identity, *command)
        lines = []
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append((time.monotonic(), line.rstrip("\n")))
        return Said(process.returncode, tuple(lines))

    def make(self, target: str, *arguments: str) -> Said:
        """Run one of the quickstart's targets; whatever happens, no secret is on the screen."""
        begin = time.monotonic()
        said = self.run("make", target, *arguments)
        self.say(f"make {target} ended with {said.code} after {time.monotonic() - begin:.0f} s")
        for number, secret in enumerate(sorted(self.secrets())):
            assert secret not in said.text, f"secret {number} was printed by make {target}"
        return said

    def ask(self, path: str, content: object = None, token: str = "") -> dict[str, t.Any]:
        """One request to the homeserver; its answer."""
        body = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=30) as answer:
            found: dict[str, t.Any] = json.load(answer)
        return found

    def identity(self) -> dict[str, t.Any]:
        """The signing keys that the server publishes."""
        keys: dict[str, t.Any] = self.ask("/_matrix/key/v2/server")["verify_keys"]
        return keys

    def log_in(self) -> str:
        """Log the administrator in; return the token."""
        who = {"type": "m.id.user", "user": "admin"}
        request = {"type": "m.login.password", "identifier": who, "password": self.password}
        return str(self.ask("/_matrix/client/v3/login", request)["access_token"])


def free_port() -> int:
    """Return a port for a server that starts in a minute: below those that outgoing connections take."""
    for port in range(8208, 8300):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port from 8208 to 8299 is free")


def alive(pid: int) -> str | None:
    """When the process was started, or ``None`` where it is gone (a corpse that nobody has fetched yet is gone)."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def checkout_files() -> list[str]:
    """What a commit of everything would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def hand_over(clone: Clone, base: pathlib.Path) -> None:
    """Give the user what is in ``base``, for ``base`` itself is not theirs to write to."""
    for folder, names, files in os.walk(base):
        for name in names + files:
            os.chown(os.path.join(folder, name), clone.user.pw_uid, clone.user.pw_gid, follow_symlinks=False)


def choose_user(clone: Clone, base: pathlib.Path) -> None:
    """Let ``nobody`` have the clone where root runs the tests, if there is any Python for them; else keep it."""
    nobody = pwd.getpwnam("nobody")
    if os.getuid() != 0:
        clone.say(f"as {clone.user.pw_name}")
        return
    clone.user = nobody
    hand_over(clone, base)
    if clone.run("tests/bin/find_python.sh", "controller").code != 0:
        # As its message says: root has to install a package once. Asked for by root, the script itself does so.
        plain = {**clone.environment(), "HOME": "/nonexistent"}
        subprocess.run(["tests/bin/find_python.sh", "controller"], cwd=ROOT, env=plain, check=False)
    found = clone.run("tests/bin/find_python.sh", "controller")
    if found.code == 0:
        clone.say(f"as {nobody.pw_name}, with {found.text.strip()}")
        return
    clone.say(f"AS ROOT, so not what a user would meet: {nobody.pw_name} has no Python here. {found.text.strip()}")
    clone.user = pwd.getpwuid(0)
    hand_over(clone, base)


@pytest.fixture(scope="module")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line although the tests pass: what takes a minute or two has to show that it is alive."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\nquickstart: {text}", flush=True)

    return line


@pytest.fixture(scope="module")
def clone(say: Callable[[str], None]) -> Iterator[Clone]:
    """A clone whose folder's name has a blank. In the end its server is stopped, and all of it is removed."""
    # Not under pytest's own folder, which nobody but its owner may enter.
    base = pathlib.Path(tempfile.mkdtemp(prefix="quickstart-"))
    base.chmod(0o755)
    folder, home, scratch = base / "a clone", base / "home", base / "tmp"
    for made in (folder, home, scratch):
        made.mkdir()
    for name in checkout_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    clone = Clone(folder, home, scratch, free_port(), pwd.getpwuid(os.getuid()), say)
    try:
        choose_user(clone, base)
        assert clone.run("git", "init", "-q").code == 0
        assert clone.run("git", "add", "-A").code == 0
        yield clone
        running = stopped_by_hand(clone)
    finally:
        shutil.rmtree(base)
    assert not running, "make quickstart-down left the server running"


def stopped_by_hand(clone: Clone) -> bool:
    """Stop what is still running; return whether ``make quickstart-down`` did not do that."""
    try:
        pid = clone.pid
    except FileNotFoundError:
        return False
    clone.make("quickstart-down")
    if alive(pid) is None:
        return False
    if str(clone.folder) not in pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


@pytest.fixture(scope="module")
def first(clone: Clone) -> Said:
    """The first ``make quickstart``, on another port than the usual one."""
    said = clone.make("quickstart", f"ARGS=-e synapse_quickstart_port={clone.port}")
    assert said.code == 0, said.text
    return said


@pytest.fixture(scope="module")
def room(clone: Clone, first: Said) -> str:
    """A room in which the administrator and somebody else have talked and exchanged a file."""
    password = secrets.token_hex(16)
    words = clone.home.parent / "second.password"
    words.write_text(password, encoding="utf-8")
    words.chmod(0o644)
    said = clone.run(
        str(clone.state / "venv" / "bin" / "register_new_matrix_user"),
        *("--user", "second", "--password-file", str(words), "--no-admin"),
        *("--config", str(clone.state / "config" / "homeserver.yaml"), clone.url),
    )
    words.unlink()
    assert said.code == 0, said.text
    return converse(clone.url, Account("@admin:localhost", clone.password), Account("@second:localhost", password))


def test_the_first_run_shows_that_it_is_alive_while_it_builds(first: Said) -> None:
    # The task is named when it ends. Before that come five seconds of silence, then a line every ten seconds; a fast
    # machine is done before the first of them. Lines that came all at once, in the end, would be no sign of life.
    lines = [(moment, line) for moment, line in first.lines if line.strip()]
    built = next(i for i, (_when, line) in enumerate(lines) if re.search(r"^TASK \[.*: Build the Python env", line))
    assert lines[built][0] - lines[built - 1][0] < 11, first.text


def test_the_first_run_ends_with_where_to_go(clone: Clone, first: Said) -> None:
    end = first.text[first.text.index("Say how to go on") :]
    assert clone.url in end
    assert "@admin:localhost" in end
    assert f"the password is in {clone.state / 'admin.password'}" in end
    assert "make quickstart-status" in end
    assert "make quickstart-down" in end


def test_the_server_answers_and_is_its_users(clone: Clone, first: Said) -> None:
    assert clone.ask("/_matrix/client/versions")["versions"]
    assert pathlib.Path(f"/proc/{clone.pid}").stat().st_uid == clone.user.pw_uid


def test_all_that_was_written_lies_in_the_clone(clone: Clone, first: Said) -> None:
    assert list(clone.scratch.iterdir()) == []
    # pip keeps what it downloads where it always does.
    found = {str(path.relative_to(clone.home)) for path in clone.home.rglob("*")}
    assert {name for name in found if name != ".cache" and not re.match(r"\.cache/pip(/|$)", name)} == set()
    assert {path.name for path in clone.folder.parent.iterdir()} == {"a clone", "home", "tmp"}
    before = {name.partition("/")[0] for name in checkout_files()} | {".git"}
    assert {path.name for path in clone.folder.iterdir()} - before == WRITTEN


def test_version_control_sees_nothing_of_it(clone: Clone, first: Said) -> None:
    assert clone.run("git", "ls-files", "--others", "--exclude-standard").text == ""
    assert clone.run("git", "diff", "--name-only").text == ""
    ignored = clone.run("git", "ls-files", "--others", "--ignored", "--exclude-standard", "--directory").text.split()
    assert {name for name in ignored if not name.endswith("__pycache__/")} == {f"{name}/" for name in WRITTEN}


def test_secrets_are_for_their_owner_alone(clone: Clone, first: Said) -> None:
    password = clone.state / "admin.password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert len(clone.password) >= 32
    for path in (password, *(clone.state / "config" / "secrets").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0, path
    # Every run is searched for them; this says that there was something to search for.
    assert len(clone.secrets()) >= 5


def test_a_second_run_changes_nothing(clone: Clone, first: Said) -> None:
    pid = clone.pid
    started = alive(pid)
    again = clone.make("quickstart")
    assert again.code == 0, again.text
    assert again.changed == 0, again.text
    # On the port that it has, although nobody named it this time.
    assert clone.url in again.text
    assert (clone.pid, alive(clone.pid)) == (pid, started)
    assert started is not None


def test_status_of_a_server_that_runs(clone: Clone, first: Said) -> None:
    said = clone.make("quickstart-status")
    assert said.code == 0, said.text
    assert f"{clone.url} is healthy" in said.text
    assert said.changed == 0


def test_two_people_talk_and_the_first_is_an_administrator(clone: Clone, room: str) -> None:
    rooms = clone.ask("/_synapse/admin/v1/rooms", token=clone.log_in())["rooms"]
    assert [found["joined_members"] for found in rooms if found["room_id"] == room] == [2]


def test_stopped_and_started_again_it_is_the_same_server(clone: Clone, room: str) -> None:
    identity, pid = clone.identity(), clone.pid
    assert identity

    stopped = clone.make("quickstart-down")
    assert stopped.code == 0, stopped.text
    assert alive(pid) is None
    with pytest.raises(urllib.error.URLError, match="refused"):
        clone.ask("/_matrix/client/versions")

    said = clone.make("quickstart-status")
    assert said.code != 0
    assert "Start it with: make quickstart" in said.text
    assert "SystemExit" not in said.text
    again = clone.make("quickstart-down")
    assert (again.code, again.changed) == (0, 0), again.text

    with socket.create_server(("127.0.0.1", clone.port)):
        refused = clone.make("quickstart")
    assert (refused.code != 0, refused.changed) == (True, 0), refused.text
    assert f'Take another port: make quickstart ARGS="-e synapse_quickstart_port={clone.port + 200}"' in refused.text

    started = clone.make("quickstart")
    assert started.code == 0, started.text
    assert clone.pid != pid
    assert clone.identity() == identity
    token = clone.log_in()
    assert room in clone.ask("/_matrix/client/v3/joined_rooms", token=token)["joined_rooms"]
    events = clone.ask(f"/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=20", token=token)["chunk"]
    assert [event["sender"] for event in events if event["type"] == "m.room.message"][:2] == [
        "@second:localhost",
        "@admin:localhost",
    ]
