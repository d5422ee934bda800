"""Names of other programs' checkpoints."""

from __future__ import annotations

import pytest

from runner.errors import CheckpointError
from runner_mindspore.names import sources

NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def test_names_of_this_project_keep_their_layers() -> None:
    names = ["conv1.weight", *(f"bn1.{leaf}" for leaf in NORM[::-1]), "fc.weight", "fc.bias"]
    assert sources(names) == {
        "conv1.weight": ["conv1.weight"],
        "bn1.weight": ["bn1.gamma"],
        "bn1.bias": ["bn1.beta"],
        "bn1.running_mean": ["bn1.moving_mean"],
        "bn1.running_var": ["bn1.moving_variance"],
        "fc.weight": ["fc.weight"],
        "fc.bias": ["fc.bias"],
    }


def test_a_gamma_without_a_beta_is_no_normalisation() -> None:
    names = ["block.gamma", "block.norm.gamma", "block.norm.beta"]
    assert list(sources(names)) == ["block.gamma", "block.norm.weight", "block.norm.bias"]


@pytest.mark.parametrize(
    ("marker", "names"),
    [
        (
            "backbone.layer1.0.down_sample.conv.weight",
            {
                "backbone.conv.weight": "conv1.weight",
                "backbone.bn.moving_mean": "bn1.moving_mean",
                "backbone.layer1.0.conv1.weight": "layer1.0.conv1.weight",
                "backbone.layer1.0.down_sample.conv.weight": "layer1.0.downsample.0.weight",
                "backbone.layer4.0.down_sample.bn.moving_mean": "layer4.0.downsample.1.moving_mean",
                "head.fc.bias": "fc.bias",
            },
        ),
        (
            "layer2.0.down_sample.0.weight",
            {
                "conv1.weight": "conv1.weight",
                "layer2.0.down_sample.0.weight": "layer2.0.downsample.0.weight",
                "layer2.0.down_sample.1.moving_mean": "layer2.0.downsample.1.moving_mean",
                "classifier.weight": "fc.weight",
            },
        ),
        (
            "features.3.layers.0.weight",
            {
                "features.0.weight": "features.0.0.weight",
                "features.1.moving_mean": "features.0.1.moving_mean",
                "features.3.layers.0.weight": "features.1.conv.0.0.weight",
                "features.3.layers.1.moving_mean": "features.1.conv.0.1.moving_mean",
                "features.3.layers.3.weight": "features.1.conv.1.weight",
                "features.3.layers.4.moving_mean": "features.1.conv.2.moving_mean",
                "features.4.layers.1.moving_mean": "features.2.conv.0.1.moving_mean",
                "features.4.layers.3.weight": "features.2.conv.1.0.weight",
                "features.19.layers.6.weight": "features.17.conv.2.weight",
                "features.19.layers.7.moving_mean": "features.17.conv.3.moving_mean",
                "features.20.weight": "features.18.0.weight",
                "features.21.moving_mean": "features.18.1.moving_mean",
                "classifier.1.weight": "classifier.1.weight",
            },
        ),
        (
            "features.0.features.0.weight",
            {
                "features.0.features.0.weight": "features.0.0.weight",
                "features.1.conv.0.features.1.moving_mean": "features.1.conv.0.1.moving_mean",
                "features.1.conv.1.weight": "features.1.conv.1.weight",
                "features.18.features.0.weight": "features.18.0.weight",
                "dense.weight": "classifier.1.weight",
            },
        ),
    ],
)
def test_names_of_model_collections(marker: str, names: dict[str, str]) -> None:
    assert marker in names
    expected = {canonical: [name] for name, canonical in names.items()}
    assert sources(names) == expected
    wrapped = {canonical: [f"network.{name}"] for name, canonical in names.items()}
    assert sources([f"network.{name}" for name in names]) == wrapped


def test_names_without_a_mark_of_a_collection_stay() -> None:
    names = ["classifier.weight", "features.0.weight", "dense.weight", "backbone.conv.weight"]
    assert sources(names) == {name: [name] for name in names}


def test_the_pieces_of_a_grouped_convolution_come_in_order() -> None:
    pieces = [f"layer1.0.conv2.convs.{number}.weight" for number in range(12)]
    assert sources(sorted(pieces)) == {"layer1.0.conv2.weight": pieces}
    del pieces[3], pieces[6]
    with pytest.raises(CheckpointError, match=r"conv2.weight .* lacks \[3, 7\] of 0 to 11"):
        sources(pieces)


def test_optimizer_state_is_left_out() -> None:
    names = ["network.fc.weight", "momentum.weight"]
    state = [
        *("moments.network.fc.weight", "moments.fc.weight", "accum.fc.weight", "stat.fc.weight"),
        *("global_step", "learning_rate", "learning_rate_group_1", "momentum", "beta1_power"),
        *("scale_sense", "counter", "epoch_num", "current_iterator_step"),
    ]
    assert list(sources([*names, *state])) == ["fc.weight", "momentum.weight"]


def test_what_is_not_known_is_kept_for_an_error() -> None:
    """A prefix alone is no reason to leave a tensor out: it may be a layer's name."""
    names = ["fc.weight", "stat.weight", "ema.fc.weight", "temperature"]
    assert list(sources(names)) == names


def test_two_tensors_that_mean_the_same() -> None:
    with pytest.raises(CheckpointError, match=r"fc.weight and network.fc.weight both mean"):
        sources(["fc.weight", "network.fc.weight"])
