# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Runs the load generator and reads its lines, stopping where it stops."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Callable, Sequence

from stack.errors import StackError

Line = dict[str, Any]


def drive(argv: Sequence[str], at_mark: Callable[[Line], None] | None = None) -> list[Line]:
    """Return every line; with at_mark the generator waits at each mark until that function returns."""
    lines: list[Line] = []
    words = [*argv, *(["--pause"] if at_mark else [])]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        for text in process.stdout:
            line = json.loads(text)
            lines.append(line)
            if "mark" in line and at_mark is not None:
                at_mark(line)
                process.stdin.write("\n")
                process.stdin.flush()
        error = process.stderr.read().strip()
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode not in (0, 1) or not lines or "summary" not in lines[-1]:
        raise StackError(f"the load generator ended with status {process.returncode}: {error}")
    return lines


def named(lines: Sequence[Line], mark: str) -> Line:
    """Return the first line of a mark."""
    return next(line for line in lines if line.get("mark") == mark)


def mistakes(summary: Line) -> Line:
    """Return what was wrong with the answers, by kind."""
    kinds = ("lost", "repeated", "disordered", "foreign", "limited", "timeouts", "bad_status", "bad_replies")
    return {kind: summary[kind] for kind in kinds if summary[kind]}
