"""A defense of a game that is not ours: nothing that the request game could use."""


class Verification:
    """Names its game, as every defense does."""

    game = "verification"

    def review(self, context, requests): ...
