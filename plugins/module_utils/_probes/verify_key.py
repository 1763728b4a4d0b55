# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Synapse's environment: are published key documents signed by the keys that they publish?

Request: ``{"documents": {NAME: document}, "key_file": path or null}``.
Answer: ``{"signatures": {NAME: {key id: "" or what is wrong}}, "verify_keys": {key id: base64} or null,
"key_error": what is wrong with the key file or null}``. Secret keys are read here and do not leave.
"""

from __future__ import annotations

import contextlib
import json
import sys
import typing as t


def verify(document: dict[str, t.Any]) -> dict[str, str]:
    """Return for each key of ``verify_keys`` an empty string, or what is wrong with its signature."""
    from signedjson.key import decode_verify_key_bytes
    from signedjson.sign import verify_signed_json
    from unpaddedbase64 import decode_base64

    found: dict[str, str] = {}
    for key_id, entry in document["verify_keys"].items():
        try:
            key = decode_verify_key_bytes(key_id, decode_base64(entry["key"]))
            verify_signed_json(document, document["server_name"], key)
            found[key_id] = ""
        except Exception as error:  # each kind of bad key raises its own
            found[key_id] = str(error)[:200] or type(error).__name__
    return found


def public_keys(path: str) -> dict[str, str]:
    """Return the public half of each key in a key file, by key id."""
    from signedjson.key import encode_verify_key_base64, get_verify_key, read_signing_keys

    with open(path, encoding="utf-8") as stream:
        lines = [line for line in stream if line.strip()]
    keys = [get_verify_key(key) for key in read_signing_keys(lines)]
    return {f"{key.alg}:{key.version}": encode_verify_key_base64(key) for key in keys}


def answer(request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Do what the request asks."""
    found: dict[str, t.Any] = {"signatures": {}, "verify_keys": None, "key_error": None}
    for name, document in request["documents"].items():
        try:
            found["signatures"][name] = verify(document)
        except (AttributeError, KeyError, TypeError):
            found["signatures"][name] = {"document": "it is not a key document"}
    if request["key_file"] is not None:
        try:
            found["verify_keys"] = public_keys(request["key_file"])
        except OSError as error:
            found["key_error"] = error.strerror or type(error).__name__
        except Exception as error:  # and its text may quote the key
            found["key_error"] = f"it does not hold signing keys ({type(error).__name__})"
    return found


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(request)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
