# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import (
    TIMED_OUT,
    Account,
    CommandResult,
    Runner,
    SynapseError,
    ask_python,
    module_runner,
    process_runner,
)


class Module:
    """Does what AnsibleModule.run_command does with the arguments that the runner gives it, and takes no others."""

    def run_command(
        self,
        args: list[str],
        *,
        data: str | None,
        environ_update: dict[str, str],
        cwd: str | None,
        handle_exceptions: bool,
        binary_data: bool,
        expand_user_and_vars: bool,
        errors: str,
        pass_fds: tuple[int, ...],
    ) -> tuple[int, str, str]:
        assert not handle_exceptions, "an error must come back as one, not end the module"
        assert binary_data, "a line break would be added to what the process reads"
        assert not expand_user_and_vars, "~ and $ in an argument would be replaced"
        result = subprocess.run(
            args,
            input=None if not data else data.encode(),
            capture_output=True,
            env={**os.environ, **environ_update},
            cwd=cwd,
            pass_fds=pass_fds,
            check=False,
        )
        return result.returncode, result.stdout.decode(errors=errors), result.stderr.decode(errors=errors)


@pytest.fixture(params=["module", "process"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Both runners: they have to do the same."""
    return module_runner(t.cast("t.Any", Module())) if request.param == "module" else process_runner()


def python(source: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", source]


def test_a_process_gets_its_arguments_input_environment_and_folder_as_they_are(run: Runner, tmp_path: Path) -> None:
    source = "import os, sys; print(sys.argv[1], sys.stdin.read(), os.environ['X'], os.getcwd(), sep='|')"
    result = run([*python(source), "~ $HOME"], stdin="in", env={"X": "x y"}, cwd=str(tmp_path))
    assert result == CommandResult(0, f"~ $HOME|in|x y|{tmp_path}\n", "")


def test_a_failure_is_a_result(run: Runner) -> None:
    result = run(python("import sys; sys.stderr.write('why'); sys.exit(3)"))
    assert result == CommandResult(3, "", "why")


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_missing_program_is_a_result(run: Runner, timeout: float | None) -> None:
    result = run(["/no/such/program"], timeout=timeout)
    assert (result.rc, result.stderr.strip()) == (127, "/no/such/program: No such file or directory")


def test_a_missing_folder_to_work_in_is_a_result(run: Runner) -> None:
    result = run(python("print('ran')"), cwd="/no/such/folder")
    assert (result.rc, result.stdout) == (127, "")
    assert "/no/such/folder" in result.stderr


def test_bytes_that_are_no_text_are_replaced(run: Runner) -> None:
    assert run(python("import sys; sys.stdout.buffer.write(b'a\\xffb')")).stdout == "a\ufffdb"


def test_the_time_limit_ends_the_process(run: Runner) -> None:
    began = time.monotonic()
    result = run(python("import time; print('begun', flush=True); time.sleep(60)"), timeout=0.5)
    assert (result.rc, result.stdout) == (TIMED_OUT, "begun\n")
    assert time.monotonic() - began < 30


def test_the_time_limit_does_not_reach_what_was_forked(run: Runner, tmp_path: Path) -> None:
    source = """
import os, sys, time
if os.fork():
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDWR), 1); os.dup2(1, 2)
time.sleep(0.8)
open(sys.argv[1], "w").close()
"""
    assert run([*python(source), str(tmp_path / "done")], timeout=0.3).rc in {0, TIMED_OUT}
    end = time.monotonic() + 20
    while not (tmp_path / "done").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "done").exists()


def test_a_limited_process_without_input_reads_nothing(run: Runner) -> None:
    assert run(python("import sys; print(repr(sys.stdin.read()))"), timeout=60).stdout == "''\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_an_account_has_its_own_identity_and_none_of_roots_groups() -> None:
    run = module_runner(t.cast("t.Any", Module()))
    show = (
        "import os; "
        "print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ['HOME'], os.environ.get('LOGNAME'))"
    )
    result = run(["/usr/bin/env", "-S", "id", "-u"], account=Account(1, 1, (1,)))
    assert result.stdout == "1\n"
    launched = ["/usr/bin/python3", "-I", "-S", "-c", show]
    result = run(launched, account=Account(1, 1, (1, 12)), env={"LOGNAME": "mine"})
    assert result.stdout == "(1, 1, 1) (1, 1, 1) [1, 12] /usr/sbin mine\n", result.stderr
    assert run(launched, account=Account(54321, 54321)).stdout.startswith("(54321, 54321, 54321)")


def test_a_process_inherits_the_handles_that_it_shall_and_no_others(tmp_path: Path) -> None:
    kept, other = (os.open(tmp_path / name, os.O_CREAT | os.O_RDWR) for name in "ab")
    source = f"import os\nfor n in ({kept}, {other}):\n try: os.fstat(n); print(n)\n except OSError: pass"
    for timeout in (None, 60.0):
        run = module_runner(t.cast("t.Any", Module()), pass_fds=[kept])
        assert run(python(source), timeout=timeout).stdout == f"{kept}\n"
    os.close(kept)
    os.close(other)


def answering(stdout: str, rc: int = 0, stderr: str = "") -> Runner:
    def run(argv: t.Sequence[str], **_: t.Any) -> CommandResult:
        assert argv[:3] == ["py", "-I", "-c"]
        return CommandResult(rc, stdout, stderr)

    return t.cast("Runner", run)


def test_the_last_line_is_the_answer() -> None:
    assert ask_python(answering('banner\n{"a": 1}\n'), "py", "source", {}) == {"a": 1}


@pytest.mark.parametrize(
    ("stdout", "rc", "words"),
    [
        ("", 1, "did not answer the probe"),
        ("not JSON\n", 0, "did not answer the probe"),
        ('{"a": 1}\nnoise\n', 0, "did not answer the probe"),
        ("[1]\n", 0, "answered the probe with list"),
        ("", TIMED_OUT, "did not answer within 5 s"),
    ],
)
def test_no_answer_is_an_error_with_what_the_process_wrote(stdout: str, rc: int, words: str) -> None:
    with pytest.raises(SynapseError, match=words) as caught:
        ask_python(answering(stdout, rc, "why" * 2000), "py", "source", {}, timeout=5)
    assert len(caught.value.details.get("stderr", "")) <= 4000
    assert caught.value.details["rc"] == rc


def test_a_probe_really_runs(run: Runner) -> None:
    source = "import json, sys; r = json.load(sys.stdin); print('~', '$HOME'); print(json.dumps({'got': r}))"
    assert ask_python(run, sys.executable, source, {"a": ["ä"]}) == {"got": {"a": ["ä"]}}


def test_the_request_is_not_in_the_process_list() -> None:
    def run(argv: t.Sequence[str], *, stdin: str | None = None, **_: t.Any) -> CommandResult:
        assert "hunter2" not in " ".join(argv)
        assert json.loads(stdin or "") == {"password": "hunter2"}
        return CommandResult(0, "{}", "")

    assert ask_python(t.cast("Runner", run), "py", "source", {"password": "hunter2"}) == {}


def test_a_descriptor_becomes_a_standard_stream(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("given\n")
    with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as taken:
        streamed = module_runner(t.cast("t.Any", Module()), streams={0: given.fileno(), 1: taken.fileno()})
        assert streamed(["cat"]) == CommandResult(0, "", "")
        assert streamed(["ls", "/proc/self/fd"], timeout=10).stdout == ""
    # The standard streams, and the folder that is listed: nothing else was handed over.
    assert (tmp_path / "out").read_text() == "given\n0\n1\n2\n3\n"


@pytest.mark.parametrize("account", [None, Account(65534, 65534)], ids=["same user", "another user"])
def test_a_process_ends_with_the_one_that_started_it(account: Account | None) -> None:
    if account is not None and os.geteuid() != 0:
        pytest.skip("needs root to act as another user")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = os.fork()
    if pid == 0:
        bound = module_runner(t.cast("t.Any", Module()), ends_with_us=True, pass_fds=[writer])
        bound(["bash", "-c", f"echo started >&{writer}; exec sleep 60"], account=account)
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 100) == b"started\n"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # The end of the pipe comes when the last process that has it is gone.
    assert select.select([reader], [], [], 10)[0], "the process outlives the one that started it"
    assert os.read(reader, 100) == b""
    os.close(reader)
