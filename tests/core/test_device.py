"""What a command says on a machine that does not have the recipe's device."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

import pytest

from runner.cli.hints import on_host
from runner.contracts import Availability
from runner.errors import DeviceError, MissingDeviceError
from runner.planning.loading import load
from runner.session import opening

REASON = "probed fake fake_card, answer: RUNNER_FAKE_CARDS is not set"


@pytest.fixture
def card_recipe(project, monkeypatch):
    """Provide a recipe for a card, whose data an unset variable names."""
    monkeypatch.setenv("PYTHONPATH", sys.path[0])  # for the process that probes
    text = project.write_recipe("export: [fake_npz]\n").read_text()
    text = text.replace("device: fake_cpu", "device: {name: fake_card, count: 8}")
    root = '{name: class_folders, root: "${IMAGES}", num_classes: 3, train_images: 96}'
    file = project.path / "card.yaml"
    file.write_text(text.replace("dataset: fake_colours", f"dataset: {root}"))
    return file


@pytest.fixture
def card_run(project, monkeypatch):
    """Provide a finished run on a card that is gone."""
    monkeypatch.setenv("RUNNER_FAKE_CARDS", "1")
    assert project.run("--device", "fake_card", extra="export: [fake_npz]\n").code == 0
    monkeypatch.delenv("RUNNER_FAKE_CARDS")
    return project.run_folder()


@pytest.mark.parametrize(("devices", "needs"), [("0", "8 fake_card devices"), ("1", "1 fake_card")])
def test_one_message_names_the_device_the_probe_and_a_command_that_works(
    project, card_recipe, devices, needs
):
    outcome = project.runner("run", "card.yaml", "--devices", devices)
    assert outcome.code == DeviceError.exit_code
    [line] = outcome.err.splitlines()
    assert line.startswith(f"error: the recipe needs {needs}")
    assert REASON in line
    command = line.partition("; to try it here: ")[2]
    assert command == "runner run card.yaml --device fake_cpu --smoke"
    assert not (project.path / "runs").exists()
    outcome = project.runner(*shlex.split(command)[1:], "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["world_size"] == 1


@pytest.mark.parametrize("devices", ["0", "1"])
def test_what_the_recipe_lacks_is_said_once_the_device_is_there(
    project, card_recipe, monkeypatch, devices
):
    monkeypatch.setenv("RUNNER_FAKE_CARDS", "8")
    outcome = project.runner("run", card_recipe, "--devices", devices)
    assert outcome.code == 2
    assert "dataset.root: the environment variable IMAGES is not set; set it with" in outcome.err
    assert "launch:" not in outcome.err


def test_all_that_is_wrong_with_a_recipe_is_said_at_once(project, card_recipe):
    outcome = project.runner("run", card_recipe, "--set", "train.epochs=none")
    assert outcome.code == 2
    assert "train.epochs" in outcome.err
    assert "IMAGES is not set" in outcome.err


def test_explain_shows_the_plan_all_the_same(project, card_recipe):
    outcome = project.runner("explain", card_recipe)
    assert outcome.code == 0, outcome.err
    assert "global batch 8 = 8 fake_card x 1 image per pass x 1 accumulation" in outcome.out
    assert "boot.py runner.testing.fake_group 8 runner run" in outcome.out
    assert "REFUSED" not in outcome.out


def test_explain_tells_what_is_not_installed(project, card_recipe, monkeypatch):
    monkeypatch.setattr("runner.plugins.loading._is_installed", lambda module: module != "numpy")
    outcome = project.runner("explain", card_recipe)
    assert outcome.code == 0, outcome.err
    assert "WILL BE REFUSED HERE: framework 'fake' cannot be used: numpy is not" in outcome.out
    assert "global batch 8" in outcome.out


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (["eval", "RUN"], "runner eval RUN --device fake_cpu"),
        (["predict", "RUN", "photo.png"], "runner predict RUN photo.png --device fake_cpu"),
        (
            ["export", "RUN", "--output", "out"],
            "runner export RUN --output out --device fake_cpu",
        ),
        (
            ["bench", "colours.yaml", "--device", "fake_card", "--steps", "1", "--warmup", "1"],
            "runner bench colours.yaml --steps 1 --warmup 1 --device fake_cpu --smoke",
        ),
    ],
)
def test_every_command_that_opens_a_device_gives_the_way_out(project, card_run, command, advice):
    from PIL import Image

    from runner.testing.fake import Colours, ColoursOptions

    Image.fromarray(Colours(ColoursOptions(), "val").read(0)).save("photo.png")
    folder = str(card_run.relative_to(project.path))
    outcome = project.runner(*[folder if item == "RUN" else item for item in command])
    assert outcome.code == DeviceError.exit_code
    [line] = outcome.err.splitlines()
    assert REASON in line
    advised = line.partition("; to try it here: ")[2]
    assert advised == advice.replace("RUN", folder)
    outcome = project.runner(*shlex.split(advised)[1:])
    assert outcome.code == 0, outcome.err


def test_a_run_continues_on_another_device_if_told_to(project, card_run):
    (card_run / "result.json").unlink()
    folder = str(card_run.relative_to(project.path))
    outcome = project.runner("resume", folder)
    assert outcome.code == DeviceError.exit_code
    advised = outcome.err.strip().partition("; to try it here: ")[2]
    assert advised == f"runner resume {folder} --set device.name=fake_cpu"
    assert project.runner(*shlex.split(advised)[1:]).code == 0


@pytest.mark.parametrize(
    ("typed", "advised"),
    [
        ("run r.yaml --devices 8 --json", "run r.yaml --json --device cpu --smoke"),
        ("train r.yaml --device=ascend --smoke", "train r.yaml --smoke --device cpu"),
        (
            "run r.yaml --set device.count=4 --set=train.epochs=1",
            "run r.yaml --set train.epochs=1 --device cpu --smoke",
        ),
        ("eval 'my run' --set device=gpu", "eval 'my run' --device cpu"),
    ],
)
def test_the_advised_command_is_the_typed_one_with_another_device(typed, advised):
    assert on_host(shlex.split(typed), "cpu") == f"runner {advised}"


def test_a_device_that_is_there_speaks_for_itself(project):
    plan = load(str(project.write_recipe())).plan

    def refuse(options):
        raise DeviceError("no index 3")

    def with_probe(available):
        entry = replace(
            plan.device_entry, open=refuse, probe=lambda: Availability(available=available)
        )
        return replace(plan, device=replace(plan.device, entry=entry))

    with pytest.raises(DeviceError, match=r"^no index 3$"):
        opening.open_device(with_probe(available=True))
    with pytest.raises(MissingDeviceError, match="the recipe needs 1 fake_cpu device,") as missing:
        opening.open_device(with_probe(available=False))
    assert missing.value.host_device is None  # it is the host itself


@pytest.mark.parametrize("command", ["explain", "train"])
def test_a_format_that_the_device_does_not_have_is_refused_in_the_plan(project, command):
    """So before the framework is imported and the data is opened."""
    recipe = project.write_recipe("precision: {compute: fp16, level: O2}\n")
    outcome = project.runner(command, recipe)
    message = (
        "device fake_cpu cannot compute in fp16 at level O2: the fake framework computes in fp64; "
        "set precision.compute to fp32, or precision.level to auto"
    )
    assert outcome.code == (0 if command == "explain" else DeviceError.exit_code)
    assert message in " ".join((outcome.out + outcome.err).split())
    assert not (project.path / "runs").exists()
