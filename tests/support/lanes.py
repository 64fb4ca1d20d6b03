# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The parts of tests/run: install, build, run, count.

Each part runs ctest or pytest, which write JUnit files; the closing line is the sum of those. A part
that breaks before it has counted anything (a build that fails, a server that does not start) counts
as one failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from support import CHECKOUT
from stack.errors import StackError
from stack.install import install_packages, say, synapse_environment, virtual_environment
from stack.settings import cache_folder
from stack.versions import tested_releases

RELEASE = CHECKOUT / "build" / "release"
SANITIZED = CHECKOUT / "build" / "asan"
RESULTS = CHECKOUT / "build" / "results"
JOBS = str(os.cpu_count() or 2)
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "LSAN_OPTIONS": f"suppressions={CHECKOUT / 'tests' / 'support' / 'lsan.txt'}:print_suppressions=0",
}


@dataclass
class Count:
    """Results of one part or of all."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: "Count") -> None:
        """Add another count to this one."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Broken(Exception):
    """A part could not run to its end."""


def command(argv: list[str], minutes: float, env: dict[str, str] | None = None, cwd: Path = CHECKOUT) -> int:
    """Run a command with its output on ours; end its whole group when time is over."""
    process = subprocess.Popen(argv, env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True)
    timer = threading.Timer(minutes * 60, _end_group, [process])
    timer.start()
    try:
        return process.wait()
    except BaseException:
        # A polite end first: pytest then stops the servers that it started.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        timer.cancel()
        _kill_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    print(f"× took too long: {' '.join(map(str, process.args))[:200]}", flush=True)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    time.sleep(20)
    _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def must(argv: list[str], minutes: float, env: dict[str, str] | None = None, cwd: Path = CHECKOUT) -> None:
    """Run a command that has to succeed."""
    status = command(argv, minutes, env, cwd)
    if status != 0:
        raise Broken(f"{' '.join(argv)[:200]} ended with status {status}")


def read_junit(path: Path) -> Count:
    """Count the cases of a JUnit file written by ctest or pytest."""
    count = Count()
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise Broken(f"no results in {path}: {error}") from error
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            count.failed += 1
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            count.skipped += 1
        else:
            count.passed += 1
    return count


# -- building ------------------------------------------------------------------------------------


def build(folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
    """Configure (again: options may have changed) and build everything."""
    say(f"building {folder.relative_to(CHECKOUT)}")
    configure = ["cmake", "-G", "Ninja", "-S", str(CHECKOUT), "-B", str(folder), "-DCHAPPE_TESTS=ON"]
    must([*configure, "-DCHAPPE_WERROR=ON", "--log-level=WARNING", *options], 5, env)
    must(["cmake", "--build", str(folder), "--", "-j", JOBS, "--quiet"], 30, env)


def build_release() -> None:
    """Build what deploy/local/up also uses, tests included, with the default compiler."""
    build(RELEASE, "-DCMAKE_BUILD_TYPE=RelWithDebInfo")


def build_sanitized() -> None:
    """Build with AddressSanitizer and UBSan, with clang, so that both compilers judge every file."""
    env = {"CC": "clang"} if shutil.which("clang") else None
    build(SANITIZED, "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCHAPPE_SANITIZE=address;undefined", env=env)


# -- running -------------------------------------------------------------------------------------


def ctest(folder: Path, label: str, title: str) -> Count:
    """Run the ctest cases of a label."""
    result = RESULTS / f"{title}.xml"
    result.unlink(missing_ok=True)
    argv = ["ctest", "--test-dir", str(folder), "-L", label, "-j", JOBS, "--output-on-failure", "--no-tests=error"]
    status = command([*argv, "--output-junit", str(result)], 10, SANITIZER_ENV)
    count = read_junit(result)
    if status != 0 and count.failed == 0:
        raise Broken(f"ctest -L {label} ended with status {status}")
    return count


def pytest(title: str, arguments: list[str], minutes: float, env: dict[str, str] | None = None) -> Count:
    """Run pytest from the pinned environment."""
    environment = python_environment()
    synapse_environment(RESULTS / "pip.log", (env or {}).get("CHAPPE_TEST_SYNAPSE"))
    result = RESULTS / f"{title}.xml"
    result.unlink(missing_ok=True)
    argv = [str(environment / "bin" / "python"), "-m", "pytest", "-v", "--no-header", "-c", "tests/pytest.ini"]
    status = command([*argv, f"--junitxml={result}", *arguments], minutes, env)
    count = read_junit(result)
    if status != 0 and count.failed == 0:
        raise Broken(f"pytest ended with status {status}")
    return count


def python_environment() -> Path:
    """Return the virtual environment of the tests."""
    lines = (CHECKOUT / "tests" / "e2e" / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    return virtual_environment("tests", wanted, RESULTS / "pip.log")


def node_packages() -> None:
    """Install the locked npm packages of the JavaScript client; quick when they are there."""
    folder = CHECKOUT / "tests" / "e2e" / "js"
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".complete"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return
    say("installing npm packages")
    must(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], 10, cwd=folder)
    stamp.write_text(lock.read_text())


# -- parts ---------------------------------------------------------------------------------------


def part_unit() -> Count:
    """unit tests of every module"""
    build_release()
    return ctest(RELEASE, "unit", "unit")


def part_fuzz() -> Count:
    """the fuzz targets' corpora, replayed"""
    build_release()
    return ctest(RELEASE, "fuzz", "fuzz")


def part_lint() -> Count:
    """the house's rules and the formatting of C files"""
    build_release()
    count = ctest(RELEASE, "lint", "lint")
    formatting = command(["sh", "tests/lint/format.sh"], 5)
    if formatting == 77:
        count.skipped += 1
    else:
        count.add(Count(passed=1) if formatting == 0 else Count(failed=1))
    return count


def part_cost() -> Count:
    """instructions of the hub for each delta and re-poll, against their bounds"""
    build_release()
    result = RESULTS / "cost.xml"
    result.unlink(missing_ok=True)
    status = command([sys.executable, "tests/cost/cost.py", "--junit", str(result)], 10)
    return Count(skipped=1) if status == 77 else read_junit(result)


def part_asan() -> Count:
    """unit tests, corpora and a short end-to-end run under ASan and UBSan, on both transports"""
    build_sanitized()
    count = ctest(SANITIZED, "unit|fuzz", "asan-ctest")
    for transport in ("uv", "uring"):
        env = {
            **SANITIZER_ENV,
            "CHAPPE_TEST_BINARY": str(SANITIZED / "chappe"),
            "CHAPPE_TEST_TRANSPORT": transport,
        }
        say(f"short end-to-end run under sanitizers, transport {transport}")
        count.add(pytest(f"asan-{transport}", ["-m", "short", "tests/e2e"], 10, env))
    return count


def part_e2e() -> Count:
    """real servers and real clients"""
    build_release()
    node_packages()
    return pytest("e2e", ["tests/e2e"], 25)


# What is asked of older releases and of other writers: every section of an answer once, and one seed of each generated profile.
OLDER_SCENARIOS = (
    "s03_limited s04_lazy_members s05_memberships s06_knock s07_receipts_counts s09_account_data s10_to_device_keys"
    " s14_history s16_devices s17_errors s50_state_after"
).split()


def part_oracle() -> Count:
    """every answer compared with the newest Synapse's; then with all writers split; older releases in part"""
    build_release()
    asked = os.environ.get("CHAPPE_TEST_SYNAPSE")
    newest, *older = [asked] if asked else tested_releases()
    env = {"CHAPPE_TEST_SYNAPSE": newest}
    count = pytest("oracle", ["tests/oracle"], 45, env)
    # Several writers change positions and wake-ups, not the rules: generated scripts, and one scenario for each section.
    split = ["--split-writers", "--event-persisters", "2", "-k", " or ".join([*OLDER_SCENARIOS, "test_generated"])]
    # What is answered by shortcuts is computed the long way too.
    count.add(pytest("oracle-split", ["tests/oracle", *split], 30, {**env, "CHAPPE_TEST_SHORTCUTS": "check"}))
    chosen = " or ".join([*OLDER_SCENARIOS, "(test_generated and -1)"])
    for release in older:
        say(f"a part of the oracle on Synapse {release}")
        env = {"CHAPPE_TEST_SYNAPSE": release}
        count.add(pytest(f"oracle-{release}", ["tests/oracle", "-k", chosen], 20, env))
    return count


def part_push() -> Count:
    """notifications to gateways: the contract's cases, against a gateway that misbehaves"""
    build_release()
    node_packages()
    return pytest("push", ["tests/push"], 20)


PARTS: dict[str, Callable[[], Count]] = {
    "unit": part_unit,
    "fuzz": part_fuzz,
    "lint": part_lint,
    "cost": part_cost,
    "asan": part_asan,
    "e2e": part_e2e,
    "push": part_push,
    "oracle": part_oracle,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/run",
        description="Runs all tests, or the parts named.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:8} {part.__doc__}" for name, part in PARTS.items())
        + "\n\nCHAPPE_TEST_SYNAPSE=X.Y.Z runs all of it on that Synapse release; deploy/local/versions says which one is used"
        "\notherwise, and lists those that the oracle runs on.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    """Run the chosen parts in their order; print the sum as the last line."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    RESULTS.mkdir(parents=True, exist_ok=True)
    cache_folder().mkdir(parents=True, exist_ok=True)
    total = Count()
    try:
        if not options.no_install:
            install_packages(["stack", "build", "test"])
        for name in [part for part in PARTS if not options.parts or part in options.parts]:
            total.add(_run_part(name))
    except StackError as error:
        print(f"× {error}", flush=True)
        total.failed += 1
    except KeyboardInterrupt:
        print("× interrupted", flush=True)
        total.failed += 1
    print(total, flush=True)
    return 1 if total.failed or not total.passed else 0


def _run_part(name: str) -> Count:
    begun = time.monotonic()
    print(f"\n== {name}: {PARTS[name].__doc__}", flush=True)
    try:
        count = PARTS[name]()
    except (Broken, StackError) as error:
        print(f"× {name}: {error}", flush=True)
        count = Count(failed=1)
    print(f"== {name}: {count}; {time.monotonic() - begun:.0f} s", flush=True)
    return count


if __name__ == "__main__":
    sys.exit(main())
