"""Progress callbacks of a run."""


class Progress:
    """Progress callbacks. The base class ignores them."""

    def begin(self, images: int) -> None:
        """Adds pictures to the total."""

    def advance(self, images: int) -> None:
        """Adds pictures to the number done."""

    def note(self, line: str) -> None:
        """Reports a finished shard or tar."""


SILENT = Progress()
