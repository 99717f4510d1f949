"""What the scripts share: mistakes as one sentence, exit codes, and output that any terminal and any pipe can take."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data import output
from data.errors import UserError
from data.paths import is_folder

MISTAKE, INTERRUPTED, READER_LEFT = 2, 130, 1  # exit codes, beside 0


class Parser(argparse.ArgumentParser):
    """A parser of command lines that raises UserError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as a sentence."""
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            typed = unknown[1]
            if not typed.startswith("-"):
                raise UserError(f"There is no place for {typed!r}; `{self.prog} --help` explains.")
            near = difflib.get_close_matches(typed.partition("=")[0], self._options(), n=1)
            guess = f"did you mean {near[0]}?" if near else f"`{self.prog} --help` lists them."
            raise UserError(f"There is no option {typed!r}; {guess}")
        text = re.sub(r"^argument ([^:]+): ", lambda found: f"{found[1].partition('/')[0]}: ", message)
        text = re.sub(r"^the following arguments are required: ", "What is missing is ", text)
        text = re.sub(r": expected .*$", " needs a value", text)
        raise UserError(f"{text.rstrip('.')}; `{self.prog} --help` explains.")

    def _options(self) -> list[str]:
        """The options of this parser and of its verbs."""
        found = [option for option in self._option_string_actions if len(option) > 2]
        for verbs in (action.choices for action in self._actions if isinstance(action.choices, dict)):
            found += [option for verb in verbs.values() for option in verb._options()]
        return found


def whole_number(text: str) -> int:
    """A whole number from 0 on, for a parser."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def place(text: str) -> Path:
    """A file or a folder, for a parser: an empty one would be the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is no file and no folder; leave the option out, or name one")
    return Path(text)


def folder(text: str) -> Path:
    """A folder that is there, for a parser."""
    if not is_folder(place(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def ended(work: Callable[[], None]) -> int:
    """Do the work of a script; returns 0, 2 after a mistake, 130 after Ctrl-C, 1 where nobody reads on (`| head`)."""
    output.ready()
    try:
        work()
        sys.stdout.flush()
    except UserError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        output.forget_output()
        return READER_LEFT
    except OSError as error:
        if error.filename is not None:
            raise
        output.forget_output()
        print(f"Error: What is said cannot be written ({error.strerror}).", file=sys.stderr)
        return MISTAKE
    return 0


def printable(text: str) -> str:
    """Text from a file as one line that can be shown: a terminal obeys control characters."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
