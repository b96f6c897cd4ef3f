"""Runs of the command line for its tests: what they are given, and what they print."""

import os
from pathlib import Path

from PIL import Image

from ignite_trainer.cli import main
from tests.cli_jobs import CLASSES, images

ROOT = Path(__file__).parents[1]
TINY = "train --data tests.cli_jobs:tiny --device cpu --batch-size 10"


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def run(words, capsys, code=0):
    """What a command in this process prints on the two outputs."""
    assert main([str(word) for word in words]) == code
    return capsys.readouterr()


def picture(path, index=0, mode="L"):
    Image.fromarray(images(9, 5).data[index].numpy()).convert(mode).save(path)


def run_on_csv(folder):
    """Train on a CSV file of pictures of several sizes; the folder of the pictures, the table and the run."""
    rows = []
    for index in range(30):
        picture = Image.fromarray(images(30, 5).data[index].numpy())
        picture.resize((8 + index % 3, 9)).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{CLASSES[index % 3]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    words = ["train", "--data", f"csv:{folder / 'labels.csv'}", "--size", "8", "--batch-size", "4", "--epochs", "2"]
    assert main([*words, "--lr", "0.01", "--folder", str(folder / "run"), "--model", "tests.cli_jobs:Net"]) == 0
    return folder
