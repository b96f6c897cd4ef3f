"""Real processes, killed and signalled at random moments, and gone on with: the end has the same bits."""

import random
import signal
import time

import pytest
import torch

from tests.processes import finish, send, start
from tests.resume_jobs import LOADERS, equal

SLOW = "0.04"  # seconds a batch: a kill then falls anywhere in the run


def run_with(name, folder, rng, signals, n):
    """Run the job; n times it is sent a signal at a random moment; the exit codes."""
    codes = []
    folder.mkdir(parents=True)
    while codes[-1:] != [0]:  # one that is killed as it writes its end leaves half of it
        words = "tests.resume_jobs", name, folder, folder / "end.pt"
        process = start(*words, stdout=folder / "stderr", stderr=folder / "stderr", SECONDS_A_BATCH=SLOW)
        if len(codes) < n:
            while process.is_alive() and not (folder / "started").exists():
                time.sleep(0.005)
            time.sleep(rng.random())
            send(process, rng.choice(signals))
        codes.append(finish(process, timeout=60))
        (folder / "started").unlink(missing_ok=True)
        assert codes[-1] in (0, 75, -signal.SIGKILL), (folder / "stderr").read_text()
    return codes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The end of each job run without a disturbance, once for all tests."""
    ends = {}

    def end(name):
        if name not in ends:
            folder = tmp_path_factory.mktemp("whole") / "run"
            run_with(name, folder, random.Random(0), [], 0)
            ends[name] = torch.load(folder / "end.pt", weights_only=False)
        return ends[name]

    return end


def test_job_when_killed_at_random_moments_then_ends_with_the_same_bits(whole, tmp_path, soak):
    killed = 0
    for i in range(34 if soak else 2):
        name = list(LOADERS)[i % 6]
        folder = tmp_path / str(i)
        codes = run_with(name, folder, random.Random(i), [signal.SIGKILL], 3)
        killed += codes.count(-signal.SIGKILL)
        assert equal(torch.load(folder / "end.pt", weights_only=False), whole(name)), (name, i)
    assert killed >= (90 if soak else 4)


def test_job_when_signalled_at_random_moments_then_exits_75_and_ends_with_the_same_bits(whole, tmp_path, soak):
    codes = []
    for i, number in enumerate([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT] * (10 if soak else 1)):
        name = ["samples", "samples, 2 workers"][i % 2]
        folder = tmp_path / str(i)
        codes += run_with(name, folder, random.Random(i), [number], 2)
        assert equal(torch.load(folder / "end.pt", weights_only=False), whole(name)), (name, number)
    assert codes.count(75) >= (50 if soak else 4)
    assert set(codes) <= {0, 75}
