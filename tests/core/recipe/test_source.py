from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import Problem, RecipeError
from runner.recipe.source import parse, read

if TYPE_CHECKING:
    from collections.abc import Iterator


def parsed(text: str) -> Any:
    problems: list[Problem] = []
    node = parse(text, "f", problems)
    assert not problems
    return node.data() if node else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5.0e-4", 0.0005),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("+3", 3),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("3:25", "3:25"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("2001-01-01", "2001-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 3", 3.0),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parsed(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parsed("a: .nan")["a"])


def test_anchors_and_aliases() -> None:
    assert parsed("a: &x {b: [1]}\nc: *x") == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_every_value_knows_its_place() -> None:
    node = parse("a:\n  b: [1, {c: 2}]\n", "f", [])
    assert node is not None
    place = node.find(["a", "b", 1, "c"])
    assert place is not None
    assert (str(place.origin), str(place.key)) == ("f:2:14", "f:2:11")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "a: 1\nb: 2\na: 3",
            ["f:3:1: the key 'a' is given twice, first at line 1; remove one"],
        ),
        (
            "3: 1\ntrue: 2",
            [
                "f:1:1: expected a word as key, got 3; quote it if it is a name",
                "f:2:1: expected a word as key, got true; quote it if it is a name",
            ],
        ),
        ("? [a]\n: 1", ["f:1:3: a list or mapping cannot be a key"]),
        (
            "a: !!python/object/apply:os.system [ls]",
            [
                "f:1:4: the tag !!python/object/apply:os.system is not allowed in a recipe; "
                "remove it"
            ],
        ),
        ("a: !mine x", ["f:1:4: the tag !mine is not allowed in a recipe; remove it"]),
        ("a: !!int x", ["f:1:4: 'x' is not what its tag !!int says"]),
        (
            "a: &x {b: 1}\nc:\n  <<: *x",
            ["f:3:3: merge keys (<<) are not part of YAML 1.2; write the keys out, or use extends"],
        ),
    ],
)
def test_what_yaml_allows_and_recipes_do_not(text: str, messages: list[str]) -> None:
    problems: list[Problem] = []
    parse(text, "f", problems)
    assert [str(problem) for problem in problems] == messages


COLON = (
    "unexpected ':'; check the indentation of this line and the one above, or quote text that "
    "holds ': '"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", "f:2:1: a tab cannot indent YAML; use spaces"),
        ("a: b: c", f"f:1:5: {COLON}"),
        ("a: 1\n  b: 2", f"f:2:4: {COLON}"),
        ("a: 1\nb\nc: 2", "f:2:1: expected `key: value`; this line has no ':'"),
        ("a: 'x\nb: 2", "f:1:4: this quote is never closed"),
        ("a: [1, 2\nb: 3", "f:1:4: this '[' is not closed by ']', or a ',' is missing in it"),
        (
            "a: {b: 1 c}}",
            "f:1:12: this line does not fit the lines above it; check its "
            "indentation, and that it is `key: value`",
        ),
        (
            "a: {b: ${X}}",
            "f:1:4: this '{' is not closed by '}', or a ',' is missing in it; inside { } and "
            '[ ], quote variables: "${NAME}"',
        ),
        (
            "a:\n   b: 1\n  c: 2",
            "f:3:3: this line does not fit the lines above it; check its indentation, and that "
            "it is `key: value`",
        ),
        (
            "- a\nb: 1",
            "f:2:1: this line does not fit the list above it; check its indentation, and that "
            "it begins with '- '",
        ),
        ("a: *x", "f:1:4: unknown alias *x; no anchor &x stands before it (quote a plain '*')"),
        ("a: &x 1\nb: &x 2", "f:2:4: this anchor (&) is given twice"),
        ("a: &x [*x]", "f:1:4: this anchor contains itself"),
        (
            "a: 1\n---\nb: 2",
            "f:2:1: a second document begins here (---); a recipe is one document",
        ),
        ('a: "\\q"', "f:1:6: unknown escape; use '...' quotes for a '\\'"),
        ("a: `x`", "f:1:4: text cannot begin with this character; quote it"),
        ("a: ]", "f:1:4: expected a value here"),
        ("a: 1\nb: \x01", "f:2:4: the character '\\x01' is not allowed in YAML"),
    ],
)
def test_syntax_errors_are_plain(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(text, "f", [])
    assert str(error.value) == message


def test_nested_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match=r"more than 30,000 values"):
        parse("\n".join(lines), "f", [])


@pytest.fixture
def usual_stack() -> Iterator[None]:
    """Python's own limit; mypy and MindSpore raise it for the whole process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_stack")
def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"f:1:54: is nested too deeply"):
        parse("a: " + "[" * 60 + "]" * 60, "f", [])
    with pytest.raises(RecipeError, match=r"f: is nested too deeply"):
        parse("a: " + "[" * 2000, "f", [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "r.yaml: is empty; a recipe is a mapping of sections: summary, framework, device, ...",
        ),
        (
            b"# nothing\n",
            "r.yaml: is empty; a recipe is a mapping of sections: summary, framework, device, ...",
        ),
        (b"\n- a\n", "r.yaml:2:1: expected sections such as `framework: torch`, got a list"),
        (b"hello", "r.yaml:1:1: expected sections such as `framework: torch`, got 'hello'"),
        (b"a: \xff\xfe", "r.yaml: is not UTF-8 text (byte 3); save it as UTF-8"),
    ],
)
def test_files_that_are_no_recipe(folder: Path, content: bytes, message: str) -> None:
    Path("r.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as error:
        read(Path("r.yaml"), [])
    assert str(error.value) == message


def test_missing_file_and_folder(folder: Path) -> None:
    with pytest.raises(RecipeError) as error:
        read(Path("no.yaml"), [])
    assert str(error.value) == "no.yaml: there is no such file; see: runner list recipes"
    Path("d").mkdir()
    with pytest.raises(RecipeError) as error:
        read(Path("d"), [])
    assert str(error.value) == "d: is a folder; expected a recipe, which is one YAML file"


def test_byte_order_mark_and_windows_lines(folder: Path) -> None:
    Path("r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read(Path("r.yaml"), []).data() == {"a": 1, "b": "x"}
