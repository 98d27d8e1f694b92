"""Reports failures at the end of a run: a state, warnings, and a table of failures with causes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from codec.errors import FdcError
from flows import direct

NAME = "Finished with failed rows"
"""Name of the completed state, for automations. infra/crashed.yaml treats it as an end too."""
LOGGED = 20
KEPT = 1000
"""Most rows of the table. The report or the audit's findings have all of them."""

Failure = Mapping[str, Any]
"""key, reason, error, and location."""


class DamageError(FdcError):
    """The error of a run that ends as Failed but has a result."""

    def __init__(self, message: str, row: dict[str, Any]) -> None:
        super().__init__(message)
        self.row = row


def rows(row: dict[str, Any], failures: Sequence[Failure], found: int) -> dict[str, Any]:
    """Returns the result of a run with `found` failed rows; if there are any, in a named completed state.

    `failures` contains at least the first of them.
    """
    if not found:
        return row
    message = f"{found} failed{_first(failures)}"
    _tell(failures, found)
    if direct.is_direct():
        return row
    return cast(dict[str, Any], Completed(name=NAME, message=message, data=row))  # the caller of a flow gets the data


def damage(row: dict[str, Any], failures: Sequence[Failure], found: int, where: str) -> dict[str, Any]:
    """Returns the result of a check with `found` problems; if there are any, raises DamageError for a failed state."""
    if not found:
        return row
    message = f"{where}: {found} problems{_first(failures)}"
    _tell(failures, found)
    if direct.is_direct():
        raise DamageError(message, row)
    return cast(dict[str, Any], Failed(message=message, data=DamageError(message, row)))


def _tell(failures: Sequence[Failure], found: int) -> None:
    logger = direct.logger()
    for failure in failures[:LOGGED]:
        logger.warning("%s", line(failure))
    if found > LOGGED:
        logger.warning("%d more; the table of this run has the first %d", found - LOGGED, min(found, KEPT))
    table = [dict(failure) for failure in failures[:KEPT]]
    direct.table(table, key=f"{flow_run.flow_name}-failed", description=f"{len(table)} of {found} that failed")


def _first(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    return f", the first is {line(failures[0])}"


def line(failure: Failure) -> str:
    """Formats key, reason and error for messages, warnings and commands."""
    error = failure["error"] or "no message"
    return f"{failure['key']}: {failure['reason']}: {error}"
