"""The options of a job: the command line as it is written down, and a YAML file below it."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
import yaml

from ignite_trainer import DataLoaders, fashion_mnist, random_split
from ignite_trainer.cli import main
from ignite_trainer.cli.build import build_job, build_model
from ignite_trainer.cli.config_file import job_section, read_config
from ignite_trainer.cli.mistakes import UserMistake
from ignite_trainer.cli.options import Options, parse_options
from ignite_trainer.models import SimpleNN
from tests.tiny import same_state

ROOT = Path(__file__).parents[1]

COMMAND_LINE = """
train --config FILE none
train --data STR fashion-mnist
train --images DIR beside the CSV file; data
train --size INT as they are
train --augment {none,flip,shift,shift-flip} none
train --model STR simple-nn
train --epochs INT 5
train --batch-size INT 32
train --optimizer {adam,adamw,sgd} adam
train --lr FLOAT 0.001
train --momentum FLOAT 0.0
train --weight-decay FLOAT 0.0
train --schedule {constant,one-cycle,cosine} constant
train --accumulate INT 1
train --clip-norm FLOAT any norm
train --precision {fp32,bf16,fp16} fp32
train --ema FLOAT no averages
train --patience INT never stop early
train --max-steps INT no limit
train --device STR cuda, else mps, else cpu
train --workers INT 0
train --seed INT 0
train --deterministic, --no-deterministic False
train --folder DIR runs/YYYYmmdd-HHMMSS
train --checkpoint-steps INT only those
train --timeline, --no-timeline False
resume RUN required
evaluate RUN required
evaluate --split SPLIT test, or valid where there is no test data
evaluate --device STR cuda, else mps, else cpu
predict RUN required
predict IMAGE|DIR ... required
predict --json False
predict --device STR cuda, else mps, else cpu
export RUN required
export --format FORMAT safetensors
export --file FILE exported.* in the run's folder
verify resume [{None}|STR] None
verify resume --kills INT 6
verify resume --workers {None}|STR None
verify resume --seed INT 0
verify loop STR required
verify loop --seed INT 0
replay PATH required
replay [{None}|STR] None
"""


def help_of(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


def test_command_line_when_frozen_then_is_this(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    written = COMMAND_LINE.strip().splitlines()
    place = written.index("verify resume [{None}|STR] None")
    written[place:place] = [re.sub("^train", "check", line) for line in written if line.startswith("train")]
    commands = dict.fromkeys(re.match(r"(verify )?\w+", line)[0] for line in written)
    found = []
    for command in commands:
        # boxes are drawn where the output is UTF-8
        rows = "\n".join(re.findall(r"^(?:│ |  )(.*?\S) *│?$", help_of(command, capsys), re.M))
        for row in re.split(r"\n(?=\S)", rows):
            words = re.match(r"(?s)(?!-h)(\S.*?)(?:\n|  ).*\((?:default: )?([^()]*)\)$", row)
            if words:
                found.append(f"{command} {words[1]} {words[2]}")
    assert found == written
    everything = re.findall(r"• (\w+)", help_of("", capsys))
    assert list(dict.fromkeys(command.split()[0] for command in commands)) == everything


@pytest.mark.parametrize(
    "command", ["", "train", "resume", "evaluate", "predict", "export", "check", "verify", "replay"]
)
def test_help_when_a_terminal_has_80_columns_then_fits_and_has_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = help_of(command, capsys)
    assert max(map(len, page.splitlines())) <= 80
    assert "\x1b" not in page
    assert f"ignite-trainer {command} " in page.replace("usage: ", "") or not command
    assert "Example: " in page or command in ("", "verify")


def test_commands_in_the_readme_then_have_only_flags_that_there_are():
    commands = re.findall(r"^ignite-trainer (\w+)(.*?)(?:  #.*)?$", (ROOT / "README.md").read_text(), re.M)
    assert len(commands) == 7
    for command, words in commands:
        for flag in re.findall(r"--[\w-]+", words):
            assert f"\n{'train' if command == 'check' else command} {flag} " in COMMAND_LINE


def parsed(*words):
    return parse_options(words, prog="ignite-trainer train", description="")


def test_options_when_a_file_and_flags_say_them_then_flags_win_and_origins_are_told(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("lr: 1e-2\nbatch-size: 16\nclip_norm: 3\nimages: here\nema: null\nweight_decay: 1\n")
    given = parsed("--config", str(file), "--batch_size=8", "--no-timeline", "--epochs", "5")
    options = given.options
    assert (options.lr, options.batch_size, options.clip_norm, options.images) == (0.01, 8, 3.0, Path("here"))
    assert isinstance(options.weight_decay, float)
    origins = {
        name: given.origins.get(name, "default") for name in ("lr", "batch_size", "ema", "timeline", "epochs", "seed")
    }
    assert list(origins.values()) == ["file", "flag", "file", "flag", "flag", "default"]


def test_config_of_a_run_when_read_back_then_is_the_same_options(tmp_path):
    options = Options(
        data="csv:a.csv",
        images=Path("b"),
        size=9,
        augment="flip",
        model="x:Y",
        epochs=7,
        optimizer="sgd",
        momentum=0.5,
        clip_norm=2.0,
        ema=0.5,
        patience=3,
        max_steps=9,
        device="cpu",
        deterministic=True,
        timeline=True,
    )
    section = job_section(options, {"data": "flag", "images": "file"}, {"classes": ["a"], "input_shape": [1, 2, 3]})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"job": section, "lr": {"value": "other", "from": "Learner"}}))
    values, origins = read_config(tmp_path / "config.yaml", Options)
    assert Options(**values) == options
    assert (origins["data"], origins["images"], origins["lr"]) == ("flag", "file", "default")
    assert dataclasses.asdict(options).keys() - values.keys() == {"folder"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch-sise: 3", "{} has the unknown key 'batch-sise'; did you mean batch_size?"),
        ("zzz: 3", "{} has the unknown key 'zzz'; there are data, images, size, "),
        ("epochs: many", "{}: epochs is a whole number; got 'many'"),
        ("epochs: 2.5", "{}: epochs is a whole number; got 2.5"),
        ("epochs: true", "{}: epochs is a whole number; got True"),
        ("lr: fast", "{}: lr is a number; got 'fast'"),
        ("lr: 1" + 400 * "0", "{}: lr is a number that a float holds; got one of 401 digits"),
        ("patience: soon", "{}: patience is a whole number or null; got 'soon'"),
        ("deterministic: 1", "{}: deterministic is true or false; got 1"),
        ("data: 3", "{}: data is text; got 3"),
        ("optimizer: adm", "{}: optimizer is one of adam, adamw, sgd; got 'adm'"),
        ("lr: [1\nx: 2", "{}, line 2, column 2 is no YAML: expected ',' or ']', but got ':'"),
        ("seed: 2026-02-30", "{} is no YAML: day is out of range for month"),
        ("- a\n- b", "{} holds names and values, one `name: value` a line; got a list"),
        ("job: 3", "{}: job is a mapping of names and values; got 3"),
        ("lr: -1", "--lr is the learning rate, above 0; got -1.0"),
        (None, "{} cannot be read: No such file or directory"),
    ],
)
def test_config_with_a_mistake_then_one_line_names_it(text, message, tmp_path):
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserMistake) as caught:
        parsed("--config", str(file))
    assert str(caught.value).startswith(message.format(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epochs 0", "--epochs is how often the training data is gone through, at least 1; got 0"),
        ("--batch-size 0", "--batch-size is the number of samples in a batch, at least 1; got 0"),
        ("--lr nan", "--lr is the learning rate, above 0; got nan"),
        ("--momentum 1", "--momentum is from 0 to below 1; got 1.0"),
        ("--momentum 0.9", "--momentum is sgd's; got 0.9 with --optimizer adam"),
        ("--weight-decay -1", "--weight-decay is at least 0; got -1.0"),
        ("--accumulate 0", "--accumulate is the number of batches in a step, at least 1; got 0"),
        ("--clip-norm 0", "--clip-norm is the largest norm of the gradients, above 0; got 0.0"),
        ("--ema 1", "--ema is the part of the average that stays, between 0 and 1; got 1.0"),
        ("--patience 0", "--patience is a number of epochs, at least 1; got 0"),
        ("--max-steps 0", "--max-steps is a number of optimizer steps, at least 1; got 0"),
        ("--workers -1", "--workers is a number of processes, at least 0; got -1"),
        ("--seed -1", "--seed is a whole number from 0 to 2**32 - 1; got -1"),
        ("--size 0", "--size is the height and width of images in pixels, at least 1; got 0"),
        ("--checkpoint-steps 0", "--checkpoint-steps is a number of optimizer steps, at least 1; got 0"),
    ],
)
def test_a_flag_outside_its_range_then_one_line_names_it(words, message):
    with pytest.raises(UserMistake) as caught:
        parsed(*words.split())
    assert str(caught.value) == message


@pytest.mark.parametrize("words", ["--epoch 3", "--lr fast", "--optimizer adm", "--patience"])
def test_a_wrong_flag_then_tyro_says_so_in_80_columns_and_ends_with_2(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["train", *words.split()])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert words.split()[0] in err
    assert max(map(len, err.splitlines())) <= 80
    assert "\x1b" not in err


def test_the_defaults_then_are_the_job_of_the_documents(fashion_mnist_root):
    job = build_job(Options(images=fashion_mnist_root, device="cpu"))
    train, test = fashion_mnist(fashion_mnist_root)
    train, valid = random_split(train, [50_000, 10_000], seed=0)
    dls = DataLoaders.from_datasets(train, valid, 32, seed=0)
    torch.manual_seed(0)
    assert same_state(job.learn.model.state_dict(), SimpleNN().state_dict())
    for ours, theirs in zip(job.learn.dls, dls, strict=True):
        assert len(ours) == len(theirs)
        for _, batch, other in zip(range(3), ours, theirs, strict=False):
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    assert (job.learn.opt_func, job.learn.lr) == (torch.optim.Adam, 1e-3)
    assert len(job.data.test) == len(test) == 10_000
    assert job.data.classes == list(test.classes)


@pytest.mark.parametrize("name", ["mlp", "simple-nn", "small-cnn", "torchvision:squeezenet1_1", "tests.cli_jobs:Net"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 36)])
def test_a_model_then_fits_inputs_and_classes(name, shape):
    assert build_model(name, shape, 7)(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn", "--model is mlp, simple-nn, small-cnn, torchvision:NAME or module:Class; got 'cnn'"),
        ("torchvision:resnet19", "'resnet19' is none, did you mean resnet18?"),
        ("tests.cli_jobs:NoModel", "--model tests.cli_jobs:NoModel gives an nn.Module; it gave a NoModel"),
        ("tests.cli_jobs:Nett", "'tests.cli_jobs:Nett' names a function; module tests.cli_jobs has nothing of that"),
        ("tests.cli_jobs:WrongOutputs", "gives (N, 3), a score for each class of the data; for 2 inputs it gave (2, 1"),
        ("math:sqrt", "--model math:sqrt: TypeError: math.sqrt() takes exactly one argument (0 given)"),
        ("torchvision:inception_v3", "--model torchvision:inception_v3 on inputs (1, 8, 8): RuntimeError: "),
    ],
)
def test_a_model_with_a_mistake_then_one_line_names_it(name, message):
    with pytest.raises(UserMistake) as caught:
        build_model(name, (1, 8, 8), 3)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
