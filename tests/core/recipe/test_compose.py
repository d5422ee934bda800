from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry
from runner.errors import RecipeError
from runner.recipe import compose, validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.plugins.registry import Registry

Write = Any  # the `document` fixture


def messages(document: Any) -> list[str]:
    return [str(problem) for problem in document.problems]


def test_child_merges_mappings_and_replaces_lists_and_scalars(document: Write) -> None:
    found = document(
        "extends: base.yaml\n"
        "train: {epochs: 9}\n"
        "transforms: {train: [{name: resize, exact: [8, 8]}]}\n"
        "optimizer: {momentum: 0.5}\n"
    ).root.data()
    assert "extends" not in found
    assert found["train"] == {"epochs": 9, "batch_size": 4}
    assert found["transforms"]["train"] == [{"name": "resize", "exact": [8, 8]}]
    assert found["transforms"]["eval"] == [{"name": "center_crop", "size": 8}]
    assert found["optimizer"] == {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5}


@pytest.mark.parametrize("section", ["optimizer: adam", "optimizer: {name: adam}"])
def test_another_name_replaces_the_section(document: Write, section: str) -> None:
    found = document(f"extends: base.yaml\n{section}\n").root.data()
    assert found["optimizer"] == {"name": "adam"}


def test_the_same_name_merges(document: Write) -> None:
    found = document("extends: base.yaml\noptimizer: sgd\n").root.data()
    assert found["optimizer"] == {"name": "sgd", "learning_rate": 0.1}


def test_precision_in_short_replaces_the_section(document: Write, folder: Path) -> None:
    Path("half.yaml").write_text("precision: {compute: fp16, loss_scale: dynamic}\n")
    assert document("extends: half.yaml\nprecision: fp32").root.data() == {
        "precision": {"compute": "fp32"}
    }
    assert document("extends: half.yaml", "precision.compute=bf16").root.data() == {
        "precision": {"compute": "bf16", "loss_scale": "dynamic"}
    }
    assert document("precision: fp16", "precision.loss_scale=128").root.data() == {
        "precision": {"compute": "fp16", "loss_scale": 128}
    }


def test_a_list_of_bases_in_other_folders(document: Write, folder: Path) -> None:
    Path("sub").mkdir()
    Path("sub/a.yaml").write_text("extends: b.yaml\nseed: 1\n")
    Path("sub/b.yaml").write_text("seed: 0\nsummary: b\n")
    found = document("extends: [sub/a.yaml, base.yaml]\nmodel: other\n")
    data = found.root.data()
    assert (data["seed"], data["summary"], data["model"]) == (1, "A toy", {"name": "other"})
    assert [path.name for path in found.files] == ["b.yaml", "a.yaml", "base.yaml", "r.yaml"]


def test_extends_a_recipe_by_name(document: Write) -> None:
    assert document("extends: quickstart\n").root.data()["dataset"]["name"] == "digits"


def test_a_circle_is_named(document: Write, folder: Path) -> None:
    Path("a.yaml").write_text("extends: r.yaml\n")
    with pytest.raises(RecipeError) as error:
        document("seed: 1\nextends: a.yaml\n")
    assert str(error.value) == ("a.yaml:1:10: extends goes in a circle: r.yaml -> a.yaml -> r.yaml")


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        (
            "bas.yaml",
            "r.yaml:1:10: extends: no file 'bas.yaml' beside this recipe: no recipe 'bas.yaml': "
            "there is no such file; did you mean 'base.yaml'?",
        ),
        (
            "quickstrat",
            "r.yaml:1:10: extends: no file 'quickstrat' beside this recipe: unknown recipe "
            "'quickstrat'; did you mean 'quickstart'? see: runner list recipes",
        ),
        ("3", "r.yaml:1:10: extends: expected a file or a recipe name, or a list, got 3"),
        (
            "${BASE}",
            "r.yaml:1:10: extends: the environment variable BASE is not set; set it with: "
            "export BASE=...",
        ),
    ],
)
def test_bases_that_do_not_exist(document: Write, extends: str, message: str) -> None:
    assert messages(document(f"extends: {extends}\n")) == [message]


def test_extends_reads_the_environment(document: Write) -> None:
    found = document("extends: ${BASE}.yaml", environ={"BASE": "base"})
    assert found.root.data()["summary"] == "A toy"


def test_variables(document: Write) -> None:
    found = document(
        'a: ${DATA}/train\nb: "${N}"\nc: ${N}\nd: ${NO:-7}\ne: "${NO:-7}"\nf: ${EMPTY:-x}\n'
        "g: $${DATA} $$ ${NO:-}\nh: [$HOME, '${DATA}']\n",
        environ={"DATA": "/data", "N": "12", "EMPTY": ""},
    )
    assert found.problems == ()
    assert found.root.data() == {
        "a": "/data/train",
        "b": "12",
        "c": 12,
        "d": 7,
        "e": "7",
        "f": "x",
        "g": "${DATA} $$ ",
        "h": ["$HOME", "/data"],
    }


def test_a_variable_cannot_bring_structure(document: Write) -> None:
    found = document("a: ${X}", environ={"X": "[1, {b: !!python/name:os}]"})
    assert found.root.data() == {"a": "[1, {b: !!python/name:os}]"}


def test_variables_without_a_value(document: Write) -> None:
    text = "dataset:\n  root: ${IMAGENET}/x\n  other: ${1X}\n"
    found = document(text, environ={"IMAGENET": ""})
    assert messages(found) == [
        "r.yaml:3:10: dataset.other: cannot read '${1X}'; expected ${NAME} or ${NAME:-default} "
        "(a plain '${' is written '$${')",
        "r.yaml:2:9: dataset.root: the environment variable IMAGENET is not set; set it with: "
        "export IMAGENET=... or --set dataset.root=...",
    ]
    allowed = document("dataset: {root: '${IMAGENET}/x'}", allow_unset=True)
    assert allowed.problems == ()
    assert allowed.root.data() == {"dataset": {"root": "${IMAGENET}/x"}}
    assert [(item.name, item.path) for item in allowed.unset] == [("IMAGENET", ("dataset", "root"))]


def test_an_overridden_variable_need_not_be_set(document: Write) -> None:
    found = document("dataset: {root: '${IMAGENET}'}", "dataset.root=/data")
    assert (found.problems, found.root.data()) == ((), {"dataset": {"root": "/data"}})


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=5", "train.epochs", 5),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 0.001),
        ("summary=on: 3 # not a comment", "summary", "on: 3 # not a comment"),
        ("summary='7'", "summary", "7"),
        ("summary=a=b", "summary", "a=b"),
        ("model.weights=", "model.weights", None),
        ("transforms.mean=[0.5, 0.5, 1]", "transforms.mean", [0.5, 0.5, 1]),
        ("transforms.train.0.size=16", "transforms.train.0.size", 16),
        (
            "transforms.train.1={name: horizontal_flip}",
            "transforms.train.1.name",
            "horizontal_flip",
        ),
        ("export.0.name=file", "export", [{"name": "file"}]),
        ("export.0=file", "export", [{"name": "file"}]),
        ("export=[file]", "export", [{"name": "file"}]),
        ("device=npu", "device", {"name": "npu"}),
        ("optimizer=sgd", "optimizer", {"name": "sgd", "learning_rate": 0.1}),
        ("optimizer=adam", "optimizer", {"name": "adam"}),
        ("optimizer.name=adam", "optimizer", {"name": "adam"}),
        (
            "optimizer={momentum: 0}",
            "optimizer",
            {"name": "sgd", "learning_rate": 0.1, "momentum": 0},
        ),
        ("transforms.train.0.name=center_crop", "transforms.train.0", {"name": "center_crop"}),
    ],
)
def test_overrides(document: Write, override: str, path: str, value: object) -> None:
    found = document("extends: base.yaml\n", override)
    assert found.problems == ()
    keys = [int(part) if part.isdecimal() else part for part in path.split(".")]
    node = found.root.find(keys)
    assert node.data() == value


def test_exports_of_another_framework_are_left_out(
    folder: Path, registry_with: Callable[..., Registry]
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError

    other = FrameworkEntry(name="other", summary="Another", open=never)
    registry = registry_with(other)
    Path("r.yaml").write_text(
        "extends: base.yaml\n"
        "export:\n"
        "  - {name: slab, framework: other}\n"
        "  - {name: file, framework: fake}\n"
        "  - file\n"
    )
    mine = compose(Path("r.yaml"), environ={}, registry=registry)
    assert [item.name for item in validate(mine, registry).export] == ["file", "file"]
    assert str(mine.origin(("export", 0, "name"))) == "r.yaml:4:12"
    foreign = compose(Path("r.yaml"), ["framework=other"], environ={}, registry=registry)
    data: Any = foreign.root.data()
    assert [item["name"] for item in data["export"]] == ["slab", "file"]

    wrong = ["export.0.framework=othr", "export.1.lowe=3"]
    with pytest.raises(RecipeError) as error:
        validate(compose(Path("r.yaml"), wrong, environ={}, registry=registry), registry)
    shown = sorted(str(problem) for problem in error.value.problems)
    assert len(shown) == 2
    assert "unknown framework 'othr'; did you mean 'other'?" in shown[0]
    assert "unknown key 'lowe' in export.0" in shown[1]


def test_a_new_name_comes_before_its_options(document: Write) -> None:
    found = document(
        "extends: base.yaml\n",
        "optimizer.learning_rate=0.2",
        "optimizer=adam",
        "train.epochs=3",
        "train.epochs=4",
    ).root.data()
    assert found["optimizer"] == {"name": "adam", "learning_rate": 0.2}
    assert found["train"]["epochs"] == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "expected KEY=VALUE, such as train.epochs=10"),
        ("a..b=1", "expected KEY=VALUE, such as train.epochs=10"),
        ("extends=x", "extends works in recipe files only"),
        ("summary.x=1", "summary is 'A toy', which has no keys"),
        (
            "transforms.train.x=1",
            "transforms.train is a list; expected a position from 0 to 1, got 'x'",
        ),
        (
            "transforms.train.7.size=1",
            "transforms.train has 1 items; expected a position up to 1, which appends one, got 7",
        ),
        (
            "transforms.mean=[1, 2",
            "this '[' is not closed by ']', or a ',' is missing in it",
        ),
        ("model={a: 1, a: 2}", "the key 'a' is given twice; remove one"),
    ],
)
def test_overrides_that_do_not_fit(document: Write, override: str, message: str) -> None:
    found = document("extends: base.yaml\n", override)
    assert messages(found) == [f"--set {override}: {message}"]


def test_origins_of_values(document: Write) -> None:
    found = document("extends: base.yaml\nseed: 3\n", "train.epochs=5")
    assert str(found.origin(("seed",))) == "r.yaml:2:7"
    assert str(found.origin(("model", "name"))) == "base.yaml:9:9"
    assert str(found.origin(("framework", "name"))) == "base.yaml:2:12"
    assert str(found.origin(("train", "epochs"))) == "--set train.epochs=5"
    assert str(found.origin(("loss", "label_smoothing"))) == "default"


def test_files_outside_the_working_directory_keep_their_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    found = compose(folder / "base.yaml", environ={})
    assert str(found.origin(("summary",))) == f"{folder}/base.yaml:1:10"


def test_keys_that_only_the_former_framework_has_are_left_out_by_name(
    folder: Path, registry_with: Callable[..., Registry]
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError

    named: dict[str, Any] = {"framework": "other", "summary": "A test"}
    other = (
        FrameworkEntry(name="other", summary="Another", open=never),
        ModelEntry(name="net", build=never, **named),
        OptimizerEntry(name="sgd", build=never, **named),
        DeviceEntry(name="cpu", probe=never, open=never, **named),
    )
    registry = registry_with(*other)
    Path("r.yaml").write_text(
        "extends: base.yaml\n"
        "model: {name: net, width: 0.5}\n"
        "optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.5}\n"
    )
    validate(compose(Path("r.yaml"), environ={}, registry=registry), registry)
    given = ["framework=other"]
    changed = compose(Path("r.yaml"), given, environ={}, registry=registry)
    assert changed.notes == (
        "the framework is other instead of fake: left out model.width, optimizer.momentum, "
        "written for fake",
    )
    # what a resolved recipe says of defaults was chosen by nobody
    Path("d.yaml").write_text("extends: r.yaml\nmodel: {width: 1.0}\n")
    [note] = compose(Path("d.yaml"), given, environ={}, registry=registry).notes
    assert "left out optimizer.momentum, written" in note
    checked = validate(changed, registry)
    assert checked.optimizer is not None
    assert (checked.model.name, checked.optimizer.learning_rate) == ("net", 0.1)
    # what the command itself sets is an error
    given.append("optimizer.momentum=0.9")
    with pytest.raises(RecipeError, match="unknown key 'momentum' in optimizer"):
        validate(compose(Path("r.yaml"), given, environ={}, registry=registry), registry)
    assert compose(Path("r.yaml"), ["framework=fake"], environ={}, registry=registry).notes == ()
