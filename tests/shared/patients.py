"""Servers with a fault: each a container of its own, made from a deployed one, and gone when its test ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from deployed import relayed
from past import Past

if t.TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Case", "Patient", "admitted", "cases", "changed"]

CASES = Path(__file__).resolve().parents[1] / "faults" / "cases"

# What an injection can use. What it changes it changes as an operator, or an accident, would: in the files.
PREAMBLE = r"""
set -e
ETC=/etc/synapse DATA=/var/lib/synapse LOG=/var/log/synapse VENV=/var/lib/synapse/venv UNIT=matrix-synapse.service
PY=$VENV/bin/python SP=$(echo $VENV/lib/python3.*/site-packages) RELEASE=$(readlink -f $VENV)
YAML=$ETC/homeserver.yaml KEY=$ETC/homeserver.signing.key
edit() { # STATEMENTS [ARGUMENT...]: Python about the mapping c; what the first lines say of the file stays
  $PY - "$@" <<'CODE'
import sys, yaml
path, statements, arguments = "/etc/synapse/homeserver.yaml", sys.argv[1], sys.argv[2:]
text = open(path).read()
head = [line for line in text.splitlines(True) if line.startswith("#")]
c = yaml.safe_load(text)
exec(statements)
with open(path, "w") as stream:
    stream.writelines(head)
    yaml.safe_dump(c, stream, sort_keys=False, allow_unicode=True)
CODE
}
yset() { edit 'c[arguments[0]] = yaml.safe_load(arguments[1])' "$1" "$2"; } # OPTION YAML
ydel() { edit 'c.pop(arguments[0], None)' "$1"; }                            # OPTION
as_service() { runuser -u synapse -- "$@"; }
sql() { runuser -u postgres -- psql --set=ON_ERROR_STOP=1 -qAt synapse -c "$1"; }
drop_in() { # LINE...
  mkdir -p /etc/systemd/system/$UNIT.d
  printf '%s\n' "$@" > /etc/systemd/system/$UNIT.d/fault.conf
  systemctl daemon-reload
}
"""

HEALTHY = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8008/_matrix/client/versions', timeout=2).status)"
)


@dataclass(frozen=True)
class Case:
    """A fault: how to bring it about, what has to be said of it, and what repairing has to come to.

    ``outcome``: ``mended`` (healthy again, with all that users left), ``refused`` (red, for the reason ``says``), or
    ``nothing`` (there is nothing to mend). ``variables`` go to the playbooks. ``always``: part of the small selection.
    ``more_keys``: the fault itself has the server publish another key beside its own.
    """

    id: str
    title: str
    inject: str
    finding: str
    outcome: str
    host: str = "sqlite"
    restart: bool = True
    says: str = ""
    keeps: tuple[str, ...] = ()
    skip: str = ""
    settle: float = 0.0
    always: bool = False
    more_keys: bool = False
    variables: t.Mapping[str, t.Any] = field(default_factory=dict)


def cases() -> list[Case]:
    """Return all cases, in their files' order."""
    found = []
    for path in sorted(CASES.glob("*.yml")):
        for given in yaml.safe_load(path.read_text(encoding="utf-8")) or ():
            found.append(Case(**{**given, "keeps": tuple(given.get("keeps", ()))}))
    return found


def _docker(*arguments: str, **options: t.Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, **options)


def _image(host: str) -> str:
    """Return the image made of one of the scenario's hosts, making it where it is missing."""
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    name = f"matrix-fleet/clinic-{host}:latest"
    made = folder / f"clinic-{host}.image"
    with (folder / f"clinic-{host}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            container = f"clinic-{host}"
            for verb in ("stop", "start"):
                _docker("exec", container, "systemctl", verb, "matrix-synapse.service")
                if verb == "stop":
                    _docker("commit", "--pause=false", container, name)
            made.touch()
    return name


class Patient:
    """A container with a server that was healthy."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.name = f"patient-{case.id.lower()}"
        self.inventory = folder / "patient.yml"
        self.inventory.write_text(
            json.dumps(
                {
                    "all": {
                        "children": {
                            case.host: {"hosts": {self.name: {"ansible_connection": "community.docker.docker"}}}
                        }
                    }
                }
            ),
            encoding="utf-8",
        )

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the container, as root."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.name, "bash", "-s"],
            input=command,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command.rpartition(PREAMBLE)[2]}\n{done.stdout}{done.stderr}")
        return done

    def wait(self, seconds: float = 90) -> None:
        """Wait until the server answers, and then until all services have started."""
        until = time.monotonic() + seconds
        while self.run(f'python3 -c "{HEALTHY}"', check=False).returncode != 0:
            if time.monotonic() > until:
                raise AssertionError(self.run("journalctl -n 40 --no-pager -u matrix-synapse", check=False).stdout)
            time.sleep(0.5)

    def inject(self) -> None:
        """Bring the fault about; where the case says so, restart the server and let it meet it."""
        self.run(PREAMBLE + self.case.inject)
        if self.case.restart:
            self.run("systemctl restart --no-block matrix-synapse.service", check=False)
            self._settle()
        time.sleep(self.case.settle)

    def _settle(self, seconds: float = 20) -> None:
        """Wait until the unit is up, or has failed more than once."""
        until = time.monotonic() + seconds
        show = "systemctl show matrix-synapse.service -p ActiveState,SubState,NRestarts,Job --value"
        while time.monotonic() < until:
            time.sleep(0.5)
            words = self.run(show, check=False).stdout.split()
            if "failed" in words or words[-2:] == ["active", "running"] or words[:2] == ["active", "running"]:
                return
            if any(word.isdigit() and 1 < int(word) < 1000 for word in words):
                return

    def play(self, playbook: str, *arguments: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection against the patient; return what it printed and how it ended."""
        extra = self.folder / "extra-vars.json"
        extra.write_text(json.dumps({**self.case.variables, **variables}), encoding="utf-8")
        return subprocess.run(
            [
                "ansible-playbook",
                "--inventory",
                os.environ["MOLECULE_INVENTORY_FILE"],
                "--inventory",
                str(self.inventory),
                "--limit",
                self.name,
                "--extra-vars",
                f"@{extra}",
                *arguments,
                f"matrix_fleet.synapse.{playbook}",
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def report(self) -> dict[str, t.Any]:
        """Return what the playbook status reports of the patient."""
        folder = self.folder / "report"
        run = self.play("status", synapse_report_dir=str(folder))
        try:
            hosts = json.loads((folder / "report.json").read_text(encoding="utf-8"))["hosts"]
        except (OSError, ValueError, KeyError):
            raise AssertionError(run.stdout) from None
        (host,) = (one for one in hosts if one["host"] == self.name)
        return dict(host)

    def digests(self, paths: t.Iterable[str]) -> dict[str, str]:
        """Return what files hold, as digests."""
        found = {}
        for path in paths:
            found[path] = self.run(f"sha256sum {path} 2>/dev/null | cut -d' ' -f1", check=False).stdout.strip()
        return found

    def check_past(self) -> None:
        """See that people find everything again that they left, and the server's identity."""
        past = Past.read(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"clinic-{self.case.host}.past.json"))
        with relayed(self.name, 8008) as port:
            past.check(f"http://127.0.0.1:{port}", more_keys=self.case.more_keys)


@contextlib.contextmanager
def admitted(case: Case, folder: Path) -> Iterator[Patient]:
    """Give a patient without its fault yet, healthy; take the container away at the end."""
    image = _image(case.host)
    patient = Patient(case, folder)
    project = os.environ["MOLECULE_PROJECT_DIRECTORY"]
    _docker("rm", "--force", "--volumes", patient.name)
    _docker(
        *("run", "--detach", "--name", patient.name, "--hostname", patient.name, "--add-host", "clinic.test:127.0.0.1"),
        *("--cap-add", "SYS_ADMIN", "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
        *("--volume", f"{project}/.cache/uv:/root/.cache/uv:rw", "--env", "UV_CACHE_DIR=/root/.cache/uv"),
        *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--stop-signal", "SIGRTMIN+3", image),
    )
    try:
        patient.wait()
        yield patient
    finally:
        if not os.environ.get("MATRIX_FLEET_KEEP_PATIENTS"):
            _docker("rm", "--force", "--volumes", patient.name)


def changed(output: str) -> int:
    """Return how many tasks changed something, as the recap of a run says."""
    return sum(int(number) for number in re.findall(r"changed=(\d+)", output))
