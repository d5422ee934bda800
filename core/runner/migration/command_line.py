"""Command lines of other programs, for plugins that translate them: words, scripts, options.

Options are read as ``argparse`` does, which most programs use: ``--name value``, ``--name=value``,
``-n8``, and unique beginnings of a long name.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, final

from runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
PREFIXES = ("env", "export", "nohup")
"""Words that may stand before assignments and the command."""
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
SCRIPT = re.compile(r".*\.(py|sh)")
COMMON_OPTIONS = frozenset(
    {"--lr", "--epochs", "--data", "--batch_size", "--device", "--pretrained", "--seed", "--width"}
)
SHORT_NAME = len("--data")
SHELL = re.compile(r"\d*[<>|&;].*")
"""A word with which a redirection begins, or another command."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command line that starts a script."""

    environment: Mapping[str, str]
    """Variables that are set in front of it."""
    launcher: tuple[str, ...]
    """What stands before the script, such as ``python -u`` or ``mpirun -n 8 python``."""
    script: str
    """The script as it is named, with its folders."""
    arguments: tuple[str, ...]
    rest: tuple[str, ...] = ()
    """Redirections and what follows them."""

    @property
    def name(self) -> str:
        """The script without its folders."""
        return PurePosixPath(self.script).name


def split(words: Sequence[str]) -> CommandLine | None:
    """Take a command line apart; ``None`` if it starts no ``.py`` or ``.sh`` file.

    Args:
        words: As a shell splits them.
    """
    end = next((i for i, word in enumerate(words) if SHELL.fullmatch(word)), len(words))
    own, rest = list(words[:end]), tuple(words[end:])
    environment = {}
    while own and (own[0] in PREFIXES or ASSIGNMENT.match(own[0])):
        name, equals, value = own.pop(0).partition("=")
        if equals:
            environment[name] = value
    place = next((i for i, word in enumerate(own) if SCRIPT.fullmatch(word)), None)
    if place is None:
        return None
    return CommandLine(
        environment=environment,
        launcher=tuple(own[:place]),
        script=own[place],
        arguments=tuple(own[place + 1 :]),
        rest=rest,
    )


def split_text(text: str, environ: Mapping[str, str]) -> list[str]:
    """Split a command line, of one line or several, as a shell does, and fill its variables in.

    Args:
        text: The command line.
        environ: Variables that it does not set itself.

    Raises:
        UsageError: A quotation does not end, a variable has no value, or a command would have to
            be run for its output.
    """
    if "$(" in text or "`" in text:
        raise UsageError("the command line takes a command's output; write its value instead")
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise UsageError(f"the command line cannot be split into words: {error}") from error
    values = dict(environ)

    def fill_in(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise UsageError(
                f"the variable {name} has no value: put {name}=... in front of the command line"
            )
        return values[name]

    for word in takewhile(lambda word: word in PREFIXES or ASSIGNMENT.match(word), words):
        name, _, value = word.partition("=")
        values[name] = VARIABLE.sub(fill_in, value)
    return [VARIABLE.sub(fill_in, word) for word in words]


def environment_of(
    line: CommandLine, *, kept: Sequence[str], used: Sequence[str] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables in front of a command line that count here too, and notes on others.

    Args:
        line: The command line.
        kept: Those that have the same effect here.
        used: Those that the translation has made something else of.
    """
    own = {name: value for name, value in line.environment.items() if name in kept}
    others = [name for name in line.environment if name not in {*kept, *used}]
    return own, tuple(f"{name}: is not taken over" for name in others)


def starts(words: Sequence[str], names: Sequence[str] | Callable[[str], bool]) -> bool:
    """Say whether a command line starts one of some scripts, by name without folders."""
    line = split(words)
    if line is None:
        return False
    return names(line.name) if callable(names) else line.name in names


TORCH_LAUNCHERS = ("torchrun", "torch.distributed", "accelerate", "deepspeed", "horovodrun")


def has_options_of(line: CommandLine, options: Sequence[Option]) -> bool:
    """Say whether a command line has an option of a program, or the beginning of one.

    For scripts with names that many have, such as ``train.py``: the name alone is no evidence.
    Names of one letter, and those that every second program has, are none either.
    """
    own = {name for option in options for name in option.names} - COMMON_OPTIONS
    written = (word.partition("=")[0] for word in line.arguments if word.startswith("--"))
    return any(
        name in own or (len(name) > SHORT_NAME and any(whole.startswith(name) for whole in own))
        for name in written
    )


def is_started_by(line: CommandLine, launchers: Sequence[str]) -> bool:
    """Say whether one of some launchers starts the script."""
    return any(PurePosixPath(word).name.startswith(tuple(launchers)) for word in line.launcher)


def truth(text: str) -> bool:
    """Read ``True``, ``1``, ``False`` or ``0``.

    Raises:
        ValueError: It is something else.
    """
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of the other program."""

    names: tuple[str, ...]
    """As it is written, such as ``("-b", "--batch-size")``."""
    default: Any = None
    """What the other program takes when it is left out."""
    type: Callable[[str], Any] | None = str
    """What reads its value; ``None`` for one that has none and is then true."""
    choices: tuple[str, ...] = ()
    note: str = ""
    """What is to be said when it is given: that it has no effect there, or none here."""

    @property
    def key(self) -> str:
        """The longest name as an identifier."""
        return max(self.names, key=len).lstrip("-").replace("-", "_")


@final
@dataclass(frozen=True, slots=True)
class Given:
    """The options of one command line."""

    values: Mapping[str, Any]
    """A value for each option, by ``Option.key``; its default where it was left out."""
    written: frozenset[str]
    """Keys of the options that are on the command line."""
    notes: tuple[str, ...]
    """What is to be said about those."""
    unknown: tuple[str, ...] = field(default=())

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def assumed(self, *keys: str) -> tuple[str, ...]:
        """Say which of some options are left out, so that the program's own default holds."""
        left_out = [
            f"--{key} {self.values[key]}"
            for key in keys
            if key not in self.written and self.values[key] not in (None, "")
        ]
        return (f"the program's own {', '.join(left_out)}",) if left_out else ()


def parse(
    program: str,
    options: Sequence[Option],
    arguments: Sequence[str],
    *,
    abbreviations: bool = True,
    ignores_unknown: bool = False,
) -> Given:
    """Read the options of a program.

    Args:
        program: Its name, for messages.
        options: All that it understands.
        arguments: What follows its name.
        abbreviations: Whether it takes the beginning of a name for the name.
        ignores_unknown: Whether it goes on with options that it does not know, which are then in
            ``unknown``.

    Raises:
        UsageError: An option is unknown or has a wrong value.
    """
    parser = _Parser(program, options, abbreviations=abbreviations)
    found, unknown = parser.parse_known_args(list(arguments))
    if unknown and not ignores_unknown:
        parser.error(f"unknown: {shlex.join(unknown)}")
    values = vars(found)
    return Given(
        values={option.key: values.get(option.key, option.default) for option in options},
        written=frozenset(values),
        notes=tuple(
            f"{_longest(option)}: {option.note}"
            for option in options
            if option.note and option.key in values
        ),
        unknown=tuple(unknown),
    )


def _longest(option: Option) -> str:
    return max(option.names, key=len)


@final
class _Parser(argparse.ArgumentParser):
    def __init__(self, program: str, options: Sequence[Option], *, abbreviations: bool) -> None:
        super().__init__(
            prog=program,
            add_help=False,
            allow_abbrev=abbreviations,
            argument_default=argparse.SUPPRESS,
        )
        self._names = sorted(_longest(option) for option in options)
        for option in options:
            if option.type is None:
                self.add_argument(*option.names, dest=option.key, action="store_true")
            else:
                self.add_argument(
                    *option.names,
                    dest=option.key,
                    type=option.type,
                    choices=option.choices or None,
                )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and what is understood."""
        understood = ", ".join(self._names) or "no options"
        raise UsageError(f"{self.prog}: {message}; understood: {understood}")
