"""Whether the scenarios notice what they are there to notice: the package with one line sabotaged has to differ."""

from pathlib import Path

import pytest

import ignite_trainer
from tests.sabotages import SABOTAGES, Sabotage, first_scenario_that_differs


def test_scenarios_when_nothing_is_sabotaged_then_none_differs(tmp_path):
    assert first_scenario_that_differs(None, tmp_path, count=30) is None


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.breaks)
def test_scenarios_when_a_line_is_sabotaged_then_one_differs(sabotage, tmp_path, soak):
    if not soak and sabotage not in SABOTAGES[:2]:
        pytest.skip("a process each: all of them with --soak")
    assert first_scenario_that_differs(sabotage, tmp_path) is not None


def test_a_sabotage_when_its_text_is_not_there_once_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'no such line' has to be in __init__.py once, is there 0 times"):
        first_scenario_that_differs(Sabotage("__init__.py", "no such line", "", "nothing"), tmp_path)


def test_a_sabotage_when_the_package_cannot_be_imported_any_more_shows_nothing(tmp_path):
    whole = Sabotage("version.py", "__version__", "import", "the import itself")
    with pytest.raises(RuntimeError, match="no scenario was compared"):
        first_scenario_that_differs(whole, tmp_path)


def test_sabotages_when_listed_then_the_text_of_each_is_there_once():
    package = Path(ignite_trainer.__file__).parent
    assert [s.breaks for s in SABOTAGES if (package / s.file).read_text().count(s.old) != 1] == []
