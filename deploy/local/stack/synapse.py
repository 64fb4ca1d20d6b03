# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Synapse: main process, one generic worker that also serves sync, optional event persisters.

Configuration files are written as JSON, which is YAML; the same files configure Chappe.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from pathlib import Path

from stack.postgres import Postgres
from stack.process import Process
from stack.redis import Redis
from stack.settings import Settings
from stack.writers import stream_writers

_OFTEN = {"per_second": 100000, "burst_count": 100000}

# Listeners and other configuration.
FederationOptions = tuple[list[dict[str, object]], dict[str, object]]

RATE_LIMITS: dict[str, object] = {
    "rc_message": _OFTEN,
    "rc_registration": _OFTEN,
    "rc_registration_token_validity": _OFTEN,
    "rc_login": {"address": _OFTEN, "account": _OFTEN, "failed_attempts": _OFTEN},
    "rc_admin_redaction": _OFTEN,
    "rc_joins": {"local": _OFTEN, "remote": _OFTEN},
    "rc_joins_per_room": _OFTEN,
    "rc_invites": {"per_room": _OFTEN, "per_user": _OFTEN, "per_issuer": _OFTEN},
    "rc_3pid_validation": _OFTEN,
    "rc_key_requests": _OFTEN,
    "rc_presence": {"per_user": _OFTEN},
    "rc_reports": _OFTEN,
    "rc_room_creation": _OFTEN,
}


def answers(port: int, path: str = "/health") -> bool:
    """Tell whether an HTTP server answers 200 on a path."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        link.request("GET", path)
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


class Synapse:
    """Writes Synapse's configuration and describes its processes."""

    def __init__(
        self,
        settings: Settings,
        venv: Path,
        postgres: Postgres,
        redis: Redis,
        secrets: dict[str, str],
        federation: FederationOptions | None = None,
    ) -> None:
        self.settings = settings
        self.postgres = postgres
        self.redis = redis
        self.secrets = secrets
        self._federation = federation or ([], {"federation_domain_whitelist": []})
        self.folder = settings.state / "synapse"
        self.folder.mkdir(exist_ok=True)
        self.homeserver_yaml = self.folder / "homeserver.yaml"
        self._python = str(venv / "bin" / "python")
        self._write_homeserver()
        ports = settings.ports
        self.main = self._process("synapse", "homeserver", None, ports.synapse)
        self.worker = self._process("worker1", "generic_worker", self._write_worker1(), ports.worker)
        self.persisters = [
            self._process(f"persister{i + 1}", "generic_worker", self._write_persister(i), self._persister_port(i))
            for i in range(settings.event_persisters)
        ]
        self.writers = [
            self._process(name, "generic_worker", self._write_writer(name, port), port)
            for name, port in settings.writer_ports.items()
        ]

    @property
    def processes(self) -> list[Process]:
        """Every process of the homeserver, main first."""
        return [self.main, *self.persisters, *self.writers, self.worker]

    def _persister_port(self, index: int) -> int:
        return (self.settings.ports.persister1, self.settings.ports.persister2)[index]

    def _process(self, name: str, app: str, worker: Path | None, port: int) -> Process:
        argv = [self._python, "-m", f"synapse.app.{app}", "--config-path", str(self.homeserver_yaml)]
        if worker is not None:
            argv += ["--config-path", str(worker)]
        title = {"synapse": "Synapse", "worker1": "The Synapse worker"}.get(name, name.capitalize().replace("_", " "))
        return Process(
            title,
            argv,
            self.settings.logs / f"{name}.out",
            ready=lambda: answers(port),
            env={"PYTHONUNBUFFERED": "1"},
            ready_seconds=120,
            cwd=self.folder,
            extra_logs=[self.settings.logs / f"{name}.log"],
        )

    def _write_homeserver(self) -> None:
        settings, ports = self.settings, self.settings.ports
        instance_map = {"main": {"host": "127.0.0.1", "port": ports.synapse_replication}}
        writers: dict[str, object] = {}
        for index in range(settings.event_persisters):
            instance_map[f"persister{index + 1}"] = {"host": "127.0.0.1", "port": self._persister_port(index)}
        for name, port in settings.writer_ports.items():
            instance_map[name] = {"host": "127.0.0.1", "port": port}
        if settings.split_writers:
            writers.update(stream_writers(settings.synapse_version))
        if settings.event_persisters:
            writers["events"] = [f"persister{i + 1}" for i in range(settings.event_persisters)]
        config: dict[str, object] = {
            "server_name": settings.server_name,
            "public_baseurl": settings.url + "/",
            "pid_file": str(self.folder / "homeserver.pid"),
            "listeners": [
                listener(ports.synapse, ["client"]),
                listener(ports.synapse_replication, ["replication"]),
                {"type": "metrics", "port": ports.synapse_metrics, "bind_addresses": ["127.0.0.1"]},
                *self._federation[0],
            ],
            "enable_metrics": True,
            "database": {"name": "psycopg2", "args": self.postgres.arguments()},
            "redis": {
                "enabled": True,
                "host": "127.0.0.1",
                "port": ports.redis,
                "password": self.redis.password,
            },
            "instance_map": instance_map,
            "stream_writers": writers,
            "worker_replication_secret": self.secrets["replication"],
            "registration_shared_secret": self.secrets["registration"],
            "macaroon_secret_key": self.secrets["macaroon"],
            "form_secret": self.secrets["form"],
            "signing_key_path": write_signing_key(self.folder, self.secrets["macaroon"]),
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "enable_registration": False,
            "report_stats": False,
            "media_store_path": str(self.folder / "media"),
            "log_config": write_log_config(self.settings, self.folder, "synapse"),
            "url_preview_enabled": False,
            "presence": {"enabled": True},
            "bcrypt_rounds": 4,
            "caches": {"sync_response_cache_duration": settings.sync_cache},
            **self._federation[1],
            **RATE_LIMITS,
            **settings.synapse_extra,
        }
        write_private(self.homeserver_yaml, config)

    def _write_worker1(self) -> Path:
        ports = self.settings.ports
        return self.write_worker(
            "worker1",
            {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": "synapse_worker1",
                "worker_listeners": [
                    listener(ports.worker, ["client"]),
                    {"type": "metrics", "port": ports.worker_metrics, "bind_addresses": ["127.0.0.1"]},
                ],
                "worker_log_config": write_log_config(self.settings, self.folder, "worker1"),
            },
        )

    def _write_writer(self, name: str, port: int) -> Path:
        return self.write_worker(
            name,
            {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": name,
                "worker_listeners": [listener(port, ["client", "replication"])],
                "worker_log_config": write_log_config(self.settings, self.folder, name),
            },
        )

    def _write_persister(self, index: int) -> Path:
        name = f"persister{index + 1}"
        return self.write_worker(
            name,
            {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": name,
                "worker_listeners": [listener(self._persister_port(index), ["replication"])],
                "worker_log_config": write_log_config(self.settings, self.folder, name),
            },
        )

    def write_worker(self, name: str, config: dict[str, object]) -> Path:
        """Write a worker's configuration file and return its path."""
        path = self.folder / f"{name}.yaml"
        write_private(path, config)
        return path


def write_log_config(settings: Settings, folder: Path, name: str) -> str:
    """Write the logging of one process and return the path."""
    path = folder / f"{name}.log.yaml"
    config = {
        "version": 1,
        "formatters": {
            "plain": {"format": "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s"}
        },
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "formatter": "plain",
                "filename": str(settings.logs / f"{name}.log"),
                "encoding": "utf8",
            }
        },
        "root": {"level": settings.synapse_log_level, "handlers": ["file"]},
        "loggers": {"synapse.storage.SQL": {"level": "INFO"}},
        "disable_existing_loggers": False,
    }
    path.write_text(json.dumps(config, indent=2))
    return str(path)


def write_signing_key(folder: Path, secret: str) -> str:
    """Write a signing key derived from a secret and return the path."""
    path = folder / "signing.key"
    seed = hashlib.sha256(secret.encode()).digest()
    path.write_text("ed25519 a_local " + base64.b64encode(seed).decode().rstrip("=") + "\n")
    return str(path)


def listener(port: int, names: list[str]) -> dict[str, object]:
    """Return an HTTP listener on loopback."""
    return {
        "type": "http",
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "x_forwarded": "client" in names,
        "resources": [{"names": names, "compress": False}],
    }


def write_private(path: Path, config: dict[str, object]) -> None:
    """Write a configuration file that only we may read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")
