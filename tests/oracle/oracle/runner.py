# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Finds scenarios and runs them on a deployment."""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
from pathlib import Path
from types import ModuleType

import scenarios
from support.world import World

from oracle.context import Context, CountMismatch


def names(federation: bool = False) -> list[str]:
    """Return the names of all scenarios, which are the modules of the package.

    Those that say FEDERATION = True need a deployment with a second homeserver.

    Scenarios with the usual settings come first, the others in groups of equal settings, since the
    homeserver is restarted between groups.
    """
    found = [module.name for module in pkgutil.iter_modules(scenarios.__path__)]
    found = [name for name in found if federated(name) == federation]
    return sorted(found, key=lambda name: (bool(settings(name)), json.dumps(settings(name), sort_keys=True), name))


def settings(name: str) -> dict[str, object]:
    """Return the homeserver settings that a scenario declares as SETTINGS, beside the usual ones."""
    return dict(getattr(load(name), "SETTINGS", {}))


def federated(name: str) -> bool:
    """Tell whether a scenario needs a second homeserver."""
    return bool(getattr(load(name), "FEDERATION", False))


def load(name: str) -> ModuleType:
    """Import one scenario."""
    return importlib.import_module(f"scenarios.{name}")


def run(world: World, name: str, report: Path | None = None) -> int:
    """Run one scenario; return the number of compared answers; raise Mismatch on a difference.

    The reference is the Synapse worker. The subject is Chappe, or Synapse's main process when the
    deployment has no Chappe: that run proves the scenarios and the normaliser.
    """
    subject = world.target if world.settings.with_chappe else world.main
    folder = report or Path(tempfile.gettempdir()) / "chappe-oracle"
    for last in (False, True):
        world.apply(settings(name))
        context = Context(world, name, world.worker, subject, folder)
        try:
            load(name).run(context)
            break
        except CountMismatch as mismatch:
            if last:
                raise
            print(f"once more, because of the counts: {mismatch}")
        finally:
            context.close()
    return context.steps
