"""YAML syntax errors in plain words."""

from __future__ import annotations

import yaml

from runner.recipe import scanner

_TAB = "a tab cannot indent YAML; use spaces"
_COLON = (
    "unexpected ':'; check the indentation of this line and the one above, or quote text that "
    "holds ': '"
)

# Parts of PyYAML's messages (problem, context) -> what to tell, and whether the place where the
# construct began says more than the place where the parser gave up.
_PLAIN: tuple[tuple[str, str, str, bool], ...] = (
    (scanner.TAB, "", _TAB, False),
    (scanner.COMMENT, "", "a comment needs a space before its '#'", False),
    (
        scanner.CONTINUES,
        "",
        "this line continues a value that began further up; indent it more than the key there",
        False,
    ),
    (
        scanner.SPACES,
        "",
        "this text is indented less than the empty line above it; remove that line's spaces",
        False,
    ),
    (scanner.ANCHOR, "", "the name of an anchor has letters, digits, - and _ only", False),
    (
        "",
        "block scalar",
        "a block of text begins on the next line; after '|' or '>' stand at most a '-' or '+' and "
        "a number from 1 to 9",
        False,
    ),
    ("that cannot start any token", "", "text cannot begin with this character; quote it", False),
    ("expected the node content", "", "expected a value here", False),
    ("mapping values are not allowed", "", _COLON, False),
    ("could not find expected ':'", "", "expected `key: value`; this line has no ':'", True),
    ("found unexpected end of stream", "quoted scalar", "this quote is never closed", True),
    ("", "flow sequence", "this '[' is not closed by ']', or a ',' is missing in it", True),
    ("", "flow mapping", "this '{' is not closed by '}', or a ',' is missing in it", True),
    (
        "expected <block end>",
        "block mapping",
        "this line does not fit the lines above it; check its indentation, and that it is "
        "`key: value`",
        False,
    ),
    (
        "expected <block end>",
        "block collection",
        "this line does not fit the list above it; check its indentation, and that it begins "
        "with '- '",
        False,
    ),
    (
        "but found another document",
        "",
        "a second document begins here (---); a recipe is one document",
        False,
    ),
    ("found unknown escape character", "", "unknown escape; use '...' quotes for a '\\'", False),
    ("", "found duplicate anchor", "this anchor (&) is given twice", False),
)


def explain_syntax(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    """Return line, column (both from 1) and a message for an error of the parser."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        code = text[error.position : error.position + 1]
        return before.count("\n") + 1, column, f"the character {code!r} is not allowed in YAML"
    if not isinstance(error, yaml.MarkedYAMLError):
        return 0, 0, f"is not YAML: {error}"
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    message = f"is not YAML: {problem}{' ' + context if context else ''}"
    if "found undefined alias" in problem:
        name = problem.rpartition(" ")[2].strip("'\"")
        message = f"unknown alias *{name}; no anchor &{name} stands before it (quote a plain '*')"
    for part, part_of_context, plain, at_start in _PLAIN:
        if part in problem and part_of_context in context:
            message = plain
            if at_start:
                mark = error.context_mark or mark
            break
    if mark is None:
        return 0, 0, message
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "${" in line and ("{" in line.replace("${", "") or "[" in line):
        message += '; inside { } and [ ], quote variables: "${NAME}"'
    return mark.line + 1, mark.column + 1, message
