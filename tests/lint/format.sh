#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Formatting by src/.clang-format. Usage: format.sh [--fix] [files…]; without files, every C file of ours.
# Without --fix it prints what would change and exits 1 if anything would.
set -eu
cd "$(dirname "$0")/../.."
fix=
if [ "${1:-}" = --fix ]; then
    fix=1
    shift
fi
if [ $# -eq 0 ]; then
    set -- $(git ls-files 'src/*.[ch]' 'include/*.h' 'tests/*.[ch]' 'bench/*.[ch]')
fi
formatter=$(command -v clang-format-14 || command -v clang-format) || {
    echo "clang-format is not installed" >&2
    exit 77
}
if [ -n "$fix" ]; then
    exec "$formatter" --style=file:src/.clang-format -i "$@"
fi
status=0
for file; do
    if ! "$formatter" --style=file:src/.clang-format "$file" | diff -u "$file" - >/dev/null; then
        echo "$file: needs formatting"
        status=1
    fi
done
exit $status
