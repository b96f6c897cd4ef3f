"""Damaged checkpoints, full disks, lost folders, kills within a save: a clear word, and the last good state."""

import io
import os
import pickle
import random
import resource
import shutil
import signal
import textwrap

import pytest
import torch

from ignite_trainer import Callback
from ignite_trainer.files import DamagedFile, read_verified, write_whole
from ignite_trainer.handlers.crash import load_crash
from ignite_trainer.handlers.state_files import load_checkpoint, newest_checkpoint
from tests import processes
from tests.test_resume import plain


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, of steps 5 and 10."""
    plain(tmp_path).fit(2)
    return tmp_path / "checkpoints"


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def zero(path, rng):
    path.write_bytes(bytes(path.stat().st_size))


def replace_by_folder(path, rng):
    path.unlink()
    path.mkdir()


def lose_the_sum(path, rng):
    path.with_name(f"{path.name}.sha256").unlink()


@pytest.mark.parametrize(
    ("damage", "times"),
    [(cut, 50), (flip, 500), (zero, 1), (replace_by_folder, 1), (lose_the_sum, 1)],
    ids=["cut", "bits flipped", "zeros", "a folder", "no sum"],
)
def test_newest_checkpoint_when_damaged_then_the_older_is_taken_and_the_bad_one_named(folder, damage, times, tmp_path):
    for i in range(times):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        damage(copy / "step-00000010.pt", random.Random(i))
        with pytest.warns(UserWarning, match=r"step-00000010\.pt.*an older checkpoint is looked for"):
            state, path = newest_checkpoint(copy)
        assert (path.name, state["progress"]["step"]) == ("step-00000005.pt", 5)
        shutil.rmtree(copy)


class Evil:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("with_sum", [False, True], ids=["sum of the former", "sum of its own"])
def test_newest_checkpoint_when_replaced_by_code_then_none_is_run(folder, with_sum, tmp_path):
    made = tmp_path / "made"
    content = pickle.dumps(Evil(made))
    bad = folder / "step-00000010.pt"
    if with_sum:
        write_whole(bad, lambda file: file.write(content))
    else:
        bad.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-00000010\.pt is"):
        _, path = newest_checkpoint(folder)
    assert path.name == "step-00000005.pt"
    assert not made.exists()


def test_resume_when_all_checkpoints_are_damaged_then_one_error_names_them(folder, tmp_path):
    for path in folder.glob("step-*.pt"):
        zero(path, None)
    with pytest.warns(UserWarning, match="an older checkpoint"):
        with pytest.raises(ValueError, match=r"none in .* is: .*step-00000010.*step-00000005"):
            plain(tmp_path).fit(3, resume=True)


def test_checkpoint_when_it_is_another_file_that_is_whole_then_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    write_whole(tmp_path / "other.pt", lambda file: file.write(buffer.getvalue()))
    with pytest.raises(DamagedFile, match=r"other\.pt is no checkpoint of this version"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(("load", "what"), [(load_checkpoint, "checkpoint"), (load_crash, "crash report")])
def test_file_with_its_sum_when_it_cannot_be_loaded_then_it_is_said_what_it_is_not(load, what, tmp_path):
    write_whole(tmp_path / "text.pt", lambda file: file.write(b"no pickle"))
    with pytest.raises(DamagedFile, match=rf"text\.pt is no {what}: UnpicklingError while it was loaded"):
        load(tmp_path / "text.pt")


def run_limited(body, folder):
    """Run a program in its own process; once it calls ``limit()``, no file may grow beyond 2,000 bytes."""
    head = """
        import resource, signal, sys
        from pathlib import Path
        from tests.test_resume import plain
        from ignite_trainer import Callback
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    """
    return run_program(textwrap.dedent(head) + textwrap.dedent(body), folder)


def run_program(text, folder):
    """Run a program in its own process."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(text))
    return processes.run(program)


def test_checkpoint_when_the_disk_is_full_then_the_first_error_names_the_path_and_the_former_is_whole(tmp_path):
    done = run_limited(
        f"""
        class Full(Callback):
            def after_epoch(self, learn):
                if learn.epoch == 1: limit()
        try:
            plain(Path({str(tmp_path)!r}), cbs=[Full()]).fit(3)
        except OSError as error:
            print(type(error).__name__, error.filename, error.strerror)
    """,
        tmp_path,
    )
    assert done.stdout == f"OSError {tmp_path}/checkpoints/.step-00000010.pt.tmp File too large\n", done.stderr
    _, path = newest_checkpoint(tmp_path / "checkpoints")
    assert path.name == "step-00000005.pt"
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_checkpoint_when_its_folder_lies_below_a_file_then_the_error_names_the_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file/run/checkpoints"):
        plain(tmp_path / "file" / "run").fit(1)


def test_checkpoint_when_its_folder_is_deleted_while_running_then_it_is_made_again(tmp_path):
    class Delete(Callback):
        def after_epoch(self, learn):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    plain(tmp_path / "run", cbs=[Delete()]).fit(2)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[1].name == "step-00000010.pt"


def test_background_save_when_the_disk_is_full_then_the_fit_raises_its_error(tmp_path):
    done = run_limited(
        f"""
        from ignite_trainer import Checkpoint
        learn = plain(Path({str(tmp_path)!r}))
        learn.cbs[-1] = Checkpoint(background=True)
        limit()
        try:
            learn.fit(3)
        except OSError as error:
            print(error.filename)
    """,
        tmp_path,
    )
    assert done.stdout == f"{tmp_path}/checkpoints/.step-00000005.pt.tmp\n", done.stderr


@pytest.mark.parametrize("at", range(10))
def test_save_when_killed_between_any_two_system_calls_then_a_whole_file_is_there(at, tmp_path):
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from ignite_trainer.files import write_whole
        calls = 0
        def watch(event, args):
            global calls
            if event in ("open", "os.rename", "os.remove") and str(args[0]).startswith({str(tmp_path)!r}):
                calls += 1
                if armed and calls == {at}: os.kill(os.getpid(), signal.SIGKILL)
        armed = False
        path = Path({str(tmp_path)!r}) / "state.pt"
        write_whole(path, lambda file: file.write(b"old"))
        sys.addaudithook(watch)
        armed = True
        write_whole(path, lambda file: (file.write(b"ne"), file.flush(), file.write(b"w")))
        print("survived", calls)
    """
    done = run_program(program, tmp_path)
    assert done.returncode == (0 if "survived" in done.stdout else -signal.SIGKILL), done.stderr
    assert read_verified(tmp_path / "state.pt") in (b"old", b"new")
    if at == 9:
        assert done.stdout == "survived 8\n"


def test_folder_when_many_were_killed_in_their_saves_then_holds_no_more_than_one_temporary_file_a_name(
    folder, tmp_path
):
    (folder / ".step-00000015.pt.tmp").write_bytes(b"half")
    plain(tmp_path).fit(3, resume=True)
    assert not list(folder.glob(".*"))


def test_sum_when_the_disk_is_full_then_no_temporary_file_is_left(tmp_path):
    path = tmp_path / "a.pt"
    write_whole(path, lambda file: file.write(b"1"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # enough for the byte, not for its sum
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, lambda file: file.write(b"2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "a.pt.sha256"]
