"""Pictures of relevance. Every function takes arrays and returns a matplotlib figure; `pip install 'jrlrp[plot]'`."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("jrlrp.plot needs matplotlib: pip install 'jrlrp[plot]'.") from error

from jrlrp.plot.charts import bars, curves, series, waterfall
from jrlrp.plot.concepts import concepts
from jrlrp.plot.maps import heatmaps
from jrlrp.plot.tokens import joined, tokens, tokens_html, tokens_terminal

__all__ = [
    "bars",
    "concepts",
    "curves",
    "heatmaps",
    "joined",
    "series",
    "tokens",
    "tokens_html",
    "tokens_terminal",
    "waterfall",
]
