"""The current folder is not where this program's modules are.

Whoever stands among data and scripts of their own may have a ``random.py`` there. Python would
import it in place of its own module: ``python -m`` puts the current folder first, and so does an
empty part of ``PYTHONPATH``, which ``PYTHONPATH=$PYTHONPATH:/opt/x`` and vendors' ``set_env.sh``
make where nothing was set before. A folder that ``PYTHONPATH`` names, the current one included
(``PYTHONPATH=.``), stays.

``runner`` imports this first, so it imports nothing that is not there already.
"""

import os  # imported by the interpreter itself
import sys

FLAGS = set("bBdEhiIOPqsSuvx")
"""Options of the interpreter that may stand before ``m`` in one word, as in ``-um``."""


def without_empty(python_path: str) -> str:
    """Return the value of ``PYTHONPATH`` without the parts that stand for the current folder."""
    return os.pathsep.join(filter(None, python_path.split(os.pathsep)))


def leave_current_folder() -> None:
    """Take the current folder out of ``sys.path`` where this process is the command line.

    A program that imports ``runner`` decides for itself.
    """
    as_module = _runs_as_module()
    if as_module and _first_is_current_folder():
        del sys.path[0]
    name = sys.argv[0].rpartition("/")[2] if sys.argv else ""
    if as_module or name == "runner":
        _leave_empty_parts(os.environ.get("PYTHONPATH", ""))


def _runs_as_module() -> bool:
    """Return whether this is ``python -m runner``, about to run a module of the package."""
    if sys.argv[:1] != ["-m"]:
        return False
    words = sys.orig_argv[1:]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flags, m, name = word[1:].partition("m")
        if word.startswith("-") and m and FLAGS.issuperset(flags):
            return (name or following).partition(".")[0] == "runner"
    return False


def _first_is_current_folder() -> bool:
    return not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _leave_empty_parts(python_path: str) -> None:
    if python_path == without_empty(python_path) or sys.flags.ignore_environment:
        return
    here = os.getcwd()  # noqa: PTH109  pathlib is not imported yet
    if here not in map(os.path.abspath, without_empty(python_path).split(os.pathsep)):
        sys.path[:] = [entry for entry in sys.path if entry != here]


leave_current_folder()
