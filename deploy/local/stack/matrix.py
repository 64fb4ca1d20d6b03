# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A small Matrix client: one keep-alive connection per thread, JSON in and out."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import http.client
import itertools
import json
import threading
from typing import Any, Mapping
from urllib.parse import quote, urlencode, urlsplit

Json = dict[str, Any]


class MatrixError(Exception):
    """A request that was answered with an error."""

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        self.status = status
        self.body = body if isinstance(body, dict) else {}
        self.errcode = str(self.body.get("errcode", ""))
        super().__init__(f"{method} {path.split('?')[0]}: {status} {self.errcode} {self.body.get('error', '')}")


@dataclasses.dataclass
class Reply:
    """A response as it came."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The decoded JSON, or None when it is none."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None


class Link:
    """An HTTP server, with one kept connection per thread."""

    def __init__(self, url: str, timeout: float = 120.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port, self.timeout = parts.hostname, parts.port or 80, timeout
        self._local = threading.local()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send one request; a kept connection that turns out closed is replaced once."""
        send: dict[str, str] = dict(headers or {})
        if token is not None:
            send["Authorization"] = f"Bearer {token}"
        payload: bytes | None = None
        if body is not None:
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            send.setdefault("Content-Type", "application/json")
        fresh = getattr(self._local, "link", None) is None
        while True:
            link = self._connection(timeout)
            try:
                link.request(method, path, payload, send)
                response = link.getresponse()
                raw = response.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.close()
                if fresh:
                    raise
                fresh = True
                continue
            except BaseException:
                self.close()
                raise
            if response.will_close:
                self.close()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, raw)

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        link = getattr(self._local, "link", None)
        if link is None:
            link = http.client.HTTPConnection(self.host, self.port)
            self._local.link = link
        link.timeout = timeout or self.timeout
        if link.sock is not None:
            link.sock.settimeout(link.timeout)
        return link

    def close(self) -> None:
        """Close this thread's connection."""
        link = getattr(self._local, "link", None)
        if link is not None:
            link.close()
            self._local.link = None


class Client:
    """A logged-in device (or a stranger, while `token` is None)."""

    _transactions = itertools.count(1)

    def __init__(self, url: str, user_id: str = "", token: str | None = None, device_id: str = "") -> None:
        self.link = Link(url)
        self.user_id, self.token, self.device_id = user_id, token, device_id

    # -- plumbing --------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> Any:
        """Call a path under /_matrix/client/v3 (or an absolute one); raise on an error answer."""
        if not path.startswith("/_"):
            path = "/_matrix/client/v3" + path
        if body is None and method in ("POST", "PUT"):
            body = {}
        reply = self.link.request(method, path, body, self.token, timeout=timeout)
        if reply.status >= 300:
            raise MatrixError(method, path, reply.status, reply.body)
        return reply.body

    @classmethod
    def login(cls, url: str, user_id: str, password: str, device_id: str, **extra: Any) -> "Client":
        """Log a device in."""
        client = cls(url, user_id)
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": password,
            "device_id": device_id,
            "initial_device_display_name": device_id,
            **extra,
        }
        answer = client.call("POST", "/login", body)
        client.token, client.device_id = answer["access_token"], answer["device_id"]
        return client

    # -- rooms -----------------------------------------------------------------------------------

    def create_room(self, **options: Any) -> str:
        """Create a room and return its id."""
        return str(self.call("POST", "/createRoom", options)["room_id"])

    def join(self, room: str) -> None:
        """Join a room by id."""
        self.call("POST", f"/join/{quote(room)}")

    def membership(self, room: str, action: str, user_id: str | None = None, **extra: Any) -> None:
        """Invite, kick, ban, unban (with a user) or leave, forget (without)."""
        body = {**extra, **({"user_id": user_id} if user_id else {})}
        self.call("POST", f"/rooms/{quote(room)}/{action}", body)

    def knock(self, room: str, reason: str | None = None) -> None:
        """Knock on a room."""
        self.call("POST", f"/knock/{quote(room)}", {"reason": reason} if reason else {})

    def send(self, room: str, content: Json, event_type: str = "m.room.message") -> str:
        """Send an event and return its id."""
        transaction = f"t{next(self._transactions)}.{id(self)}"
        path = f"/rooms/{quote(room)}/send/{quote(event_type)}/{transaction}"
        return str(self.call("PUT", path, content)["event_id"])

    def text(self, room: str, body: str, **extra: Any) -> str:
        """Send a text message and return its id."""
        return self.send(room, {"msgtype": "m.text", "body": body, **extra})

    def state(self, room: str, event_type: str, content: Json, key: str = "") -> str:
        """Send a state event and return its id."""
        path = f"/rooms/{quote(room)}/state/{quote(event_type)}/{quote(key, safe='')}"
        return str(self.call("PUT", path, content)["event_id"])

    def redact(self, room: str, event_id: str, reason: str | None = None) -> str:
        """Redact an event and return the redaction's id."""
        transaction = f"t{next(self._transactions)}.{id(self)}"
        path = f"/rooms/{quote(room)}/redact/{quote(event_id, safe='')}/{transaction}"
        return str(self.call("PUT", path, {"reason": reason} if reason else {})["event_id"])

    def receipt(self, room: str, event_id: str, kind: str = "m.read", thread: str | None = None) -> None:
        """Send a receipt."""
        body = {"thread_id": thread} if thread else {}
        self.call("POST", f"/rooms/{quote(room)}/receipt/{kind}/{quote(event_id, safe='')}", body)

    def typing(self, room: str, on: bool, timeout: int = 30000) -> None:
        """Start or stop typing."""
        body: Json = {"typing": on, **({"timeout": timeout} if on else {})}
        self.call("PUT", f"/rooms/{quote(room)}/typing/{quote(self.user_id)}", body)

    # -- the user --------------------------------------------------------------------------------

    def account_data(self, event_type: str, content: Json, room: str | None = None) -> None:
        """Set global or room account data."""
        where = f"/rooms/{quote(room)}" if room else ""
        self.call("PUT", f"/user/{quote(self.user_id)}{where}/account_data/{quote(event_type)}", content)

    def presence(self, state: str, message: str | None = None) -> None:
        """Set presence."""
        body = {"presence": state, **({"status_msg": message} if message else {})}
        self.call("PUT", f"/presence/{quote(self.user_id)}/status", body)

    def to_device(self, event_type: str, messages: Json) -> None:
        """Send to-device messages: {user: {device: content}}."""
        transaction = f"t{next(self._transactions)}.{id(self)}"
        self.call("PUT", f"/sendToDevice/{quote(event_type)}/{transaction}", {"messages": messages})

    def filter(self, definition: Json) -> str:
        """Store a filter and return its id."""
        return str(self.call("POST", f"/user/{quote(self.user_id)}/filter", definition)["filter_id"])

    def sync_raw(self, version: str = "v3", headers: Mapping[str, str] | None = None, **query: Any) -> Reply:
        """Ask /sync once and return whatever came. A dictionary as filter goes inline."""
        held = str(query.get("timeout", 0))
        timeout = (int(held) / 1000 if held.isdigit() else 0) + 60
        path = f"/_matrix/client/{version}/sync?" + urlencode(_query(query))
        return self.link.request("GET", path, None, self.token, headers, timeout)

    def sync(self, **query: Any) -> Json:
        """Ask /sync once; raise on an error answer."""
        reply = self.sync_raw(**query)
        if reply.status != 200:
            raise MatrixError("GET", "/sync", reply.status, reply.body)
        return dict(reply.body)

    def logout(self) -> None:
        """End this device's session."""
        self.call("POST", "/logout")


def _query(query: Mapping[str, Any]) -> dict[str, str]:
    """Render query parameters: no Nones, JSON for dictionaries, JSON's words for booleans."""
    rendered: dict[str, str] = {}
    for key, value in query.items():
        if isinstance(value, dict):
            rendered[key] = json.dumps(value, separators=(",", ":"))
        elif isinstance(value, bool):
            rendered[key] = "true" if value else "false"
        elif value is not None:
            rendered[key] = str(value)
    return rendered


class Admin:
    """Registers users with the shared secret, and acts as the administrator."""

    def __init__(self, synapse_port: int, shared_secret: str, server_name: str) -> None:
        self.url = f"http://127.0.0.1:{synapse_port}"
        self.server_name = server_name
        self._secret = shared_secret
        self._link = Link(self.url)

    def register(self, name: str, password: str, admin: bool = False, exist_ok: bool = False) -> str:
        """Register a user through the nonce API and return the user id."""
        path = "/_synapse/admin/v1/register"
        nonce = self._link.request("GET", path).body["nonce"]
        mac = hmac.new(self._secret.encode(), digestmod=hashlib.sha1)
        mac.update("\0".join([nonce, name, password, "admin" if admin else "notadmin"]).encode())
        body = {
            "nonce": nonce,
            "username": name,
            "password": password,
            "admin": admin,
            "mac": mac.hexdigest(),
            "inhibit_login": True,
        }
        reply = self._link.request("POST", path, body)
        user_id = f"@{name}:{self.server_name}"
        if reply.status == 200 or (exist_ok and reply.body.get("errcode") == "M_USER_IN_USE"):
            return user_id
        raise MatrixError("POST", path, reply.status, reply.body)
