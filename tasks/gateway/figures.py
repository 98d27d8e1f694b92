"""Figures of a gateway for Prometheus."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Figures:
    """Counters in a registry of their own. No label holds a key, an address or anything else that a client chose."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("fdc_gateway_requests", "Requests by status.", ["status"], registry=self._registry)
        self.pictures = Counter(
            "fdc_gateway_pictures",
            "Pictures by where they came from: cache, preview or decoded.",
            ["origin"],
            registry=self._registry,
        )
        self.decoding = Histogram(
            "fdc_gateway_decoding_seconds", "Seconds to make a picture, by codec.", ["codec"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Adds a figure that is computed when it is asked for."""
        Gauge(f"fdc_gateway_{name}", meaning, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)
