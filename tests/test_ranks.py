"""Several ranks: the numbers of one process, every ending agreed on, and no hang in any case."""

import pytest
import torch

from ignite_trainer.rank_models import sum_of_bits
from ignite_trainer.rank_states import state_of_rank
from tests import rank_jobs
from tests.event_records import scalars
from tests.rank_jobs import IN_BATCH, JOBS
from tests.rank_processes import distance, run_jobs
from tests.resume_jobs import equal


@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_ranks_when_they_evaluate_and_train_then_give_the_numbers_of_one_process(n_ranks, tmp_path, soak):
    if n_ranks == 4 and not soak:
        pytest.skip("four ranks take both cores for half a minute; runs with --soak")
    one = {name: JOBS[name]() for name in ("evaluation", "training")}
    for ranks in run_jobs(one, tmp_path, n_ranks):
        for case, (means, predictions) in one["evaluation"].items():
            their_means, their_predictions = ranks["evaluation"][case]
            assert their_means["accuracy"] == means["accuracy"], case
            assert abs(their_means["loss"] - means["loss"]) < 1e-14, case  # float64, added up in another order
            # matrix products of other shapes round differently
            assert torch.allclose(their_predictions, predictions, rtol=0, atol=1e-13), case
        assert distance(ranks["training"], one["training"]) < 1e-12  # float64 over 18 steps; DESIGN promises 1e-6


# A stop asked for in before_batch leaves Ignite's loop before the batch, and on ranks after it. A cancel after the
# backward leaves its gradients to the next batch, as the documents' loop does, and on ranks nothing.
OTHERWISE = {
    *((accumulate, "before_batch", "stop") for accumulate in (1, 2)),
    *((1, point, *scope) for point in ("after_backward", "after_step") for scope in [(), ("epoch",)]),
}


def without_train_loss(ends):
    rows = {key: [{**row, "train_loss": 0.0} for row in end["history"]] for key, end in ends.items()}
    return {key: {**end, "history": rows[key]} for key, end in ends.items()}


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_when_a_fit_is_cancelled_or_stopped_anywhere_then_all_end_as_one_process_does(n_ranks, tmp_path, soak):
    if n_ranks == 3 and not soak:
        pytest.skip("three ranks take both cores for more than a minute; runs with --soak")
    one = {name: JOBS[name]() for name in ("endings", "batches_cancelled")}
    same = {name: {key: end for key, end in ends.items() if key not in OTHERWISE} for name, ends in one.items()}
    everybodys = run_jobs(
        ["endings", "endings_on_one", "batches_cancelled", "batches_cancelled_on_one"], tmp_path, n_ranks
    )
    for ranks in everybodys:
        assert distance(same["endings"], ranks["endings"]) < 1e-12
        # the others have done the batch in which the epoch was cut, and their mean has its loss
        on_one = without_train_loss(same["endings"]), without_train_loss(ranks["endings_on_one"])
        assert distance(*on_one) < 1e-12
        assert distance(same["batches_cancelled"], ranks["batches_cancelled"]) < 1e-12
        stops = [end["reason"] for key, end in ranks["endings_on_one"].items() if key[2] == "stop"]
        assert set(stops) == {f"enough on rank {n_ranks - 1}"}
        for name, ends in ranks.items():  # among themselves the ranks agree to the bit
            assert distance(ends, everybodys[0][name]) == 0
    left_out = everybodys[0]["batches_cancelled_on_one"]
    assert left_out[1, "after_step"]["step"] == 14  # the others' samples make the step
    first, *rest = (left_out[1, point] for point in IN_BATCH[:4])
    assert all(equal(first["weights"], other["weights"]) for other in rest)
    assert not equal(first["weights"], left_out[1, "after_batch"]["weights"])  # there its samples have counted


def test_ranks_when_one_leaves_at_an_odd_place_or_looks_at_a_batch_by_itself_then_all_are_alike(tmp_path):
    first, second = (ranks["left_at_odd_places"] for ranks in run_jobs(["left_at_odd_places"], tmp_path, 2))
    assert distance(first, second) == 0
    assert equal(first["looked", "rank 0"], first["looked", "all"])
    assert first["before_fit", "CancelFitException"]["step"] == 0


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_run_on_ranks_when_stopped_anywhere_and_resumed_then_ends_with_the_same_bits(n_ranks, tmp_path):
    for ranks in run_jobs(["interrupted", "interrupted_with_buffers"], tmp_path, n_ranks):
        for job, ends in ranks.items():
            for name, end in ends.items():
                assert equal(end, ends["whole"]), (job, name)


def test_ranks_when_something_is_there_twice_or_comes_late_then_all_is_as_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_jobs, "RUN", tmp_path)
    one = rank_jobs.together()
    assert [len(names) for names in one["clocks"]] == [1, 10]
    assert (one["signal"], one["natives"], one["run"], one["widest"]) == (3, [True, True], 6, 3)
    everybodys = run_jobs(["together"], tmp_path, 2)
    weights = everybodys[0]["together"].pop("weights")
    assert equal(everybodys[1]["together"].pop("weights"), weights)
    one.pop("weights")
    for ranks in everybodys:
        assert ranks["together"] == one


def test_run_when_resumed_on_another_number_of_ranks_then_sees_the_same_samples_in_the_same_order(tmp_path):
    def moved(folder, *parts):
        folder.mkdir()
        for n_ranks, n_batches in parts:
            end = run_jobs(["moved"], folder, n_ranks, N_BATCHES=n_batches)
        return {"end": end[0]["moved"]}

    whole = moved(tmp_path / "one", (1, -1))
    assert distance(whole, moved(tmp_path / "two", (2, 3), (3, 4), (1, -1))) < 1e-12


def test_ranks_when_buffers_are_of_many_types_then_all_have_those_of_rank_0(tmp_path):
    buffers = rank_jobs.buffers_of_all_types()
    assert len(buffers) == len(rank_jobs.KINDS) + 3
    for ranks in run_jobs(["buffers_of_all_types"], tmp_path, 2):
        assert equal(ranks["buffers_of_all_types"], buffers)


def test_ranks_when_layers_are_unused_and_others_gather_then_all_is_that_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_jobs, "RUN", tmp_path)
    one = rank_jobs.others()
    for ranks in run_jobs(["others"], tmp_path, 2):
        ends = ranks["others"]
        same = {name: ends[name] for name in ends.keys() - {"sampler", "torchmetrics"}}
        assert distance(same, one) < 1e-12
        assert ends["metrics"]["precision"] == pytest.approx(one["metrics"]["precision"], abs=1e-12)
        for key, end in one.items():
            if "terminate" in key:
                assert ends[key]["completed"] == end["completed"]
                assert bool(end["completed"]) != ("silently" in key)
            if "saved" in key:  # neither what was due just then, nor less than in one process
                folders = [each["folder"] / "checkpoints" for each in (end, ends[key])]
                assert equal(*([path.name for path in sorted(folder.glob("*.pt"))] for folder in folders)), key
        assert ends["torchmetrics"] == one["torchmetrics"]  # counts, which it divides in float32
        assert ends["board"]["folder"] == "board-2"
        assert ends["sampler"]["step"] == 6  # 15 samples a rank in batches of 5, two epochs
    ours, theirs = (scalars(tmp_path / name) for name in ("board-1", "board-2"))
    assert ours.keys() == theirs.keys()
    for tag in ours.keys() - {"time/samples_per_second", "loss/batch"}:  # wall clock; rank 0's share
        assert [step for step, _ in ours[tag]] == [step for step, _ in theirs[tag]], tag
        assert [value for _, value in ours[tag]] == pytest.approx([value for _, value in theirs[tag]], rel=1e-5), tag
    assert {path.name.partition(".")[0] for path in (tmp_path / "board-1").iterdir()} == {
        path.name.partition(".")[0] for path in (tmp_path / "board-2").iterdir()
    }
    saved = [sorted(path.name for path in (tmp_path / f"timed-{n}" / "checkpoints").glob("*.pt")) for n in (1, 2)]
    assert saved[0] == saved[1] == [f"step-{step:08d}.pt" for step in (4, 7, 10)]  # the clock of any rank has all save


def saved_by(n_ranks):
    """What a checkpoint holds of ranks, and nothing else: each part says of which rank it is."""
    own = [
        {
            **{name: f"{name} of {rank}" for name in ("rng", "epoch_start")},
            "train_loss": [float(rank), rank + 1],
            "generators": [f"generator of {rank}", None],
            "callbacks": {"Own": rank} if rank else {},
            "model": {"mean": rank} if rank else {},
            "loss": {"centre": rank} if rank else {},
        }
        for rank in range(n_ranks)
    ]
    phases = {"train": {"batch": 3, "generators": "generator of 0"}, "valid": {"batch": 0}}
    shared = {"callbacks": {"Own": 0, "Shared": "all"}, "step": 7, **phases}
    shared |= {"model": {"weight": "all", "mean": 0}, "loss": {"centre": 0}}
    return {**shared, **{name: own[0][name] for name in ("rng", "epoch_start", "train_loss")}, "ranks": own}


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool],
    ids=str,
)
def test_sum_of_bits_when_one_number_is_another_then_is_another_whatever_lies_where(dtype):
    numbers = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
    total = sum_of_bits(numbers)
    assert sum_of_bits(numbers.t()) == sum_of_bits(numbers[:, 1:]) + sum_of_bits(numbers[:, 0]) == total
    for place in range(6):
        other = numbers.clone()
        other.view(-1)[place] = not other.view(-1)[place]
        assert sum_of_bits(other) != total
    assert sum_of_bits(numbers[0, 0]) == sum_of_bits(numbers[:0]) == 0


def test_sum_of_bits_when_a_tensor_is_a_conjugate_or_large_then_is_that_of_its_numbers():
    numbers = torch.tensor([1 + 2j, 3 + 4j])
    assert sum_of_bits(numbers.conj()) == sum_of_bits(torch.tensor([1 - 2j, 3 - 4j])) != sum_of_bits(numbers)
    assert sum_of_bits(numbers.conj().imag) == sum_of_bits(torch.tensor([-2.0, -4.0]))
    assert sum_of_bits(torch.ones(2**22 + 3, dtype=torch.bool)) == 2**22 + 3


def test_state_of_a_rank_when_as_many_go_on_as_saved_it_then_each_has_all_of_its_own():
    for rank in range(3):
        state = state_of_rank(saved_by(3), rank, 3)
        assert state == {
            **{name: f"{name} of {rank}" for name in ("rng", "epoch_start")},
            "train_loss": [float(rank), rank + 1],
            "train": {"batch": 3, "generators": f"generator of {rank}"},
            "valid": {"batch": 0},
            "callbacks": {"Own": rank, "Shared": "all"},
            "model": {"weight": "all", "mean": rank},
            "loss": {"centre": rank},
            "step": 7,
        }


@pytest.mark.parametrize("world", [1, 2, 4])
def test_state_of_a_rank_when_others_saved_it_then_the_sums_are_on_rank_0_and_callbacks_are_as_on_rank_0(world):
    for rank in range(world):
        state = state_of_rank(saved_by(3), rank, world)
        assert state["train_loss"] == ([3.0, 6] if rank == 0 else [0.0, 0])
        assert state["rng"] == f"rng of {rank % 3}"
        for part in ("callbacks", "train", "model", "loss"):
            assert state[part] == saved_by(3)[part]
        assert "ranks" not in state


def test_state_of_a_rank_when_saved_between_two_epochs_then_there_are_no_sums():
    saved = saved_by(3)
    for own in saved["ranks"]:
        own["train_loss"] = None
    assert state_of_rank(saved, 0, 2)["train_loss"] is None
