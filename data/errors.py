"""The one exception for a user's mistake."""


class UserError(ValueError):
    """Something the user can put right; the message is one clear sentence that says what to do.

    Scripts print the message without a traceback and exit with code 2.
    """
