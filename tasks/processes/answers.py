"""What a child process answers where something goes wrong with one picture: its failure is its row."""

from collections.abc import Callable
from typing import Any

from codec.errors import FdcError, ImageError, QualityError
from tasks.processes.child import Frame


def answered(work: Callable[[], Frame]) -> Frame:
    """What the work answers; its failure, whatever it is, is an answer too."""
    try:
        return work()
    except ImageError as error:
        return {"fallback": "damaged", "error": _line(error)}, b""
    except Exception as error:  # one picture's failure, whatever it is, is one row
        return {"fallback": "encoder", "error": _line(error)}, b""


def attempted(encode: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """A file of a picture that was read whole; None where there is none, and why."""
    try:
        return encode(), {}
    except ImageError as error:  # it is the format that cannot hold it
        return None, {"fallback": "unsupported", "error": _line(error)}
    except QualityError as error:
        return None, {"fallback": "below_quality", "error": _line(error)}
    except Exception as error:  # one picture's failure, whatever it is, is one row
        return None, {"fallback": "encoder", "error": _line(error)}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FdcError) else f"{type(error).__name__}: {text}"
