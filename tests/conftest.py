# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Fixtures of the end-to-end tests and the oracle: one running deployment for the whole session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Generator, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "oracle"))

from support.world import TARGET, World, federated_settings, settings_for  # noqa: E402

_worlds: list[World] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the deployment."""
    parser.addoption("--event-persisters", type=int, choices=(0, 1, 2), default=0)
    parser.addoption("--split-writers", action="store_true", help="workers write every stream that may be moved")


def pytest_configure(config: pytest.Config) -> None:
    """Declare our marks."""
    config.addinivalue_line("markers", "chappe_only: what Chappe promises and Synapse does not do")
    config.addinivalue_line("markers", "short: part of the short run under sanitizers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only Chappe promises when Synapse stands in for it."""
    for item in items:
        if TARGET != "chappe" and item.get_closest_marker("chappe_only"):
            item.add_marker(pytest.mark.skip(reason="Synapse does not promise this"))


def _running(settings: Any) -> Iterator[World]:
    world = World(settings).start()
    _worlds.append(world)
    try:
        yield world
        world.deployment.check_running()
    finally:
        _worlds.remove(world)
        world.stop()
    # A sanitizer's findings at the end (leaks) show in the exit status alone.
    chappe = world.deployment.chappe
    assert chappe is None or chappe.process.exit_status == 0, chappe.process.failure(
        f"stopped with status {chappe.process.exit_status}"
    )


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The deployment that most tests share."""
    persisters = request.config.getoption("--event-persisters")
    split = request.config.getoption("--split-writers")
    yield from _running(settings_for("main", event_persisters=persisters, split_writers=split))


@pytest.fixture(scope="module")
def fragile_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A deployment of the module's own, whose servers may be killed."""
    persisters = request.config.getoption("--event-persisters")
    yield from _running(settings_for("fragile", offset=20, event_persisters=persisters))


@pytest.fixture(scope="module")
def federated_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A deployment with a second homeserver, which needs a server name of its own."""
    persisters = request.config.getoption("--event-persisters")
    split = request.config.getoption("--split-writers")
    yield from _running(federated_settings(offset=40, event_persisters=persisters, split_writers=split))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Attach the ends of the servers' logs to a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for world in _worlds:
            for name, text in world.logs().items():
                if name.startswith("chappe") or "Traceback" in text or "ERROR" in text:
                    report.sections.append((f"end of {world.settings.logs / name}", text))
