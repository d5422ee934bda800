"""Means and deviations that are not of pixels in [0, 1] are refused, with those that are."""

from __future__ import annotations

from typing import Any

import pytest

from runner.errors import RecipeError

BASE = "extends: base.yaml\ntransforms: {%s}\n"


def refused(check: Any, text: str) -> list[str]:
    with pytest.raises(RecipeError) as error:
        check(BASE % text)
    return [str(problem) for problem in error.value.problems]


def test_values_for_pixels_up_to_255_are_refused_with_the_division(check: Any) -> None:
    # The figures of MindCV, MMPretrain and torchvision for ImageNet: the same numbers, times 255.
    found = refused(check, "mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375]")
    assert len(found) == 2
    assert found[0].startswith("r.yaml:2:20: transforms.mean: expected values of pixels scaled")
    assert "divide by 255: [0.485, 0.456, 0.406]" in found[0]
    assert "transforms.std: " in found[1]
    assert "divide by 255: [0.229, 0.224, 0.225]" in found[1]


def test_values_divided_twice_are_refused(check: Any) -> None:
    [found] = refused(check, "mean: [0.0019, 0.0018, 0.0016], std: [0.0009, 0.0009, 0.0009]")
    assert "transforms.std: got [0.0009, 0.0009, 0.0009], less than one grey level" in found
    assert "pixels scaled to [0, 1]: [0.2295, 0.2295, 0.2295]" in found


def test_a_negative_mean_is_refused(check: Any) -> None:
    [found] = refused(check, "mean: [-0.1, 0.5, 0.5]")
    assert "transforms.mean: expected values from 0 to 1" in found


@pytest.mark.parametrize(
    "text",
    [
        "mean: [0.0, 0.0, 0.0], std: [1.0, 1.0, 1.0]",
        "mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]",
        # pixels at a scale of 255 less a mean, for networks that Caffe trained
        "mean: [0.4076, 0.4579, 0.485], std: [0.00392156, 0.00392156, 0.00392156]",
    ],
)
def test_unusual_values_that_networks_need_are_accepted(check: Any, text: str) -> None:
    check(BASE % text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("eval: [{name: resize, exact: [30000, 8]}]", "transforms.eval.0.exact.0"),
        ("eval: [{name: center_crop, size: 1000000000000}]", "transforms.eval.0.size"),
        ("train: [{name: random_crop, size: 8, padding: 99999}]", "transforms.train.0.padding"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_with_their_place(
    check: Any, text: str, place: str
) -> None:
    [found] = refused(check, text)
    assert found.startswith("r.yaml:2:")
    assert f"{place}: expected a number of at most 8192" in found
