# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Federation on loopback: what the first homeserver needs for it, and a second, small homeserver.

There is no name service for invented names here and /etc/hosts is not ours to change, so a federating
homeserver's name is its address: 127.0.0.1 and the port of its TLS listener. A literal address with a
port is used as it is: no .well-known, no SRV record. The name goes into every room and user id, hence
a deployment with federation has a state folder of its own, at the ports with which it was made.

The second homeserver is Synapse's main process alone, with a database of its own in the same
PostgreSQL: no Redis, no workers, nothing in front. Its clients talk to it directly.
"""

from __future__ import annotations

from pathlib import Path

from stack.matrix import Admin
from stack.postgres import Postgres
from stack.process import Process, run
from stack.settings import Settings
from stack.synapse import (
    RATE_LIMITS,
    FederationOptions,
    answers,
    listener,
    write_log_config,
    write_private,
    write_signing_key,
)

REMOTE_DATABASE = "remote"


def certificate(settings: Settings) -> tuple[Path, Path]:
    """Return a self-made certificate and its key, made at the first start."""
    folder = settings.state / "tls"
    made, key = folder / "certificate.pem", folder / "key.pem"
    if not made.exists():
        folder.mkdir(exist_ok=True)
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        run([*argv, "-keyout", str(key), "-out", str(made)], "openssl", settings.logs / "openssl.log")
    return made, key


def federation_options(settings: Settings) -> FederationOptions:
    """Return the listener and the configuration of the first homeserver."""
    return [tls_listener(settings.ports.federation)], options(settings)


def options(settings: Settings) -> dict[str, object]:
    """Return what a homeserver's configuration needs for federation on loopback.

    Neighbours that do not answer are tried again at once: in a test they will be there again.
    """
    made, key = certificate(settings)
    return {
        "tls_certificate_path": str(made),
        "tls_private_key_path": str(key),
        "federation_verify_certificates": False,
        "ip_range_blacklist": [],
        "allow_public_rooms_over_federation": True,
        "federation": {
            "client_timeout": "20s",
            "max_short_retries": 0,
            "max_long_retries": 1,
            "max_long_retry_delay": 500,
            "destination_min_retry_interval": 1,
            "destination_max_retry_interval": 10,
        },
        "rc_federation": {"window_size": 1000, "sleep_limit": 100000, "reject_limit": 100000, "concurrent": 50},
    }


def tls_listener(port: int) -> dict[str, object]:
    """Return the listener for other homeservers."""
    return {**listener(port, ["federation"]), "tls": True}


class Remote:
    """The second homeserver."""

    def __init__(self, settings: Settings, venv: Path, postgres: Postgres, secrets: dict[str, str]) -> None:
        self.settings = settings
        self.server_name = f"127.0.0.1:{settings.ports.remote_federation}"
        self.url = f"http://127.0.0.1:{settings.ports.remote}"
        self._secrets = secrets
        folder = settings.state / "remote"
        folder.mkdir(exist_ok=True)
        config = folder / "homeserver.yaml"
        write_private(config, self._config(folder, postgres))
        port = settings.ports.remote
        self.process = Process(
            "The second homeserver",
            [str(venv / "bin" / "python"), "-m", "synapse.app.homeserver", "--config-path", str(config)],
            settings.logs / "remote.out",
            ready=lambda: answers(port),
            env={"PYTHONUNBUFFERED": "1"},
            ready_seconds=120,
            cwd=folder,
            extra_logs=[settings.logs / "remote.log"],
        )
        self.admin = Admin(port, secrets["registration"], self.server_name)

    def _config(self, folder: Path, postgres: Postgres) -> dict[str, object]:
        settings, secrets = self.settings, self._secrets
        return {
            "server_name": self.server_name,
            "public_baseurl": self.url + "/",
            "pid_file": str(folder / "homeserver.pid"),
            "listeners": [listener(settings.ports.remote, ["client"]), tls_listener(settings.ports.remote_federation)],
            "database": {"name": "psycopg2", "args": postgres.arguments(REMOTE_DATABASE)},
            "registration_shared_secret": secrets["registration"],
            "macaroon_secret_key": secrets["macaroon"] + "-remote",
            "form_secret": secrets["form"],
            "signing_key_path": write_signing_key(folder, secrets["macaroon"] + "-remote"),
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "enable_registration": False,
            "report_stats": False,
            "media_store_path": str(folder / "media"),
            "log_config": write_log_config(settings, folder, "remote"),
            "url_preview_enabled": False,
            "presence": {"enabled": True},
            "bcrypt_rounds": 4,
            **options(settings),
            **RATE_LIMITS,
        }
