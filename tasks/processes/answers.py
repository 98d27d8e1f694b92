"""Answers of a child process about failed pictures: the failure of a picture becomes its row."""

from collections.abc import Callable
from typing import Any

from codec.errors import FdcError, ImageError, QualityError
from tasks.processes.child import Frame


def answered(work: Callable[[], Frame]) -> Frame:
    """Returns the answer of `work`; any exception becomes an answer too."""
    try:
        return work()
    except ImageError as error:
        return {"fallback": "damaged", "error": _line(error)}, b""
    except Exception as error:  # any failure of one picture affects only its row
        return {"fallback": "encoder", "error": _line(error)}, b""


def attempted(encode: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the encoded file of a fully read picture, or None and the reason."""
    try:
        return encode(), {}
    except ImageError as error:  # a limit of the format
        return None, {"fallback": "unsupported", "error": _line(error)}
    except QualityError as error:
        return None, {"fallback": "below_quality", "error": _line(error)}
    except Exception as error:  # any failure of one picture affects only its row
        return None, {"fallback": "encoder", "error": _line(error)}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, FdcError):
        return text
    return f"{type(error).__name__}: {text}"  # messages of others, such as KeyError's, say little alone
