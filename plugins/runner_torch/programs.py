"""Exported programs, read as data: what in a ``.pt2`` file torch would execute when it loads it.

The archive holds a graph as JSON and tensors as bytes. Some of what torch takes from it is code in
all but name: pickles, names of functions that are looked up and called, expressions and guards that
Python evaluates, modules that are imported for the structure of the inputs, compiled libraries.
``executes`` accepts what ``torch.export.save`` writes for an image classifier, and no more.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner import ArtifactInfo

OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|getitem)")
OPENS_FILES = "torch.ops.aten.from_file."
EXPRESSION = re.compile(
    r"(?:\b(?:Symbol|Integer|Add|Mul|FloorDiv|Mod|PythonMod|Max|Min|positive|nonnegative|integer|True)"
    r"\b|'[a-z]{1,2}\d{1,9}'|\b[a-z]{1,2}\d{1,9}\b|\b\d{1,12}\b|(?<!\*)\*(?!\*)|[-+(),= ])+"
)
"""What SymPy is asked to evaluate: arithmetic with symbols such as ``s77`` and integers."""
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|extra/.*"
    r"|data/weights/(weight_\d+|\w+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|\w+_constants_config\.json)"
)
LARGEST_JSON = 1 << 28


def executes(folder: Path, info: ArtifactInfo) -> str:
    """Return what torch would execute of a ``.pt2`` file, or an empty text.

    The file need not be whole: what cannot be read is left to torch to explain, if nothing in it
    is executed before.
    """
    try:
        with zipfile.ZipFile(folder / info.file) as archive:
            return next(_found(archive), "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"what nobody can tell, as it is not laid out as torch.export.save does: {error}"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return "what nobody can tell, as it is no whole archive"


def _found(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield what is executed, one thing after the other."""
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if name.startswith("models/") and name.endswith(".json"):
            yield from _in_program(_json(archive, member))
        elif name.startswith("data/sample_inputs/"):
            yield from _in_pickle(name, archive.read(member))
        elif not PLAIN.fullmatch(name):
            yield f"{member.filename!r}, which is more than graph and tensors"
        elif name.endswith("_config.json"):
            yield from _in_payload(_json(archive, member)["config"])


def _json(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, Any]:
    if member.file_size > LARGEST_JSON:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes")
    found: dict[str, Any] = json.loads(archive.read(member))
    return found


def _in_pickle(name: str, data: bytes) -> Iterator[str]:
    """Try what torch tries first as well, before it falls back to a pickle that may do anything."""
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # noqa: BLE001  whatever a stranger's pickle leads to
        yield f"the pickle {name} ({type(error).__name__})"


def _in_payload(config: dict[str, Any]) -> Iterator[str]:
    for name, item in config.items():
        if item["use_pickle"] is not False or not re.match("(weight|tensor)_", item["path_name"]):
            yield f"the pickle of {name!r}"


def _in_program(program: dict[str, Any]) -> Iterator[str]:
    if program.get("guards_code"):
        yield "guards, which are Python code"
    for name in program.get("range_constraints") or {}:
        yield from _in_expression(name)
    module = program["graph_module"]
    if module.get("treespec_namedtuple_fields"):
        yield "classes of named tuples"
    for call in module["module_call_graph"]:
        for key in ("in_spec", "out_spec"):
            yield from _in_structure((call["signature"] or {}).get(key))
    yield from _in_value(program)


def _in_value(value: Any) -> Iterator[str]:
    """Walk through all that a program holds, graphs in graphs included."""
    for key, item in _items(value):
        if key == "nodes":
            for node in item:
                yield from _in_target(node["target"])
        elif key == "expr_str":
            yield from _in_expression(item)
        elif key == "custom_obj_values" and item:
            yield "objects of other classes"
        yield from _in_value(item)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from (("", item) for item in value if isinstance(item, dict | list))


def _in_target(target: str) -> Iterator[str]:
    if not OPERATOR.fullmatch(target) or target.startswith(OPENS_FILES):
        yield f"the function {target!r}"


def _in_expression(text: str) -> Iterator[str]:
    if not EXPRESSION.fullmatch(text):
        yield f"the expression {text!r}"


def _in_structure(text: str | None) -> Iterator[str]:
    """Look at how the inputs are nested, as ``torch.utils._pytree`` writes it."""
    if text:
        _, structure = json.loads(text)
        yield from _in_container(structure)


def _in_container(structure: dict[str, Any]) -> Iterator[str]:
    context = json.loads(structure["context"]) if structure["context"] else None
    plain = isinstance(context, list) and all(isinstance(item, str) for item in context)
    if structure["type"] not in CONTAINERS or not (context is None or plain):
        yield f"the container {structure['type']!r} of its inputs"
    for child in structure["children_spec"]:
        yield from _in_container(child)
