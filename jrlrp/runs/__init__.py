"""Runs over data sets: maps, means and reference samples of all items of a source, in a store that survives stops.

Needs `pip install 'jrlrp[scale]'`: TensorStore keeps what is computed, Grain reads ahead.
"""

from jrlrp.runs.attribute import attribute, open
from jrlrp.runs.reductions import Batch, Histogram, Mean, Reduction, Top
from jrlrp.runs.run import Lazy, Run

__all__ = ["Batch", "Histogram", "Lazy", "Mean", "Reduction", "Run", "Top", "attribute", "open"]
