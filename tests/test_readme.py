"""What the README says: its programs run, its table is the table of the code."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from ignite_trainer import POINTS

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"program {i + 1}" for i in range(len(PROGRAMS))])
def test_program_in_the_readme_when_run_then_prints_what_it_promises(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    (promised,) = re.findall(r"# prints: (.*)", program)
    assert re.search(re.escape(promised).replace("…", ".*"), printed.getvalue()), printed.getvalue()


def test_table_in_the_readme_when_compared_with_the_codes_then_is_the_same():
    rows = re.findall(r"^\| (\w+) \| (.*?) \| (✓?) ?\| ?(✓?) ?\|$", README, re.MULTILINE)
    table = {name: (event, bool(trainer), bool(evaluator)) for name, event, trainer, evaluator in rows}
    assert list(table) == [name for name in POINTS if name in table]
    assert set(POINTS) == set(table)
    for name, point in POINTS.items():
        event, trainer, evaluator = table[name]
        assert evaluator == point.evaluator
        assert trainer == (point.event is not None)
        assert point.event is None or f"`{type(point.event).__name__}.{point.event.name}`" in event
