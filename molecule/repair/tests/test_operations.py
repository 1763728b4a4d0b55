"""What repairing promises beside mending: to show first, to ask, to go back, and to leave alone what others made.

A few of them by default; all with MATRIX_FLEET_FAULTS=all.
"""

from __future__ import annotations

import re
import typing as t

import pytest
from patients import PREAMBLE, Case, Patient, admitted, changed

if t.TYPE_CHECKING:
    from pathlib import Path

YAML = "/etc/synapse/homeserver.yaml"
KEY = "/etc/synapse/homeserver.signing.key"
KEPT = "/etc/synapse/.transaction/kept"

# All that repairing could change; not what the server writes while it runs, nor the time of the folder it writes in.
SNAPSHOT = r"""
find /etc /var/lib/synapse \( -name __pycache__ -o -name 'homeserver.db*' -o -name '*.pid' \) -prune \
  -o -path /var/lib/synapse -printf '%p %m %u\n' -o -path '/var/lib/synapse/media_store*' -printf '%p %s %m %u\n' \
  -o -printf '%p %s %T@ %m %u %l\n' | LC_ALL=C sort
systemctl show matrix-synapse.service -p MainPID,NRestarts
"""

# A file that an operator wrote: without the collection's words, and with the secrets in it.
BY_HAND = r"""
edit '
for name in ("macaroon_secret_key", "registration_shared_secret", "form_secret"):
    c[name] = open(c.pop(name + "_path")).read().strip()
'
sed -i '/^#/d' $YAML $ETC/log.yaml
rm -rf $ETC/.transaction $ETC/secrets $KEY.verify_keys.json
"""

# As "python3 -m venv" and pip make it, with the key where Synapse itself puts it, and the data the service's own.
HAND_MADE = (
    "systemctl stop $UNIT\n"
    + BY_HAND
    + r"""
ydel signing_key_path
mv $KEY $ETC/clinic.test.signing.key
cat > /etc/systemd/system/$UNIT <<'EOT'
[Unit]
Description=Synapse
After=network.target

[Service]
Type=simple
User=synapse
WorkingDirectory=/var/lib/synapse
ExecStart=/var/lib/synapse/venv/bin/python -m synapse.app.homeserver -c /etc/synapse/homeserver.yaml
Restart=on-failure

[Install]
WantedBy=multi-user.target
EOT
rm $VENV
mv $RELEASE $VENV
rm -rf $VENV/release.json $DATA/releases $DATA/backups
"""
)

REWRITE = r"""
moved() { # ENVIRONMENT OLD NEW: let an environment be at home where it is now, as pip would have installed it there
  grep -rlI "$2" $1/bin $1/pyvenv.cfg | xargs sed -i "s|$2|$3|g"
  $1/bin/python - $1 <<'CODE'
import base64, csv, glob, hashlib, os, sys
for record in glob.glob(sys.argv[1] + "/lib/python3.*/site-packages/*.dist-info/RECORD"):
    folder = os.path.dirname(os.path.dirname(record))
    rows = list(csv.reader(open(record)))
    for row in rows:
        if row[0].startswith("../../../bin/"):
            held = open(os.path.join(folder, row[0]), "rb").read()
            digest = base64.urlsafe_b64encode(hashlib.sha256(held).digest()).rstrip(b"=").decode()
            row[1:] = ["sha256=" + digest, len(held)]
    csv.writer(open(record, "w"), lineterminator="\n").writerows(rows)
CODE
}
"""

HAND_MADE_OWNED = r"""
moved $VENV $RELEASE $VENV
chown -R synapse:synapse $DATA
chmod 0750 $DATA
systemctl daemon-reload
systemctl start $UNIT
"""

# As the package of Synapse's makers lays it out: matrix-synapse-py3, debian/ and its maintainer scripts.
PACKAGED = (
    "systemctl disable --now $UNIT\n"
    + BY_HAND
    + r"""
rm -rf /etc/systemd/system/$UNIT
mkdir -p /opt/venvs
mv $RELEASE /opt/venvs/matrix-synapse
moved /opt/venvs/matrix-synapse $RELEASE /opt/venvs/matrix-synapse
rm -rf $VENV /opt/venvs/matrix-synapse/release.json $DATA/releases $DATA/backups
PY=/opt/venvs/matrix-synapse/bin/python
edit 'import os
os.makedirs("/etc/synapse/conf.d")
def part(name, *options):
    with open("/etc/synapse/conf.d/" + name, "w") as stream:
        yaml.safe_dump({option: c.pop(option) for option in options}, stream)
part("server_name.yaml", "server_name")
part("report_stats.yaml", "report_stats")
part("secrets.yaml", "macaroon_secret_key", "registration_shared_secret", "form_secret")'
usermod --login matrix-synapse --home /var/lib/matrix-synapse --gid nogroup synapse
groupdel synapse
mv /etc/synapse /etc/matrix-synapse
mv /var/lib/synapse /var/lib/matrix-synapse
mv /var/log/synapse /var/log/matrix-synapse
sed -i -E 's,(/etc|/var/lib|/var/log)/synapse,\1/matrix-synapse,g' /etc/matrix-synapse/*.yaml
# Where only the configuration says that it is.
mkdir /var/lib/matrix-synapse/sqlite
mv /var/lib/matrix-synapse/homeserver.db* /var/lib/matrix-synapse/sqlite
sed -i 's,/homeserver.db,/sqlite/homeserver.db,' /etc/matrix-synapse/homeserver.yaml
chown -R root:root /etc/matrix-synapse
chown -R matrix-synapse:nogroup /var/lib/matrix-synapse /var/log/matrix-synapse
chmod 0755 /etc/matrix-synapse /etc/matrix-synapse/conf.d /var/lib/matrix-synapse /var/log/matrix-synapse
chmod 0644 /etc/matrix-synapse/*.yaml /etc/matrix-synapse/conf.d/*.yaml
cd /etc/matrix-synapse
chown matrix-synapse:nogroup homeserver.signing.key conf.d/secrets.yaml
chmod 0600 homeserver.signing.key conf.d/secrets.yaml
cat > /usr/lib/systemd/system/$UNIT <<'EOT'
[Unit]
Description=Synapse Matrix homeserver

[Service]
Type=notify
User=matrix-synapse
WorkingDirectory=/var/lib/matrix-synapse
EnvironmentFile=-/etc/default/matrix-synapse
ExecStartPre=/opt/venvs/matrix-synapse/bin/python -m synapse.app.homeserver --config-path=/etc/matrix-synapse/homeserver.yaml --config-path=/etc/matrix-synapse/conf.d/ --generate-keys
ExecStart=/opt/venvs/matrix-synapse/bin/python -m synapse.app.homeserver --config-path=/etc/matrix-synapse/homeserver.yaml --config-path=/etc/matrix-synapse/conf.d/
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=3
SyslogIdentifier=matrix-synapse

[Install]
WantedBy=multi-user.target
EOT
systemctl daemon-reload
systemctl enable --now $UNIT
"""  # noqa: E501
)
# Nothing but where things are, as for a server of which the inventory knows nothing else.
FOREIGN = {"synapse_server_name": "{{ undef() }}"}
PACKAGE = {
    **FOREIGN,
    "synapse_venv_path": "/opt/venvs/matrix-synapse",
    "synapse_config_path": "/etc/matrix-synapse",
    "synapse_config_files": ["/etc/matrix-synapse/conf.d"],
    "synapse_data_path": "/var/lib/matrix-synapse",
    "synapse_log_path": "/var/log/matrix-synapse",
    "synapse_service_name": "matrix-synapse",
    "synapse_user": "matrix-synapse",
    "synapse_group": "nogroup",
}


def operation(id_: str, **options: t.Any) -> Case:
    """Return a case that brings no fault of its own."""
    return Case(f"ops{id_}", "", "", "", "mended", **options)


def found(patient: Patient) -> list[tuple[str, str, str]]:
    """Return what status finds that is more than worth knowing."""
    report = patient.report()
    return [
        (one["id"], one["severity"], f"{one['summary']} {one['evidence']}")
        for one in report["findings"]
        if one["severity"] != "info"
    ]


def grave(patient: Patient) -> list[tuple[str, str, str]]:
    """Return what status finds that keeps a server from being healthy."""
    return [one for one in found(patient) if one[1] != "warning"]


def mended(patient: Patient) -> str:
    """Repair, see that all is there, and that nothing is left to be done; return what the run printed."""
    repair = patient.play("repair")
    assert repair.returncode == 0, repair.stdout
    patient.check_past()
    again = patient.play("repair")
    assert again.returncode == 0, again.stdout
    assert changed(again.stdout) == 0, again.stdout
    return repair.stdout


def restarted(patient: Patient, unit: str = "matrix-synapse.service") -> None:
    """Let the server meet its fault: until the unit has failed, or its first start has."""
    patient.run(f"systemctl restart --no-block {unit}; sleep 6")


def test_check_mode_shows_the_difference_of_a_configuration_and_changes_nothing(tmp_path: Path) -> None:
    with admitted(operation("1a"), tmp_path) as patient:
        patient.run(f"printf 'foo:\\n\\tbar: 1\\n' >> {YAML}")
        before = patient.run(SNAPSHOT).stdout
        run = patient.play("repair", "--check", "--diff")
        assert patient.run(SNAPSHOT).stdout == before
        assert run.returncode == 0, run.stdout
        assert re.search(rf"^--- .*{YAML}", run.stdout, re.MULTILINE), run.stdout
        assert "-\tbar: 1" in run.stdout, run.stdout
        assert f"would be kept as {KEPT}/homeserver.yaml-" in " ".join(run.stdout.split()), run.stdout


@pytest.mark.at_length
def test_check_mode_says_what_would_be_built_and_changes_nothing(tmp_path: Path) -> None:
    with admitted(operation("1b"), tmp_path) as patient:
        patient.run(PREAMBLE + 'rm -rf "$SP"/signedjson "$SP"/signedjson-*')
        before = patient.run(SNAPSHOT).stdout
        run = patient.play("repair", "--check", "--diff")
        assert patient.run(SNAPSHOT).stdout == before
        assert run.returncode == 0, run.stdout
        assert re.search(r"/var/lib/synapse/venv would lead to /var/lib/synapse/releases/\S+, Synapse 1\.", run.stdout)


def test_a_configuration_of_somebody_else_is_replaced_only_where_that_was_asked_for(tmp_path: Path) -> None:
    with admitted(operation("2"), tmp_path) as patient:
        patient.run(PREAMBLE + "sed -i '/^#/d' $YAML\nrm -rf $ETC/.transaction\necho 'rc_login: 5' >> $YAML")
        restarted(patient)
        before, digest = patient.run(SNAPSHOT.partition("systemctl")[0]).stdout, patient.digests([YAML])[YAML]
        plain = patient.play("repair")
        assert plain.returncode != 0, plain.stdout
        assert "rc_login" in plain.stdout, plain.stdout
        assert "synapse_repair_adopt_config" in plain.stdout, plain.stdout
        tagged = patient.play("repair", "--tags", "config")
        assert tagged.returncode != 0, tagged.stdout
        assert "synapse_repair_adopt_config=true" in tagged.stdout, tagged.stdout
        shown = patient.play("repair", "--tags", "config", "--check", "--diff", synapse_repair_adopt_config=True)
        assert shown.returncode == 0, shown.stdout
        assert "-rc_login: 5" in shown.stdout, shown.stdout
        assert patient.run(SNAPSHOT.partition("systemctl")[0]).stdout == before
        adopted = patient.play("repair", "--tags", "config", synapse_repair_adopt_config=True)
        assert adopted.returncode == 0, adopted.stdout
        patient.check_past()
        assert found(patient) == []
        kept = f"{KEPT}/homeserver.yaml-{digest[:12]}"
        assert patient.digests([kept]) == {kept: digest}
        assert patient.run(f"stat -c '%U %a' {kept}").stdout.split() == ["root", "600"]


@pytest.mark.at_length
def test_a_configuration_with_which_the_server_does_not_come_up_is_put_back(tmp_path: Path) -> None:
    """It is right, and the port belongs to another program: only a start can tell."""
    listeners = [
        {
            "port": port,
            "type": "http",
            "tls": False,
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client"]}],
        }
        for port in (8098, 8099)
    ]
    with admitted(operation("3", variables={"synapse_listeners": listeners}), tmp_path) as patient:
        patient.run("systemd-run --unit=thief python3 -m http.server --bind 127.0.0.1 8099")
        files = [YAML, "/etc/synapse/log.yaml", "/etc/systemd/system/matrix-synapse.service", KEY]
        before = patient.digests(files)
        run = patient.play("repair", "--tags", "config")
        assert run.returncode != 0, run.stdout
        assert "Address already in use" in run.stdout, run.stdout
        assert "answers again, proven healthy" in run.stdout, run.stdout
        assert patient.digests(files) == before
        patient.check_past()
        assert grave(patient) == []


def test_a_server_whose_unit_has_another_name_is_mended_under_that_name(tmp_path: Path) -> None:
    with admitted(operation("4"), tmp_path) as patient:
        patient.run(
            PREAMBLE + "cd /etc/systemd/system\n"
            "systemctl disable --now $UNIT\nmv $UNIT homeserver.service\nsystemctl daemon-reload\n"
            "systemctl enable --now homeserver.service\n"
            f"chown root:root {YAML}\nchmod 0600 {YAML}\n"
        )
        restarted(patient, "homeserver.service")
        assert patient.report()["findings"][0]["id"] == "access.config_unreadable"
        before = patient.digests([YAML])
        mended(patient)
        assert grave(patient) == []
        assert patient.digests([YAML]) == before
        units = "systemctl list-unit-files --no-legend 'matrix-synapse*' 'homeserver*' | cut -d' ' -f1"
        assert patient.run(units).stdout.split() == ["homeserver.service"]
        assert patient.run("systemctl is-active homeserver.service").stdout.strip() == "active"


@pytest.mark.at_length
def test_an_installation_that_was_made_by_hand_is_left_as_it_is_but_for_what_is_broken(tmp_path: Path) -> None:
    with admitted(operation("5", variables=FOREIGN), tmp_path) as patient:
        patient.run(PREAMBLE + REWRITE + HAND_MADE + HAND_MADE_OWNED)
        patient.wait()
        # What is true of it, and for somebody to decide.
        assert [one[0] for one in found(patient)] == ["environment.writable"]
        files = ["/etc/synapse/*", "/etc/systemd/system/matrix-synapse.service"]
        before = patient.digests(files)
        whole = patient.play("repair")
        assert whole.returncode == 0, whole.stdout
        assert changed(whole.stdout) == 0, whole.stdout
        patient.run(PREAMBLE + "rm -r $SP/synapse/crypto")
        restarted(patient)
        assert grave(patient)[0][0].startswith("environment."), found(patient)
        mended(patient)
        assert found(patient) == []
        assert patient.digests(files) == before
        kept = patient.run("ls -d /var/lib/synapse/releases/*/lib/python3.*/site-packages/synapse").stdout.split()
        gone = patient.run(
            "ls -d /var/lib/synapse/releases/*/lib/python3.*/site-packages/synapse/crypto"
        ).stdout.split()
        assert (len(kept), len(gone)) == (2, 1), (kept, gone)


@pytest.mark.at_length
def test_the_layout_of_the_package_is_mended_in_its_own_places(tmp_path: Path) -> None:
    with admitted(operation("6", variables=PACKAGE), tmp_path) as patient:
        patient.run(PREAMBLE + REWRITE + PACKAGED)
        patient.wait()
        assert found(patient) == []
        folder = "/etc/matrix-synapse"
        listed = patient.run(f"find {folder} /usr/lib/systemd/system/matrix-synapse.service -type f").stdout.split()
        before = patient.digests(listed)
        patient.run(f"chown root:root {folder}/homeserver.yaml; chmod 0600 {folder}/homeserver.yaml")
        restarted(patient)
        assert patient.report()["findings"][0]["id"] == "access.config_unreadable"
        mended(patient)
        assert found(patient) == []
        assert patient.digests(listed) == before
        key = f"{folder}/homeserver.signing.key"
        patient.run(f"mkdir -m 0700 {folder}/backup; mv {key} {folder}/backup/signing.key")
        restarted(patient)
        assert patient.report()["findings"][0]["id"] == "identity.key_missing"
        assert f"restored from {folder}/backup/signing.key" in " ".join(mended(patient).split())
        assert found(patient) == []
        assert patient.digests(listed) == before
