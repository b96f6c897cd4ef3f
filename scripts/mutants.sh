#!/usr/bin/env bash
# Mutation tests: changes a file of a copy of the package in one place after the other, runs tests on each, and shows
# the changes that no test has noticed.
#     bash scripts/mutants.sh ignite_trainer/handlers/best.py tests/test_best.py
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
    echo "mutants.sh takes a file of the package and the tests that have to notice its changes" >&2
    exit 2
fi
source scripts/environment.sh
make_environment test,docs,mutants
find_fashion_mnist
export PATH="$PWD/.venv/bin:$PATH"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r ignite_trainer tests scripts docs README.md CHANGELOG.md LICENSE setup.cfg pyproject.toml "$copy"
ln -s "$PWD/data" "$copy/data"
cd "$copy"
file=$1
shift
cat >>tests/conftest.py <<END


@pytest.fixture(autouse=True)
def _seeded():
    """Else the chance of a test that seeds nothing reads as a change that was noticed."""
    torch.manual_seed(0)
END
cat >>pyproject.toml <<END
[tool.mutmut]
source_paths = ["ignite_trainer"]
only_mutate = ["$file"]
pytest_add_cli_args = ["-x", "-q", "-p", "no:cacheprovider", "-k", "not calls"]  # mutmut adds calls of its own
pytest_add_cli_args_test_selection = [$(printf '"%s", ' "$@")]
also_copy = ["data", "scripts", "docs", "README.md", "CHANGELOG.md", "LICENSE"]
END
mutmut run >mutmut.log 2>&1 || { tr '\r' '\n' <mutmut.log | tail -n 40; exit 1; }
tr '\r' '\n' <mutmut.log | grep -a / | tail -n 2
mutmut results | sed -n 's/^ *\(.*\): .*/\1/p' | while read -r mutant; do
    mutmut show "$mutant" | grep -E '^[-+]|^#'
done
