"""What happens to a running server when an operator runs the collection again, rightly and wrongly."""

from __future__ import annotations

import re
import subprocess
import typing as t

import pytest
from deployed import UNIT, ask, started

if t.TYPE_CHECKING:
    from pathlib import Path

    from deployed import Controller
    from testinfra.host import Host

SECRETS = (
    "/etc/synapse/secrets/macaroon_secret_key",
    "/etc/synapse/secrets/registration_shared_secret",
    "/etc/synapse/secrets/form_secret",
    "/etc/synapse/homeserver.signing.key",
)


def test_a_second_run_leaves_the_process_alone(host: Host, controller: Controller) -> None:
    before = started(host)
    run = controller.play("deploy")
    assert run.returncode == 0, run.stdout
    assert re.search(r"changed=0 ", run.stdout)
    assert started(host) == before


def test_a_misspelt_option_is_named_and_the_server_keeps_serving(host: Host, controller: Controller) -> None:
    before = started(host)
    config = host.file("/etc/synapse/homeserver.yaml").content_string
    run = controller.play("deploy", synapse_config={"enable_registraton": True})
    assert run.returncode != 0
    assert "enable_registraton" in run.stdout
    assert "enable_registration" in run.stdout
    assert host.file("/etc/synapse/homeserver.yaml").content_string == config
    assert started(host) == before


def test_a_configuration_that_synapse_refuses_never_goes_live(host: Host, controller: Controller) -> None:
    before = started(host)
    run = controller.play("deploy", synapse_config={"rc_login": 5})
    assert run.returncode != 0
    assert "rc_login" in run.stdout
    assert started(host) == before


def test_a_server_that_does_not_come_up_is_put_back(host: Host, controller: Controller) -> None:
    """The configuration is right, and the port belongs to another program: only a start can tell."""
    host.check_output("systemd-run --unit=thief python3 -m http.server --bind 127.0.0.1 8099")
    config = host.file("/etc/synapse/homeserver.yaml").content_string
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
    try:
        run = controller.play("deploy", synapse_listeners=listeners)
    finally:
        host.run("systemctl stop thief")
    assert run.returncode != 0
    assert "Address already in use" in run.stdout
    assert "answers again, proven healthy" in run.stdout
    assert host.file("/etc/synapse/homeserver.yaml").content_string == config
    assert host.service(UNIT).is_running
    assert "versions" in ask(host, "/_matrix/client/versions")


def test_a_lost_signing_key_is_not_replaced(host: Host, controller: Controller) -> None:
    before = started(host)
    key = "/etc/synapse/homeserver.signing.key"
    host.check_output(f"mv {key} /root/kept.key")
    try:
        run = controller.play("deploy")
        assert run.returncode != 0
        assert "synapse_signing_key" in run.stdout or "signing key" in run.stdout
        assert not host.file(key).exists
    finally:
        host.check_output(f"mv /root/kept.key {key}")
    assert started(host) == before


def test_wrong_settings_are_refused_before_anything_is_touched(host: Host, controller: Controller) -> None:
    run = controller.play("deploy", synapse_server_name="not a name", synapse_log_days=0)
    assert run.returncode != 0
    assert "synapse_server_name is 'not a name'" in run.stdout
    assert "synapse_log_days is 0" in run.stdout
    assert "changed=0 " in run.stdout


@pytest.fixture
def vaulted(tmp_path: Path) -> tuple[str, list[str]]:
    """Return a secret that stands encrypted in a file of variables, and the arguments that hand both to Ansible."""
    secret = "vaulted-by-the-operator-3mZ8-and-as-long-as-a-secret-should-be-5pL1"
    password, variables = tmp_path / "password", tmp_path / "vaulted.yml"
    password.write_text("a password\n", encoding="utf-8")
    command = ["ansible-vault", "encrypt_string", "--vault-password-file", str(password), "--stdin-name"]
    command.append("synapse_registration_shared_secret")
    encrypted = subprocess.run(command, input=secret, check=True, capture_output=True, text=True).stdout
    variables.write_text(encrypted, encoding="utf-8")
    return secret, ["--vault-password-file", str(password), "--extra-vars", f"@{variables}"]


def test_no_secret_is_printed(host: Host, controller: Controller, vaulted: tuple[str, list[str]]) -> None:
    """A changed deployment, as loud as it gets, with secrets from the inventory and in the configuration itself."""
    given = "given-by-the-inventory-7fQ2-and-as-long-as-a-secret-should-be-4tR8"
    inline = "inline-in-the-options-9xK4"
    phrase = "it's a phrase of many words that YAML has to quote: mnbvcxz-7"
    run = controller.play(
        "deploy",
        "-vvv",
        "--diff",
        *vaulted[1],
        synapse_form_secret=given,
        synapse_no_secrets_in_config=False,
        synapse_config={
            "turn_shared_secret": inline,
            "email": {"smtp_host": "localhost", "smtp_pass": phrase, "notif_from": "a@example.org"},
        },
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert host.file("/etc/synapse/secrets/registration_shared_secret").content_string.strip() == vaulted[0]
    secrets = [given, inline, vaulted[0], "many words that YAML", "mnbvcxz-7"]
    for path in SECRETS:
        secrets += [word for word in host.file(path).content_string.split() if len(word) > 20]
    printed = run.stdout
    assert "homeserver.yaml" in printed
    for secret in secrets:
        assert secret not in printed
    back = controller.play("deploy")
    assert back.returncode == 0, back.stdout


def test_a_no_change_run_makes_at_most_eight_remote_tasks(host: Host, controller: Controller) -> None:
    run = controller.play("deploy", "-vvv")
    assert run.returncode == 0
    # At -vvv Ansible shows each command that it starts on the host; a pipelined module is one start of the interpreter.
    starts = [line for line in run.stdout.splitlines() if re.search(r"> EXEC .*python3[.0-9]* && sleep 0", line)]
    assert 0 < len(starts) <= 8, "\n".join(starts)


def test_status_tells_one_line_and_changes_nothing(host: Host, controller: Controller) -> None:
    before = started(host)
    run = controller.play("status")
    assert run.returncode == 0, run.stdout
    assert re.search(rf"{controller.name}\s+1\.163\.2\s+healthy", run.stdout)
    assert started(host) == before


def test_status_fails_where_a_server_is_down(host: Host, controller: Controller) -> None:
    host.check_output(f"systemctl stop {UNIT}")
    run = controller.play("status")
    assert run.returncode != 0
    assert re.search(rf"{controller.name}\s+\S+\s+NOT HEALTHY", run.stdout)
    again = controller.play("deploy")
    assert again.returncode == 0, again.stdout
    assert host.service(UNIT).is_running
