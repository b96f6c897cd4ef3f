"""The scripts as a user runs them: real processes on real images."""

import importlib
from pathlib import Path

import pytest
from PIL import Image

from tests import processes

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def run(script, *options, cwd=ROOT):
    return processes.run(ROOT / "scripts" / script, *options, cwd=cwd)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_a_script_when_asked_for_then_names_its_options(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_train_fashion_mnist_when_run_then_prints_the_documents_lines_and_writes_a_dashboard(
    tmp_path, fashion_mnist_root
):
    done = run("train_fashion_mnist.py", "--epochs", "1", "--root", str(fashion_mnist_root), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, test, dashboard = done.stdout.splitlines()
    assert first.startswith("Epoch 1/1, Training Loss: 0.5")
    assert 80 < float(test.removeprefix("Test Accuracy: ").removesuffix("%")) < 90
    assert dashboard == "The dashboard: .venv/bin/tensorboard --logdir runs"
    assert list((tmp_path / "runs").glob("*/events.out.tfevents*"))
    assert done.stderr == ""


def test_fashion_mnist_best_when_run_on_few_images_then_reports_the_test_accuracy(tmp_path, fashion_mnist_root):
    few = "--images", "128", "--test-images", "50", "--epochs", "2", "--threads", "1", "--batch-size", "32"
    done = run("fashion_mnist_best.py", *few, "--root", str(fashion_mnist_root), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *epochs, test, seconds = done.stdout.splitlines()
    assert [line.split(",")[0] for line in epochs] == ["Epoch 1/2", "Epoch 2/2"]
    assert training_loss(epochs[1]) < training_loss(epochs[0])
    assert test.startswith("Test Accuracy: ")
    assert seconds.endswith(" of processor time")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_fashion_mnist_best_when_images_are_kept_back_then_leaves_the_test_images_alone(tmp_path, fashion_mnist_root):
    few = "--images", "96", "--validation", "32", "--epochs", "1", "--threads", "1", "--batch-size", "32"
    done = run("fashion_mnist_best.py", *few, "--root", str(fashion_mnist_root), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    epoch, _seconds = done.stdout.splitlines()
    assert ", Validation Accuracy: " in epoch


def test_fit_script_when_run_then_prints_the_documents_line(fashion_mnist_root):
    done = run("fit.py", "--epochs", "1", "--images", "2000", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 loss = ")
    assert ", accuracy = 0." in done.stdout.splitlines()[0]


def test_show_images_script_when_run_then_writes_a_picture_of_ten_inches(tmp_path, fashion_mnist_root):
    picture = tmp_path / "grid.png"
    done = run("show_images.py", "--out", str(picture), "--dpi", "40", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "938 training and 157 test batches; images [64, 1, 28, 28]",
        f"25 of them: {picture}",
    ]
    with Image.open(picture) as written:
        assert written.size == (400, 400)


def test_loop_to_learner_when_run_then_every_row_holds(fashion_mnist_root):
    done = run("loop_to_learner.py", "--images", "1030", "--epochs", "2", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.splitlines()[-6:]
    assert all(row.endswith(" holds") for row in table)
    assert ["difference 0.0e+00" in row for row in table] == [True, True, True, False, False, False]
    reports = [line for line in done.stdout.splitlines() if line.startswith("    ")]
    assert len(reports) == 12  # two epochs of six steps, all of which report the same
    assert reports == 6 * reports[:2]


def test_loop_to_learner_when_the_roundings_grow_too_far_then_exits_with_1(fashion_mnist_root):
    done = run("loop_to_learner.py", "--images", "50", "--bs", "1", "--epochs", "20", "--root", str(fashion_mnist_root))
    assert done.returncode == 1
    # the CPU multiplies and subtracts in one go in SGD, so rounds once; batches of one image let that grow to 3e-3
    ends = [row.split("difference")[1].split()[1:] for row in done.stdout.splitlines()[-6:]]
    assert ends == 3 * [["holds"]] + 3 * [["DOES", "NOT", "HOLD"]]


def test_train_my_images_when_the_demo_is_run_then_reads_batches_of_four_and_learns(tmp_path, fashion_mnist_root):
    demo = tmp_path / "demo"
    done = run("train_my_images.py", str(demo / "labels.csv"), str(demo), "--demo", cwd=fashion_mnist_root.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"{number} [4, 1, 28, 28] [4]" for number in range(3)]
    assert [line.split(",")[0] for line in lines[3:]] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert training_loss(lines[5]) < training_loss(lines[3])
    assert done.stderr == ""
    assert len(list(demo.glob("*.png"))) == len((demo / "labels.csv").read_text().splitlines()) == 100


def test_train_my_images_when_the_demo_would_overwrite_a_folder_then_leaves_it_alone(tmp_path):
    (tmp_path / "mine.png").write_text("mine")
    done = run("train_my_images.py", str(tmp_path / "labels.csv"), str(tmp_path), "--demo")
    assert done.returncode == 1
    assert "FileExistsError" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_resnet18_folder_when_the_demo_is_run_then_learns_its_classes(tmp_path):
    done = run("resnet18_folder.py", str(tmp_path / "demo"), "--demo", "--size", "48")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "120 training and 30 validation images of disc, ring, square"
    assert len(lines) == 3
    assert training_loss(lines[2]) < training_loss(lines[0])
    assert done.stderr == ""


def training_loss(line):
    """The number in a line of Progress."""
    return float(line.split("Training Loss: ")[1].split(",")[0])


def test_documents_when_run_then_every_row_holds(fashion_mnist_root):
    done = run("documents.py", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stdout + done.stderr
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [head.split()[0] for head in heads] == [*(f"D{i}" for i in range(1, 13))]
    assert all(head.endswith(": holds") for head in heads)


def test_bench_when_it_writes_then_what_stands_around_its_marks_is_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    bench, page = importlib.import_module("bench"), tmp_path / "page.md"
    for text in ("first", "second"):
        bench.write_between_marks(page, text)
        page.write_text(f"above {text}\n{page.read_text()}below {text}\n")
    bench.write_between_marks(page, "third", bench.BEGIN_DEVICE)
    assert page.read_text().splitlines() == [
        *("above second", "above first", "# Benchmarks", ""),
        *("<!-- scripts/bench.py writes from here -->", "", "second", "", "<!-- to here -->", ""),
        *("<!-- scripts/bench.py --device writes from here -->", "", "third", "", "<!-- to here -->"),
        *("below first", "below second"),
    ]
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has not both: add them"):
        bench.write_between_marks(page, "fourth")
    assert page.read_text() == "no marks"
