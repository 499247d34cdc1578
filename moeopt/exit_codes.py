"""How a command line ends: exit codes, and one line per error."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer


def exit_code(app: typer.Typer, arguments: Sequence[str], program: str, command: Sequence[str]) -> int:
    """Run a command line and return its exit code.

    0; 1 if a claim was found to be wrong (by ``--verify``, or because two methods contradict each
    other); 2 for unusable arguments or input; 130 after Ctrl-C. Errors are one line on stderr, and name
    options where the library names arguments.

    Parameters
    ----------
    program
        What help texts call it.
    command
        What the user typed, for a report's last section.
    """
    try:
        return app(list(arguments), standalone_mode=False, prog_name=program, obj=tuple(command)) or 0
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        code, message = _told(error, app)
        if not code:
            raise
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return code


def _told(error: Exception, app: typer.Typer) -> tuple[int, str]:
    """Return the exit code and what to tell the user; code 0 for mistakes that are ours."""
    if hasattr(error, "format_message"):  # an error of the command line
        return 2, error.format_message()
    from moeopt.errors import ContradictionError, InputError, VerificationError

    if isinstance(error, VerificationError | ContradictionError):
        return 1, str(error)
    return (2, with_options(str(error), _arguments(app))) if isinstance(error, InputError) else (0, "")


def with_options(message: str, arguments: set[str]) -> str:
    """Turn the arguments that a message begins with, ``nodes`` or ``time_limit``, into ``--nodes`` or ``--time-limit``.

    Examples
    --------
    >>> with_options("nodes and groups belong together", {"nodes", "groups"})
    '--nodes and --groups belong together'
    >>> with_options("time_limit must be > 0", {"time_limit"})
    '--time-limit must be > 0'
    """
    found = re.match(r"(\w+)(?: and (\w+))?(?=[ =:])", message)
    if found is None or found[1] not in arguments:
        return message
    named = [name for name in found.groups() if name]
    return " and ".join(f"--{name.replace('_', '-')}" for name in named) + message[found.end() :]


def _arguments(app: typer.Typer) -> set[str]:
    """Return the names of all arguments of a command line's functions."""
    callbacks: list[Any] = [command.callback for command in app.registered_commands]
    return {name for callback in callbacks for name in callback.__annotations__}
