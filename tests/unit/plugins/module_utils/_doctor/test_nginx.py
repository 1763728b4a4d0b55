# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of nginx is read as nginx reads it."""

from __future__ import annotations

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._doctor.nginx import (
    NginxError,
    parse,
    sites_of,
    size_of,
)

TEXT = r"""
user www-data; # a remark with { and ;
http {
    upstream synapse { server 127.0.0.1:8008; server unix:/run/s.sock; keepalive 4; }
    proxy_set_header X-Above "b c";
    include sites/*;
    server {
        listen 443 ssl; server_name hs.test matrix.hs.test;
        ssl_certificate /etc/ssl/hs.pem;
        location ~ ^(/_matrix|/_synapse/client) {
            proxy_pass http://synapse;
            proxy_set_header X-Forwarded-For $remote_addr;
            client_max_body_size 50M;
        }
        location = / { return 200 'text with ; and }'; }
        location =/exact { return 204; }
        location /a { location /a/b { proxy_pass http://localhost:81/x; } }
        location ^~ /final { return 403; }
        location ~* \.PHP$ { return 404; }
        location / { proxy_pass https://${backend}; }
    }
}
"""


def include(pattern: str) -> list[tuple[str, str]]:
    """Return one more file."""
    return [("/etc/nginx/sites/one", "server { server_name other; include sites/*; }")] if pattern == "sites/*" else []


def test_server_blocks_and_their_names_are_found_also_in_other_files() -> None:
    other, own = sites_of(
        parse(TEXT, "/etc/nginx/nginx.conf", lambda _pattern: [("/x", "server { server_name other; }")])
    )
    assert (other.names, other.directive.path) == (("other",), "/x")
    assert (own.names, own.listens) == (("hs.test", "matrix.hs.test"), ("443",))
    assert [one.args for one in own.certificates] == [("/etc/ssl/hs.pem",)]


@pytest.mark.parametrize(
    ("path", "target", "line"),
    [
        ("/_matrix/key/v2/server", "http://synapse", 10),
        ("/_synapse/client/pick_idp", "http://synapse", 10),
        ("/_synapse/admin/v1/x", "https://${backend}", 20),
        ("/", None, 15),
        ("/exact", None, 16),
        ("/a/b/c", "http://localhost:81/x", 17),
        ("/final/x.php", None, 18),
        ("/x.php", None, 19),
        ("/nothing", "https://${backend}", 20),
    ],
)
def test_requests_go_where_nginx_sends_them(path: str, target: str | None, line: int) -> None:
    (site,) = sites_of(parse(TEXT, "/etc/nginx/nginx.conf", lambda _pattern: []))
    route = site.route(path)
    assert (route.target, route.line) == (target, line)


def test_headers_and_sizes_are_inherited_as_by_nginx() -> None:
    (site,) = sites_of(parse(TEXT, "f", lambda _pattern: []))
    passed, other = site.route("/_matrix/x"), site.route("/a/b")
    assert (dict(passed.headers), passed.body, passed.uri) == ({"x-forwarded-for": "$remote_addr"}, 50 * 1024**2, False)
    assert (dict(other.headers), other.body, other.uri) == ({"x-above": "b c"}, 1024**2, True)


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("http://synapse", ("127.0.0.1:8008", "unix:/run/s.sock")),
        ("http://10.0.0.1", ("10.0.0.1:80",)),
        ("https://10.0.0.1/x", ("10.0.0.1:443",)),
        ("http://unix:/run/a.sock:/x", ("unix:/run/a.sock",)),
        ("$variable", ()),
    ],
)
def test_targets_stand_for_addresses(target: str, addresses: tuple[str, ...]) -> None:
    (site,) = sites_of(parse(TEXT, "f", lambda _pattern: []))
    assert site.addresses(target) == addresses


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("http {\n server {\n", 2, "brace"),
        ("http {\n listen 80\n}", 2, "does not end"),
        ("a b", 1, "does not end"),
        ("a;\n}", 2, "unexpected"),
        ("{", 1, "unexpected"),
        ("a 'b", 1, "quote"),
    ],
)
def test_what_nginx_would_refuse_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(NginxError, match=reason) as error:
        parse(text, "f", lambda _pattern: [])
    assert error.value.line == line


def test_files_that_include_themselves_come_to_an_end() -> None:
    assert len(sites_of(parse("http { include sites/*; }", "f", include))) == 1


@pytest.mark.parametrize(("text", "size"), [("1m", 1024**2), ("50M", 50 * 1024**2), ("8k", 8192), ("0", 0), ("x", 0)])
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size
