"""The pages for readers as programs: their blocks of code, run in the order in which they stand, and what they promise.

A Python block that begins with an import begins a program, and the blocks up to the next such one go on with it. One
whose first line is a comment with a file's name is that file; it begins a program too, unless a file precedes it.
A bash block whose first line trains on glyphs, which needs no file, begins a program too. ``# prints: …`` and a text
block after a block say what is printed, … for anything. A bash block's lines that begin with ``ignite-trainer``,
``python`` or ``torchrun`` are run; they end with exit code 0, or with that of a comment ``# exit code …``.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests import processes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self):
        """The name of the file that it is, or None."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]

    @property
    def needs_no_file(self):
        """Whether it is commands that begin with a training on glyphs."""
        return self.language == "bash" and self.text.startswith("ignite-trainer train --data glyphs ")

    @property
    def may_begin(self):
        """Whether a program can begin with it."""
        is_python = self.language == "python" and bool(re.match(r"(import|from) ", self.text) or self.file)
        return is_python or self.needs_no_file

    @property
    def has_commands(self):
        """Whether lines of it are run."""
        return bool(re.search(f"^({'|'.join(COMMANDS)}) ", self.text, re.MULTILINE))


def blocks_of(page):
    """The blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 2) for match in found]


def programs_of(page):
    """The programs of a page: lists of blocks.

    A bash block ends the one before if it has no command to run, or if that has nothing to run commands on.
    """
    programs, is_open = [], False
    for block in blocks_of(page):
        program = programs[-1] if is_open else []
        has_ground = any(other.file or other.needs_no_file for other in program)
        if block.may_begin and not (program and (program[-1].file or program[0].needs_no_file)):
            programs.append([block])
            is_open = True
        elif is_open and block.language == "bash" and not (has_ground and block.has_commands):
            is_open = False
        elif is_open:
            program.append(block)
    return programs


def pattern(promise):
    """A promise as a regular expression."""
    return re.escape(promise.strip()).replace("…", ".*?")


def run_program(page, program, folder):
    """Run a program in a folder; raises where it does, and where it does not print what is promised."""
    names = {"__name__": "__main__"}
    printed = ""
    for block in program:
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            printed = run_python(page, block, names)
            check_promises(block, printed)
        elif block.language == "bash":
            printed = run_commands(block, folder)
        elif block.language == "text":
            whole = re.fullmatch(pattern(block.text), printed.strip(), re.DOTALL)
            assert whole, f"{page.name}:{block.line} promises\n{block.text}but it prints\n{printed}"


def run_python(page, block, names):
    """Run a Python block, its lines numbered as those of its page; what it prints."""
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def check_promises(block, printed):
    """See that what a block's comments promise is printed, in that order."""
    at = 0
    for promise in re.findall(r"# prints: (.*)", block.text):
        found = re.compile(pattern(promise)).search(printed, at)
        assert found, f"promised: {promise}\nprinted: {printed[at:]}"
        at = found.end()


def run_commands(block, folder):
    """Run the lines of a bash block that are commands; what they print."""
    printed = ""
    for line in block.text.splitlines():
        name, *options = shlex.split(line, comments=True) or [""]
        if name in COMMANDS:
            done = COMMANDS[name](options, folder)
            code = re.search(r"# exit code (\d+)$", line)
            assert done.returncode == (int(code[1]) if code else 0), f"{line}: {done.stdout}{done.stderr}"
            printed += done.stdout
    return printed


def torchrun(options, folder):
    """Run torchrun, which takes a free port."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PET_STANDALONE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


COMMANDS = {
    "ignite-trainer": lambda options, folder: processes.run("ignite_trainer", *options, cwd=folder),
    "python": lambda options, folder: processes.run(folder / options[0], *options[1:], cwd=folder),
    "torchrun": torchrun,
}
