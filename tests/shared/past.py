"""What people leave on a homeserver, and whether all of it can be read again."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
import time
import typing as t
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conversation import expect
from nio import (
    AsyncClient,
    JoinResponse,
    LoginResponse,
    MemoryDownloadResponse,
    MessageDirection,
    ProfileGetResponse,
    ProfileSetDisplayNameResponse,
    RoomCreateResponse,
    RoomMessagesResponse,
    RoomMessageText,
    RoomSendResponse,
    SyncResponse,
    UploadResponse,
)

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from conversation import Account

__all__ = ["Past", "leave"]


@dataclass
class Past:
    """What two people left: sessions that go on, a room and what was said in it, a file, a name."""

    users: dict[str, dict[str, str]] = field(default_factory=dict)  # id -> device, token, and where its sync stood
    room: str = ""
    said: list[str] = field(default_factory=list)  # what was said and acknowledged, in order
    media: str = ""
    media_sha256: str = ""
    display_name: str = ""
    server_keys: dict[str, t.Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Past:
        """Read what was written down."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def say(self, url: str, body: str) -> None:
        """Let the first of the two say one more thing; it counts once the server has acknowledged it.

        As a client does, the same is sent again where no answer came, for a minute.
        """
        user = next(iter(self.users.values()))
        room, transaction = urllib.parse.quote(self.room), secrets.token_hex(8)
        request = urllib.request.Request(
            f"{url}/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}",
            data=json.dumps({"msgtype": "m.text", "body": body}).encode(),
            headers={"Authorization": f"Bearer {user['token']}"},
            method="PUT",
        )
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    json.load(answer)["event_id"]
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.3)
        self.said.append(body)

    def check(self, url: str, *, more_keys: bool = False) -> None:
        """Read all of it again with the sessions of old; raise ``AssertionError`` where something is lost.

        With ``more_keys`` the server may publish others beside the key that it had.
        """
        keys = _server_keys(url)
        kept = {key_id: key for key_id, key in keys.items() if key_id in self.server_keys} if more_keys else keys
        if kept != self.server_keys:
            raise AssertionError(f"the server's keys are {keys}, and were {self.server_keys}")
        asyncio.run(asyncio.wait_for(self._check(url), timeout=120))

    async def _check(self, url: str) -> None:
        for user_id, user in self.users.items():
            client = AsyncClient(url, user_id)
            client.restore_login(user_id, user["device"], user["token"])
            try:
                await self._check_for(client, user["since"])
            finally:
                await client.close()

    async def _check_for(self, client: AsyncClient, since: str) -> None:
        synced = expect(await client.sync(timeout=0, since=since), SyncResponse)
        if self.room not in (await client.joined_rooms()).rooms:
            raise AssertionError(f"{client.user_id} is no longer in {self.room}")
        said = await _said(client, self.room, synced.next_batch)
        if said != self.said:
            lost, more = set(self.said) - set(said), set(said) - set(self.said)
            raise AssertionError(f"{client.user_id} misses {sorted(lost)}, reads {sorted(more)}, or in another order")
        downloaded = expect(await client.download(self.media), MemoryDownloadResponse)
        if hashlib.sha256(downloaded.body).hexdigest() != self.media_sha256:
            raise AssertionError("the media differ from what was uploaded")
        profile = expect(await client.get_profile(next(iter(self.users))), ProfileGetResponse)
        if profile.displayname != self.display_name:
            raise AssertionError(f"the name is {profile.displayname!r}, not {self.display_name!r}")


def _server_keys(url: str) -> dict[str, t.Any]:
    with urllib.request.urlopen(f"{url}/_matrix/key/v2/server", timeout=30) as answer:
        keys: dict[str, t.Any] = json.load(answer)["verify_keys"]
    return keys


async def _said(client: AsyncClient, room: str, start: str) -> list[str]:
    """Read back from ``start`` to the beginning of the room; return what was said, oldest first."""
    said: list[str] = []
    while True:
        answer = await client.room_messages(room, start, direction=MessageDirection.back, limit=500)
        page = expect(answer, RoomMessagesResponse)
        said += [event.body for event in page.chunk if isinstance(event, RoomMessageText)]
        if not page.end or not page.chunk:
            return said[::-1]
        start = page.end


async def _leave(url: str, accounts: Sequence[Account]) -> Past:
    past = Past(server_keys=_server_keys(url))
    clients = [AsyncClient(url, account.user_id) for account in accounts]
    one, two = clients
    try:
        for client, account in zip(clients, accounts, strict=True):
            expect(await client.login(account.password, device_name="test"), LoginResponse)
        past.room = expect(await one.room_create(name="Past", invite=[two.user_id]), RoomCreateResponse).room_id
        expect(await two.join(past.room), JoinResponse)
        picture = secrets.token_bytes(300_000)
        past.media_sha256 = hashlib.sha256(picture).hexdigest()
        kind = "application/octet-stream"
        uploaded, _keys = await one.upload(io.BytesIO(picture), content_type=kind, filesize=len(picture))
        past.media = expect(uploaded, UploadResponse).content_uri
        past.display_name = "Ada Lovelace"
        expect(await one.set_displayname(past.display_name), ProfileSetDisplayNameResponse)
        for number in range(12):
            # The sync that a client goes on from lies in the midst of it.
            if number == 8:
                for client in clients:
                    since = expect(await client.sync(timeout=0), SyncResponse).next_batch
                    token, device = client.access_token, client.device_id
                    past.users[client.user_id] = {"device": device, "token": token, "since": since}
            content = {"msgtype": "m.text", "body": f"message {number} {secrets.token_hex(4)}"}
            client = clients[number % 2]
            sent = await client.room_send(past.room, "m.room.message", content, ignore_unverified_devices=True)
            expect(sent, RoomSendResponse)
            past.said.append(content["body"])
    finally:
        for client in clients:
            await client.close()
    return past


def leave(url: str, accounts: Sequence[Account]) -> Past:
    """Let two people use a homeserver; return what there is to find again."""
    return asyncio.run(asyncio.wait_for(_leave(url, accounts), timeout=120))
