"""YAML as its specification has it. Names in brackets are cases of the YAML test suite."""

from __future__ import annotations

import pytest

from runner.errors import Problem, RecipeError
from runner.recipe.source import parse


def read(text: str) -> object:
    problems: list[Problem] = []
    node = parse(text, "f.yaml", problems)
    assert not problems
    return node.data() if node else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\t1\nb:\t x\t\n", {"a": 1, "b": "x"}),  # J3BT, DC7X
        ("a: 1\t# comment\n\t\nb: 2\n", {"a": 1, "b": 2}),
        ("a: [1,\t2,\n  \t3]\n", {"a": [1, 2, 3]}),
        ("a: one\ttwo\n", {"a": "one\ttwo"}),
        ("a: one\n  \ttwo\n", {"a": "one two"}),
        ("a: one\n \t\n  two\n", {"a": "one\ntwo"}),  # NB6Z
        ("-\t-1\n", [-1]),  # Y79Y
        ("\t[\n\t]\n", []),  # 6CA3
        ("---\t1\n", 1),  # K54U
        ('a: "one\n  \ttwo"\n', {"a": "one two"}),
        ("a: [\n  1,\n]\n", {"a": [1]}),  # closed where the key begins, as many write it
        ("a: ! 12\n", {"a": "12"}),  # S4JQ
        ("a: &b 1\nc: *b\n", {"a": 1, "c": 1}),
        ("a: [-1, -x]\n", {"a": [-1, "-x"]}),
        ("a: x#y\n", {"a": "x#y"}),
        ("a: |\n\n  x\n", {"a": "\nx\n"}),
        ("a: |\n \t\nb: 1\n", {"a": "\t\n", "b": 1}),  # Y79Y
        ("a: |\n  x\n   \n", {"a": "x\n \n"}),  # L24T
        ("a: |\n  x\n   ", {"a": "x\n \n"}),
        ("a: >-\n  x", {"a": "x"}),
        ("--- |1-", ""),  # 2G84
        ("--- |1+", ""),
    ],
)
def test_what_yaml_allows_is_read(text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a:\n\tb: 1\n", "2:1", "a tab cannot indent YAML"),
        ("\ta: 1\n", "1:1", "a tab cannot indent YAML"),
        ("a: [1, 2]#x\n", "1:10", "a comment needs a space before its '#'"),  # 9JBA
        ("a: [1,#x\n  2]\n", "1:7", "a comment needs a space"),  # CVW2
        ("a: 'x'#y\n", "1:7", "a comment needs a space"),  # SU5Z
        ("a: [1,\n2]\n", "2:1", "continues a value that began further up; indent it"),  # 9C9N
        ('a: "x\ny"\n', "2:1", "continues a value that began further up"),  # QB6E
        ('a: "x\n\ty"\n', "2:1", "continues a value that began further up"),  # DK95
        ("a: [\n\tx]\n", "2:1", "continues a value that began further up"),  # Y79Y
        ("a: |\n\t\nb: 1\n", "2:1", "a tab cannot indent YAML"),
        ("a: |\n  x\n \t# y\n", "3:2", "a tab cannot indent YAML"),
        ("--- |0\n", "1:6", "1 to 9"),  # 2G84
        ("--- |10\n", "1:7", "1 to 9"),
        ("a: [-]\n", "1:5", "text cannot begin with this character"),  # YJV2
        ("a: [-, -]\n", "1:5", "text cannot begin with this character"),  # G5U8
        ("a: >\n   \n # x\n", "3:2", "this text is indented less than the empty line"),  # S98Z
        ("a: [?x]\n", "1:5", "text cannot begin with this character"),  # HM87
        ("a: &b:c 1\n", "1:6", "the name of an anchor has letters, digits"),  # Y2GN
        ("-\ta: 1\n", "1:4", "unexpected ':'"),
    ],
)
def test_what_yaml_forbids_is_refused_at_its_place(text, place, message):
    with pytest.raises(RecipeError) as found:
        read(text)
    assert str(found.value).startswith(f"f.yaml:{place}: ")
    assert message in str(found.value)
