# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Runs interchange (interchange.py) over seeds: which servers, which profile, on one deployment."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import TracebackType

from stack.matrix import MatrixError
from stack.process import Process
from stack.synapse import answers
from support.world import World

from oracle.context import Mismatch
from oracle.generator import generate
from oracle.interchange import NEEDS, Interchange, InterchangeContext, Tally
from oracle.rotation import Held

PROFILES = ("clients", "members", "e2ee", "lazy", "plain", "presence", "forks", "after")
# What the twins that move choose among; whether Chappes are killed on the way.
CASTS = (
    (("Synapse", "Chappe"), True),
    (("Synapse", "Chappe", "second Chappe"), False),
    (("Chappe", "second Chappe"), True),
)


class Servers:
    """The servers of one deployment that answer /sync, with a second Chappe for the time being."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.apply(NEEDS)
        deployment = world.deployment
        assert deployment.chappe is not None, "interchange needs Chappe"
        port = world.settings.ports.chappe2
        config = deployment.synapse.write_worker(
            "chappe2",
            {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": "chappe2",
                "worker_listeners": [
                    {
                        "type": "http",
                        "port": port,
                        "bind_addresses": ["127.0.0.1"],
                        "x_forwarded": True,
                        "resources": [{"names": ["client"]}],
                    }
                ],
                "chappe": world.settings.chappe_options,
            },
        )
        first = deployment.chappe.process
        argv = [*first.argv[:-1], str(config)]
        log = world.settings.logs / "chappe2.log"
        self.second = Process(
            "the second Chappe",
            argv,
            log,
            ready=lambda: answers(port),
            env=world.settings.chappe_env,
            stop_seconds=15,
            cwd=world.settings.state,
        )
        self.processes = {"Chappe": first, "second Chappe": self.second}
        self.urls = {"Synapse": world.worker, "Chappe": world.target, "second Chappe": f"http://127.0.0.1:{port}"}

    def __enter__(self) -> "Servers":
        self.second.start()
        self.second.wait_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.second.stop()
        if kind is None and self.second.exit_status != 0:  # a sanitizer's findings at the end
            raise AssertionError(self.second.failure(f"stopped with status {self.second.exit_status}"))


def run(servers: Servers, seed: int, steps: int, tally: Tally, report: Path | None = None) -> str:
    """Run one seed; return what it was; raise Mismatch when it goes wrong."""
    cast, deaths = CASTS[seed % len(CASTS)]
    script = generate(PROFILES[seed % len(PROFILES)], seed, steps)
    folder = report or Path(tempfile.gettempdir()) / "chappe-oracle"
    urls = {url: name for name, url in servers.urls.items()}
    context = InterchangeContext(servers.world, script.name, urls, folder)
    interchange = Interchange(
        context,
        script,
        seed,
        movers=[servers.urls[name] for name in cast],
        mortal=[servers.processes[name] for name in cast if name in servers.processes] if deaths else [],
        tally=tally,
    )
    title = f"{script.name} among {', '.join(cast)}{', with crashes' if deaths else ''}"
    try:
        with Held(servers.world):
            interchange.run()
    except Mismatch as error:
        raise Mismatch(f"{title}: {error}") from error
    return title


def command(world: World, options: argparse.Namespace) -> int:
    """Run the seeds that the command line asks for; print a line for each and totals; return 1 when any fails."""
    tally, failed, number = Tally(), 0, 0
    begun = time.monotonic()
    try:
        world.start()
        with Servers(world) as servers:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                number += 1
                started = time.monotonic()
                try:
                    title = run(servers, seed, options.steps, tally, options.report)
                    print(f"ok    seed {seed}: {title}, {time.monotonic() - started:.1f} s", flush=True)
                except (AssertionError, MatrixError) as error:
                    failed += 1
                    print(f"FAIL  seed {seed}: {error}", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        world.stop()
    print(f"{number} seeds, {failed} failed; {tally}; {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0
