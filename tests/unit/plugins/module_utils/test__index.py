# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The package index: both forms of a listing, addresses, versions and dates."""

from __future__ import annotations

import json

import pytest

from ansible_collections.matrix_fleet.synapse.plugins.module_utils._index import (
    File,
    check_address,
    has,
    host_of,
    newest,
    parse_listing,
    project_url,
    released,
    secrets_in,
    unreachable,
    without_secrets,
)
from ansible_collections.matrix_fleet.synapse.plugins.module_utils._runner import SynapseError

JSON = json.dumps(
    {
        "files": [
            {
                "filename": "matrix_synapse-1.9.0-py3-none-any.whl",
                "url": "../f/a.whl",
                "upload-time": "2020-01-02T00:00:00Z",
            },
            {
                "filename": "matrix_synapse-1.10.0rc1.tar.gz",
                "url": "https://x.example/b",
                "upload-time": "2020-02-02T00:00:00Z",
            },
            {
                "filename": "matrix_synapse-1.10.0.tar.gz",
                "url": "https://x.example/c#frag",
                "upload-time": "2020-03-02T00:00:00Z",
            },
            {"filename": "matrix_synapse-1.11.0.tar.gz", "url": "https://x.example/d", "yanked": "broken"},
        ]
    }
).encode()
HTML = b"""<!DOCTYPE html><html><body>
<a href="../../packages/uv-0.13.9-py3-none-any.whl#sha256=abc" data-requires-python="&gt;=3.8">uv</a>
<A data-x=1 HREF='https://x.example/uv-0.1.0.tar.gz?a=1&amp;b=2'>old</A>
</body></html>"""


def test_a_listing_in_json() -> None:
    files = parse_listing(JSON, "https://index.example/simple/matrix-synapse/")
    assert files[0] == File(
        "matrix_synapse-1.9.0-py3-none-any.whl", "https://index.example/simple/f/a.whl", "2020-01-02T00:00:00Z"
    )
    assert [file.url for file in files[1:]] == ["https://x.example/b", "https://x.example/c"]
    assert newest(files, "matrix-synapse") == "1.10.0"
    assert released(files, "Matrix_Synapse", "1.9.0").startswith("2020-01-02")
    assert released(files, "matrix-synapse", "7") == ""
    assert has(files, "matrix-synapse", "1.10.0")
    assert not has(files, "matrix-synapse", "1.11.0"), "a withdrawn version is not offered"


def test_a_listing_in_html() -> None:
    files = parse_listing(HTML, "https://index.example/simple/uv/")
    assert [file.name for file in files] == ["uv-0.13.9-py3-none-any.whl", "uv-0.1.0.tar.gz"]
    assert files[0].url == "https://index.example/packages/uv-0.13.9-py3-none-any.whl"
    assert files[1].url == "https://x.example/uv-0.1.0.tar.gz?a=1&b=2"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"null", b"not a listing", b"{}"])
def test_what_is_no_listing_has_no_files(body: bytes) -> None:
    assert parse_listing(body, "https://index.example/") == ()
    assert newest((), "x") == ""


@pytest.mark.parametrize(
    ("index", "url"),
    [
        ("https://index.example/simple", "https://index.example/simple/matrix-synapse/"),
        ("https://index.example/simple/", "https://index.example/simple/matrix-synapse/"),
        ("https://u:p@index.example:8443/x/", "https://u:p@index.example:8443/x/matrix-synapse/"),
        ("file:///srv/simple", "file:///srv/simple/matrix-synapse/index.html"),
    ],
)
def test_the_address_of_a_project(index: str, url: str) -> None:
    assert project_url(index, "Matrix_Synapse") == url


@pytest.mark.parametrize("files", [None, 3, "x", {}, [None, 1, "x", {}, {"filename": "a"}, {"url": "b"}]])
def test_entries_of_another_shape_are_no_files(files: object) -> None:
    assert parse_listing(json.dumps({"files": files}).encode(), "https://index.example/") == ()


def test_a_link_that_is_no_address_is_left_out() -> None:
    entries = [{"filename": "a-1.zip", "url": "http://[x"}, {"filename": "b-1.zip", "url": "b-1.zip"}]
    assert [file.name for file in parse_listing(json.dumps({"files": entries}).encode(), "https://h/")] == ["b-1.zip"]
    assert [file.name for file in parse_listing(b'<a href="http://[x">a</a><a href="b">b</a>', "https://h/")] == ["b"]


@pytest.mark.parametrize("url", ["http://u:pa55@[::1/simple", "http://u:pa55@h:port/simple"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SynapseError, match="'index_url' holds") as refused:
        check_address("'index_url'", url)
    assert "pa55" not in refused.value.msg
    assert "pa55" not in host_of(url)


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://user:p%40ss@h/x", ("user:p%40ss@", "p%40ss", "p@ss")),
        ("https://token@h/x", ("token@",)),
        ("https://u:a@b@h/x", ("u:a@b@", "a@b", "a@b")),
        ("https://h/x@y", ()),
        ("/srv/wheels", ()),
    ],
)
def test_what_of_an_address_is_secret(url: str, secrets: tuple[str, ...]) -> None:
    assert secrets_in(url) == secrets


def test_secrets_in_addresses_are_hidden() -> None:
    assert without_secrets("get https://user:pa55@h/x and http://tok@y/") == "get https://***@h/x and http://***@y/"
    assert without_secrets("get http://u:pa@ss@h/x@y z@h") == "get http://***@h/x@y z@h"
    assert without_secrets("mail me@example.org") == "mail me@example.org"


def test_an_untrusted_certificate_is_told_from_an_unreachable_index() -> None:
    assert "'ca_bundle'" in unreachable("h", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "https_proxy" in unreachable("h", "Connection refused")
