"""What it costs: each job beside the hand-written loop, in interleaved rounds, as ratios taken in the same run.

    python scripts/bench.py --rounds 5 --write docs/benchmarks.md
    python scripts/bench.py --device cuda --write docs/benchmarks.md

One thread. Absolute times are for orientation only; the ratios are the claim.
"""

import json
import os
import platform
import statistics
import subprocess
from itertools import chain
from pathlib import Path

import ignite
import torch
import tyro
from benchmarks import costs, data, loops
from benchmarks.timing import in_new_process, joined, over, ratio, rows, table

from ignite_trainer import __version__

BEGIN, BEGIN_DEVICE = "<!-- scripts/bench.py writes from here", "<!-- scripts/bench.py --device writes from here"
END = "<!-- to here -->"
COLUMNS = ("CPU seconds", "wall seconds", "ratio of CPU times")


def jobs_a_and_b(rounds, root, n_batches=1000):
    """The two jobs of the loop, and the dashboard's share of the first; none in a process that another has used."""
    a, dashboard = (joined([in_new_process("benchmarks.loops", job, rounds, root)]) for job in ("job_a", "dashboard"))
    of_processes = [in_new_process("benchmarks.loops", "job_b", 5, n_batches) for _ in range(rounds)]
    training, callbacks, evaluation = map(joined, zip(*of_processes, strict=True))
    cpu = [(name, f"{over(each, n_batches):.1f}") for name, each in training.items()]
    five = over(callbacks["with five callbacks"], n_batches)
    return f"""## Job A: the documents' job, one epoch with validation

50,000 / 10,000 images of Fashion-MNIST, batches of 32, 784-128-10, Adam.

{table(["", *COLUMNS], rows(a))}

{table(["the default dashboard", *COLUMNS], rows(dashboard))}

## Job B: 1,000 ready batches of the same model

{rounds} processes of 5 rounds each, as the figures of two processes differ by up to a hundredth. The exact loss of the
epoch is part of the Learner's training. Five callbacks at every point cost {five:.1f} µs an iteration beyond
the Learner without, which is run just before and just after the one with them.

{table(["training", "µs of CPU an iteration over the hand loop"], cpu)}

{table(["evaluation, loss and accuracy", *COLUMNS], rows(evaluation))}
"""


def other_frameworks(folder, rounds, root):
    """The other frameworks that have an environment in the folder, each beside the hand loop in its own process."""
    found = []
    for name in ("lightning", "fastai", "skorch", "accelerate"):
        python = folder / name / "bin" / "python"
        if python.exists():
            program = Path(__file__).parent / "benchmarks" / "peers.py"
            command = [python, program, name, "--root", root, "--rounds", str(rounds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            version = result.pop("version")
            times = {job: joined([both])["peer"] for job, both in result.items()}
            evaluation = f"{over(times['evaluation'], 1000):+.0f}" if "evaluation" in times else ""
            found.append(
                (f"{name} {version}", f"{ratio(times['a']):.2f}", f"{over(times['b'], 1000):+.0f}", evaluation)
            )
    head = ["", "job A, ratio", "job B, training: µs over the hand loop", "job B, evaluation: µs over the hand loop"]
    return f"""## Other frameworks

Each in an environment and a process of its own, beside the same hand-written loop, with as few extras as it lets one
have (`scripts/benchmarks/peers.py`). In job B the ready batches come from a stock DataLoader.

{table(head, found)}
"""


def data_and_growth(rounds, root):
    """The loaders, and how they grow."""
    times, n_samples = data.loaders(rounds, root)
    cost = [(name, f"{1e6 * statistics.median(each.cpu) / n_samples:.2f}") for name, each in times.items()]
    grown = [(f"{n:,}", f"{us:.3f}", f"{size:.1f}", f"{more:.1f}") for n, us, size, more in data.growth()]
    return f"""## Data

Images of Fashion-MNIST as float32, batches of 32, shuffled.

{table(["loader", "µs of CPU a sample"], cost)}

Samples of 64 bytes in a `TensorLoader`, batches of 64, shuffled; an epoch's order, 8 bytes a sample, is made as it
begins.

{table(["samples", "µs of CPU a sample", "MB of data", "MB at most beyond them"], grown)}
"""


def on_device(device, rounds, root):
    """Job A where the images lie on a CUDA device."""
    pairs = loops.job_a_on(device, rounds, root)
    return f"""## Job A on a device: {torch.cuda.get_device_name(device)}

The images lie on the device, and so do the batches. Each Learner stands beside the loop of the same kind.

{table(["", *COLUMNS], chain.from_iterable(map(rows, pairs)))}
"""


def machine():
    """Versions and processor, in a line."""
    versions = {
        "ignite_trainer": __version__,
        "torch": torch.__version__,
        "ignite": ignite.__version__,
        "Python": platform.python_version(),
    }
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{named}, {platform.machine()}, {os.cpu_count()} cores.\n"


def paid_once(rounds):
    """The start, and a save."""
    libraries, package, batch = costs.start_up(rounds)
    started = [
        ("import torch and ignite", f"{libraries:.2f}"),
        ("import ignite_trainer, beyond them", f"{package:.3f}"),
        ("from there to the end of the first batch", f"{batch:.3f}"),
    ]
    stall = [(name, f"{ms:.1f}") for name, ms in costs.checkpoint_stall(rounds).items()]
    return f"""## Start

{table(["", "seconds by the clock"], started)}

## How long a save holds up the fit

A model of 1.6 million weights with Adam's state, wall time.

{table(["", "ms"], stall)}
"""


def long_run(n_iterations):
    """Very many iterations without a garbage collector."""
    n, seconds, megabytes, n_tensors, n_rows = in_new_process("benchmarks.soak", "soak", n_iterations)
    return f"""## A long run

{n:,.0f} iterations, half of them validation, with Python's garbage collector off: {seconds:.0f} s, resident memory
{megabytes:+.2f} MB after the first tenth, {n_tensors:.0f} tensors held by cycles of references, {n_rows:.0f} rows of
history.
"""


def write_between_marks(path, text, begin=BEGIN):
    """Put the text between the two marks of a file, and leave the rest; a file that is not there is made.

    Raises:
        ValueError: the file has not both marks.
    """
    if not path.exists():
        path.write_text("# Benchmarks\n" + "".join(f"\n{mark} -->\n{END}\n" for mark in (BEGIN, BEGIN_DEVICE)))
    page = path.read_text()
    before, _, rest = page.partition(begin)
    if END not in rest:
        raise ValueError(f"the table goes between the lines {begin!r} and {END!r}; {path} has not both: add them")
    path.write_text(f"{before}{begin} -->\n\n{text.rstrip()}\n\n{END}{rest.split(END, 1)[1]}")


def main(
    rounds: int = 5,
    root: str = "data",
    write: Path | None = None,
    peers: Path | None = None,
    soak: int = 0,
    device: str | None = None,
) -> None:
    """Measure the jobs and print their tables.

    Args:
        rounds: how often each job is run, in turn; job B, which is short, five times as often, in as many processes.
        root: folder of the images.
        write: a Markdown file; the tables go between its two marks, those of a device between two of their own.
        peers: a folder of virtual environments called lightning, fastai, skorch, accelerate; those found are run.
        soak: so many iterations without a garbage collector, too; 0: none.
        device: a CUDA device; job A is measured there, and nothing else.
    """
    if device is not None and (torch.device(device).type != "cuda" or peers is not None or soak):
        raise ValueError(
            f"device is a CUDA device, on which job A is measured and nothing else; got {device!r}, peers {peers} and "
            f"soak {soak}: leave these two out"
        )
    torch.set_num_threads(1)
    options = "".join(
        (
            f" --rounds {rounds}",
            f" --device {device}" * (device is not None),
            " --peers DIR" * (peers is not None),
            f" --soak {soak}" * bool(soak),
        )
    )
    beside = "row above" if device is not None else "table's first row"
    sections = [
        f"""Made by `python scripts/bench.py{options} --write docs/benchmarks.md`:
interleaved rounds, one thread, medians. Ratios and differences are of process CPU times, each to the mean of the
{beside}, run just before and just after it.

{machine()}"""
    ]
    if device is not None:
        sections.append(on_device(torch.device(device), rounds, root))
    else:
        sections += [jobs_a_and_b(rounds, root), data_and_growth(rounds, root), paid_once(max(rounds, 5))]
        if peers is not None:
            sections.append(other_frameworks(peers, (rounds + 1) // 2, root))
        if soak:
            sections.append(long_run(soak))
    text = "\n".join(sections)
    print(text)
    if write is not None:
        write_between_marks(write, text, BEGIN if device is None else BEGIN_DEVICE)


if __name__ == "__main__":
    tyro.cli(main)
