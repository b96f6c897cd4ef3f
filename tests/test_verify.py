"""The command ``verify`` as users run it, on jobs that hold and on jobs that do not."""

import math
import re
import sys

import pytest
import torch

from ignite_trainer.cli import main
from ignite_trainer.cli.mistakes import UserMistake
from ignite_trainer.cli.run_job import run_job
from ignite_trainer.cli.verify_resume import first_difference
from tests import processes


def command(*words):
    return processes.run("ignite_trainer", *words)


def test_verify_resume_of_a_job_that_holds_then_prints_the_kills_and_equal_and_ends_with_0(soak):
    done = command("verify", "resume", *(["--kills", "30"] if soak else ["--kills", "2", "--workers", "2"]))
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header == "workers  kills  end; killed after step"
    assert len(rows) == (2 if soak else 1)
    for row in rows:
        workers, kills, places = re.fullmatch(r"(\d) +(\d+) +equal; (.*)", row).groups()
        assert int(workers) in (0, 2)
        assert int(kills) == len(places.split(", ")) >= (20 if soak else 1)
        assert re.fullmatch(r"\d+ training(, \d+ (validating|saving|training))*", places)


def test_verify_resume_of_a_job_with_an_unsaved_generator_then_names_the_first_difference_and_ends_with_1(capsys):
    assert main(["verify", "resume", "--kills", "1", "--seed", "3", "tests.verify_jobs:make_forgetful"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^-        1      history epoch \d train_loss: [\d.]+ and [\d.]+; \d+ training$", out, re.M), out
    assert err == ""


def test_verify_resume_of_a_job_that_seeds_nothing_then_it_is_made_from_the_seed_each_time(capsys):
    assert main(["verify", "resume", "--kills", "1", "tests.verify_jobs:make_unseeded"]) == 0
    assert re.search(r"^-        [01]      equal; ", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("resume nonsense", "a function is named module:function, such as my_job:make; got 'nonsense'"),
        ("resume no_such_module:make", "import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("resume math:nothing", "'math:nothing' names a function; module math has nothing of that name"),
        ("resume math:pi", "'math:pi' names a function; module math has a float"),
        ("resume --kills 0", "--kills is how often a run is killed, at least 1; got 0"),
        ("resume --workers 0;2", "--workers is numbers from 0 with commas between them, such as 0,2; got '0;2'"),
        ("loop tests.verify_jobs:never_steps", "has called optimizer.step() not once; there is nothing to compare"),
        ("loop math:sqrt", "math:sqrt: TypeError: math.sqrt() takes exactly one argument (6 given)"),
    ],
)
def test_verify_with_a_mistake_then_it_is_one_line_and_2(words, text, capsys):
    assert main(["verify", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" or out.startswith("workers")
    assert err.startswith("ignite-trainer: ")
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("make_without_checkpoint", "a run goes on from what a Checkpoint has saved; the learner of {} has none"),
        ("make_elsewhere", "a job writes into the folder that it is given; {} would write to "),
        ("make_learner_alone", "a job returns (learner, n_epochs); {} returned Learner"),
        ("make_nothing", "{}: RuntimeError: no data here (verify_jobs.py:"),
    ],
)
def test_a_job_with_a_mistake_when_run_then_it_is_one_line(name, text, tmp_path):
    name = f"tests.verify_jobs:{name}"
    with pytest.raises(UserMistake) as caught:
        run_job(name, tmp_path / "run", None, {}, tmp_path / "end.pt", tmp_path / "note")
    assert str(caught.value).startswith(text.format(name))


def test_a_job_with_a_mistake_in_its_own_process_then_the_command_says_it_in_one_line(capsys):
    assert main(["verify", "resume", "tests.verify_jobs:make_learner_alone"]) == 2
    assert capsys.readouterr().err == (
        "ignite-trainer: a job returns (learner, n_epochs); tests.verify_jobs:make_learner_alone returned Learner\n"
    )


def test_workers_for_a_job_that_takes_none_then_it_is_refused(capsys):
    assert main(["verify", "resume", "--workers", "2", "tests.verify_jobs:make"]) == 2
    assert "tests.verify_jobs:make has no parameter workers, so the option --workers has no" in capsys.readouterr().err


def test_verify_loop_of_a_right_loop_then_all_steps_are_equal(capsys):
    assert main(["verify", "loop", "tests.verify_jobs:by_names"]) == 0
    assert capsys.readouterr().out == "equal: 10 optimizer steps of 9 tensors, and the random generators\n"


def test_verify_loop_without_a_job_in_the_module_then_the_built_in_one_is_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "loop_alone.py").write_text("from tests.verify_jobs import by_names\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["verify", "loop", "loop_alone:by_names"]) == 0
    assert capsys.readouterr().out == "equal: 18 optimizer steps of 9 tensors, and the random generators\n"


def test_verify_loop_that_forgets_zero_grad_then_names_the_first_step_and_tensor():
    done = command("verify", "loop", "tests.verify_jobs:forgets_zero_grad")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.fullmatch(r"they part at optimizer step 2 of 10: 0\.weight, 0\.\d+ apart\n", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("forgets_eval", "all 10 optimizer steps are equal; after the last one 1.running_mean is not"),
        ("stops_early", "they part after 5 optimizer steps: the loop makes 5, the Learner more than 5"),
        ("draws_anew", "tests.verify_jobs:draws_anew gives other weights each time it is run, from the same seed"),
    ],
)
def test_verify_loop_that_differs_then_says_where(name, text, capsys):
    assert main(["verify", "loop", f"tests.verify_jobs:{name}"]) == 1
    assert capsys.readouterr().out.startswith(text)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ({"x": torch.tensor([1.0, math.nan])}, {"x": torch.tensor([1.0, math.nan])}, None),
        ({"x": math.nan}, {"x": math.nan}, None),
        ({"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([1.0, 2.5])}, "x: 0.5 apart"),
        ({"x": torch.ones(2)}, {"x": torch.ones(3)}, r"x: torch.float32 of shape (2,) and torch.float32 of shape (3,)"),
        ({"x": {1: 2}}, {"x": {}}, "x 1: only in the run without kills"),
        ({}, {"y": 1}, "y: only in the run that was killed"),
        ([1, [2]], [1, [3]], "1 0: 2 and 3"),
    ],
)
def test_first_difference_of_two_nests_then_says_where_and_how_much(a, b, text):
    assert first_difference(a, b) == text
