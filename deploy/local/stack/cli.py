# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The command line of deploy/local/up."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from stack.demo import USERS, Demo
from stack.deployment import Deployment
from stack.errors import StackError
from stack.matrix import MatrixError
from stack.settings import DEFAULT_PORT_BASE, Ports, Settings, default_state
from stack.install import say
from stack.versions import read_versions, synapse_release, tested_releases


class Interrupted(BaseException):
    """Ctrl-C, a closed terminal, or a request to end."""


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/local/up",
        description="A whole local deployment in the foreground: PostgreSQL, Redis, Synapse, Chappe, nginx.",
        epilog="Everything lives under the state folder; delete it to start from nothing.",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help=f"state folder ({default_state()}, one for each Synapse release)"
    )
    parser.add_argument(
        "--port-base", type=int, default=DEFAULT_PORT_BASE, metavar="N", help="first of twenty ports (%(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="send a few messages, check every arrival, stop")
    parser.add_argument("--no-demo", action="store_true", help="only run the servers, send nothing")
    parser.add_argument(
        "--without-chappe", action="store_true", help="let the Synapse worker serve /sync, to compare"
    )
    parser.add_argument(
        "--event-persisters", type=int, choices=(0, 1, 2), default=0, help="workers that persist events (%(default)s)"
    )
    parser.add_argument(
        "--split-writers", action="store_true", help="let workers write every stream that Synapse lets them write"
    )
    parser.add_argument(
        "--synapse",
        metavar="X.Y.Z",
        help=f"Synapse release ({read_versions()['SYNAPSE_VERSION']}; tested: {', '.join(tested_releases())})",
    )
    parser.add_argument(
        "--with-federation",
        action="store_true",
        help="also run a second homeserver; give a state folder of its own, server names differ then",
    )
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    parser.add_argument("--no-build", action="store_true", help="run build/release/chappe as it is")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between messages (%(default)s)")
    return parser.parse_args(argv)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # A second signal must not break the orderly stop that the first one began.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def main(argv: list[str] | None = None) -> int:
    """Run; return the exit status."""
    options = _parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        release = synapse_release(options.synapse)
    except StackError as error:
        print(f"up: {error}", file=sys.stderr)
        return 2
    settings = Settings(
        state=(options.state or default_state(release)).resolve(),
        synapse_version=release,
        split_writers=options.split_writers,
        ports=Ports(options.port_base),
        with_chappe=not options.without_chappe,
        event_persisters=options.event_persisters,
        federation=options.with_federation,
    )
    deployment = Deployment(settings)
    begun = time.monotonic()
    status = 0
    try:
        settings.check_ports()
        deployment.prepare(install=not options.no_install, build=not options.no_build)
        say(f"starting in {settings.state}")
        deployment.start(say)
        status = _serve(deployment, options, begun)
    except Interrupted:
        print("\n· stopping", flush=True)
        status = 0 if not options.once else 130
    except (StackError, MatrixError, OSError) as error:
        print(f"up: {error}", file=sys.stderr, flush=True)
        status = 1
    finally:
        deployment.stop()
        say("everything is stopped")
    return status


def _serve(deployment: Deployment, options: argparse.Namespace, begun: float) -> int:
    if options.no_demo:
        _print_welcome(deployment, begun)
        while True:
            deployment.check_running()
            time.sleep(0.5)
    demo = Demo(deployment, lambda text: print(text, flush=True))
    try:
        demo.prepare()
        _print_welcome(deployment, begun)
        if not options.once:
            demo.run_for_ever(options.interval)
        wrong = demo.run_once()
        deployment.check_running()
    finally:
        demo.stop()
    for problem in wrong:
        print(f"up: {problem}", file=sys.stderr, flush=True)
    if not wrong:
        say(f"every device got every message ({len(demo.devices)} devices, {threading.active_count()} threads)")
    return 1 if wrong else 0


def _print_welcome(deployment: Deployment, begun: float) -> None:
    settings = deployment.settings
    remote = deployment.remote
    second = f"\n    second homeserver  {remote.url} ({remote.server_name})" if remote else ""
    sync = "Chappe" if settings.with_chappe else "the Synapse worker"
    users = ", ".join(f"@{user}:{settings.server_name}" for user in USERS)
    print(
        f"""
  Up after {time.monotonic() - begun:.1f} s: Synapse {settings.synapse_version}, /sync by {sync} (header X-Chappe-Upstream)
    homeserver URL   {settings.url}
    users            {users}
    password         {deployment.demo_password}
    the worker       http://127.0.0.1:{settings.ports.worker} (Synapse's own /sync, to compare)
    logs             {settings.logs}{second}
  Ctrl-C stops everything.
""",
        flush=True,
    )
