"""fdc self-test: whether the entropy model computes exactly here."""

from codec.cli import loading, options
from codec.support.terminal import say


def self_test(
    bundle: options.BundleFolder = None,
    device: options.Device = "cpu",
) -> None:
    """Check that a bundle's entropy model computes exactly on this machine; encode and decode do so once a day."""
    loading.check_device(device)
    from codec.bundle import Bundle
    from codec.bundle_id import DEFAULT_BUNDLE
    from codec.support import remembered

    opened = Bundle.open(bundle or DEFAULT_BUNDLE)
    opened.load_entropy(device)
    remembered.keep(opened.id, device)
    say(f"{opened.path}: the entropy model of bundle {opened.id[:16]} computes its known answer on {device}")
