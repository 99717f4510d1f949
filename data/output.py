"""What is said goes to whatever output there is: any encoding, a closed one, a reader who has left, a full disk."""

import codecs
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIGNS = {"±": "+-", "×": "x", "…": "...", "≤": "<=", "≥": ">=", "✓": "yes", "✕": "no", "→": "->"}
SIGNS |= dict.fromkeys("–—─━·−", "-")
RULE = "readable"  # the name of the rule for characters that an encoding lacks


def ready() -> None:
    """Make standard output and error take every text: what their encoding lacks is written in plainer characters.

    Outputs that were closed before the start become ones that take and forget everything. What is logged to an output
    that takes no more is dropped without a word.
    """
    codecs.register_error(RULE, _plainer)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # the first file to be opened would get its number, and what is said with it
            _occupy(descriptor)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        with suppress(AttributeError, ValueError):  # a stream of somebody else's, in a notebook or a test
            getattr(sys, name).reconfigure(errors=RULE)
    logging.raiseExceptions = False


def forget_output() -> None:
    """Whatever standard output still holds goes nowhere: its reader has left, or its disk is full."""
    with suppress(OSError, ValueError, AttributeError):
        _occupy(sys.stdout.fileno())


@contextmanager
def lasting() -> Iterator[list[OSError]]:
    """What is printed inside may fail for the sake of the output; the list then holds why, and all goes on."""
    failures: list[OSError] = []
    try:
        yield failures
        sys.stdout.flush()
    except (OSError, SystemExit) as error:  # the latter is how rich ends where a reader has left
        failures.append(error if isinstance(error, OSError) else BrokenPipeError())
        forget_output()


def _occupy(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_sign, error.object[error.start : error.end])), error.end


def _sign(sign: str) -> str:
    if sign in SIGNS:
        return SIGNS[sign]
    if 0xD800 <= ord(sign) < 0xE000:  # a byte of a file's name that is no text
        return f"\\x{ord(sign) & 0xFF:02x}"
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
