"""docs/python.md, the notebook, and a script of a stranger: what they say happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]

# Nothing of it is from this project's tests: `python script.py` as somebody would write it.
SCRIPT = """\
import runner
from PIL import Image

run = runner.run("quickstart", {"train.epochs": 1, "train.log_every_steps": 4, "export": []})
curve = [(step["step"], step["loss"]) for step in run.steps]
top1 = [epoch["val.top1"] for epoch in run.history]
evaluation = runner.evaluate(run)
[artifact] = runner.export(run, formats=["onnx"])
Image.new("L", (8, 8)).save("digit.png")
[prediction] = runner.predict(artifact, ["digit.png"], top=3)
print(len(curve), len(top1))
print(top1[-1] == evaluation.metrics["val.top1"] == run.metrics["val.top1"])
print(artifact.verified, artifact.metrics["val.count"])
print(sorted(choice.label in range(10) for choice in prediction.choices))
"""


def python(program: str, folder: Path) -> str:
    (folder / "script.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_of_fifteen_lines_does_all(tmp_path):
    assert len(SCRIPT.splitlines()) <= 15
    printed = python(SCRIPT, tmp_path).splitlines()
    assert printed == ["5 1", "True", "True 359", "[True, True, True]"]


def test_the_examples_of_the_page_run(tmp_path):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n((?:.*\n)*?)```$", text, re.MULTILINE)
    assert len(examples) > 4
    printed = python("\n\n".join(examples), tmp_path)
    assert "<class 'torchvision.models.resnet.ResNet'>" in printed


def test_the_cells_of_the_notebook_run(tmp_path):
    """Without a kernel: each cell is carried out, and what its last line gives shows itself."""
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4
    shell = (
        "import ast, json, sys\n"
        f"for cell in json.loads({json.dumps(json.dumps(cells))}):\n"
        "    tree = ast.parse(cell)\n"
        "    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None\n"
        "    exec(compile(tree, 'cell', 'exec'))\n"
        "    if last:\n"
        "        value = eval(compile(ast.Expression(last.value), 'cell', 'eval'))\n"
        "        print(getattr(value, '_repr_html_', value.__repr__)())\n"
    )
    printed = python(shell, tmp_path)
    assert printed.count("<table>") == 4
    assert "<caption>Verification passed</caption>" in printed


LOADED = """\
import numpy as np
import runner
from PIL import Image

Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save("image.png")
run = runner.train({recipe!r}, {{"model.name": "resnet18"}}, smoke=True)
model = runner.load_model(run)
inputs = np.stack([model.preprocess(form) for form in ("image.png", Image.open("image.png"))])
if {recipe!r} == "quickstart":
    import torch
    logits = model.module(torch.from_numpy(inputs)).detach().numpy()
else:
    import mindspore
    logits = model.module(mindspore.Tensor(inputs)).asnumpy()
shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
[prediction] = runner.predict(run, "image.png", top=len(model.classes))
expected = [choice.probability for choice in sorted(prediction.choices, key=lambda c: c.label)]
print(np.abs(shares - expected).max() < 1e-5)
"""


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_the_network_in_its_own_form_gives_the_same(tmp_path, framework):
    pytest.importorskip(framework, exc_type=ImportError)
    recipe = "quickstart" if framework == "torch" else "quickstart_mindspore"
    assert python(LOADED.format(recipe=recipe), tmp_path) == "True\n"
