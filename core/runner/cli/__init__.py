"""The command line: parses arguments and prints; ``runner.api`` does the work.

Only typer is imported at start-up; what a command needs is imported inside it, so that
``runner --help`` and ``runner list-plugins`` answer at once.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner import __version__
from runner.cli.stdout import Diverted
from runner.distributed import signals
from runner.distributed.reporting import reporter
from runner.errors import MissingDeviceError, RecipeError, RunnerError, UsageError
from runner.storage import paths
from runner.system import limits
from runner.terminal import display, streams

if TYPE_CHECKING:
    from collections.abc import Sequence

ClickError: Any = typer.BadParameter.__mro__[2]
"""What is wrong with arguments; click's own class, of which some versions of typer have a copy."""

ADVICE = {
    errno.ENAMETOOLONG: f"expected a name of at most {paths.LONGEST} bytes",
    errno.ELOOP: "expected a link that leads somewhere",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
}
"""How to go on where the system refuses a path, whichever command has named it."""

COMMANDS = {
    "run": "run.run",
    "train": "run.train",
    "resume": "run.resume",
    "eval": "models.evaluate",
    "predict": "models.predict",
    "export": "models.export",
    "verify": "models.verify",
    "relabel": "models.relabel",
    "bench": "models.bench",
    "explain": "inspect.explain",
    "launch": "launch.launch",
    "list-plugins": "inspect.list_plugins",
    "list": "inspect.list_",
    "doctor": "inspect.doctor",
    "import-args": "inspect.import_args",
    "schema": "inspect.schema",
    "offline": "offline.app",
    "launched": "run.launched",
}
"""Module and name of each command, in the order in which they are listed."""


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the command line; where arguments begin with a command, that command alone.

    Typer reads the signatures of all commands that it knows before it carries one out.
    """
    app = typer.Typer(
        help="Run image-classification recipes on any framework and any accelerator.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for name in arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS:
        module, _, member = COMMANDS[name].partition(".")
        command = getattr(importlib.import_module(f"runner.cli.{module}"), member)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, cls=Diverted, hidden=name == "launched")(command)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vision-runner {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; expected errors end it with one message and their exit code."""
    streams.use_utf8()
    streams.take()
    if streams.are_taken():
        faulthandler.enable(file=2)  # of a library that crashes nothing else would tell
    reporter.of_process().started()
    signals.hear_in_background()
    signals.end_as_first_process()
    try:
        code = application(sys.argv[1:])(standalone_mode=False)
    except KeyboardInterrupt:
        streams.say("interrupted")
        raise SystemExit(130) from None
    except ClickError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # whose message is the help
            error.message = display.shortened(display.line(error.message))
        error.show(sys.stderr)
        raise SystemExit(error.exit_code) from None
    except RunnerError as error:
        _explain(error)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        refused = _of_a_path(error)
        if refused:
            _explain(refused)
            raise SystemExit(refused.exit_code) from None
        if not streams.are_taken():
            raise
        if limits.hint(error):
            explained = RunnerError(f"{type(error).__name__}: {error}")
            explained.__cause__ = error
            _explain(explained)
            raise SystemExit(explained.exit_code) from None
        streams.say(display.block(traceback.format_exc().rstrip()))
        raise SystemExit(1) from None
    raise SystemExit(code or 0)


def _of_a_path(error: Exception) -> UsageError | None:
    """Turn what the system says of a path that cannot be opened into an error of the user's."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    advice = ADVICE.get(error.errno or 0)
    return UsageError(f"{error.filename}: {error.strerror}; {advice}") if advice else None


def _explain(error: RunnerError) -> None:
    if error.said:
        return
    prefix = "error: "
    if error.rank is not None:
        # the parent says which error it was that ends the run
        word = "leaves" if reporter.of_process().watched else "error"
        prefix = f"rank {error.rank}: {word}: "
    texts = error.problems if isinstance(error, RecipeError) else [str(error) + _hint(error)]
    streams.say(display.messages(texts, prefix))


def _hint(error: RunnerError) -> str:
    limit = limits.hint(error)
    if limit or not isinstance(error, MissingDeviceError) or not error.host_device:
        return limit
    from runner.cli.hints import on_host

    return f"; to try it here: {on_host(sys.argv[1:], error.host_device)}"
