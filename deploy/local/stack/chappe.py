# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Chappe: its worker file beside Synapse's, and its process."""

from __future__ import annotations

from stack.process import Process
from stack.settings import Settings
from stack.synapse import Synapse, answers

WORKER_NAME = "chappe1"


class Chappe:
    """Writes chappe.yaml and describes the process."""

    def __init__(self, settings: Settings, synapse: Synapse) -> None:
        ports = settings.ports
        self.config = synapse.write_worker(
            "chappe",
            {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": WORKER_NAME,
                "worker_listeners": [
                    {
                        "type": "http",
                        "port": ports.chappe,
                        "bind_addresses": ["127.0.0.1"],
                        "x_forwarded": True,
                        "resources": [{"names": ["client"]}],
                    },
                    {"type": "metrics", "port": ports.chappe_metrics, "bind_addresses": ["127.0.0.1"]},
                ],
                "chappe": settings.chappe_options,
            },
        )
        self.process = Process(
            "Chappe",
            [
                str(settings.chappe_binary),
                *("--config-path", str(synapse.homeserver_yaml)),
                *("--config-path", str(self.config)),
            ],
            settings.logs / "chappe.log",
            ready=lambda: answers(ports.chappe),
            env=settings.chappe_env,
            stop_seconds=15,
            cwd=settings.state,
        )
