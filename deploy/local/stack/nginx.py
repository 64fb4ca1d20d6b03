# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""nginx in front, with the routes that operators use, wholly inside the state folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal

from stack.errors import StackError
from stack.process import Process
from stack.settings import Settings
from stack.synapse import answers
from stack.writers import nginx_locations, nginx_upstreams

_TEMPLATE = """\
# Written by deploy/local/up at every start.
{user_line}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {log} warn;
events {{
    worker_connections 4096;
}}
http {{
    access_log {logs}/nginx-access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    client_max_body_size 64m;
    keepalive_timeout 75s;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    # A request must never reach a homeserver twice, and a big initial sync must not be spooled to disk.
    proxy_next_upstream off;
    proxy_max_temp_file_size 0;
    proxy_buffers 32 16k;
    proxy_buffer_size 16k;

    upstream sync {{
        server 127.0.0.1:{sync_port};
        keepalive 256;
    }}
    upstream synapse {{
        server 127.0.0.1:{synapse_port};
        keepalive 64;
    }}
{upstreams}
    server {{
        listen 127.0.0.1:{port} backlog=4096;

        # The long poll: held longer than any client's timeout.
        location ~ ^/_matrix/client/(r0|v3)/sync$ {{
            proxy_pass http://sync;
            proxy_read_timeout 1h;
            proxy_send_timeout 5m;
            add_header X-Chappe-Upstream {sync_name} always;
        }}
        location ~ ^/_matrix/client/(api/v1|r0|v3)/(events|initialSync|rooms/[^/]+/initialSync)$ {{
            proxy_pass http://sync;
            proxy_read_timeout 1h;
            proxy_send_timeout 5m;
            add_header X-Chappe-Upstream {sync_name} always;
        }}
{locations}        location / {{
            proxy_pass http://synapse;
            proxy_read_timeout 10m;
            add_header X-Chappe-Upstream synapse always;
        }}
        location = /nginx-health {{
            access_log off;
            return 200 "OK\\n";
        }}
    }}
{writes}}}
"""

# For who asks the main process on purpose: everything, /sync too, but what a writer has to do.
_WRITES = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
{locations}        location / {{
            proxy_pass http://synapse;
            proxy_read_timeout 10m;
            add_header X-Chappe-Upstream synapse always;
        }}
    }}
"""


class Nginx:
    """Writes nginx.conf and describes the process."""

    def __init__(self, settings: Settings) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        program = shutil.which("nginx", path=path)
        if program is None:
            raise StackError("nginx was not found on the PATH or in /usr/sbin.")
        folder = settings.state / "nginx"
        folder.mkdir(exist_ok=True)
        ports = settings.ports
        log = settings.logs / "nginx.log"
        config = folder / "nginx.conf"
        split = settings.split_writers
        locations = nginx_locations() if split else ""
        user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() == 0 else None
        config.write_text(
            _TEMPLATE.format(
                user_line=f"user {user};" if user else "# Not root: no change of user.",
                folder=folder,
                logs=settings.logs,
                log=log,
                port=ports.nginx,
                synapse_port=ports.synapse,
                sync_port=ports.chappe if settings.with_chappe else ports.worker,
                sync_name="chappe" if settings.with_chappe else "synapse",
                upstreams=nginx_upstreams(settings.writer_ports) if split else "",
                locations=locations,
                writes=_WRITES.format(port=ports.writes, locations=locations) if split else "",
            )
        )
        self.process = Process(
            "nginx",
            [program, "-e", str(log), "-p", str(folder), "-c", str(config)],
            log,
            ready=lambda: answers(ports.nginx, "/nginx-health"),
            stop_signal=signal.SIGTERM,
            stop_seconds=5,
        )
