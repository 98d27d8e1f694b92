"""Other codecs with a common interface. They write real files, whose whole size counts.

A codec whose library, plug-in, weights or program is missing is listed as unavailable, with the reason.
"""

from collections.abc import Callable, Iterable
from functools import partial

from codec.errors import SettingsError
from codec.evaluation.baselines import classical, external, learned
from codec.evaluation.baselines.baseline import Baseline, Pixels, UnavailableError, largest_within
from codec.evaluation.baselines.external import Command

__all__ = ["NAMES", "Baseline", "Command", "Pixels", "available", "largest_within"]

_MAKERS: dict[str, Callable[[], Baseline]] = {
    "hevc": classical.hevc,
    "avif": classical.avif,
    "jpeg-xl": classical.jpeg_xl,
    "webp": classical.webp,
    "jpeg": classical.jpeg,
    "bpg": partial(external.external, external.BPG),
    **learned.makers(),
}
NAMES = tuple(_MAKERS)
"""Names of the available codecs."""


def available(
    names: Iterable[str] | None = None, commands: Iterable[Command] = ()
) -> tuple[list[Baseline], dict[str, str]]:
    """Returns the named codecs (default: all) and the external ones that can run, and the reason for each that cannot.

    Raises SettingsError for an unknown name, and for an external codec whose name is taken.
    """
    makers = dict(_MAKERS)
    for command in commands:
        if command.name in makers:
            raise SettingsError(f"the name {command.name!r} is taken; rename the external codec")
        makers[command.name] = partial(external.external, command)
    chosen = list(makers)
    if names is not None:
        chosen = list(dict.fromkeys(names))  # each once, in order
    found = []
    missing = {}
    for name in chosen:
        if name not in makers:
            raise SettingsError(f"there is no codec {name!r} to compare with; choose from {', '.join(makers)}")
        try:
            found.append(makers[name]())
        except UnavailableError as error:
            missing[name] = str(error)
    return found, missing
