"""Times of jobs taken in turn, their medians and ratios, and a table of them. Needs nothing beyond Python."""

import io
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from typing import NamedTuple


class Times(NamedTuple):
    """Seconds of one job, a pair for each round: of the process's CPU, and by the clock."""

    cpu: list
    wall: list


def compare(rounds, jobs):
    """Each job's times, taken in turn, A B B A A B …; what they print is swallowed."""
    times = {name: Times([], []) for name in jobs}
    for place in range(rounds):
        for name, job in list(jobs.items())[:: -1 if place % 2 else 1]:
            with redirect_stdout(io.StringIO()):
                wall, cpu = time.perf_counter(), time.process_time()
                job()
                times[name].cpu.append(time.process_time() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
    return times


def ratio(times, base):
    """The median of the ratios of CPU times, pair by pair."""
    return statistics.median(a / b for a, b in zip(times.cpu, base.cpu, strict=True))


def over(times, base, n):
    """The median of the differences of CPU times, pair by pair: µs for each of n."""
    return statistics.median(1e6 * (a - b) / n for a, b in zip(times.cpu, base.cpu, strict=True))


def least_over(times, base, n):
    """The least CPU time beyond the other's least, which a busy machine disturbs less: µs for each of n."""
    return 1e6 * (min(times.cpu) - min(base.cpu)) / n


def beside(times, base):
    """Rows of a table: name, CPU seconds, wall seconds, ratio to the job called ``base``, ratio of the least times."""
    return [
        (
            name,
            f"{statistics.median(each.cpu):.2f}",
            f"{statistics.median(each.wall):.2f}",
            f"{ratio(each, times[base]):.3f}",
            f"{min(each.cpu) / min(times[base].cpu):.3f}",
        )
        for name, each in times.items()
    ]


def table(head, rows):
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def in_new_process(module, function, *arguments):
    """What a function of a module returns in a process of its own, as JSON, with one thread."""
    program = (
        f"import json, {module} as it, torch; torch.set_num_threads(1)\nprint(json.dumps(it.{function}(*{arguments})))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])
