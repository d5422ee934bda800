"""Text that others wrote, on a terminal, in a spreadsheet and in a shell."""

from __future__ import annotations

import math
import subprocess
import unicodedata

import pytest

from runner.terminal import display

HOSTILE = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff",
    "\U000e0041",
    "\udcff",
]


@pytest.mark.parametrize("letter", HOSTILE, ids=ascii)
def test_what_could_steer_a_terminal_is_written_as_an_escape(letter: str) -> None:
    shown = display.line(f"a{letter}b")
    assert shown[0] == "a"
    assert shown[-1] == "b"
    assert shown[1] == "\\"
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["été", "猫", "плёнка", "a\u0301", "👩\u200d🔬", "100 %", "C:\\x"])
def test_what_people_write_stays(text: str) -> None:
    assert display.line(text) == text


def test_no_control_or_format_character_that_reorders_is_forgotten() -> None:
    """Unicode's own classes are the judge; joiners and soft hyphens belong to words."""
    words = {0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064}
    raw = [
        code
        for code in range(0x3000)
        if unicodedata.category(chr(code)) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(chr(code))
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    ]
    assert all(display.has_control(chr(code)) for code in raw if code not in words)


def test_a_line_break_cannot_begin_a_line_that_looks_like_ours() -> None:
    shown = display.message("no file a\nerror: the disk is on fire\r\nwarning: b\rc", "error: ")
    assert shown.split("\n") == [
        "error: no file a",
        "  | error: the disk is on fire",
        "  | warning: b",
        "  | c",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000,
        "\n".join("y" * 300 for _ in range(1000)),
        "\n" * 50 + "z",
        ", ".join(["conv.weight"] * 1000),
        "\n".join(["q" * 90] * 18),
    ],
    ids=["a long name", "many lines", "empty lines", "a list", "lines"],
)
def test_a_message_is_at_most_a_screen(text: str) -> None:
    shown = display.message(text, "error: ").split("\n")
    assert sum(math.ceil(max(len(row), 1) / 80) for row in shown) <= 24


def test_a_shortened_message_keeps_both_ends_and_says_how_to_see_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "what was found" + "x" * 5000 + "how to fix it"
    shown = display.message(text)
    assert shown.startswith("what was found")
    assert "how to fix it\n" in shown
    assert f"{display.FULL}=1" in shown
    monkeypatch.setenv(display.FULL, "1")
    assert display.message(text) == text


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "  =1", "\uff1d1"])
def test_a_formula_becomes_text(text: str) -> None:
    assert display.csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["a=1", "cat", "", 3, -0.5, None])
def test_other_cells_stay(value: object) -> None:
    assert display.csv_cell(value) == value


def test_bash_reads_a_quoted_command_as_it_was() -> None:
    words = ["a b", "it's", "$(touch x)", "l\nb", "\x1b[31m'\\", "\u202etxt", "", "b\udcff", "猫"]
    shown = display.command(words)
    assert shown.isprintable()
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {shown}"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    found = printed.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    assert found == words


def test_an_event_is_shown_on_one_line_whatever_is_in_it() -> None:
    shown = display.fields({"a": ["x\ny", {"b\x1b": "c"}], "n": 3, "t": (1.5, None)})
    assert shown == {"a": ["x\\ny", {"b\\x1b": "c"}], "n": 3, "t": [1.5, None]}


def test_what_is_counted_is_one_or_several() -> None:
    words = ("image", "epoch", "batch", "class", "process")
    assert [display.counted(1, noun) for noun in words] == [f"1 {noun}" for noun in words]
    several = ["1,200 images", "1,200 epochs", "1,200 batches", "1,200 classes", "1,200 processes"]
    assert [display.counted(1200, noun) for noun in words] == several
