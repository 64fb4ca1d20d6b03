#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a compiler does not know.

Usage: tidy.py [ROOT]. Prints "file:line: rule: text" for each breach and exits 1 if there is one. A line that must
break a rule says so itself, with the reason: a comment that contains "tidy: allow RULE".
A rule argued about twice in review belongs in here.
"""
import os
import re
import subprocess
import sys

LINE_MAX = 120
FUNCTION_LINES_MAX = 90
FILE_LINES_MAX = 1000

# Who may include whom: a module sees itself and what stands before it.
MODULES = ["base", "loop", "config", "token", "http", "httpc", "pg", "feed", "event", "model", "auth", "sync", "push", "ops", "main"]
HEADERS = {
    "base": "str err mem blob map clock ip log json metrics version",
    "loop": "loop",
    "config": "config release",
    "token": "token",
    "http": "httpd",
    "httpc": "httpc",
    "pg": "pg",
    "feed": "feed",
    "event": "event filter",
    "model": "model",
    "auth": "auth",
    "sync": "sync",
    "push": "push",
    "ops": "server ops",
}
RANK = {module: i for i, module in enumerate(MODULES)}
HEADER_MODULE = {header: module for module, names in HEADERS.items() for header in names.split()}

# A library's header is known to the module that wraps it, and to nobody else.
WRAPPED = {
    "liburing.h": {"loop"},
    "hiredis/": {"feed"},
    "libpq-fe.h": {"pg", "config"},
    "curl/": {"httpc"},
    "http_parser.h": {"http"},
    "yaml.h": {"config"},
}

BANNED = {
    "strcpy": "snprintf or struct buf",
    "strcat": "struct buf",
    "strncpy": "memcpy",
    "strncat": "struct buf",
    "sprintf": "snprintf or buf_printf",
    "vsprintf": "vsnprintf",
    "gets": "nothing",
    "strtok": "str_cut",
    "atoi": "str_to_i64",
    "atol": "str_to_i64",
    "atoll": "str_to_i64",
    "atof": "strtod",
    "gmtime": "gmtime_r",
    "localtime": "localtime_r",
    "ctime": "strftime",
    "asctime": "strftime",
    "rand": "rng_u64",
    "random": "rng_u64",
    "alloca": "an arena",
    "setlocale": "nothing: numbers are formatted in the C locale",
}
BANNED_OUTSIDE_BASE = {"malloc": "xmalloc", "calloc": "xcalloc", "realloc": "xrealloc", "strdup": "str_dup",
                       "strndup": "xstrndup", "assert": "ASSERT"}

# Each has a letter in brackets, so that the rule holds for this file too: nothing in it is a mark.
UNFINISHED = re.compile(r"\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b")
UNFINISHED_SOURCE = re.compile(r"\b([s]tub|[p]laceholder|[n]ot implemented yet)\b", re.I)
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(home|root|work|Users)/\w|/tmp/\w/")

TEXT = (".c", ".h", ".def", ".py", ".sh", ".js", ".md", ".cmake", ".txt", ".yaml", ".yml", ".conf", ".in")
LICENSED = (".c", ".h", ".def", ".py", ".sh", ".js", ".cmake")

breaches = []


def breach(path, line, rule, text):
    breaches.append((path, line, rule, text))


def without_literals(source):
    """Blanks comments and the insides of string and character literals; lines stay where they are."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        text = match.group(0)
        return text[0] + re.sub(r"[^\n]", " ", text[1:-1]) + text[-1] if text[0] in "\"'" else re.sub(
            r"[^\n]", " ", text)

    return pattern.sub(blank, source)


def module_of(path):
    parts = path.split("/")
    if parts[0] == "src":
        return "main" if len(parts) == 2 else parts[1]
    if parts[:2] == ["include", "chappe"] and len(parts) == 3:
        return HEADER_MODULE.get(parts[2][:-2])
    return None


def check_include(path, number, line, module):
    match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
    if not match or module is None:
        return
    name = match.group(2)
    for header, owners in WRAPPED.items():
        if name.startswith(header) and module not in owners:
            breach(path, number, "wrapped", f"{name} belongs to {', '.join(sorted(owners))}")
    inner = re.match(r"chappe/(\w+)\.h$", name)
    if inner:
        owner = HEADER_MODULE.get(inner.group(1))
        if owner is None:
            breach(path, number, "rank", f"{name} has no module in tests/lint/tidy.py")
        elif RANK[owner] > RANK[module]:
            breach(path, number, "rank", f"{module} must not know {owner}")
    elif match.group(1) == '"' and name.endswith("_int.h") and not name.startswith(module + "_") \
            and not os.path.exists(os.path.join(os.path.dirname(path), name)):
        breach(path, number, "rank", f"{name} is private to another module")


def check_functions(path, lines):
    """A body is what stands between braces in the first column."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start:
            if number - start - 1 > FUNCTION_LINES_MAX:
                breach(path, start, "function-length", f"{number - start - 1} lines, at most {FUNCTION_LINES_MAX}")
            start = None


def check_calls(path, number, code, banned):
    for match in re.finditer(r"(?<![\w.>])([a-z_]+)\s*\(", code):
        if match.group(1) in banned:
            breach(path, number, "banned", f"{match.group(1)}(): use {banned[match.group(1)]}")


def check_c(path, source, lines):
    ours = path.startswith(("src/", "include/"))
    module = module_of(path)
    if ours and module not in RANK:
        breach(path, 1, "rank", "module unknown to tests/lint/tidy.py")
        return
    if path.endswith(".c") and (len(lines) < 3 or not any(line.startswith("/*") for line in lines[2:4])):
        breach(path, 3, "head", "the file does not open with a comment that says what it is for")
    banned = dict(BANNED)
    if ours and module != "base":
        banned.update(BANNED_OUTSIDE_BASE)
    code = without_literals(source).split("\n")
    for number, line in enumerate(lines, 1):
        check_include(path, number, line, module if ours else None)
        check_calls(path, number, code[number - 1], banned)
        if len(line) > LINE_MAX:
            breach(path, number, "line-length", f"{len(line)} columns, at most {LINE_MAX}")
    check_functions(path, code)


def check_text(path, source, lines):
    if path.endswith(LICENSED) and "SPDX-License-Identifier: Apache-2.0" not in "\n".join(lines[:4]):
        breach(path, 1, "licence", "no SPDX line")
    in_source = path.startswith(("src/", "include/"))
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line) or (in_source and UNFINISHED_SOURCE.search(line)):
            breach(path, number, "unfinished", line.strip()[:80])
        if MACHINE_PATH.search(line):
            breach(path, number, "machine-path", line.strip()[:80])
        if line != line.rstrip():
            breach(path, number, "blank", "blanks at the end of the line")
        if "\t" in line and path.endswith((".c", ".h", ".def", ".py")):
            breach(path, number, "blank", "a tab")
    if source and not source.endswith("\n"):
        breach(path, len(lines), "blank", "no newline at the end")
    if path.endswith((".c", ".h")) and len(lines) > FILE_LINES_MAX:
        breach(path, 1, "file-length", f"{len(lines)} lines, at most {FILE_LINES_MAX}")


def rows(table):
    """The rows of a table: (macro, name, the row's string literals, line)."""
    path = f"include/chappe/tbl/{table}.def"
    if not os.path.exists(path):
        return
    source = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), open(path).read(), flags=re.S)
    for match in re.finditer(r'^([A-Z_]+)\((\w+)((?:[^"()]|"(?:\\.|[^"\\])*"|\([^()]*\))*)\)', source, re.M):
        strings = re.findall(r'"((?:\\.|[^"\\])*)"', match.group(3))
        yield match.group(1), match.group(2), strings, source.count("\n", 0, match.start()) + 1


def check_tables(sources):
    code = "\n".join(text for path, text in sources.items() if path.startswith("src/"))
    words = set(re.findall(r"\w+", code))
    pasted = tuple(set(re.findall(r"(\w+_)\s*##", code)))  # names that macros put together
    for table, prefix, documented in (("metrics", "M_", True), ("options", "", True), ("sql", "SQL_", False)):
        path, seen = f"include/chappe/tbl/{table}.def", set()
        for _, name, strings, number in rows(table):
            if name in seen:
                breach(path, number, "table", f"{name} stands here twice")
            seen.add(name)
            if documented and (not strings or len(strings[-1]) < 10):
                breach(path, number, "table", f"{name} is not documented")
            if prefix + name not in words and not (prefix and (prefix + name).startswith(pasted)):
                breach(path, number, "table", f"{prefix}{name} is used nowhere in src/")
            if table == "metrics" and not re.fullmatch(r"(chappe|synapse|process)_[a-z0-9_]+", strings[0]):
                breach(path, number, "table", f"{strings[0]} is no name for a metric")


def option_defaults(path="include/chappe/tbl/options.def"):
    """Each option of "chappe:" with its default as the documentation writes it, and its line."""
    source = open(path).read()
    for match in re.finditer(r'^OPT_[A-Z]+\((\w+), *("(?:\\.|[^"\\])*"|[^,"]+),', source, re.M):
        yield match.group(1), match.group(2).strip().strip('"'), source.count("\n", 0, match.start()) + 1


def check_readme_options(sources):
    """README.md has a table with a row "| `option` | `default` |" for each option, and for no other."""
    table, readme, heading = "include/chappe/tbl/options.def", "README.md", "### The section `chappe:`"
    if not os.path.exists(table) or readme not in sources:
        return
    lines = sources[readme].split("\n")
    if heading not in lines:
        breach(readme, 1, "options", f"no heading {heading}")
        return
    start, documented = lines.index(heading) + 1, {}
    for number, line in enumerate(lines[start:], start + 1):
        if line.startswith("#"):
            break
        row = re.match(r"\| `(\w+)` \| `([^`]*)` \|", line)
        if row:
            documented[row.group(1)] = (row.group(2), number)
    for name, default, number in option_defaults(table):
        told, at = documented.pop(name, (None, None))
        if told is None:
            breach(table, number, "options", f"{name} is missing from the table in {readme}")
        elif told != default:
            breach(readme, at, "options", f"{name} has the default {default}, not {told}")
    for name, (_, at) in documented.items():
        breach(readme, at, "options", f"{name} is no option of {table}")


def check_headers_alone(paths):
    """Each header compiles alone."""
    for path in paths:
        command = [os.environ.get("CC", "cc"), "-std=c17", "-D_GNU_SOURCE", "-Iinclude", "-fsyntax-only", "-x", "c"]
        run = subprocess.run(command + ["-include", path, os.devnull], capture_output=True, text=True)
        if run.returncode:
            breach(path, 1, "self-contained", run.stderr.strip().split("\n")[0])


def tracked():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [p for p in listed.stdout.split("\n") if p and os.path.isfile(p)]
    found = []
    for folder, folders, files in os.walk("."):
        folders[:] = [f for f in folders if not f.startswith((".", "build"))]
        found += [os.path.relpath(os.path.join(folder, f), ".") for f in files]
    return found


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
    sources = {}
    for path in sorted(tracked()):
        if "/corpus/" in path or not path.endswith(TEXT):
            continue
        source = open(path, encoding="utf-8").read()
        sources[path] = source
        lines = source.split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        check_text(path, source, lines)
        if path.endswith((".c", ".h")):
            check_c(path, source, lines)
    check_tables(sources)
    check_readme_options(sources)
    check_headers_alone([p for p in sources if p.startswith("include/chappe/") and p.endswith(".h")])

    shown = 0
    for path, number, rule, text in breaches:
        lines = sources.get(path, "").split("\n")
        if any(f"tidy: allow {rule}" in line for line in lines[max(number - 2, 0) : number]):
            continue
        print(f"{path}:{number}: {rule}: {text}")
        shown += 1
    print(f"{len(sources)} files, {shown} breaches")
    return 1 if shown else 0


if __name__ == "__main__":
    sys.exit(main())
