"""The pages for readers as programs: their blocks of code, run in the order in which they stand, and what they promise.

A Python block that begins with an import begins a program, and the blocks up to the next such one go on with it. One
whose first line is a comment with a file's name is that file; it begins a program too, unless a file precedes it.
``# prints: …`` and a text block after a block say what is printed, … for anything. A bash block's lines that begin with
``ignite-trainer`` are run.
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


def blocks_of(page):
    """The blocks of a page, in order."""
    text = page.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 2) for match in found]


def programs_of(page):
    """The programs of a page: lists of blocks.

    A bash block ends the one before if it has no command of the package, or if that is no file to run commands on.
    """
    programs, is_open = [], False
    for block in blocks_of(page):
        begins = block.language == "python" and (re.match(r"(import|from) ", block.text) or block.file)
        if begins and not (is_open and programs[-1][-1].file):
            programs.append([])
            is_open = True
        if block.language == "bash" and is_open:
            has_commands = re.search("^ignite-trainer ", block.text, re.MULTILINE)
            is_open = bool(has_commands) and any(other.file for other in programs[-1])
        if is_open:
            programs[-1].append(block)
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
    """Run the lines of a bash block that are commands of the package; what they print."""
    printed = ""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for line in block.text.splitlines():
        name, *options = shlex.split(line, comments=True) or [""]
        if name == "ignite-trainer":
            command = [sys.executable, "-m", "ignite_trainer", *options]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            printed += done.stdout
    return printed
