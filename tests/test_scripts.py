"""The scripts as a user runs them: real processes on real images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def run(script, *options, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


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


def test_fit_script_when_run_then_prints_the_documents_line(fashion_mnist_root):
    done = run("fit.py", "--epochs", "1", "--images", "2000", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 loss = ")
    assert ", accuracy = 0." in done.stdout.splitlines()[0]


def test_documents_when_run_then_every_row_holds(fashion_mnist_root):
    done = run("documents.py", "--root", str(fashion_mnist_root))
    assert done.returncode == 0, done.stdout + done.stderr
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [head.split()[0] for head in heads] == ["D1", "D9", "D10", "D11"]
    assert all(head.endswith(": holds") for head in heads)
