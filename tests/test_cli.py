"""The commands as users run them: train, resume, evaluate, predict, export; and what a mistake looks like."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ignite_trainer import CSVImages
from ignite_trainer.cli.build import build_job, loader_of
from ignite_trainer.cli.evaluate import ConfusionCounts
from ignite_trainer.cli.options import parse_options
from ignite_trainer.cli.run_folder import read_run
from ignite_trainer.cli.run_job import _scalars
from ignite_trainer.handlers.state_files import newest_checkpoint
from ignite_trainer.vision import import_torchvision
from tests import processes
from tests.cli_jobs import CLASSES
from tests.cli_runs import ROOT, TINY, environment, picture, run, run_on_csv
from tests.tiny import same_state


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs, and what it printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    words = [*TINY.split(), "--epochs", "2", "--lr", "0.01", "--folder", str(folder), "--model", "tests.cli_jobs:Net"]
    done = processes.run("ignite_trainer", *words)
    assert done.returncode == 0, done.stderr
    return folder, done


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return [{key: float(row[key]) for key in row if key != "seconds"} for row in csv.DictReader(file)]


def test_train_when_it_is_over_then_a_log_file_has_lines_a_table_and_the_dashboards_command(trained):
    folder, done = trained
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    first, second, _, head, best, last, test, _, where, dashboard = done.stdout.splitlines()
    assert re.fullmatch(
        r"Epoch 1/2, Training Loss: \d\.\d{4}, Validation Loss: \d\.\d{4}, Validation Accuracy: \d\d\.\d\d%", first
    )
    assert second.startswith("Epoch 2/2, ")
    assert head.split() == ["epoch", "step", "training", "loss", "loss", "accuracy"]
    rows = history(folder)
    row = min(rows, key=lambda row: row["valid_loss"])
    assert best.split()[2:4] == [f"{row['epoch'] + 1:g}", f"{row['step']:g}"]
    assert float(best.split()[5]) == pytest.approx(row["valid_loss"], abs=5e-5)  # four decimals
    assert last.split()[2:4] == ["2", "12"]
    assert test.startswith("test, best ")
    assert (where, dashboard) == (f"the run: {folder}", f"the dashboard: tensorboard --logdir {folder}")
    assert {path.name for path in folder.iterdir() if not path.name.startswith("events")} == {
        *("config.yaml", "history.csv", "checkpoints", "report.png", "model.safetensors")
    }


def test_train_in_a_terminal_of_80_columns_then_its_bar_leaves_nothing_behind(tmp_path):
    words = [*TINY.split(), "--epochs", "1", "--folder", str(tmp_path / "run")]
    line = " ".join(["stty cols 80 rows 24;", sys.executable, "-m", "ignite_trainer", *words])
    env = {**environment(), "TERM": "xterm"}
    done = subprocess.run(["script", "-qec", line, "/dev/null"], cwd=ROOT, env=env, capture_output=True, timeout=120)
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert "Epoch 1/1 training" in text
    lines = [shown(line) for line in text.split("\r\n")]
    assert lines[0].startswith("Epoch 1/1, Training Loss")
    assert "\x1b" not in text
    assert not any("batch/s" in line or "%|" in line for line in lines)


def shown(line):
    """What a terminal shows of a line in the end: a return goes back to its beginning."""
    cells = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()


def test_the_config_of_a_run_when_it_is_given_to_train_then_the_same_run_comes_of_it(trained, tmp_path, capsys):
    folder, _ = trained
    run(["train", "--config", folder / "config.yaml", "--folder", tmp_path / "again"], capsys)
    assert history(tmp_path / "again") == history(folder)
    assert same_state(load_file(tmp_path / "again/model.safetensors"), load_file(folder / "model.safetensors"))
    job = [yaml.safe_load((path / "config.yaml").read_text())["job"] for path in (folder, tmp_path / "again")]
    assert (job[0]["lr"], job[0]["epochs"]) == ({"value": 0.01, "from": "flag"}, {"value": 2, "from": "flag"})
    assert job[1]["lr"] == {"value": 0.01, "from": "file"}
    assert job[1]["classes"] == {"value": CLASSES, "from": "data"}
    assert {name: entry["value"] for name, entry in job[0].items()} == {
        name: entry["value"] for name, entry in job[1].items()
    }


def test_resume_of_a_finished_run_then_says_so_and_ends_with_0(trained, capsys):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    out, err = run(["resume", folder], capsys)
    assert (out, err) == (f"{folder} is finished, after epoch 2 and step 12; nothing is left to train\n", "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_train_when_ctrl_c_comes_then_exits_75_and_resume_ends_with_the_same_bits(tmp_path, capsys):
    words = "train --data tests.cli_jobs:slow --model tests.cli_jobs:Net --augment shift-flip --device cpu --epochs 3"
    words = [*words.split(), "--batch-size", "10", "--schedule", "one-cycle", "--ema", "0.9", "--patience", "3"]
    run([*words, "--folder", tmp_path / "whole"], capsys)
    cut = tmp_path / "cut"
    outputs = {name: tmp_path / name for name in ("stdout", "stderr")}
    process = processes.start("ignite_trainer", *words, "--folder", cut, **outputs)
    while process.is_alive() and not (cut / "history.csv").exists():
        time.sleep(0.01)
    time.sleep(0.2)  # an epoch takes 0.4 seconds at least
    processes.send(process, signal.SIGINT)
    code, err = processes.finish(process, timeout=60), outputs["stderr"].read_text()
    assert code == 75, err
    first, second = err.splitlines()
    assert re.fullmatch(rf"stopped by SIGINT after step \d+: {cut}/checkpoints/step-\d+\.pt can be resumed", first)
    assert second == f"go on with: ignite-trainer resume {cut}"
    assert 1 <= len(history(cut)) < 3
    run(["resume", cut], capsys)
    assert history(cut) == history(tmp_path / "whole")
    assert same_state(*(load_file(folder / "model.safetensors") for folder in (cut, tmp_path / "whole")))
    ends = [newest_checkpoint(folder / "checkpoints")[0] for folder in (cut, tmp_path / "whole")]
    assert same_state(ends[0]["model"], ends[1]["model"])
    assert torch.equal(ends[0]["rng"]["torch"], ends[1]["rng"]["torch"])
    scalars = _scalars(cut)
    assert scalars == _scalars(tmp_path / "whole")
    assert {"loss/valid", "lr/group0", "norm/gradient_mean"} <= scalars.keys()
    config = [yaml.safe_load((folder / "config.yaml").read_text())["job"] for folder in (cut, tmp_path / "whole")]
    assert config[0] == config[1]


def test_resume_of_a_run_that_never_began_then_begins_it(trained, tmp_path, capsys):
    folder, _ = trained
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    run(["resume", tmp_path], capsys)
    assert history(tmp_path) == history(folder)


@pytest.mark.parametrize(("n", "steps"), [(8, [6, 8]), (6, [6]), (12, [6, 12])])
def test_train_with_max_steps_then_the_cut_epoch_is_validated_and_the_run_is_finished(n, steps, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [*TINY.split(), "--max-steps", n, "--folder", folder, "--timeline"]
    out, _ = run(words, capsys)
    assert f"stopped after {n} steps, as --max-steps asks for\n" in out
    assert "MaxSteps" in out  # the timeline
    assert [row["step"] for row in history(folder)] == steps
    assert history(folder)[-1]["train_loss"] > 0
    assert run(["resume", folder], capsys).out.startswith(
        f"{folder} is finished, after epoch {len(steps)} and step {n};"
    )


def test_train_when_another_run_began_in_the_same_second_then_has_a_folder_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken = [
        Path("runs") / time.strftime("%Y%m%d-%H%M%S", time.localtime(time.time() + seconds)) for seconds in range(60)
    ]
    for folder in taken:
        folder.mkdir(parents=True)
    run(TINY.split(), capsys)
    assert not any(any(folder.iterdir()) for folder in taken)
    assert [folder.name[-2:] for folder in Path("runs").iterdir() if folder not in taken] == ["-2"]


def test_train_when_the_loss_is_no_longer_finite_then_ends_with_1(tmp_path, capsys):
    words = [*TINY.split(), "--optimizer", "sgd", "--lr", "1e30", "--folder", tmp_path / "run", "--epochs", "3"]
    out, _ = run(words, capsys, code=1)
    assert "NaN guard: the loss became " in out


@pytest.mark.parametrize(
    ("words", "check"),
    [
        (
            "--optimizer sgd --momentum 0.9 --weight-decay 0.1 --schedule cosine",
            lambda learn: learn.opt.defaults["momentum"] == 0.9,
        ),
        ("--optimizer adamw", lambda learn: learn.opt.param_groups[0]["weight_decay"] == 0),
        (
            "--optimizer adam --weight-decay 0.1",
            lambda learn: [g["weight_decay"] for g in learn.opt.param_groups] == [0.1, 0],
        ),
        (
            "--clip-norm 0.5 --precision bf16 --accumulate 3",
            lambda learn: (learn.precision, learn.accumulate) == ("bf16", 3),
        ),
    ],
)
def test_train_with_options_then_the_learner_has_them(words, check, capsys):
    given = parse_options([*TINY.split()[1:], *words.split()], prog="", description="")
    learn = build_job(given.options).learn
    learn.fit(1)
    assert check(learn)


def test_deterministic_then_torch_takes_only_such_operations(tmp_path, capsys):
    try:
        run([*TINY.split(), "--deterministic", "--epochs", "1", "--folder", tmp_path / "run"], capsys)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


# ---- what comes after training ---------------------------------------------------------------------------------------


def test_evaluate_then_its_table_is_that_of_the_predictions(trained, capsys):
    folder, done = trained
    out, err = run(["evaluate", folder, "--device", "cpu"], capsys)
    assert err == ""
    known = read_run(folder)
    job = build_job(known.options)
    job.learn.load(folder / "model.safetensors")
    preds, y = job.learn.predict(loader_of(job.data.test, known.options)).argmax(dim=1), job.data.test.targets
    lines = out.splitlines()
    accuracy = (preds == y).float().mean().item()
    assert re.fullmatch(rf"test: 21 samples, loss \d\.\d{{4}}, accuracy {accuracy:.2%}", lines[0])
    assert lines[0].split()[-3].rstrip(",") in done.stdout  # the loss that train ended with
    for i, name in enumerate(CLASSES):
        right = ((preds == i) & (y == i)).sum().item()
        called, there = (preds == i).sum().item(), (y == i).sum().item()
        precision = f"{right / called:.2%}" if called else "-"
        assert lines[3 + i].split() == [name, precision, f"{right / there:.2%}", str(there)]
        row = [((preds == j) & (y == i)).sum().item() for j in range(3)]
        assert lines[9 + i].split() == [str(i), name, *map(str, row)]
    assert max(map(len, lines)) <= 80


def test_train_when_the_last_epoch_is_not_the_best_then_the_test_is_of_the_best(tmp_path, capsys):
    words = ["--data", "tests.cli_jobs:noise", "--epochs", "6", "--lr", "0.02", "--folder", tmp_path / "run"]
    table = run([*TINY.split(), "--model", "tests.cli_jobs:Net", *words], capsys).out.splitlines()[7:11]
    best, last = (row.split()[2] for row in table[1:3])
    assert int(best) < int(last) == 6
    test = run(["evaluate", tmp_path / "run"], capsys).out.splitlines()[0]
    assert [part.rstrip(",") for part in test.split()[-3::2]] == table[3].split()[-2:]


@pytest.mark.parametrize(("split", "n"), [("train", 60), ("valid", 30)])
def test_evaluate_of_a_split_then_it_is_that(split, n, trained, capsys):
    assert run(["evaluate", trained[0], "--split", split], capsys).out.startswith(f"{split}: {n} samples, ")


def test_evaluate_when_the_data_have_changed_since_then_says_that_it_may_be_what_was_trained_on(tmp_path, capsys):
    folder = run_on_csv(tmp_path)
    assert run(["evaluate", folder / "run"], capsys).err == ""
    with open(folder / "labels.csv", "a") as file:
        file.write("\n0.png,bag")
    out, err = run(["evaluate", folder / "run"], capsys)
    assert out.startswith("valid: 6 samples, ")
    (line,) = err.splitlines()
    assert line == (
        f"{folder / 'run'} had 24 samples to train and 6 to validate, csv:{folder / 'labels.csv'} has 25 samples to "
        "train and 6 to validate now: some of these it may have been trained on"
    )


def test_confusion_when_labels_are_bytes_then_is_that_of_all_classes():
    counts, n = ConfusionCounts(20), 20
    y = torch.arange(n, dtype=torch.uint8)
    counts.after_loss(SimpleNamespace(batch=(None, y), preds=torch.eye(n)))
    assert torch.equal(counts.matrix, torch.eye(n, dtype=torch.int64))


def test_job_when_its_data_are_drawn_then_each_command_gets_the_same():
    options = parse_options(["--data", "tests.cli_jobs:drawn"], prog="train", description="").options
    first, second = (build_job(options).data for _ in range(2))
    assert first.train.indices == second.train.indices
    assert build_job(replace(options, seed=1)).data.train.indices != first.train.indices


def test_resume_when_the_classes_have_changed_since_then_is_refused(tmp_path, capsys):
    folder = run_on_csv(tmp_path)
    config, table = folder / "run/config.yaml", folder / "labels.csv"
    config.write_text(config.read_text().replace("epochs:\n    value: 2", "epochs:\n    value: 3"))
    table.write_text(table.read_text().replace("bag", "yoke"))
    before = (folder / "run/history.csv").read_bytes()
    _, err = run(["resume", folder / "run"], capsys, code=2)
    assert "was trained on 3 classes and inputs (1, 8, 8); csv:" in err
    assert (folder / "run/history.csv").read_bytes() == before
    table.write_text(table.read_text().replace("yoke", "bag"))
    run(["resume", folder / "run"], capsys)  # of a finished run, with more epochs
    assert len(history(folder / "run")) == 3


def test_confusion_when_wider_than_a_terminal_then_the_most_frequent_are_named():
    from ignite_trainer.cli.evaluate import _confusion

    matrix = torch.diag(torch.full((40,), 5))
    matrix[3, 7], matrix[8, 2] = 4, 2
    lines = list(_confusion(matrix, [f"class{i}" for i in range(40)]))
    assert lines == [
        "the most frequent confusions",
        "      4 of class3 taken for class7",
        "      2 of class8 taken for class2",
    ]


@pytest.fixture(scope="module")
def on_csv(tmp_path_factory):
    """A run on a CSV file of pictures of several sizes, and the folder of the pictures."""
    return run_on_csv(tmp_path_factory.mktemp("csv"))


def test_predict_then_gives_the_models_class_and_probability_of_each_image(on_csv, tmp_path, capsys):
    run_folder, transforms = on_csv / "run", import_torchvision().transforms
    to_input = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
    dataset = CSVImages(on_csv / "labels.csv", on_csv, to_input)
    model = read_run(run_folder).model().eval()
    with torch.no_grad():
        probabilities = model(torch.stack([x for x, _ in dataset])).softmax(dim=1)
    files = [on_csv / f"{i}.png" for i in range(30)]
    rows = [json.loads(line) for line in run(["predict", run_folder, *files, "--json"], capsys).out.splitlines()]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert [row["class"] for row in rows] == [CLASSES[i] for i in probabilities.argmax(dim=1).tolist()]
    # six decimals; and the batch that a matrix product runs in changes its last bits
    assert [row["probability"] for row in rows] == pytest.approx(probabilities.amax(dim=1).tolist(), abs=2e-6)
    lines = run(["predict", run_folder, on_csv], capsys).out.splitlines()
    assert [Path(line.split()[0]).name for line in lines] == sorted(file.name for file in files)


def test_predict_when_an_image_is_in_colours_then_it_is_taken_in_the_runs_channels(on_csv, tmp_path, capsys):
    picture(tmp_path / "grey.png")
    picture(tmp_path / "colours.png", mode="RGB")
    (tmp_path / "notes.pdf").touch()  # PIL writes such files, and reads none
    first, second = (
        json.loads(line) for line in run(["predict", on_csv / "run", tmp_path, "--json"], capsys).out.splitlines()
    )
    assert first["probability"] == pytest.approx(second["probability"], abs=2e-6)


def test_predict_when_the_data_do_not_tell_how_an_image_becomes_an_input_then_it_is_refused(trained, on_csv, capsys):
    _, err = run(["predict", trained[0], on_csv / "0.png"], capsys, code=2)
    assert "that of tests.cli_jobs:tiny has no .transform, which is called with a PIL image" in err


def test_predict_when_a_file_is_no_image_then_it_is_one_line_and_2(on_csv, capsys):
    _, err = run(["predict", on_csv / "run", on_csv / "labels.csv"], capsys, code=2)
    assert err.startswith(f"ignite-trainer: {on_csv}/labels.csv is not an image that can be read: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("format", "ending"), [("safetensors", "safetensors"), ("torch", "pt2")])
def test_export_then_the_file_gives_the_runs_outputs(format, ending, trained, capsys):
    folder, _ = trained
    out, _ = run(["export", folder, "--format", format], capsys)
    file = folder / f"exported.{ending}"
    assert out.startswith(f"{file}: {format}, 0.0")
    x, model = torch.rand(5, 1, 8, 8), read_run(folder).model().eval()
    if format == "torch":
        assert torch.equal(torch.export.load(file).module()(x), model(x))
    else:
        assert same_state(load_file(file), model.state_dict())


def test_on_fashion_mnist_then_the_installed_program_trains_evaluates_and_predicts(tmp_path, fashion_mnist_root):
    program = Path(sys.executable).with_name("ignite-trainer")
    if not program.exists():
        pytest.skip(f"the package is not installed: there is no {program}")

    def command(*words):
        done = subprocess.run(
            [program, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.splitlines()

    lines = command("train", "--images", str(fashion_mnist_root), "--max-steps", "300")
    assert lines[-1] == "the dashboard: tensorboard --logdir runs"
    (folder,) = (tmp_path / "runs").iterdir()
    test = command("evaluate", str(folder))
    assert test[0].split()[-1] == lines[-4].split()[-1]  # the accuracy on the test images
    assert 70 < float(test[0].split()[-1].removesuffix("%")) < 90
    names = [line.split()[0] for line in test[3:13]]
    assert names == "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle".split()  # noqa: SIM905
    from ignite_trainer import fashion_mnist

    fashion_mnist(fashion_mnist_root)[1][1][0].save(tmp_path / "pullover.png")
    (row,) = command("predict", str(folder), "pullover.png", "--json")
    assert json.loads(row)["class"] == "Pullover"


def test_train_when_inputs_are_tokens_then_the_run_is_resumed_evaluated_and_exported(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "--data", "tests.cli_jobs:tokens", "--model", "tests.cli_jobs:Words", "--device", "cpu"]
    run([*words, "--epochs", 1, "--folder", folder], capsys)
    assert yaml.safe_load((folder / "config.yaml").read_text())["job"]["input_dtype"]["value"] == "int64"
    assert read_run(folder).input_dtype == torch.int64
    run(["resume", folder], capsys)
    run(["evaluate", folder], capsys)
    run(["export", folder, "--format", "torch", "--file", tmp_path / "words.pt2"], capsys)
    program = torch.export.load(str(tmp_path / "words.pt2")).module()
    assert program(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 3)
