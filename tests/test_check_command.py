"""``ignite-trainer check`` as users run it: on options, on Learners of their own, on what is wrong with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ignite_trainer.cli import main

ROOT = Path(__file__).parents[1]
MY_JOB = """
import torch
from torch import nn

from ignite_trainer import Callback, Checkpoint, Learner, TensorBoard


def make(folder, y=None, loss=None):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long() if y is None else y
    batches = list(zip(x.split(16), y.split(16)))
    cbs = [Checkpoint(), TensorBoard()]
    return Learner(nn.Linear(4, 2), (batches, None), loss or nn.CrossEntropyLoss(), 0.5, cbs, folder=folder), 3


def make_wrong(folder):
    return make(folder, y=torch.arange(64) % 3)


def make_broken(folder):
    return make(folder, loss=lambda preds, y: preds @ y)


def datasets():
    images = torch.rand(48, 1, 8, 8)
    whole = torch.utils.data.TensorDataset(images, torch.arange(48) % 3)
    whole.classes = ["a", "b", "c"]
    return whole, torch.utils.data.Subset(whole, range(40, 48))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with my_job.py in it."""
    (tmp_path / "my_job.py").write_text(MY_JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_job", None)


def test_check_of_the_installed_program_into_a_file_then_a_page_of_80_columns_and_nothing_else(here):
    script = Path(sys.executable).with_name("ignite-trainer")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "ignite_trainer"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open("log", "w") as log:
        done = subprocess.run(
            [*words, "check", "my_job:make_wrong"], env=environment, stdout=log, stderr=log, timeout=120, check=False
        )
    lines = Path("log").read_text().splitlines()
    assert done.returncode == 1
    assert lines[:3] == [
        "fact: labels are class numbers from 0 to 1 for a model of 2 outputs; got 2 in",
        "      the training data (samples 2, 5, 8, 11, 14 and 16 more in the loader's",
        "      order): number the classes from 0, or give the model more outputs",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == ["looked at"]
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == ["log", "my_job.py"]


def test_check_of_options_without_a_fact_then_0(here, capsys):
    assert main(["check", "--data", "glyphs", "--batch-size", "64", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "looked at: 20 training steps, 5000 training samples, 1000 validation samples"
    assert "fact" not in out
    assert err == ""
    assert not (here / "runs").exists()


def test_check_of_options_with_a_fact_then_1(here, capsys):
    assert main(["check", "--data", "my_job:datasets", "--device", "cpu"]) == 1
    assert "fact: no image is in training and in validation; 8 of 8 validation images" in capsys.readouterr().out


def test_check_of_a_learner_without_a_fact_then_0(here, capsys):
    assert main(["check", "my_job:make"]) == 0
    assert "looked at: 4 training steps, 64 training samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["my_job:make", "--lr", "1"], "check takes a job's function or options; got 'my_job:make' and '--lr'"),
        (["my_job:nothing"], "'my_job:nothing' names a function; module my_job has nothing of that name"),
        (["my_job:make_broken"], "the job: RuntimeError: "),
        (["--data", "folder:nowhere"], "nowhere"),
        (["--lr", "-1"], "--lr is the learning rate, above 0; got -1.0"),
    ],
)
def test_check_with_a_mistake_then_it_is_one_line_and_2(words, text, here, capsys):
    assert main(["check", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["chek"],
            "a command is one of train, resume, evaluate, predict, export, check, verify, replay; got 'chek', did",
        ),
        (["zzz"], "got 'zzz', `ignite-trainer --help` tells what each does"),
        ([], "got none, `ignite-trainer --help` tells what each does"),
    ],
)
def test_program_without_a_command_then_it_is_one_line_and_2(words, text, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1
