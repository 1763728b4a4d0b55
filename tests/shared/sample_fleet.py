# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as the doctor may find it: every state, every severity, and texts that want to be more than texts."""

from __future__ import annotations

import typing as t

MOMENT = "2026-11-23T22:30:00Z"
HOSTILE = "<script>document.title='owned'</script>"

_NEW, _OLD = "1.163.2-0fe18e3fa5d7", "1.162.0-77ab01c2d3e4"


def finding(rule: str, severity: str, summary: str, **more: t.Any) -> dict[str, t.Any]:
    """Return one finding as the module returns it."""
    blank = {"evidence": "", "cause": "", "remedy": "", "repair": "", "safe": False, "follows": []}
    return {"id": rule, "severity": severity, "summary": summary, **blank, **more}


def answer(name: str, *findings: dict[str, t.Any], release: str | None = _NEW, **more: t.Any) -> dict[str, t.Any]:
    """Return the module's result for one host."""
    counts = {one: [found["severity"] for found in findings].count(one) for one in _SEVERITIES}
    healthy = more.pop("healthy", not counts["critical"] and not counts["error"])
    counted = ", ".join(f"{number} {severity}" for severity, number in counts.items() if number)
    told = f" ({counted}): {findings[0]['summary']}" if findings else ": nothing is wrong."
    return {
        "healthy": healthy,
        "summary": f"{'Healthy' if healthy else 'Not healthy'}{told}",
        "counts": counts,
        "findings": list(findings),
        "consequences": [],
        "server_name": name,
        "version": release.partition("-")[0] if release else None,
        "release": release,
        "key_ids": [f"ed25519:a_{name.replace('.', '')[:4].title()}"],
        "database": {"engine": "psycopg2", "server_version": "17.6", "size": 8_812_032_000},
        "certificate_days": 61.5,
        "checks": [
            {
                "name": "process",
                "target": "matrix-synapse.service",
                "ok": healthy,
                "detail": "active (running)" if healthy else "failed (failed)",
                "milliseconds": 4.1,
            },
            {
                "name": "client",
                "target": "http://127.0.0.1:8008",
                "ok": healthy,
                "detail": "Matrix 1.15" if healthy else "connection refused",
                "milliseconds": 2.4,
            },
        ],
        "unseen": {},
        "changed": False,
        "failed": False,
        **more,
    }


_SEVERITIES = ("critical", "error", "warning", "info")

_INTERPRETER = finding(
    "environment.interpreter_missing",
    "critical",
    "The interpreter of the environment is gone.",
    evidence="/var/lib/synapse/venv/bin/python leads to /usr/bin/python3.11, which does not exist",
    cause="The system's Python was upgraded or removed; an environment belongs to the interpreter it was made with.",
    remedy="ansible-playbook matrix_fleet.synapse.repair --tags reinstall",
    repair="reinstall",
    safe=True,
    follows=["service.failed", "answers.refused"],
)
_KEY = finding(
    "identity.key_missing",
    "critical",
    "The signing key is gone, and this server had one before.",
    evidence="/etc/synapse/homeserver.signing.key is not there; 41,812 events are signed with ed25519:a_Kq3x",
    cause="The file was removed, or the host was restored without it. Started now, Synapse would mint a new identity.",
    remedy=(
        "Restore it from your backup, for example:\n"
        "install -o root -g synapse -m 0640 backup/homeserver.signing.key /etc/synapse/homeserver.signing.key\n"
        "or set synapse_signing_key_content and run: ansible-playbook matrix_fleet.synapse.repair --tags key"
    ),
    repair="key",
)
_READABLE = finding(
    "access.config_unreadable",
    "error",
    "The service's user cannot read the configuration.",
    evidence="/etc/synapse/homeserver.yaml is root:root 0600, and the service runs as synapse",
    cause="The file was written by root under a strict umask, as an editor or a copy does.",
    remedy="chown root:synapse /etc/synapse/homeserver.yaml && chmod 0640 /etc/synapse/homeserver.yaml",
    repair="permissions",
    safe=True,
    follows=["service.failed"],
)
_REDIS = finding(
    "neighbours.redis_down",
    "error",
    "Redis does not run, and three workers need it.",
    evidence="redis-server.service is inactive (dead) since 22:04:11; 127.0.0.1:6379 refuses connections",
    cause="The service was stopped, or was killed when memory ran out.",
    remedy="systemctl start redis-server",
    repair="service",
    safe=True,
)
_CERTIFICATE = finding(
    "public.certificate_ends",
    "warning",
    "The certificate of matrix.example.net ends in 9 days.",
    evidence="CN=matrix.example.net, issued by Example CA, valid until 2026-12-02 08:14 UTC",
    cause="Its renewal does not run, or does not reach the proxy that serves it.",
    remedy="certbot renew --cert-name matrix.example.net && systemctl reload nginx",
)
_DISK = finding(
    "host.disk_fills",
    "warning",
    "The disk of the database is 91 percent full.",
    evidence="/var/lib/postgresql on /dev/vdb1: 45.6 of 50.0 GiB used",
    cause="State groups and media grow for as long as nobody compresses or purges them.",
    remedy="du -xh --max-depth=2 /var/lib/postgresql | sort -h | tail",
)
_LOCK = finding(
    "environment.unlocked",
    "info",
    "The environment was made without a lock file.",
    evidence="/var/lib/synapse/venv has no release manifest",
    cause="It was made by hand or by a package.",
    remedy="Deploy it with the collection once, to have it proven and kept.",
)
_HOSTILE = finding(
    "words.traceback",
    "error",
    f"The log ends with {HOSTILE} & \"quoted\" 'words'.",
    evidence=f"12 - ERROR - {HOSTILE} \x1b[31mred\x1b[0m <img src=x onerror=alert(1)> {{{{ 7 * 7 }}}}",
    cause="</details></td><style>*{display:none}</style>",
    remedy="echo '\"><script>alert(2)</script>'",
)


def fleet() -> dict[str, dict[str, t.Any]]:
    """Return twelve hosts with what was said of them, in the order of an inventory."""
    follows = finding(
        "service.failed", "critical", "The service does not run.", evidence="Result=exit-code, status=203"
    )
    return {
        "matrix.example.org": answer("example.org"),
        "matrix.example.net": answer("example.net", _CERTIFICATE, certificate_days=9.2),
        "chat-1.example.com": answer(
            "one.example.com", _INTERPRETER, _DISK, _LOCK, consequences=[follows], certificate_days=54.0
        ),
        "chat-2.example.com": answer("two.example.com", release=_OLD),
        "chat-3.example.com": answer("three.example.com", _READABLE, _REDIS, _CERTIFICATE, _DISK, certificate_days=9.2),
        "chat-4.example.com": answer("four.example.com", _LOCK, release=None, version="1.160.0"),
        "lost.example.org": {
            "unreachable": True,
            "msg": "ssh: connect to host lost.example.org port 22: No route to host",
        },
        "a-server-with-a-rather-long-name.region-7.infrastructure.example.org": answer(
            "long.example.org",
            database={"engine": "sqlite3", "server_version": "3.46.1", "size": 912_384},
            certificate_days=None,
        ),
        f"evil{HOSTILE}": answer(f"evil.example{HOSTILE}", _HOSTILE, key_ids=[], certificate_days=0.4),
        "keyless.example.org": answer("keyless.example.org", _KEY, _DISK),
        "fresh.example.org": {"failed": True, "msg": "The module failed: /usr/bin/python3: not found"},
        "matrix.example.edu": answer("example.edu", _LOCK, certificate_days=88.0),
    }
