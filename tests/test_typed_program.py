"""The program with types is a real one: it runs, and what it is told of the types is true."""

import pytest

from tests import typed_program


def test_typed_program_when_run_then_does_what_it_says(tmp_path):
    results = typed_program.train(tmp_path / "run")
    assert sorted(results) == ["accuracy", "error", "loss"]
    assert results["error"] == pytest.approx(1 - results["accuracy"], abs=1e-6)  # the function's means are float32
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    loss, accuracy = typed_program.train_in_other_ways()
    assert type(loss) is type(accuracy) is float
