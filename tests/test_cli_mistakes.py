"""The data that the command line names, and what a user's mistake looks like: one line and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ignite_trainer import glyphs
from ignite_trainer.cli import main
from ignite_trainer.cli.build import build_job
from ignite_trainer.cli.mistakes import UserMistake, mistakes
from ignite_trainer.cli.options import parse_options
from ignite_trainer.data import SampleLoader
from tests.cli_jobs import CLASSES, unreadable
from tests.cli_runs import ROOT, TINY, environment, picture, run

# ---- data ------------------------------------------------------------------------------------------------------------


def options(*words):
    return parse_options([*words, "--device", "cpu"], prog="", description="").options


def test_a_folder_of_classes_then_a_fifth_is_validated_on(tmp_path):
    for index in range(15):
        path = tmp_path / CLASSES[index % 3] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        picture(path, index % 9, mode="RGB")
    data = build_job(options("--data", f"folder:{tmp_path}", "--size", "12")).data
    assert (len(data.train), len(data.valid), data.test) == (12, 3, None)
    assert (data.classes, data.input_shape) == (CLASSES, (3, 12, 12))


def test_a_folder_with_train_and_test_then_a_fifth_of_train_is_validated_on(tmp_path):
    for part, n in (("train", 5), ("test", 2)):
        for name in ("bag", "coat"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                picture(tmp_path / part / name / f"{i}.png", mode="RGB")
    data = build_job(options("--data", f"folder:{tmp_path}")).data
    assert (len(data.train), len(data.valid), len(data.test), data.classes) == (8, 2, 4, ["bag", "coat"])


def test_options_when_a_path_begins_with_a_tilde_then_it_is_the_home():
    assert options("--folder=~/runs/a").folder == Path.home() / "runs" / "a"


def test_a_folder_with_train_val_and_test_then_these_are_taken(tmp_path):
    for split, n in (("train", 4), ("val", 3), ("test", 2)):
        for index in range(3 * n):
            path = tmp_path / split / CLASSES[index % 3] / f"{index}.png"
            path.parent.mkdir(exist_ok=True, parents=True)
            picture(path, mode="RGB")
    data = build_job(options("--data", f"folder:{tmp_path}")).data
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 9, 6)


def test_points_without_names_then_classes_are_their_numbers():
    job = build_job(options("--data", "tests.cli_jobs:clouds"))
    assert (job.data.classes, job.data.input_shape) == (["0", "1", "2"], (5,))


def test_glyphs_then_the_three_parts_are_other_drawings_of_all_ten():
    data = build_job(options("--data", "glyphs")).data
    assert data.classes == glyphs(1).classes
    assert [len(part) for part in data[:3]] == [5_000, 1_000, 1_000]
    assert not any(torch.equal(data.train.data[i], data.valid.data[i]) for i in range(10))


# ---- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = [
    (
        "train --data nothing",
        "--data is fashion-mnist, mnist, glyphs, csv:FILE, folder:DIR or module:function; got 'no",
    ),
    ("train --data csv:nowhere.csv", "--data: the table of images is a CSV file; there is no file nowhere.csv"),
    ("train --data csv:{}/missing.csv", "--data: {}/missing.csv names 1 image that is not in {}: 'gone.png'"),
    ("train --data csv:{}/text.csv --size 8", "text.png (line 1 of {}/text.csv) is not an image that can be read"),
    ("train --data folder:nowhere", "--data: image_folder takes a folder that has one folder for each class; nowhere"),
    ("train --data folder:{}/without", "--data: Found no valid file for the classes bag."),
    ("train --data no_such_module:f", "import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
    ("train --data tests.cli_jobs:none", "'tests.cli_jobs:none' names a function; module tests.cli_jobs has nothing"),
    ("train --data tests.cli_jobs:raises", "--data tests.cli_jobs:raises: RuntimeError: no data here (cli_jobs.py:"),
    ("train --data tests.cli_jobs:one_dataset", "returns (train, valid) or (train, valid, test), datasets; it return"),
    ("train --data tests.cli_jobs:empty", "datasets with a length and items by number; it returned a list of length 0"),
    ("train --data tests.cli_jobs:regression", "the classes are the dataset's .classes, or found from its .targets"),
    ("train --data tests.cli_jobs:unreadable --folder NEW", "sample 7 of the dataset cannot be read (epoch 0, batch"),
    ("train --data tests.cli_jobs:labels_outside --folder NEW", "labels are class numbers from 0 to 1 for a model of"),
    ("train --data tests.cli_jobs:clouds --augment flip", "--augment changes images (channels, height, width); inputs"),
    (
        "train --data tests.cli_jobs:clouds --model small-cnn",
        "--model small-cnn takes images (channels, height, width)",
    ),
    ("train --data tests.cli_jobs:tiny --size 8", "--size is for images of a CSV file or a folder; got it with --data"),
    ("train --data glyphs --images x", "--images is for csv, fashion-mnist and mnist; got it with --data glyphs"),
    (
        "train --data tests.cli_jobs:tiny --device gpu",
        "device is one that torch has here, such as 'cpu'",
    ),
    ("train --data tests.cli_jobs:tiny --device meta", "device is one that torch has here, such as 'cpu'"),
    ("train --data tests.cli_jobs:ragged", "the classes are the dataset's .classes, or found from its .targets"),
    (
        "train --data tests.cli_jobs:tiny --folder {}/run",
        "--folder is a new one; in {}/run there is a run already: go ",
    ),
    ("train --data tests.cli_jobs:tiny --folder {}/text.csv/r", "Not a directory"),
    ("train --config {}/text.csv", "{}/text.csv holds names and values, one `name: value` a line; got a str"),
    ("resume {}", "{} is no run: it has no config.yaml"),
    ("resume nowhere", "a run is a folder, such as runs/20260131-235959; there is no folder nowhere"),
    ("resume {}/script", "{}/script was not made by `ignite-trainer train`: its config.yaml has no job"),
    ("resume {}/damaged", "a run goes on from a whole checkpoint, and none in {}/damaged/checkpoints is"),
    ("evaluate {}/run", "{}/run has no model.safetensors yet: a run writes it after its first epoch"),
    ("evaluate {}/other", "has conv1.weight not at all, the model has it of shape"),
    ("predict {}/run x.png", "predict takes files of images or folders of them; there is no x.png"),
    ("predict {}/run {}/without", "predict takes images; the folder {}/without has none"),
    ("train --data folder:{}/single", "has 1 image; to train and to validate at least 2 are needed"),
    (
        "train --data folder:{}/splits",
        "--data: train, valid and test have the same folders of classes; {}/splits/valid",
    ),
    ("train --data tests.cli_jobs:triples", "an item is (tensor, class number); got ['Tensor', 'int', 'int']"),
    (
        "train --data tests.cli_jobs:tiny --model torchvision:resnet19",
        "--model torchvision:NAME is one of torchvision's",
    ),
    (
        "evaluate {}/now_clouds",
        "{}/now_clouds was trained on 3 classes and inputs (1, 8, 8); tests.cli_jobs:clouds has 3",
    ),
    ("evaluate {}/now_no_test --split test", "--split test needs test data; tests.cli_jobs:no_test has none: leave it"),
    (
        "train --data tests.cli_jobs:wide --model mlp",
        "--model mlp on inputs (7,) of torch.float64: RuntimeError: mat1 and mat2 must have the same dtype",
    ),
    (
        "train --data tests.cli_jobs:one_more --model tests.cli_jobs:Net --batch-size 20",
        "61 samples in batches of 20 make a batch of 1, on which --model tests.cli_jobs:Net raises: ValueError: Expe",
    ),
    (
        "train --data tests.cli_jobs:one_more --model tests.cli_jobs:Net --batch-size 1",
        "61 samples in batches of 1 make a batch of 1, on which --model tests.cli_jobs:Net raises: ValueError: Expec",
    ),
    (
        "train --data tests.cli_jobs:one_more --model tests.cli_jobs:Net --batch-size 20 --max-steps 4",
        "61 samples in batches of 20 make a batch of 1, on which --model tests.cli_jobs:Net raises: ValueError: Expe",
    ),
    (
        "check --data tests.cli_jobs:one_more --model tests.cli_jobs:Squeezed --batch-size 20",
        "make a batch of 1, on which --model tests.cli_jobs:Squeezed gives (3,) and not (1, 3): take another --batch-",
    ),
    (
        "evaluate {}/of_bytes",
        "{}/of_bytes was trained on inputs of torch.float64; tests.cli_jobs:tiny gives torch.float32 now",
    ),
    ("evaluate {}/of_words", "config.yaml: input_dtype is a type of torch, such as float32; got 'words'"),
    ("evaluate {}/of_half_pixels", "config.yaml: input_shape is whole numbers; got 0.5"),
    ("predict {}/of_numbers {}/0.png", "predict reads images; the inputs of {}/of_numbers are of shape (64,)"),
    ("predict {}/now_larger {}/0.png", "{}/0.png gives an input of shape (1, 9, 9); the model takes (1, 8, 8)"),
    ("export {}/run --file {}", "--file is a file to write; {} is a folder: give a name in it"),
    ("export nowhere", "a run is a folder, such as runs/20260131-235959; there is no folder nowhere"),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """A folder of things that are wrong."""
    folder, right = tmp_path_factory.mktemp("mistaken"), tmp_path_factory.mktemp("right") / "run"
    words = [*TINY.split(), "--epochs", "1", "--model", "tests.cli_jobs:Net", "--folder", str(right)]
    assert main(words) == 0
    config = (right / "config.yaml").read_text()
    (folder / "missing.csv").write_text("gone.png,bag\n")
    (folder / "text.csv").write_text("text.png,bag\ntext.png,coat\n")
    (folder / "text.png").write_text("this is text")
    (folder / "without" / "bag").mkdir(parents=True)
    for name in ("run", "script", "damaged", "other"):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(config)
    (folder / "script" / "config.yaml").write_text("lr: {value: 0.1, from: Learner}\n")
    (folder / "other" / "config.yaml").write_text(config.replace("value: tests.cli_jobs:Net", "value: small-cnn"))
    (folder / "other" / "model.safetensors").write_bytes((right / "model.safetensors").read_bytes())
    data, shape = "value: tests.cli_jobs:tiny", "input_shape:\n    value:\n    - 1\n    - 8\n    - 8\n"
    for name, was, is_now in (
        ("now_clouds", data, "value: tests.cli_jobs:clouds"),
        ("now_no_test", data, "value: tests.cli_jobs:no_test"),
        ("now_larger", data, "value: tests.cli_jobs:larger"),
        ("of_half_pixels", shape, shape.replace("1", "0.5")),
        ("of_words", "value: float32", "value: words"),
        ("of_bytes", "value: float32", "value: float64"),
        ("of_numbers", shape, "input_shape:\n    value:\n    - 64\n"),
    ):
        (folder / name).mkdir()
        assert config.count(was) == 1
        (folder / name / "config.yaml").write_text(config.replace(was, is_now))
        (folder / name / "model.safetensors").write_bytes((right / "model.safetensors").read_bytes())
    picture(folder / "0.png")
    for path in ("single/bag", "splits/train/bag", "splits/train/coat", "splits/valid/bag"):
        (folder / path).mkdir(parents=True)
        picture(folder / path / "0.png")
    (folder / "damaged" / "checkpoints").mkdir()
    (folder / "damaged" / "checkpoints" / "step-00000012.pt").write_text("half a")
    return folder


@pytest.mark.parametrize(("words", "text"), MISTAKES, ids=[words for words, _ in MISTAKES])
@pytest.mark.filterwarnings("ignore:.*an older checkpoint is looked for")
def test_a_mistake_then_it_is_one_line_and_2(words, text, mistaken, tmp_path, capsys):
    words = words.replace("NEW", str(tmp_path / "new")).replace("{}", str(mistaken))
    _, err = run(words.split(), capsys, code=2)
    assert err.startswith("ignite-trainer: ")
    assert text.replace("{}", str(mistaken)) in err
    assert err.count("\n") == 1


KEPT = []  # torch 2.13 waits 5 seconds for each worker when such an iterator is collected


def test_mistakes_when_a_worker_process_has_raised_then_the_line_is_without_its_traceback():
    batches = iter(SampleLoader(unreadable()[0], 10, num_workers=1))
    KEPT.append(batches)
    line = r"^sample 7 of the dataset cannot be read \(epoch 0, batch 0\): OSError\('image 7 is no image'\)$"
    with pytest.raises(UserMistake, match=line), mistakes():
        next(batches)


def test_a_genuine_bug_then_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="invalid literal for int"):
        main([*TINY.split(), "--model", "tests.cli_jobs:Buggy", "--folder", str(tmp_path / "run")])


def test_ctrl_c_before_the_training_then_is_one_line_and_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.cli_jobs.tiny", interrupted)
    assert run(TINY.split(), capsys, code=130).err == "ignite-trainer: interrupted\n"


def test_output_when_its_reader_has_gone_then_there_is_no_traceback():
    line = f"set -o pipefail; {sys.executable} -m ignite_trainer train --help | head -1"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("usage: ignite-trainer train [-h] [OPTIONS]\n", "")
