"""What a rule sees of a node: numbers, and what is known of them. All of it computes in float32 at least.

A rule of one kind of node is given the layer of that kind; it knows nothing of graphs and primitives.
"""

from collections.abc import Sequence
from typing import Any, Protocol

Array = Any


class Layer(Protocol):
    """A node with the values of its constants.

    Attributes:
      intervals: the interval [lo, hi] that each input is known to lie in.
      input_axes, output_axis: the batch axis of each input and of the output, None where all of it is one example;
        `spread` and `example_mean` in `jrlrp.rules.base` take them.
    """

    intervals: Sequence[tuple[float, float]]
    input_axes: Sequence[Any]
    output_axis: Any

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Evaluate the node on inputs of the user's dtypes."""
        ...

    def vector_means(self, x: Array, r: Array) -> tuple[Array, Array] | None:
        """Return Σx and Σr for each of the vectors that the layer maps one by one; None if it is no such layer.

        Args:
          x: an array of the input's shape.
          r: one of the output's shape.

        Returns:
          Arrays that broadcast against `x`, both in parts of the number of entries of a vector of `x`.
        """
        ...

    def over_devices(self, of_input: Array, of_output: Array) -> tuple[Array, Array]:
        """Return sums over all entries of a vector's or an example's input and output, of those over a device's own.

        They are the same where no devices have parts of the layer.
        """
        ...

    def part(self, r: Array) -> Array:
        """Return what each device gives of what inputs are to get from all of them: the same of each."""
        ...

    def added_up(self, r: Array) -> Array:
        """Return what inputs get from all devices that have parts of the layer, of what each of them gives."""
        ...


class MapLayer(Layer, Protocol):
    """z = map(x) + bias, for one input x: kinds conv, dense, linear, fixed, scale, average_pool, normalisation.

    Attributes:
      weight: the weights with every scale after them folded in, in the shape of the map's own weights; None if it has
        none (an average pool, which has no negative entries; a map of kind "linear"; a normalisation).
      bias: what the layer adds, in the output's shape or broadcasting to it; None without one.
    """

    @property
    def weight(self) -> Array | None: ...
    @property
    def bias(self) -> Array | None: ...

    def map(self, x: Array, weight: Array | None = None) -> Array:
        """Return the linear part of the layer, with `weight` in place of its weights if given."""
        ...

    def pull(self, r: Array, weight: Array | None = None) -> Array:
        """Return the transpose of `map` applied to `r`, of the output's shape."""
        ...


class LinearLayer(MapLayer, Protocol):
    """A map whose single weights a rule may look at: all but normalisations.

    Attributes:
      positive_weight, negative_weight: the parts of the weights of one sign.
      ones: weights of one: mapping with them sums the inputs that reach each unit.
      unit_input: an input of ones.
      counts: how many inputs reach each unit, padding excluded, in the output's shape.
    """

    def largest(self, x: Array) -> Array:
        """Return the largest of what devices have that each have a part of the layer: `x`, if there are none."""
        ...

    @property
    def positive_weight(self) -> Array: ...
    @property
    def negative_weight(self) -> Array: ...
    @property
    def ones(self) -> Array: ...
    @property
    def unit_input(self) -> Array: ...
    @property
    def counts(self) -> Array: ...


class SumLayer(Layer, Protocol):
    """A signed sum of several inputs."""

    def terms(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the signed summands."""
        ...


class ChoiceLayer(Layer, Protocol):
    """A maximum over windows, over axes, or of its inputs."""

    def window_sums(self, *inputs: Array) -> Array:
        """Return the sums of what the maxima are taken of, in the output's shape."""
        ...


class ProductLayer(Layer, Protocol):
    """A product of several inputs, elementwise, or a contraction of two.

    Attributes:
      gates: which factors are known to lie in [0, 1].
      inverse: which factors divide.
      origins: the kind of node that each factor comes out of, seen through movements and scales; None for an input.
      contraction: whether it sums over axes.
    """

    gates: Sequence[bool]
    inverse: Sequence[bool]
    origins: Sequence[str | None]
    contraction: bool

    def linear(self, k: int, inputs: Sequence[Array], relevance: Array) -> LinearLayer:
        """Return a contraction as a linear layer of its k-th operand, the other being the weights."""
        ...


class SoftmaxLayer(Layer, Protocol):
    """A softmax, or a log Σ exp, over groups of entries: along axes, or in segments."""

    def total(self, r: Array) -> Array:
        """Return for each entry the sum of `r` over its group."""
        ...

    def weights(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the softmax weights of the inputs: the shares of a log Σ exp."""
        ...

    def spread(self, r: Array) -> Array:
        """Return what is one for each group as one for each entry."""
        ...


class CustomLayer(Layer, Protocol):
    """An equation with a rule of its own."""

    def operands(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the values of all that it reads, in order."""
        ...

    def shares(self, inputs: Sequence[Array], relevances: Sequence[Array | None]) -> tuple[Array, ...]:
        """Return the relevance of each input from that of each operand, None being none."""
        ...
