"""Event files: strictly increasing steps, cut back to a step, set aside; held against TensorBoard's own writer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

from ignite_trainer.files import Aside
from ignite_trainer.handlers.event_files import EventFile, event_files, truncate_events
from tests.event_records import all_steps, scalars

POINTS = st.lists(st.tuples(st.sampled_from(["a/x", "a/y", "b/x"]), st.integers(0, 9)), max_size=30)


def write(folder, points, **how):
    events = EventFile(folder, **how)
    for number, (tag, step) in enumerate(points):
        events.add_scalars({tag: number}, step)
    events.close()


def increasing(points, last=()):
    """tag → (step, number) of the points that are newer than all before."""
    kept = {tag: list(rows) for tag, rows in dict(last).items()}
    for number, (tag, step) in enumerate(points):
        if not kept.get(tag) or step > kept[tag][-1][0]:
            kept.setdefault(tag, []).append((step, number))
    return {tag: rows for tag, rows in kept.items() if rows}


@given(points=POINTS, later=POINTS, step=st.integers(1, 10))
def test_event_file_when_gone_on_from_a_step_then_has_what_came_before_and_strictly_increases(
    tmp_path_factory, points, later, step
):
    folder = tmp_path_factory.mktemp("run")
    write(folder, points)
    first = increasing(points)
    assert scalars(folder) == first
    write(folder, later, step=step)
    kept = {tag: [row for row in rows if row[0] <= step] for tag, rows in first.items()}
    assert scalars(folder) == increasing(later, kept)


@given(points=POINTS, step=st.integers(0, 10))
def test_truncate_events_then_drops_exactly_what_is_at_the_step_or_after_it(tmp_path_factory, points, step):
    folder = tmp_path_factory.mktemp("run")
    write(folder, points)
    kept = {tag: [row for row in rows if row[0] < step] for tag, rows in increasing(points).items()}
    kept = {tag: rows for tag, rows in kept.items() if rows}
    assert truncate_events(folder, step) == {tag: rows[-1][0] for tag, rows in kept.items()}
    assert scalars(folder) == kept
    assert [path.name for path in folder.iterdir()] == [path.name for path in event_files(folder)]


def test_truncate_events_when_a_file_ends_in_the_middle_of_a_record_then_keeps_the_whole_ones(tmp_path):
    write(tmp_path, [("a", 1), ("a", 2), ("a", 3)])
    (path,) = event_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    assert truncate_events(tmp_path, 9) == {"a": 2}
    write(tmp_path, [("a", 3)], step=2)
    assert [step for step, _ in scalars(tmp_path)["a"]] == [1, 2, 3]


def test_truncate_events_when_there_are_files_of_a_user_then_leaves_them_alone(tmp_path):
    with SummaryWriter(tmp_path) as own:
        own.add_scalar("mine", 1.0, 7)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    truncate_events(tmp_path, 1)
    Aside().move(event_files(tmp_path), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_event_file_when_flushed_then_can_be_read_while_it_is_open(tmp_path):
    events = EventFile(tmp_path)
    events.add_scalars({"a": 1.0}, 1)
    events.flush()
    assert scalars(tmp_path) == {"a": [(1, 1.0)]}
    events.close()


def test_event_file_when_closed_or_not_enabled_then_drops_what_comes(tmp_path):
    off = EventFile(tmp_path / "off", enabled=False)
    off.add_scalars({"a": 1.0}, 1)
    off.flush()
    off.close()
    assert not off.is_open
    assert not (tmp_path / "off").exists()
    events = EventFile(tmp_path)
    events.close()
    events.add_scalars({"a": 1.0}, 1)
    events.close()
    assert all_steps(tmp_path) == {}


@pytest.mark.parametrize("step", [0, 3])
def test_event_file_when_a_run_is_gone_on_with_then_its_file_sorts_behind_the_others(tmp_path, step):
    for _ in range(4):
        write(tmp_path, [("a", 1)], step=step)
    files = event_files(tmp_path)
    assert len(files) == (4 if step else 1)
    assert files == sorted(files, key=lambda path: path.stat().st_mtime_ns)
