"""``runner offline score`` on what other programs write: text, several outputs, 1001 classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

CLASSES = 8


def write_text_results(folder, logits, output=0):
    folder.mkdir(exist_ok=True)
    for position, row in enumerate(logits):
        words = " ".join(f"{value:.7g}" for value in row)
        (folder / f"val_{position:08}_{output}.txt").write_text(words + "\n")


def write_labels(path, labels):
    path.write_text("".join(f"val_{n:08}.JPEG {label}\n" for n, label in enumerate(labels)))


def scores_by_rank(ranks, classes=CLASSES):
    """Make logits whose class 3 has the given ranks, from 0."""
    rows = []
    for rank in ranks:
        row = [0.0] * classes
        others = [k for k in range(classes) if k != 3]
        row[3] = 0.5
        for other in others[:rank]:
            row[other] = 1.0 + other / 8
        rows.append(row)
    return np.array(rows)


@pytest.fixture
def theirs(tmp_path):
    """Provide ten images of class 3, at ranks 0 to 6, as text with a list of labels."""
    ranks = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6]
    write_text_results(tmp_path / "result", scores_by_rank(ranks))
    write_labels(tmp_path / "val_label.txt", [3] * len(ranks))
    return tmp_path


def score(project, folder, *arguments):
    places = ("--results", folder / "result", "--labels", folder / "val_label.txt")
    return project.runner("offline", "score", folder, *places, *arguments)


def test_the_summary_has_the_documented_form(project, theirs):
    outcome = score(project, theirs)
    assert outcome.code == 0, outcome.err
    assert json.loads((theirs / "result.json").read_text()) == {
        "title": "Overall statistical evaluation",
        "value": [
            {"key": "Number of images", "value": "10"},
            {"key": "Number of classes", "value": "8"},
            {"key": "Top1 accuracy", "value": "30.00%"},
            {"key": "Top2 accuracy", "value": "40.00%"},
            {"key": "Top3 accuracy", "value": "60.00%"},
            {"key": "Top4 accuracy", "value": "70.00%"},
            {"key": "Top5 accuracy", "value": "80.00%"},
        ],
    }
    assert outcome.out == "Total data: 10, top1 accuracy: 0.3, top5 accuracy: 0.8.\n"
    assert (theirs / "acc.log").read_text() == outcome.out


def test_percentages_have_two_decimals(project, tmp_path):
    write_text_results(tmp_path / "result", scores_by_rank([0, 1, 7]))
    write_labels(tmp_path / "val_label.txt", [3, 3, 3])
    assert score(project, tmp_path).code == 0
    summary = json.loads((tmp_path / "result.json").read_text())["value"]
    assert [item["value"] for item in summary] == ["3", "8", "33.33%", *["66.67%"] * 4]


def test_json_labels_give_the_same(project, theirs):
    labels = {f"val_{n:08}.JPEG": 3 for n in range(10)}
    (theirs / "labels.json").write_text(json.dumps(labels))
    lines = score(project, theirs, "--json").json
    assert score(project, theirs, "--labels", theirs / "labels.json", "--json").json == lines
    assert lines["classes"] == 8
    assert lines["metrics"]["val.top3"] == 0.6


def test_float32_files_give_the_same(project, theirs):
    expected = score(project, theirs, "--json").json
    for file in (theirs / "result").iterdir():
        np.array(file.read_text().split(), "<f4").tofile(file.with_suffix(".bin"))
        file.unlink()
    found = score(project, theirs, "--dtype", "float32", "--classes", "8", "--json")
    assert found.json == expected


def test_the_type_of_text_cannot_be_chosen(project, theirs):
    outcome = score(project, theirs, "--dtype", "float16")
    assert outcome.code == 2
    assert "--dtype has no effect" in outcome.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "1 2 3",
            "expected 8 logits in each file of {folder}, found another number in 1 file: "
            "val_00000004_0.txt 3",
        ),
        ("", "val_00000004_0.txt 0"),
        ("1 2 3 4 5 6 7 x", "val_00000004_0.txt is damaged: could not convert string"),
        ("\x00" * 9, "val_00000004_0.txt is damaged"),
    ],
)
def test_damaged_text_is_named(project, theirs, text, problem):
    (theirs / "result" / "val_00000004_0.txt").write_text(text)
    outcome = score(project, theirs)
    assert outcome.code == 5
    assert problem.format(folder=theirs / "result") in outcome.err
    assert not (theirs / "result.json").exists()


def test_text_that_is_not_finite(project, theirs):
    (theirs / "result" / "val_00000004_0.txt").write_text("1 2 3 4 5 6 7 nan")
    outcome = score(project, theirs)
    assert outcome.code == 8
    assert "val_00000004_0.txt" in outcome.err


def test_missing_and_extra_files_are_named(project, theirs):
    result = theirs / "result"
    (result / "val_00000004_0.txt").rename(result / "val_00000044_0.txt")
    (result / "sumary.json").touch()
    outcome = score(project, theirs)
    assert outcome.code == 5
    assert "1 missing (val_00000004_0.txt)" in outcome.err
    assert "2 extra (sumary.json, val_00000044_0.txt)" in outcome.err


def test_one_output_of_several_is_chosen(project, theirs):
    write_text_results(theirs / "result", scores_by_rank([0] * 10), output=1)
    outcome = score(project, theirs)
    assert outcome.code == 5
    assert "the one to score with --output" in outcome.err
    assert score(project, theirs, "--output", "0", "--json").json["metrics"]["val.top1"] == 0.3
    assert score(project, theirs, "--output", "1", "--json").json["metrics"]["val.top1"] == 1
    outcome = score(project, theirs, "--output", "2")
    assert "10 missing" in outcome.err
    assert "extra" not in outcome.err


def test_the_first_of_1001_classes_is_the_background(project, tmp_path):
    logits = np.zeros((2, 1001))
    logits[0, 8] = logits[1, 7] = 1
    write_text_results(tmp_path / "result", logits)
    write_labels(tmp_path / "val_label.txt", [7, 7])
    outcome = score(project, tmp_path)
    assert "top1 accuracy: 0.5" in outcome.out
    assert "1 was added to every label: 1001 logits" in outcome.out
    record = score(project, tmp_path, "--label-offset", "0", "--json").json
    assert record["label_offset"] == 0
    assert record["metrics"]["val.top1"] == 0.5
    write_labels(tmp_path / "val_label.txt", [1000, 7])
    outcome = score(project, tmp_path)
    assert outcome.code == 5
    assert "expected labels from 0 to 999 for 1,001 classes" in outcome.err
    assert "--label-offset 0" in outcome.err
    assert score(project, tmp_path, "--label-offset", "0").code == 0


def test_a_name_counts_up_to_its_first_dot(project, tmp_path):
    write_text_results(tmp_path / "result", scores_by_rank([0]))
    (tmp_path / "val_label.txt").write_text("val_00000000.resized.JPEG 3\n")
    assert score(project, tmp_path).code == 0
    (tmp_path / "val_label.txt").write_text("val_00000000.a.png 3\nval_00000000.b.png 3\n")
    outcome = score(project, tmp_path)
    assert outcome.code == 5
    assert "val_00000000.a.png and val_00000000.b.png" in outcome.err


@pytest.mark.parametrize("line", ["a.JPEG", "a.JPEG x", "a.JPEG -1", "3"])
def test_a_malformed_line_of_labels_is_named(project, theirs, line):
    (theirs / "val_label.txt").write_text(f"b.JPEG 1\n{line}\n")
    outcome = score(project, theirs)
    assert outcome.code == 5
    assert "val_label.txt:2:" in outcome.err


def test_a_missing_file_of_labels(project, theirs):
    (theirs / "val_label.txt").unlink()
    outcome = score(project, theirs)
    assert outcome.code == 5
    assert "name another file with --labels" in outcome.err
