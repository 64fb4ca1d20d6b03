# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Asks both servers of the endpoints before /sync, and levels what two Synapse processes answer differently.

Taken out: ages, the order of rooms, of state, presence, receipts and account data (all sets in Synapse),
previous contents of state events (shown when a cache holds them), and in tokens the streams that move while
the answer is made.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from stack.matrix import Client

from oracle.context import Context, Device, _headers
from oracle.differ import differences
from oracle.normal import _ages, token

Json = dict[str, Any]
_PREVIOUS = ("prev_content", "prev_sender", "replaces_state")


def ask(context: Context, device: Device, step: str, path: str, *, settle: bool = True, **query: Any) -> Json:
    """GET a path below /_matrix/client from both servers; compare; return the reference's body."""
    if settle:
        context.settle()
    target = f"/_matrix/client/{path}" + (f"?{urlencode(query)}" if query else "")
    replies = []
    for url in (context.reference_url, context.subject_url):
        link = Client(url).link
        replies.append(link.request("GET", target, token=device.do.token))
        link.close()
    shapes = [{"status": r.status, "headers": _headers(r), "body": level(r.body)} for r in replies]
    found = list(differences(*shapes))
    context._judge(step, {"path": target[:500]}, replies[0], replies[1], found)
    return dict(replies[0].body or {})


def room_path(room: str, version: str = "v3") -> str:
    """Return the path of one room's snapshot."""
    return f"{version}/rooms/{quote(room, safe='')}/initialSync"


def level(body: Any) -> Any:
    """Return a copy that two right servers agree on."""
    body = _ages(body)
    if not isinstance(body, dict):
        return body
    for key in ("start", "end"):
        body[key] = _loose(body.get(key))
    _section(body)
    for room in body.get("rooms", []):
        _section(room)
    if "rooms" in body:
        body["rooms"].sort(key=lambda room: room["room_id"])
    if "chunk" in body:
        body["chunk"] = _events(body["chunk"])
    return body


def _section(room: Json) -> None:
    for key in ("state", "presence", "receipts", "account_data"):
        if key in room:
            room[key] = sorted((_without_previous(item) for item in room[key]), key=_text)
    if "invite" in room:
        room["invite"] = _without_previous(room["invite"])
    for key in ("start", "end"):
        if key in room.get("messages", {}):
            room["messages"][key] = _loose(room["messages"][key])


def _events(chunk: list[Json]) -> list[Json]:
    """Room events keep their order; what has no event id is sorted behind them."""
    timeline = [item for item in chunk if "event_id" in item]
    return timeline + sorted((item for item in chunk if "event_id" not in item), key=_text)


def _without_previous(item: Json) -> Json:
    item = {key: value for key, value in item.items() if key not in _PREVIOUS}
    if isinstance(item.get("unsigned"), dict):
        item["unsigned"] = {key: value for key, value in item["unsigned"].items() if key not in _PREVIOUS}
    return item


def _loose(text: Any) -> Any:
    """A token by its fields; one of a process that has not seen a stream move may be behind in it."""
    return token(text)


def _text(item: Any) -> str:
    return json.dumps(item, sort_keys=True)
