# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Encrypted daily use by matrix-nio: two users with two devices each, through nginx."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import AsyncIterator

import nio
import pytest
from e2e.nio_device import NioDevice
from support.world import World


@contextlib.asynccontextmanager
async def four_devices(world: World, folder: Path) -> AsyncIterator[list[NioDevice]]:
    """Two users, two syncing devices each: alice's, then bob's."""
    # nio tells devices apart by their ids alone when it shares keys, hence four different ids.
    users = {name: world.new_user(f"nio-{name}") for name in ("alice", "bob")}
    devices = [
        NioDevice(world.front, user, f"{name}-{kind}".upper(), folder / f"{name}-{kind}")
        for name, user in users.items()
        for kind in ("laptop", "phone")
    ]
    try:
        for device in devices:
            await device.login()
        yield devices
    finally:
        for device in devices:
            await device.stop()


async def encrypted_room(owner: NioDevice, guest: NioDevice, everyone: list[NioDevice]) -> str:
    """Make an encrypted room, invite, join, and wait until every device knows and trusts the keys."""
    answer = await owner.nio.room_create(
        name="Encrypted",
        preset=nio.RoomPreset.private_chat,
        invite=[guest.nio.user_id],
        initial_state=[nio.EnableEncryptionBuilder().as_dict()],
    )
    room = answer.room_id
    for device in everyone:
        if device.nio.user_id == guest.nio.user_id:
            await device.wait(lambda d=device: room in d.nio.invited_rooms, "the invitation")
    joined = await guest.nio.join(room)
    assert isinstance(joined, nio.JoinResponse), joined
    for device in everyone:
        await device.wait(lambda d=device: d.in_room(room), "the room")
        await device.wait(lambda d=device: d.nio.rooms[room].encrypted, "the room's encryption")
        await device.wait(lambda d=device: len(d.nio.rooms[room].users) == 2, "both members")
        # nio asks for keys when sync's device lists say so; a device only sends to devices it knows.
        await device.wait(lambda d=device: _knows_devices(d, everyone), "everybody's device keys")
    return room


def _knows_devices(device: NioDevice, everyone: list[NioDevice]) -> bool:
    known = device.nio.device_store
    return all(
        other is device or known[other.nio.user_id].get(other.nio.device_id) is not None for other in everyone
    )


@pytest.mark.short
def test_encrypted_chat(world: World, tmp_path: Path) -> None:
    """Messages, edits, reactions, redactions, typing and receipts reach and decrypt on every device."""

    async def scenario() -> None:
        async with four_devices(world, tmp_path) as devices:
            laptop, phone, bob_laptop, bob_phone = devices
            room = await encrypted_room(laptop, bob_laptop, devices)
            for number, sender in enumerate(devices):
                body = f"hello {number} from {sender.name}"
                event_id = await sender.text(room, body)
                for device in devices:
                    await _check_text(device, sender, event_id, body)
            target = await phone.text(room, "first version")
            edit = await phone.send(
                room,
                {
                    "msgtype": "m.text",
                    "body": "* second version",
                    "m.new_content": {"msgtype": "m.text", "body": "second version"},
                    "m.relates_to": {"rel_type": "m.replace", "event_id": target},
                },
            )
            await bob_phone.get_text(edit, "* second version")
            relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": "👍"}}
            reaction = await bob_laptop.send(room, relation, "m.reaction")
            for device in (laptop, phone, bob_phone):
                await device.get(reaction, "the reaction")
            gone = await laptop.nio.room_redact(room, target, "gone")
            for device in devices:
                await device.get(gone.event_id, "the redaction")
            await bob_laptop.nio.room_typing(room, True)
            for device in (laptop, phone):
                await device.wait(lambda d=device: d.nio.rooms[room].typing_users == [bob_laptop.nio.user_id], "typing")
            await bob_laptop.nio.room_typing(room, False)
            await laptop.wait(lambda: not laptop.nio.rooms[room].typing_users, "the end of typing")
            await bob_phone.nio.update_receipt_marker(room, edit)
            for device in (laptop, phone):
                await device.wait(lambda d=device: _has_receipt(d, room, edit), "the receipt")
            everything = [e.event_id for _, e in laptop.events if hasattr(e, "event_id")]
            assert len(everything) == len(set(everything)), "an event arrived twice"
            assert not any(device.errors for device in devices), [device.errors for device in devices]

    asyncio.run(scenario())


async def _check_text(device: NioDevice, sender: NioDevice, event_id: str, body: str) -> None:
    """Every device gets the event once; all but the sender's own session decrypt it (nio keeps its own too)."""
    await device.get_text(event_id, body)
    assert device.copies(event_id) == 1, f"{device.name} got {body} {device.copies(event_id)} times"


def _has_receipt(device: NioDevice, room: str, event_id: str) -> bool:
    return any(
        where == room and isinstance(event, nio.ReceiptEvent) and any(r.event_id == event_id for r in event.receipts)
        for where, event in device.ephemeral
    )


def test_memberships(world: World, tmp_path: Path) -> None:
    """Invitation, rejection, join, leave, kick and ban are seen by every device of both users."""

    async def scenario() -> None:
        async with four_devices(world, tmp_path) as devices:
            laptop, phone, bob_laptop, bob_phone = devices
            bob = bob_laptop.nio.user_id
            room = (await laptop.nio.room_create(name="Members", preset=nio.RoomPreset.private_chat)).room_id
            await phone.wait(lambda: phone.in_room(room), "the room")

            async def invite() -> None:
                await laptop.nio.room_invite(room, bob)
                for device in (bob_laptop, bob_phone):
                    await device.wait(lambda d=device: room in d.nio.invited_rooms, "the invitation")

            async def outside() -> None:
                for device in (bob_laptop, bob_phone):
                    await device.wait(
                        lambda d=device: room not in d.nio.rooms and room not in d.nio.invited_rooms, "the end"
                    )
                for device in (laptop, phone):
                    await device.wait(lambda d=device: bob not in d.nio.rooms[room].users, "bob's going")

            await invite()
            await bob_phone.nio.room_leave(room)
            await bob_laptop.wait(lambda: room not in bob_laptop.nio.invited_rooms, "the rejection")
            await phone.wait(lambda: bob not in phone.nio.rooms[room].invited_users, "the rejection")
            for end in ("leave", "kick", "ban"):
                await invite()
                await bob_laptop.nio.join(room)
                for device in devices:
                    await device.wait(lambda d=device: d.in_room(room), "the join")
                    await device.wait(lambda d=device: bob in d.nio.rooms[room].users, "bob in the room")
                if end == "leave":
                    await bob_laptop.nio.room_leave(room)
                elif end == "kick":
                    await laptop.nio.room_kick(room, bob, "out")
                else:
                    await laptop.nio.room_ban(room, bob, "spam")
                await outside()

    asyncio.run(scenario())


def test_logout_of_one_device(world: World, tmp_path: Path) -> None:
    """A logged-out device gets nothing more; the others notice and chat on, encrypted."""

    async def scenario() -> None:
        async with four_devices(world, tmp_path) as devices:
            laptop, phone, bob_laptop, bob_phone = devices
            room = await encrypted_room(laptop, bob_laptop, devices)
            before = await laptop.text(room, "before the logout")
            for device in (bob_laptop, bob_phone, phone):
                await device.get_text(before, "before the logout")
            token = bob_phone.nio.access_token
            await bob_phone.stop()
            bob_phone.nio.access_token = token
            await bob_phone.nio.logout()
            await laptop.wait(
                lambda: not _active(laptop, bob_phone), "the device list without the logged-out device"
            )
            after = await laptop.text(room, "after the logout")
            for device in (bob_laptop, phone):
                await device.get_text(after, "after the logout")
            assert bob_phone.find(after) is None

    asyncio.run(scenario())


def _active(device: NioDevice, other: NioDevice) -> bool:
    known = device.nio.device_store[other.nio.user_id].get(other.nio.device_id)
    return known is not None and not known.deleted
