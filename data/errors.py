"""The one exception for a user's mistake, and what its sentences call a component."""


class UserError(ValueError):
    """Something the user can put right; the message is one clear sentence that says what to do.

    Scripts print the message without a traceback and exit with code 2.
    """


def called(made: object) -> str:
    """What messages call a component: its `name`, or that of its class."""
    return str(getattr(made, "name", type(made).__name__))
