"""The files of a run besides its dashboard."""

import csv
import math

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn, optim

from ignite_trainer import Callback, Checkpoint, Learner, TensorBoard
from ignite_trainer.handlers.run_files import RunFiles
from tests.test_handlers import Values, batches, learner
from tests.tiny import mlp, same_state


def metadata(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.metadata()


def loaded(folder, model):
    load_model(model, folder / "model.safetensors")
    return model.state_dict()


def test_run_files_when_a_fit_ran_then_hold_its_values_history_and_best_weights(tmp_path):
    values = Values(3.0, 1.0, 2.0)
    learn = learner([values, RunFiles()], folder=tmp_path / "run", opt_func=optim.Adam, lr=0.01)
    learn.fit(3)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["optimizer"] == {"value": "Adam", "from": "Learner"}
    assert config["optimizer.betas"] == {"value": [0.9, 0.999], "from": "default"}
    with open(tmp_path / "run/history.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == learn.history
    about = {"weights": "best valid_loss", "value": "1.0", "epoch": "1", "step": "8", "model": "Sequential"}
    assert metadata(tmp_path / "run") == about
    assert same_state(loaded(tmp_path / "run", mlp()), values.weights[1])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml",
        "history.csv",
        "model.safetensors",
    ]
    modes = {path.stat().st_mode for path in (tmp_path / "run").iterdir()}
    assert len(modes) == 1  # whoever may read one may read all


def test_run_files_when_a_fit_begins_anew_in_a_used_folder_then_all_of_the_earlier_one_is_kept_together(tmp_path):
    def files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def fit(n_epochs, resume=False):
        learner([RunFiles(), TensorBoard(), Checkpoint()], folder=tmp_path).fit(n_epochs, resume=resume)
        return files(tmp_path)

    first, second = fit(1), fit(2)
    third = fit(3, resume=True)
    fourth = fit(1)
    assert files(tmp_path / "earlier-1") == first
    assert files(tmp_path / "earlier-2") == third
    assert not (tmp_path / "earlier-3").exists()
    names = ["config.yaml", "history.csv", "model.safetensors", "report.png"]
    for run, n_event_files in ((first, 1), (second, 1), (third, 2), (fourth, 1)):
        assert [name for name in sorted(run) if not name.startswith("events.")] == names
        assert len(run) == len(names) + n_event_files


def test_run_files_when_the_earlier_ones_cannot_be_set_aside_then_warns_and_the_run_goes_on(tmp_path, caplog):
    learner([RunFiles()], folder=tmp_path).fit(1)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").mkdir()
    learner([RunFiles()], folder=tmp_path).fit(2)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2  # and that the values are not written
    rule = f"what an earlier fit has left in {tmp_path} is not set aside, or only in part: [Errno 21] Is a directory"
    assert warnings[0].startswith(rule)
    with open(tmp_path / "history.csv") as file:
        assert len(file.readlines()) == 3


def test_run_files_when_there_is_no_validation_then_keep_the_last_weights(tmp_path):
    learn = Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), 0.1, [RunFiles(tmp_path)], device="cpu")
    learn.fit(2)
    assert metadata(tmp_path)["weights"] == "last"
    assert same_state(loaded(tmp_path, mlp()), learn.model.state_dict())


def test_run_files_when_all_values_are_nan_then_keep_the_last_weights_and_say_so(tmp_path):
    learn = learner([Values(math.nan, math.nan), RunFiles(tmp_path)])
    learn.fit(2)
    assert (metadata(tmp_path)["weights"], metadata(tmp_path)["epoch"]) == ("last", "1")


def test_run_files_when_a_model_shares_tensors_then_its_weights_are_saved_and_read(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
        model[1].weight = model[0].weight
        return model

    learn = learner([RunFiles(tmp_path)], tied())
    learn.fit(1)
    assert same_state(loaded(tmp_path, tied()), learn.model.state_dict())


def test_run_files_when_a_fit_breaks_off_then_the_epochs_before_are_there(tmp_path):
    class Fail(Callback):
        def after_batch(self, learn):
            if learn.epoch == 1:
                raise KeyError

    with pytest.raises(KeyError):
        learner([RunFiles(tmp_path), Fail()]).fit(3)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2
    assert metadata(tmp_path)["epoch"] == "0"


def test_run_files_when_the_folder_cannot_be_made_then_warn_once_a_file_and_training_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    learn = learner([RunFiles(tmp_path / "file" / "run")])
    learn.fit(3)
    assert len(learn.history) == 3
    names = ["config.yaml", "history.csv", "model.safetensors"]
    starts = [f"{tmp_path}/file/run/{name} is not written, training goes on without it" for name in names]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == starts


def test_run_files_when_gone_on_with_then_a_worse_epoch_does_not_replace_the_best(tmp_path):
    first = RunFiles(tmp_path)
    learner([Values(1.0), first]).fit(1)
    second = RunFiles(tmp_path)

    class GoOn(Callback):
        order = -1

        def before_fit(self, learn):
            learn.step = 4

    second.load_state_dict(first.state_dict())
    learner([GoOn(), Values(2.0), second]).fit(1)
    assert metadata(tmp_path)["value"] == "1.0"


def test_run_files_change_no_bit_of_the_training(tmp_path):
    states = []
    for cbs in ([], [RunFiles(tmp_path)]):
        torch.manual_seed(0)
        learn = learner(cbs)
        learn.fit(2)
        states.append((learn.model.state_dict(), torch.get_rng_state()))
    assert same_state(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def test_run_files_when_the_monitor_is_unknown_then_name_the_keys(tmp_path):
    with pytest.raises(ValueError, match=r"monitor is a key of a history row, one of epoch, .*; got 'val_loss'"):
        learner([RunFiles(tmp_path, "val_loss")]).fit(1)
