"""A conversation between two real Matrix clients, for any homeserver that a test has made."""

from __future__ import annotations

import asyncio
import io
import secrets
import typing as t
from dataclasses import dataclass

from nio import (
    AsyncClient,
    DiskDownloadResponse,
    JoinResponse,
    LoginResponse,
    MemoryDownloadResponse,
    Response,
    RoomCreateResponse,
    RoomMessageText,
    RoomSendResponse,
    SyncResponse,
    UploadResponse,
)

__all__ = ["Account", "converse", "expect"]


@dataclass(frozen=True)
class Account:
    """A user of the homeserver: full id and password."""

    user_id: str
    password: str


_R = t.TypeVar("_R", bound=Response)


def expect(response: object, kind: type[_R]) -> _R:
    """Return the answer; raise ``AssertionError`` where it is of another kind, such as an error."""
    if not isinstance(response, kind):
        raise AssertionError(f"wanted {kind.__name__}, got {response}")
    return response


async def _heard(client: AsyncClient, room_id: str, *, until: str) -> list[tuple[str, str]]:
    """Sync from the beginning until a message says ``until``; return who said what in the room."""
    said: list[tuple[str, str]] = []
    since = None
    for _turn in range(20):
        answer = expect(await client.sync(timeout=2000, since=since, full_state=since is None), SyncResponse)
        since = answer.next_batch
        room = answer.rooms.join.get(room_id)
        if room is not None:
            said += [(event.sender, event.body) for event in room.timeline.events if isinstance(event, RoomMessageText)]
        if any(body == until for _sender, body in said):
            return said
    raise AssertionError(f"{client.user_id} never heard {until!r}, only {said}")


async def _talk(url: str, first: Account, second: Account) -> str:
    clients = [AsyncClient(url, account.user_id) for account in (first, second)]
    one, two = clients
    try:
        for client, account in zip(clients, (first, second), strict=True):
            login = expect(await client.login(account.password, device_name="test"), LoginResponse)
            if login.user_id != account.user_id:
                raise AssertionError(f"logged in as {login.user_id}, not as {account.user_id}")
        room = expect(await one.room_create(name="Test", invite=[second.user_id]), RoomCreateResponse).room_id
        expect(await two.join(room), JoinResponse)

        async def say(client: AsyncClient, body: str) -> None:
            content = {"msgtype": "m.text", "body": body}
            expect(
                await client.room_send(room, "m.room.message", content, ignore_unverified_devices=True),
                RoomSendResponse,
            )

        token = secrets.token_hex(4)
        await say(one, f"question {token}")
        await say(two, f"answer {token}")
        for client in clients:
            said = await _heard(client, room, until=f"answer {token}")
            wanted = [(first.user_id, f"question {token}"), (second.user_id, f"answer {token}")]
            if [entry for entry in said if token in entry[1]] != wanted:
                raise AssertionError(f"{client.user_id} heard {said}")

        picture = secrets.token_bytes(100_000)
        uploaded, _decryption = await one.upload(
            io.BytesIO(picture), content_type="application/octet-stream", filesize=len(picture)
        )
        uri = expect(uploaded, UploadResponse).content_uri
        downloaded = await two.download(uri)
        if isinstance(downloaded, DiskDownloadResponse):
            raise TypeError("downloaded to disk")
        if expect(downloaded, MemoryDownloadResponse).body != picture:
            raise AssertionError("the downloaded media differ from what was uploaded")
        return room
    finally:
        for client in clients:
            await client.close()


def converse(url: str, first: Account, second: Account) -> str:
    """Let two users log in, share a room, talk both ways, and exchange a file; return the room's id.

    Raises ``AssertionError`` where the homeserver answers anything else than it should.
    """
    return asyncio.run(asyncio.wait_for(_talk(url, first, second), timeout=120))
