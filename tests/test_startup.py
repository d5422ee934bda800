"""Start-up imports nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import runner

# pydantic is not in the list: typer imports it to read the arguments of any command.
HEAVY = ("torch", "torchvision", "mindspore", "numpy", "PIL", "yaml", "rich", "onnx", "safetensors")


@pytest.mark.parametrize(
    "program", [["-m", "runner"], ["-c", "from runner.cli import main; main()"]]
)
def test_version_is_the_same_on_every_way(program):
    done = subprocess.run(
        [sys.executable, *program, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"vision-runner {runner.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list-plugins"], ["list", "models"]]
)
def test_light_commands_import_no_heavy_package(arguments):
    code = (
        "import sys; from runner.cli import main\n"
        f"sys.argv = ['runner', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_explain_imports_no_framework():
    code = (
        "import sys; from runner.cli import main\n"
        "sys.argv = ['runner', 'explain', 'quickstart']\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "print([n for n in ('torch', 'torchvision', 'onnx') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_package_imports_next_to_nothing_until_a_name_of_it_is_used():
    code = (
        "import sys; import runner\n"
        "print([n for n in sys.modules if n.startswith('runner.')])\n"
        "print(all(hasattr(runner, name) for name in runner.__all__))\n"
        "print(hasattr(runner, 'no_such_name'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == "['runner.system', 'runner.system.own_path', 'runner.options']"
    assert others == ["True", "False"]
