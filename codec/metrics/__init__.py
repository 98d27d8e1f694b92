"""Quality of a reconstruction."""

from codec.metrics.quality import Metrics, Quality

__all__ = ["Metrics", "Quality"]
