# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Stream writers apart from the main process: who writes what, and which requests go to whom.

Synapse lets every stream below be moved. Some take one writer only, the others any number and share
the stream's ids then. A client's request that writes must reach a writer of its stream; the paths are
those of Synapse's documentation of stream writers. Two processes are enough to have every stream
away from the main process and two writers wherever two are allowed.
"""

from __future__ import annotations

import dataclasses

from stack.versions import release_key

WRITERS = ("stream_writer1", "stream_writer2")

_CLIENT = "^/_matrix/client/(api/v1|r0|v1|v3|unstable)"


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream that may be moved: its name in stream_writers, its writers, the requests that write it."""

    name: str
    writers: tuple[str, ...]
    paths: tuple[str, ...]
    since: str = "0"  # the first Synapse release that knows it


STREAMS = (
    Stream("typing", WRITERS[:1], (f"{_CLIENT}/rooms/.*/typing",)),
    Stream("to_device", WRITERS[1:], (f"{_CLIENT}/sendToDevice/",)),
    Stream("account_data", WRITERS[:1], (f"{_CLIENT}/.*/(tags|account_data)",)),
    Stream("receipts", WRITERS, (f"{_CLIENT}/rooms/.*/(receipt|read_markers)",)),
    Stream("presence", WRITERS[1:], (f"{_CLIENT}/presence/",)),
    Stream("push_rules", WRITERS[1:], (f"{_CLIENT}/pushrules/",)),
    Stream(
        "device_lists",
        WRITERS,
        (
            f"{_CLIENT}/delete_devices$",
            f"{_CLIENT}/devices(/|$)",
            f"{_CLIENT}/keys/(upload|device_signing/upload|signatures/upload)",
        ),
    ),
    Stream("thread_subscriptions", WRITERS, ("^/_matrix/client/unstable/io.element.msc4306/",)),
    Stream("quarantined_media_changes", WRITERS, (), since="1.163"),
)


def stream_writers(release: str) -> dict[str, list[str]]:
    """Return what stream_writers of a release's configuration says, events aside."""
    return {
        stream.name: list(stream.writers) for stream in STREAMS if release_key(release) >= release_key(stream.since)
    }


def nginx_upstreams(ports: dict[str, int]) -> str:
    """Return an upstream for each set of writers."""
    text = ""
    for writers in sorted({stream.writers for stream in STREAMS}):
        servers = "".join(f"        server 127.0.0.1:{ports[name]};\n" for name in writers)
        text += f"    upstream {_upstream(writers)} {{\n{servers}        keepalive 16;\n    }}\n"
    return text


def nginx_locations() -> str:
    """Return the routes of the requests that write."""
    text = ""
    for stream in STREAMS:
        for path in stream.paths:
            text += f"        location ~ {path} {{\n            proxy_pass http://{_upstream(stream.writers)};\n"
            text += f"            add_header X-Chappe-Upstream {stream.name} always;\n        }}\n"
    return text


def _upstream(writers: tuple[str, ...]) -> str:
    return "_and_".join(writers)
