"""How far a run is, told to whoever wants to show it."""


class Progress:
    """Hears how many pictures a run has and how many are done; this one tells nobody."""

    def begin(self, images: int) -> None:
        """There are so many more pictures to do."""

    def advance(self, images: int) -> None:
        """So many more are done."""


SILENT = Progress()
