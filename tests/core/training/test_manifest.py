"""Modules and the distributions they are installed from."""

from __future__ import annotations

from importlib import metadata

from runner.training import manifest


def test_modules_are_named_after_their_distributions(monkeypatch):
    modules = {"PIL": ["pillow"], "torch": ["torch", "torch"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: modules)
    # as on Python 3.10, which does not know the modules of onnx and scikit-learn
    asked = ["PIL", "torch.nn", "onnx", "sklearn"]
    assert manifest.distributions(asked) == ["onnx", "pillow", "scikit-learn", "torch"]


def test_doctor_names_distributions(project):
    out = project.runner("doctor").out
    assert "pillow " in out
    assert "PIL " not in out
