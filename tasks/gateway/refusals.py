"""Requests that are not served: the status and one line that says why."""


class Refusal(Exception):
    """A response without a picture. `why` is one line without locations; `retry_after` is in seconds."""

    def __init__(self, status: int, why: str, retry_after: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_after = retry_after
