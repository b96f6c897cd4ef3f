#!/usr/bin/env bash
# Everything that is checked: format, lint, types, import contract, tests and doctests. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment test,docs
find_fashion_mnist
export PATH="$PWD/.venv/bin:$PATH"
ruff format --check .
ruff check .
mypy
pyright
lint-imports
# a test that hangs fails, and says where: its process is ended, and another takes its place
case " $* " in *" --soak "*) seconds=0 ;; *) seconds=300 ;; esac
pytest --numprocesses 2 -o faulthandler_timeout=$seconds -o faulthandler_exit_on_timeout=true "$@"
