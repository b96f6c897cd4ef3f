"""Times of jobs taken in turn, their medians and ratios, and a table of them. Needs nothing beyond Python."""

import gc
import io
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from itertools import chain
from typing import NamedTuple


class Times(NamedTuple):
    """Seconds of one job, one of each for each round; JSON makes a list of the three."""

    cpu: list  # of the process
    wall: list
    beside: list  # of the process, in the first job: the mean of the runs before and after


def compare(rounds, jobs):
    """Each job's times; the first job is run before and after every other one. What they print is swallowed."""
    times = {name: Times([], [], []) for name in jobs}
    (first, base), *others = jobs.items()

    def note(name, seconds, beside):
        for column, value in zip(times[name], (*seconds, beside), strict=True):
            column.append(value)

    for _ in range(rounds):
        before = _seconds_of(base)
        note(first, before, before[0])
        for name, job in others:
            seconds, after = _seconds_of(job), _seconds_of(base)
            note(name, seconds, (before[0] + after[0]) / 2)
            before = after
    return times


def _seconds_of(job):
    gc.collect()  # what another job has left is not this one's cost
    with redirect_stdout(io.StringIO()):
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        return time.process_time() - cpu, time.perf_counter() - wall


def ratio(times):
    """The median of the ratios to the first job beside it."""
    return statistics.median(a / b for a, b in zip(times.cpu, times.beside, strict=True))


def over(times, n):
    """The median of the differences to the first job beside it: µs for each of n."""
    return statistics.median(1e6 * (a - b) / n for a, b in zip(times.cpu, times.beside, strict=True))


def rows(times):
    """Rows of a table: name, CPU seconds, wall seconds, ratio to the first job."""
    return [
        (name, f"{statistics.median(each.cpu):.2f}", f"{statistics.median(each.wall):.2f}", f"{ratio(each):.3f}")
        for name, each in times.items()
    ]


def table(head, rows):
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def joined(parts):
    """The times of the same jobs, as JSON gives them, from several processes."""
    columns = {name: zip(*(part[name] for part in parts), strict=True) for name in parts[0]}
    return {name: Times(*(list(chain(*column)) for column in three)) for name, three in columns.items()}


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


def megabytes(what):
    """Memory of this process: now (VmRSS), or the most that it ever had (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith(what))
