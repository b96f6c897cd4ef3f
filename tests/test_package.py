"""The package as it is given away: built, installed where the repository is not, and read by other Pythons."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ignite_trainer

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ignite_trainer").rglob("*.py"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def run(*command, **how):
    """What a command prints, in an environment that says nothing of this repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, env=kept, **how)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist, and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source") / "ignite_trainer"
    for folder in ("ignite_trainer", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--no-isolation", source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment with the wheel in it; torch and the others are those of the tests, lest gigabytes be copied."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    (wheel,) = built.glob("*.whl")
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    (site,) = home.glob("lib/python*/site-packages")
    others = dict.fromkeys([sysconfig.get_path("purelib"), str(Path(pytest.__file__).parents[1]), *path_of_torch()])
    (site / "others.pth").write_text("\n".join(others))
    return home


def path_of_torch():
    """Where the heavy packages lie, if not beside pytest."""
    import torch

    return [str(Path(torch.__file__).parents[1])]


def test_wheel_when_built_then_has_the_package_its_types_and_its_licence(built):
    (wheel,) = built.glob("*.whl")
    version = ignite_trainer.__version__
    assert wheel.name == f"ignite_trainer-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        about = f"ignite_trainer-{version}.dist-info"
        metadata = Parser().parsestr(content.read(f"{about}/METADATA").decode())
        scripts = configparser.ConfigParser()
        scripts.read_string(content.read(f"{about}/entry_points.txt").decode())
    modules = {str(path.relative_to(ROOT)) for path in SOURCES}
    assert {name for name in names if not name.startswith(about)} == {*modules, "ignite_trainer/py.typed"}
    assert f"{about}/licenses/LICENSE" in names
    assert dict(scripts["console_scripts"]) == {"ignite-trainer": "ignite_trainer.cli:main"}
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = [re.split(r"[^\w-]", line)[0] for line in needed]
    expected = "torch torchvision pytorch-ignite tensorboard matplotlib tqdm safetensors PyYAML tyro"
    assert names == expected.split()


def test_sdist_when_built_then_has_what_a_build_needs_and_nothing_else(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as content:
        files = {member.name.partition("/")[2] for member in content.getmembers() if member.isfile()}
    files = {name for name in files if ".egg-info/" not in name}
    tests = {name for name in files if name.startswith("tests/test_")}  # setuptools adds them by itself
    sources = {str(path.relative_to(ROOT)) for path in SOURCES} | {"ignite_trainer/py.typed"}
    assert files - tests == sources | {"PKG-INFO", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"}


def test_package_when_installed_then_imports_from_there_and_knows_its_version(installed, tmp_path):
    code = "import ignite_trainer, importlib.metadata as m; print(ignite_trainer.__file__, m.version('ignite_trainer'))"
    file, version = run(installed / "bin" / "python", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed)
    assert version == ignite_trainer.__version__


def test_console_script_when_installed_then_trains_and_evaluates_what_it_trained(installed, tmp_path):
    script = installed / "bin" / "ignite-trainer"
    train = (script, "train", "--data", "glyphs", "--epochs", "1", "--device", "cpu", "--folder", "run")
    assert "Epoch 1/1, Training Loss: " in run(*train, cwd=tmp_path)
    assert {"config.yaml", "history.csv", "model.safetensors", "report.png"} <= set(os.listdir(tmp_path / "run"))
    told = run(script, "evaluate", "run", cwd=tmp_path)
    assert float(re.search(r"accuracy ([\d.]+)%", told)[1]) > 50  # of ten classes; one epoch gives about 80


def test_console_script_when_installed_then_helps_and_compares_a_loop(installed, tmp_path):
    shutil.copy(ROOT / "tests" / "tiny.py", tmp_path / "my_loop.py")
    (tmp_path / "my_job.py").write_text(
        "from my_loop import hand_fit\n"
        "def train(model, optimizer, loss_fn, train_dl, valid_dl, epochs):\n"
        "    hand_fit(epochs, model, optimizer, loss_fn, train_dl, valid_dl)\n"
    )
    script = installed / "bin" / "ignite-trainer"
    assert "verify" in run(script, "--help", cwd=tmp_path)
    assert run(script, "verify", "loop", "my_job:train", cwd=tmp_path).startswith("equal: ")


def test_sources_when_read_as_the_oldest_python_then_parse():
    oldest = tuple(int(part) for part in PYTHONS[0].split("."))
    for path in [*SOURCES, *sorted((ROOT / "scripts").glob("*.py"))]:
        ast.parse(path.read_text(), str(path), feature_version=oldest)


def test_sources_when_compiled_by_every_python_here_then_have_no_error_and_no_warning(tmp_path):
    found = [python for version in PYTHONS for python in pythons(version)]
    assert found
    for python in found:
        shutil.copytree(ROOT / "ignite_trainer", tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__"))
        run(python, "-W", "error", "-m", "compileall", "-q", tmp_path / "package")
        shutil.rmtree(tmp_path / "package")


def pythons(version):
    """Interpreters of a version that are on the path, or where pyenv keeps them."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [shutil.which(f"python{version}"), *sorted(kept.glob(f"{version}.*/bin/python{version}"))]
    for place in places:
        if place and subprocess.run([place, "--version"], capture_output=True).returncode == 0:
            return [place]
    return []
