"""One recipe in MindSpore and in PyTorch: the same pixels, and numbers as close as fp32 allows.

``benchmarks/parity.py`` compares more models over more steps.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from runner.planning.loading import load
from runner.plugins.guards import own_engine
from runner.session.opening import open_device, open_engine, open_split
from runner.storage.events import EventLog

if TYPE_CHECKING:
    from runner.contracts import Batch, Engine
    from runner.planning.plan import Plan
    from runner.session.opening import Split

pytest.importorskip("mindspore")
pytest.importorskip("torch")
pytest.importorskip("torchvision")

RECIPE = """\
summary: A ResNet-18 on small images
framework: torch
device: cpu
precision: fp32
dataset: {name: class_folders, root: images}
transforms:
  train:
    - {name: random_crop, size: 16, padding: 2}
    - {name: horizontal_flip}
  eval:
    - {name: resize, exact: [16, 16]}
model: {name: resnet18, stem: small}
loss: {label_smoothing: 0.1, smooth_over: others}
optimizer:
  name: sgd
  learning_rate: 0.005
  momentum: 0.9
  weight_decay: 5.0e-4
  no_weight_decay: [bias, norm]
schedule: {name: cosine, warmup_epochs: 1}
train: {epochs: 3, batch_size: 8}
"""
STEPS = 3


@dataclass(frozen=True)
class Side:
    """What one framework makes of the recipe."""

    plan: Plan
    train: Split
    val: Split
    engine: Engine

    def batches(self) -> list[Batch]:
        return list(self.train.loader.train_batches(0, batch_size=8, steps=STEPS))

    def losses(self) -> list[float]:
        rates = [self.plan.learning_rate(step, STEPS) for step in range(STEPS)]
        steps = zip(self.batches(), rates, strict=True)
        return [self.engine.train_step(batch, rate).read().loss for batch, rate in steps]


def write_images(folder):
    """Write photographs of nothing: smooth noise, which JPEG keeps."""
    random = np.random.default_rng(3)
    for number in range(36):
        split = "train" if number < 8 * STEPS else "val"
        path = folder / split / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((20, 18)).save(content, "JPEG")
        path.write_bytes(content.getvalue())


@pytest.fixture
def open_sides(tmp_path, monkeypatch):
    """Open the recipe in PyTorch and in MindSpore, with PyTorch's fresh weights in both."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    recipe = tmp_path / "parity.yaml"
    recipe.write_text(RECIPE)

    def open_sides(*settings):
        sides = []
        for framework in ("torch", "mindspore"):
            plan = load(str(recipe), [f"framework={framework}", *settings]).plan
            device = open_device(plan)
            train, val = (open_split(plan, split, EventLog()) for split in ("train", "val"))
            engine = open_engine(plan, device, 3, EventLog(), training=True)
            sides.append(Side(plan, train, val, engine))
        torch, mindspore = sides
        mindspore.engine.load_weights(torch.engine.weights())
        return torch, mindspore

    return open_sides


def close_loaders(*sides):
    for side in sides:
        side.train.loader.close()
        side.val.loader.close()


def test_frameworks_get_the_same_pixels_in_the_same_order(open_sides):
    torch, mindspore = sides = open_sides()
    for own, other in zip(torch.batches(), mindspore.batches(), strict=True):
        np.testing.assert_array_equal(own.indices, other.indices)
        np.testing.assert_array_equal(own.labels, other.labels)
        np.testing.assert_array_equal(own.images, other.images)
        # and so does the network: normalised values are equal to the bit
        theirs: Any = own_engine(mindspore.engine)
        ours: Any = own_engine(torch.engine)
        normalised = theirs._pixels.tensor(other.images).asnumpy()
        pixels = ours._pixels.images(own.images).numpy()
        np.testing.assert_array_equal(pixels, normalised)
    close_loaders(*sides)


def test_frameworks_agree_on_evaluation_and_on_the_first_steps(open_sides):
    torch, mindspore = sides = open_sides()
    images = next(torch.val.loader.eval_batches(12)).images
    logits = torch.engine.predict(images)
    assert np.abs(logits).max() > 0.1
    np.testing.assert_allclose(mindspore.engine.predict(images), logits, rtol=0, atol=1e-5)

    own, other = torch.losses(), mindspore.losses()
    assert other[0] == pytest.approx(own[0], rel=1e-5)
    assert other == pytest.approx(own, rel=1e-3)
    assert abs(own[0] - own[-1]) > 0.1  # the weights have changed in between
    close_loaders(*sides)


@pytest.mark.slow
def test_frameworks_agree_on_batch_statistics_and_give_weights_back(open_sides):
    torch, mindspore = sides = open_sides("train.max_steps_per_epoch=1")
    [batch] = torch.train.loader.train_batches(0, batch_size=8, steps=1)
    for side in sides:
        side.engine.train_step(batch, 0.005).read()
    own, other = torch.engine.weights(), mindspore.engine.weights()
    assert list(own) == list(other)
    statistics = [name for name in own if "running" in name]
    assert len(statistics) == 40
    for name in statistics:
        largest = np.abs(own[name]).max()
        np.testing.assert_allclose(other[name], own[name], rtol=0, atol=1e-3 * largest)
    assert {int(other[name]) for name in own if name.endswith("tracked")} == {1}

    torch.engine.load_weights(other)
    images = next(torch.val.loader.eval_batches(12)).images
    logits = torch.engine.predict(images)
    np.testing.assert_allclose(mindspore.engine.predict(images), logits, rtol=0, atol=1e-5)
    close_loaders(*sides)
