"""What the pages say: their programs run, their links lead somewhere, their tables are those of the code."""

import re
import subprocess
import sys

import pytest
import torch

import ignite_trainer
from ignite_trainer import POINTS
from tests.pages import PAGES, ROOT, programs_of, run_program

PROGRAMS = [(page, program) for page in PAGES for program in programs_of(page)]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("page", "program"), PROGRAMS, ids=[f"{page.stem} line {program[0].line}" for page, program in PROGRAMS]
)
def test_program_of_a_page_when_run_then_prints_what_it_promises(page, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)  # they hold with any seed; here each run of the tests sees the same
    run_program(page, program, tmp_path)


@pytest.mark.parametrize(
    ("page", "program"), PROGRAMS, ids=[f"{page.stem} line {program[0].line}" for page, program in PROGRAMS]
)
def test_program_of_a_page_when_read_then_claims_something(page, program):
    text = "".join(block.text for block in program)
    assert "# prints: " in text or "assert " in text or any(block.language == "text" for block in program[1:])


def test_files_of_the_repository_that_pages_name_when_looked_up_then_are_there():
    for page in PAGES:
        for file in re.findall(r"\b(?:scripts|tests|docs|ignite_trainer)/[\w/]+\.\w+", page.read_text()):
            assert (ROOT / file).is_file(), f"{page.name}: {file}"


def test_links_of_the_pages_when_followed_then_lead_to_a_file_or_a_heading():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            file, _, heading = target.partition("#")
            aim = page.parent / file if file else page
            assert aim.is_file(), f"{page.name}: {target}"
            assert not heading or heading in headings(aim), f"{page.name}: {target}"


def headings(page):
    """The anchors of a page, as a forge makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_reference_when_compared_with_the_public_names_then_has_each_once():
    names = [name for name in vars(ignite_trainer) if not name.startswith("_")]
    public = {name for name in names if not isinstance(getattr(ignite_trainer, name), type(ignite_trainer))}
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(public)


def test_sphinx_when_run_then_builds_the_pages_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api.html").read_text()
    assert all(f'id="ignite_trainer.{name}"' in page for name in ("Learner.fit", "Checkpoint", "one_cycle", "POINTS"))


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
