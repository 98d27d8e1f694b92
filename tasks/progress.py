"""How far a run is, told to whoever wants to show it."""


class Progress:
    """Progress callbacks. The base class ignores them."""

    def begin(self, images: int) -> None:
        """There are so many more pictures to do."""

    def advance(self, images: int) -> None:
        """So many more are done."""

    def note(self, line: str) -> None:
        """A shard or tar is done."""


SILENT = Progress()
