"""Other codecs behind the same two calls: real bitstreams, whose whole files are counted.

A codec is listed as unavailable, with the reason, where its library, its plug-in, its weights or its program is not
here.
"""

from collections.abc import Callable, Iterable

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
    "bpg": lambda: external.external(external.BPG),
    **learned.makers(),
}
NAMES = tuple(_MAKERS)
"""The codecs that can be asked for."""


def available(
    names: Iterable[str] | None = None, commands: Iterable[Command] = ()
) -> tuple[list[Baseline], dict[str, str]]:
    """The codecs of these names (default: all) and the external ones that run here, and for each other one why not.

    Raises SettingsError for a name that does not exist, and for an external codec that takes a name that does.
    """
    makers = dict(_MAKERS)
    for command in commands:
        if command.name in makers:
            raise SettingsError(f"the name {command.name!r} is taken: give the external codec another one")
        makers[command.name] = lambda command=command: external.external(command)  # type: ignore[misc]
    found, missing = [], {}
    for name in makers if names is None else dict.fromkeys(names):
        if name not in makers:
            raise SettingsError(f"there is no codec {name!r} to compare with; choose from {', '.join(makers)}")
        try:
            found.append(makers[name]())
        except UnavailableError as error:
            missing[name] = str(error)
    return found, missing
