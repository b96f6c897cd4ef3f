"""Weights and programs as files: what is read back is what was written, or is refused."""

import re
import resource
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ignite_trainer import Checkpoint, Learner
from ignite_trainer.export import export_model
from ignite_trainer.weights import load_weights, save_weights
from tests.tiny import dropout_net, same_state


class Tied(nn.Module):
    """Embedding and output share one matrix."""

    def __init__(self, n=5):
        super().__init__()
        self.embedding, self.head = nn.Embedding(n, 3), nn.Linear(3, n, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


def trained(model, x):
    """A model whose buffers have moved, in evaluation mode in part."""
    model.train()
    for _ in range(3):
        model(x)
    model[1].eval()
    return model


@pytest.mark.parametrize(("make", "x"), [(dropout_net, torch.randn(4, 6)), (Tied, torch.tensor([[0, 4], [2, 1]]))])
def test_load_weights_after_save_weights_then_every_tensor_has_the_same_bits(make, x, tmp_path):
    model, other = make(), make()
    model(x)
    assert not same_state(model.state_dict(), other.state_dict())
    save_weights(model, tmp_path / "new" / "model.safetensors")
    load_weights(other, tmp_path / "new" / "model.safetensors")
    assert same_state(model.state_dict(), other.state_dict())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_save_weights_when_made_again_then_is_the_same_file_whose_metadata_are_whole(tmp_path):
    metadata, path = {name: f'{name} "ü"\n\x01' for name in "abcdefgh"}, tmp_path / "a.safetensors"
    contents = set()
    for _ in range(10):  # in 8! orders
        save_weights(nn.Linear(2, 1, bias=False), path, metadata)
        contents.add(path.read_bytes()[:-8])
    assert len(contents) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
    load_weights(nn.Linear(2, 1, bias=False), path)


def test_save_weights_then_whoever_may_read_another_file_may_read_this_one(tmp_path):
    (tmp_path / "other").touch()
    save_weights(nn.Linear(2, 1), tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_load_weights_with_tied_weights_then_they_stay_tied(tmp_path):
    save_weights(Tied(), tmp_path / "a.safetensors")
    model = Tied()
    load_weights(model, tmp_path / "a.safetensors")
    assert model.head.weight is model.embedding.weight


@contextmanager
def no_file_beyond(n_bytes):
    """As where a disk is full; the signal that comes with this limit is ignored, as Python does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Parts(nn.Module):
    """Buffers and weights that lie in one memory, as cuDNN's recurrent layers do; one is part of another."""

    def __init__(self):
        super().__init__()
        stats = torch.randn(2, 3)
        self.register_buffer("mean", stats[0])
        self.register_buffer("std", stats[1])
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = nn.Parameter(self.embedding.weight.detach()[:4])
        self.turned = nn.Parameter(torch.randn(2, 3).T)


def test_load_weights_where_tensors_are_parts_of_one_then_every_tensor_has_the_same_bits(tmp_path):
    model, other = Parts(), Parts()
    save_weights(model, tmp_path / "a.safetensors")
    load_weights(other, tmp_path / "a.safetensors")
    assert same_state(model.state_dict(), other.state_dict())


class Pair(NamedTuple):
    """A batch, or an output, in which something may be missing."""

    first: torch.Tensor
    second: object


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return Pair(self.layer(x.first + x.second), None)


def test_export_of_a_model_with_named_tuples_and_none_in_them_then_its_outputs_are_compared(tmp_path):
    x = Pair(torch.rand(4, 2), torch.rand(4, 2))
    export_model(Sum(), x, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("saved", "model", "text"),
    [
        (nn.Linear(3, 2), nn.Linear(4, 2), r"has weight of shape \(2, 3\), the model has it of shape \(2, 4\): the"),
        (nn.Linear(3, 2, bias=False), nn.Linear(3, 2), r"has bias not at all, the model has it of shape \(2,\)"),
        (nn.Linear(3, 2), nn.Linear(3, 2, bias=False), r"has bias of shape \(2,\), the model has it not at all"),
        (Tied(5), Tied(6), r"embedding.weight of shape \(5, 3\), the model has it of shape \(6, 3\)"),
    ],
)
def test_load_weights_when_a_tensor_does_not_fit_then_it_is_named_and_the_model_stays(saved, model, text, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_weights(saved, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=text):
        load_weights(model, tmp_path / "a.safetensors")
    assert same_state(model.state_dict(), before)


def test_load_when_given_a_checkpoint_then_has_its_weights_and_another_zip_is_refused(tmp_path):
    learn = Learner(nn.Linear(2, 1), ([(torch.ones(4, 2), torch.ones(4, 1))], None), nn.MSELoss(), 0.1, device="cpu")
    learn.cbs = [Checkpoint(tmp_path, monitor="train_loss")]
    learn.fit(1)
    weights = learn.model.weight.detach().clone()
    nn.init.zeros_(learn.model.weight)
    learn.load(tmp_path / "checkpoints" / "best.pt")
    assert torch.equal(learn.model.weight, weights)
    torch.save({"state": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt has no other.pt.sha256: copy both, or, if torch.save wrote it"):
        learn.load(tmp_path / "other.pt")


def test_load_weights_of_a_damaged_file_then_it_is_refused(tmp_path):
    save_weights(nn.Linear(3, 2), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"weights are loaded from a whole safetensors file; .*a.safetensors is none"):
        load_weights(nn.Linear(3, 2), tmp_path / "a.safetensors")


def test_load_weights_where_there_is_no_file_then_that_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_weights(nn.Linear(3, 2), tmp_path / "none.safetensors")


def test_save_weights_when_the_write_fails_then_the_former_file_is_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(nn.Linear(3, 2), path)
    former = path.read_bytes()
    with no_file_beyond(100), pytest.raises(OSError, match=re.escape(f"File too large: '{path}'")):
        save_weights(nn.Linear(3, 2), path)
    with no_file_beyond(100), pytest.raises(OSError, match="File too large"):
        export_model(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "b.pt2", "torch")
    assert path.read_bytes() == former
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("n_samples", [1, 4])
def test_export_torch_when_loaded_then_any_batch_size_gives_the_outputs_of_eval_mode(n_samples, tmp_path):
    model = trained(dropout_net(), torch.randn(8, 6))
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    export_model(model, torch.randn(n_samples, 6, generator=torch.Generator()), tmp_path / "model.pt2", "torch")
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    program = torch.export.load(tmp_path / "model.pt2").module()
    for n in (1, 2, 7):
        x = torch.randn(n, 6)
        assert torch.equal(program(x), model.eval()(x))


def test_export_of_tied_weights_and_of_nests_then_they_load(tmp_path):
    export_model(Tied(), torch.tensor([[0, 4], [2, 1]]), tmp_path / "tied.pt2", "torch")
    assert torch.export.load(tmp_path / "tied.pt2").module()(torch.zeros(5, 2, dtype=torch.int64)).shape == (5, 2, 5)

    class Sum(nn.Module):
        def forward(self, x):
            return {"sum": x["a"] + x["b"][0]}

    export_model(Sum(), {"a": torch.ones(2, 3), "b": [torch.ones(2, 3)]}, tmp_path / "sum.pt2", "torch")
    assert (tmp_path / "sum.pt2").exists()


def test_export_safetensors_then_load_weights_reads_it(tmp_path):
    model, other = trained(dropout_net(), torch.randn(8, 6)), dropout_net()
    export_model(model, torch.randn(3, 6), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert same_state(model.state_dict(), other.state_dict())


class Noise(nn.Module):
    """Random in evaluation too."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Fixed(nn.Module):
    """Knows its batch size."""

    def forward(self, x):
        return x.view(5, 6) if x.shape[0] == 5 else x * 2


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Noise(), "gives the outputs of the model in evaluation mode; for 4 samples they are .* apart: look for"),
        (Fixed(), "exported with a free batch size; torch cannot for this Fixed, and says .*"),
    ],
)
def test_export_torch_when_the_program_is_another_then_it_is_refused_and_no_file_is_left(model, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        export_model(model, torch.randn(4, 6), tmp_path / "model.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_export_with_an_unknown_format_or_ending_then_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format is 'safetensors', 'torch' or 'onnx'; got 'keras'"):
        export_model(nn.Linear(2, 1), torch.ones(1, 2), tmp_path / "a", "keras")
    with pytest.raises(ValueError, match=r"from files that end in .pt2; got 'a.pth'"):
        export_model(nn.Linear(2, 1), torch.ones(1, 2), tmp_path / "a.pth", "torch")


@pytest.mark.skipif(find_spec("onnxscript") is not None, reason="the extra onnx is installed")
def test_export_onnx_without_its_packages_then_the_extra_is_named(tmp_path):
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript, .*: pip install 'ignite_trainer\[onnx\]'"):
        export_model(nn.Linear(2, 1), torch.ones(1, 2), tmp_path / "a.onnx", "onnx")


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs the extra onnx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # onnxscript's own
def test_export_onnx_when_run_elsewhere_then_any_batch_size_gives_the_same(tmp_path):
    model = trained(dropout_net(), torch.randn(8, 6))
    export_model(model, torch.randn(4, 6), tmp_path / "model.onnx", "onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = torch.randn(9, 6)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # another runtime, which sums in another order
    torch.testing.assert_close(torch.from_numpy(outputs[0]), model.eval()(x).detach(), rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x["rows"]) * x["scale"]


@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_export_when_an_input_has_a_number_beside_its_rows_then_the_rows_alone_have_a_free_size(format, tmp_path):
    x, path = {"rows": torch.randn(3, 2), "scale": torch.tensor(2.0)}, tmp_path / "model"
    path = path.with_suffix(".pt2" if format == "torch" else ".safetensors")
    export_model(model := Scaled(), x, path, format)
    if format == "torch":
        more = {"rows": torch.randn(7, 2), "scale": torch.tensor(3.0)}
        assert torch.equal(torch.export.load(path).module()(more), model(more))
