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
pytest --numprocesses 2 "$@"
