# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the project's figures as ratios, both sides measured in turn on one container made for the purpose.

The container is a bare Debian 12 with systemd. It gets two servers that keep the same state, one by the collection's
``deploy``, one by ``plain``, a conventional role of built-in modules in this folder; then everything is measured on
runs that change nothing. Medians. Nothing fails on a time; what is wrong fails: a run that changes something.

* wall and CPU time of a playbook: of the ``ansible-playbook`` process and all that it started on the controller;
* ``inside the module``: from the start of its ``main()`` to its result, in the host's own Python, from the archive that
  Ansible sends and with the parameters that the role gives;
* any other time on the host: of the whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import yaml

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._default_lock import DIGEST, LOCK, VERSION

if t.TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".cache" / "bench"
BIN = Path(sys.executable).parent
IMAGE = f"{os.environ.get('MOLECULE_IMAGE_REPO', 'matrix-fleet/systemd')}:bookworm"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PLAYBOOKS = {
    "deploy": "matrix_fleet.synapse.deploy",
    "plain": str(HERE / "plain.yml"),
    "floor": str(HERE / "floor.yml"),
}
DRIVER = "/opt/bench/on_host.py"
PAYLOADS = "/opt/bench/payloads"
POLLER = "/opt/bench/poller.py"
LOCK_ON_HOST = "/opt/bench/requirements.txt"
# pip keeps what it downloads only where the package index lets it; a folder of wheels is its best case anywhere. It
# lies in the cache that outlives the container.
WHEELS = f"/root/.cache/pip/bench-{DIGEST[:12]}"
FETCH_WHEELS = """
set -e
[ ! -e "$1/complete" ] || exit 0
python3 -m venv /opt/bench/fetch
/opt/bench/fetch/bin/pip download --quiet --require-hashes --only-binary :all: --dest "$1" --requirement "$2"
touch "$1/complete"
"""
# The folders are named after the time; the files get the number of the task in front of the module's name.
KEEP_PAYLOADS = """
set -e
rm -rf "$1"; mkdir -p "$1"; n=10
for file in "$HOME"/.ansible/tmp/*/AnsiballZ_*.py; do
  mv "$file" "$1/$n-${file##*/AnsiballZ_}"; n=$((n + 1))
done
"""
AS_SYNAPSE = ["setpriv", "--reuid=synapse", "--regid=synapse", "--init-groups"]
SYNAPSE_CONFIG = [
    "/var/lib/synapse/venv/bin/python",
    "-m",
    "synapse.config",
    "--config-path=/etc/synapse/homeserver.yaml",
]
UNCHANGED = re.compile(r" : ok=\d+ +changed=0 +unreachable=0 +failed=0 ")


@dataclass(frozen=True)
class Cost:
    """What a playbook cost the controller, or a command the host, in seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    target: str
    measured: str
    raw: str = ""


def say(text: str) -> None:
    """Tell the terminal, not the table, what is going on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def seconds(values: list[float]) -> str:
    """Show raw seconds, the smallest first."""
    return " ".join(f"{value:.3f}" if value < 1 else f"{value:.2f}" for value in sorted(values))


def on_host(figure: str, target: str, ours: list[Cost], theirs: list[Cost]) -> Row:
    """Return the row of two sides measured on the host; a busy machine disturbs their CPU time less."""
    row = compared(figure, target, [cost.wall for cost in ours], [cost.wall for cost in theirs])
    cpu = median(cost.cpu for cost in ours) / max(median(cost.cpu for cost in theirs), 0.01)
    return replace(row, raw=f"{row.raw}, CPU time {cpu:.2f}")


def compared(figure: str, target: str, ours: list[float], theirs: list[float]) -> Row:
    """Return the row of two measured sides."""
    return Row(figure, target, f"{median(ours) / median(theirs):.2f}", f"{seconds(ours)} / {seconds(theirs)}")


class Container:
    """The one host of the benchmark."""

    def __init__(self, kept: str) -> None:
        self.name = kept or f"synapse-bench-{os.getpid()}"
        if kept:
            return
        options = ["--cap-add=SYS_ADMIN", "--cgroupns=host", "--tmpfs=/run", "--tmpfs=/run/lock"]
        options += ["--env=UV_CACHE_DIR=/root/.cache/uv"]
        volumes = ["/sys/fs/cgroup:/sys/fs/cgroup:rw"]
        volumes += [f"{ROOT}/.cache/{tool}:/root/.cache/{tool}:rw" for tool in ("uv", "pip")]
        self._docker(
            "run",
            "--detach",
            "--name",
            self.name,
            "--hostname=bench",
            *options,
            *(f"--volume={v}" for v in volumes),
            IMAGE,
        )

    @staticmethod
    def _docker(*arguments: str, text: str | None = None) -> str:
        done = subprocess.run(["docker", *arguments], check=False, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"bench: docker {arguments[0]} failed: {done.stderr[-3000:]}{done.stdout[-1000:]}")
        return done.stdout

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command on the host; return what it printed."""
        return self._docker("exec", "--interactive", self.name, *command, text=text)

    def put(self, path: str, text: str) -> None:
        """Write a file on the host."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "sh", path, text=text)

    def sides(self, times: int, **sides: dict[str, t.Any]) -> dict[str, list[Cost]]:
        """Run each side's command in turn on the host; return what each cost there."""
        answer = json.loads(self.run("python3", DRIVER, text=json.dumps({"times": times, "sides": sides})))
        return {name: [Cost(*cost) for cost in costs] for name, costs in answer.items()}

    def remove(self) -> None:
        """Leave nothing behind."""
        self._docker("rm", "--force", "--volumes", self.name)


class Controller:
    """Runs playbooks against the container, all with the same connection and the same settings."""

    def __init__(self, container: Container) -> None:
        self.container = container
        WORK.mkdir(parents=True, exist_ok=True)
        self.lock = WORK / "requirements.txt"
        self.lock.write_text(LOCK, encoding="utf-8")
        variables = {
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ca_bundle": BUNDLE,
            "plain_lock": str(self.lock),
            "plain_server_name": "plain.test",
            "plain_version": VERSION,
            "synapse_ca_bundle": BUNDLE,
            "synapse_server_name": "bench.test",
        }
        self._inventory = WORK / "inventory.yml"
        self._inventory.write_text(yaml.safe_dump({"all": {"hosts": {container.name: variables}}}), encoding="utf-8")
        settings = WORK / "ansible.cfg"
        settings.write_text("[defaults]\nnocows = true\n[connection]\npipelining = true\n", encoding="utf-8")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(settings),
            "ANSIBLE_HOME": str(WORK / "home"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.log = WORK / "output.log"

    def play(self, playbook: str, *arguments: str, idle: bool = True, **environment: str) -> Cost:
        """Run a playbook to its end and return its cost; see that it changed nothing, if it should be ``idle``."""
        command = [str(BIN / "ansible-playbook"), "--inventory", str(self._inventory), *arguments, playbook]
        usage = None
        with self.log.open("w", encoding="utf-8") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**self._environment, **environment}
            )
            _pid, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
        output = self.log.read_text(encoding="utf-8")
        if process.returncode != 0 or (idle and not UNCHANGED.search(output)):
            kept = WORK / "failed.log"
            shutil.copy(self.log, kept)
            how = f"ended with {process.returncode}" if process.returncode else "changed something"
            raise SystemExit(f"bench: {playbook} {how}; all of its output: {kept}\n{output[-2500:]}")
        return Cost(wall, usage.ru_utime + usage.ru_stime)


def executions(controller: Controller, playbook: str) -> Counter[str]:
    """Count the modules that a run starts on the host, by name, as Ansible tells them at -vvv."""
    controller.play(playbook, "-vvv")
    return Counter(re.findall(r"^Using module file .*/(\w+)\.py$", controller.log.read_text(encoding="utf-8"), re.M))


def prepare(controller: Controller) -> None:
    """Make both servers, and see that a second run of each has nothing left to do."""
    container = controller.container
    container.put(DRIVER, (HERE / "on_host.py").read_text(encoding="utf-8"))
    container.put(LOCK_ON_HOST, LOCK)
    controller.play(str(ROOT / "molecule" / "shared" / "prepare.yml"), idle=False)
    container.run("apt-get", "update", "--quiet=2")
    for side in ("deploy", "plain"):
        cost = controller.play(PLAYBOOKS[side], idle=False)
        say(f"{side}: the first run took {cost.wall:.0f} s")
    # The modules exactly as the role sends them are kept, to be measured without the way to the host.
    for playbook in (PLAYBOOKS["deploy"], "matrix_fleet.synapse.status"):
        controller.play(playbook, ANSIBLE_KEEP_REMOTE_FILES="1", ANSIBLE_PIPELINING="0")
    container.run("sh", "-c", KEEP_PAYLOADS, "sh", PAYLOADS)
    controller.play(PLAYBOOKS["plain"])


def measure_deploy(controller: Controller, times: int) -> Iterator[Row]:
    """Measure a deployment that changes nothing."""
    costs: dict[str, list[Cost]] = {side: [] for side in PLAYBOOKS}
    for count, side in itertools.product(range(times), PLAYBOOKS):
        costs[side].append(controller.play(PLAYBOOKS[side]))
        say(f"run {count + 1} of {times}: {side} {costs[side][-1].wall:.1f} s")
    # Ansible's own start is in both sides of each ratio.
    start = [controller.play(str(HERE / "start.yml"), idle=False).cpu for _unused in range(times)]
    for other, target in (("plain", "<= 0.5"), ("floor", "<= 1.3")):
        name = {"plain": "the plain role", "floor": "the floor"}[other]
        for kind in ("wall", "cpu"):
            ours, theirs = ([getattr(cost, kind) for cost in costs[side]] for side in ("deploy", other))
            what = {"wall": "wall time", "cpu": "controller's CPU time"}[kind]
            yield compared(f"no-change deploy / {name}: {what}", target, ours, theirs)
    yield Row("  for comparison: controller's CPU time of ansible-playbook with an empty play", "", "", seconds(start))
    counted = {side: executions(controller, playbook) for side, playbook in PLAYBOOKS.items()}
    others = ", ".join(f"{side} {counted[side].total()}" for side in ("plain", "floor"))
    yield Row("remote task executions of a no-change deploy", "<= 10", str(counted["deploy"].total()), others)
    say(f"deploy runs on the host: {dict(counted['deploy'])}")
    say(f"plain runs on the host: {dict(counted['plain'])}")


def unreachable_during(container: Container, action: t.Callable[[], object]) -> float:
    """Return for how many seconds the server did not answer while ``action`` ran, and until it answered again."""
    stop = "/tmp/bench-over"
    container.run("rm", "-f", stop)
    container.put(POLLER, (HERE / "poller.py").read_text(encoding="utf-8"))
    command = ["docker", "exec", container.name, "python3", POLLER, "8008", stop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as poller:
        time.sleep(1)
        try:
            action()
        finally:
            container.run("touch", stop)
        answer, _errors = poller.communicate(timeout=660)
    return float(answer)


def measure_downtime(controller: Controller, times: int) -> Iterator[Row]:
    """Measure for how long a server does not answer while its release is exchanged, against a plain restart.

    Both releases are built beforehand, as they are when the switch comes; they differ in one package.
    """
    container = controller.container
    restart = ["sh", "-c", "systemctl restart matrix-synapse"]
    ours, theirs = [], []
    for turn in range(2 * times + 2):
        more = {"synapse_extra_packages": ["matrix-synapse-ldap3==0.4.0"] if turn % 2 == 0 else []}
        extra = ("--extra-vars", json.dumps({**more, "synapse_canary": 0}))

        def upgrade(extra: tuple[str, str] = extra) -> None:
            controller.play("matrix_fleet.synapse.upgrade", *extra, idle=False)

        if turn < 2:
            upgrade()
            continue
        ours.append(unreachable_during(container, upgrade))
        theirs.append(unreachable_during(container, lambda: container.run(*restart)))
        say(f"unreachable for {ours[-1]:.2f} s in an upgrade, {theirs[-1]:.2f} s in a restart")
    yield compared("server unreachable during an upgrade / a plain restart", "<= 1.2", ours, theirs)


def module(name: str, inside: bool = False, may_change: bool = False, **parameters: t.Any) -> dict[str, t.Any]:
    """Return the side that runs a module as the role does, apart from the given parameters."""
    argv = ["python3", DRIVER, f"{PAYLOADS}/??-{name}.py", json.dumps(parameters)]
    return {"argv": argv + ["--may-change"] * may_change, "own_clock": inside}


def measure_modules(container: Container, times: int) -> Iterator[Row]:
    """Measure single modules on the host."""
    say("modules on the host")
    found = container.sides(
        times,
        ours=module("synapse_venv", inside=True),
        bare={"argv": ["python3", "-c", "pass"]},
        whole=module("synapse_venv"),
    )
    yield on_host(
        "synapse_venv with nothing to do, inside the module / a bare interpreter", "<= 4", found["ours"], found["bare"]
    )
    yield on_host("  for comparison: its whole process / a bare interpreter", "", found["whole"], found["bare"])
    bare = {"argv": [*AS_SYNAPSE, *SYNAPSE_CONFIG], "cwd": "/var/lib/synapse"}
    found = container.sides(
        times, ours=module("synapse_config_check"), bare=bare, inside=module("synapse_config_check", inside=True)
    )
    yield on_host(
        "synapse_config_check, whole process / a bare synapse.config", "<= 1.15", found["ours"], found["bare"]
    )
    yield on_host("  for comparison: inside the module / a bare synapse.config", "", found["inside"], found["bare"])
    found = container.sides(
        times, ours=module("synapse_doctor"), bare=bare, inside=module("synapse_doctor", inside=True)
    )
    yield on_host("synapse_doctor, whole process / a bare synapse.config", "<= 3", found["ours"], found["bare"])
    yield on_host("  for comparison: inside the module / a bare synapse.config", "", found["inside"], found["bare"])


def build(wheels: str = "", own_cache: bool = False) -> dict[str, t.Any]:
    """Return the side that builds a release from the lock, with uv in its place as pip is in the other side's.

    ``wheels`` is a folder to build from without an index. With ``own_cache`` there is nothing in uv's cache, and it
    goes with the build, as on a host that nobody told to keep one.
    """
    places = {"path": "{folder}/venv", "releases_path": "{folder}/releases"}
    offline = {"find_links": [wheels], "offline": True} if wheels else {}
    side = module("synapse_venv", may_change=True, **places, **offline)
    place = 'mkdir -p "$1/releases/.tools" && cp -a /var/lib/synapse/releases/.tools/uv-* "$1/releases/.tools/"'
    side["before"] = [["sh", "-c", place, "sh", "{folder}"]]
    side["under"] = "/var/lib"
    if own_cache:
        side["env"] = {"UV_CACHE_DIR": ""}
    return side


def pip_install(*options: str) -> dict[str, t.Any]:
    """Return the side that installs the lock with pip into an environment that is there."""
    command = ["{folder}/venv/bin/pip", "install", "--quiet", "--require-hashes", f"--requirement={LOCK_ON_HOST}"]
    before = [["python3", "-m", "venv", "{folder}/venv"]]
    return {"argv": [*command, *options], "before": before, "under": "/var/lib"}


def measure_builds(controller: Controller, times: int, cold: bool) -> Iterator[Row]:
    """Measure building an environment: warm, from a folder of wheels as offline hosts do, and cold."""
    container = controller.container
    container.run("sh", "-c", FETCH_WHEELS, "sh", WHEELS, LOCK_ON_HOST)
    from_wheels = pip_install("--no-index", f"--find-links={WHEELS}")
    first = build()
    del first["before"]
    say("building environments, nothing to download")
    offline = build(WHEELS, own_cache=True)
    found = container.sides(times, ours=build(), pip=from_wheels, first=first, offline=offline)
    what = "building an environment / pip install of its lock"
    yield on_host(f"{what}, nothing to download", "<= 0.25", found["ours"], found["pip"])
    yield on_host("  for comparison: the same, uv itself to fetch", "", found["first"], found["pip"])
    yield on_host(f"{what}, both offline from a folder of wheels", "<= 0.25", found["offline"], found["pip"])
    if cold:
        say("building environments, everything to download")
        found = container.sides(times, ours=build(own_cache=True), pip=pip_install("--no-cache-dir"))
        yield on_host(f"{what}, everything to download", "", found["ours"], found["pip"])


def measure_walk() -> Iterator[Row]:
    """Measure synapse_permissions, by the script that knows how."""
    figure, target = "synapse_permissions, 100,000 files in order / a bare walk", "<= 1.5"
    script = HERE / "permissions_walk.py"
    if not script.exists():
        yield Row(figure, target, "not measured yet")
        return
    say("permissions of 100,000 files")
    done = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {script.name} failed: {done.stderr[-3000:]}")
    # The script names one ratio or several; the worst one counts.
    _words, _ratio, after = done.stdout.partition("ratio")
    numbers = re.findall(r"\d+\.\d+", after.partition("(")[0])
    yield Row(figure, target, max(numbers, key=float, default="?"), " ".join(done.stdout.split()))


def profile(controller: Controller, times: int) -> None:
    """Print where a no-change deployment spends its time: each task, and each module on the host alone."""
    file = WORK / "times.json"
    tasks: dict[str, list[float]] = {}
    for _unused in range(times):
        controller.play(PLAYBOOKS["deploy"], ANSIBLE_CALLBACKS_ENABLED="bench_times", BENCH_TIMES=str(file))
        for name, spent in json.loads(file.read_text(encoding="utf-8")):
            tasks.setdefault(name, []).append(spent)
    print("\nseconds of a no-change deploy, task by task, as the controller sees it")
    for name, spent in tasks.items():
        print(f"  {median(spent):6.2f}  {name}")
    print("seconds of each of its modules on the host, from the start of the process to its end")
    payloads = sorted(controller.container.run("ls", PAYLOADS).split())
    for name in payloads:
        found = controller.container.sides(times, whole={"argv": ["python3", f"{PAYLOADS}/{name}"]})
        print(f"  {median(cost.wall for cost in found['whole']):6.2f}  {name[3:-3]}")


def show(rows: list[Row]) -> None:
    """Print the table."""
    head = Row("figure", "target", "measured", "seconds, ours / theirs")
    cells = [(row.figure, row.target, row.measured, row.raw) for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    print()
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3]]).rstrip())


def main() -> None:
    """Make the container, measure, print, remove the container."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3, help="how often each side of a deployment is run")
    parser.add_argument("--cold", action="store_true", help="build environments with empty caches as well")
    parser.add_argument(
        "--only", choices=["deploy", "builds", "modules", "downtime", "walk"], help="measure nothing else"
    )
    parser.add_argument("--profile", action="store_true", help="also say where a no-change deployment spends its time")
    parser.add_argument("--keep", action="store_true", help="leave the container running")
    parser.add_argument("--kept", metavar="NAME", default="", help="measure on a container that an earlier run kept")
    options = parser.parse_args()
    # An end from outside is an orderly one: the container goes.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    begin = time.monotonic()
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before anything is measured")
    with contextlib.ExitStack() as stack:
        container = Container(options.kept)
        if not (options.keep or options.kept):
            stack.callback(container.remove)
        controller = Controller(container)
        prepare(controller)
        rows: list[Row] = []
        # What was measured is shown even where a later measurement fails or is interrupted.
        with contextlib.ExitStack() as table:
            table.callback(show, rows)
            parts = {
                "deploy": measure_deploy(controller, options.repetitions),
                "builds": measure_builds(controller, 2, options.cold),
                "modules": measure_modules(container, 3 * options.repetitions),
                "downtime": measure_downtime(controller, max(1, options.repetitions - 1)),
                "walk": measure_walk(),
                "fleet": [Row("wall time per host from 1 to 20 hosts", "linear", "not measured yet")],
            }
            chosen = [parts[options.only]] if options.only else parts.values()
            for row in itertools.chain.from_iterable(chosen):
                rows.append(row)
                say(f"{row.figure}: {row.measured}")
        if options.profile:
            profile(controller, options.repetitions)
    say(f"done in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
