"""`Zero` (simple LRP) and `Epsilon`: shares of the output's value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jrlrp.errors import RuleError
from jrlrp.rules.base import Array, Form, derivative, root_mean_square, spread
from jrlrp.rules.layer import LinearLayer
from jrlrp.rules.linear import LinearRule, Part, Portion


@dataclass(frozen=True, repr=False)
class Epsilon(LinearRule):
    """Share relevance by contribution, damped where the output is small: R_i = Σ_j z_ij / st(z_j) · R_j.

    st(z) = z + ε·sgn(z), and z_ij = w_ij x_i.

    Args:
      epsilon: the stabiliser ε ≥ 0, a number or a scalar array.
      bias: "absorb" (the bias keeps its share), "ignore" (it is left out of z_j, so that the layer conserves) or
        "distribute" (its share is spread evenly over the inputs that reach the unit).
      relative: whether ε is in units of the root mean square of z over each example.

    Raises:
      RuleError: for a negative or non-numeric epsilon, or another bias policy.

    Source: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by LRP", eq. (58).
    """

    epsilon: Any = 1e-6
    bias: str = "absorb"
    relative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.relative, bool):
            raise RuleError(f"Epsilon(relative={self.relative!r}): expected True or False.")

    @property
    def needs_batch_axis(self) -> bool:
        return self.relative

    def hands(self, node: Any, received: Form) -> Form:
        return Form.RATIO if self.bias == "absorb" else Form.RELEVANCE

    def is_derivative(self, node: Any) -> bool:
        return node.kind != "normalisation"

    def push(
        self, layer: Any, inputs: Sequence[Array], outputs: Sequence[Array], tangents: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        return derivative(layer.linearised, inputs, tangents)

    def stabilizer(self, layer: LinearLayer, output: Array) -> Any:
        if not self.relative:
            return self.epsilon
        return self.epsilon * spread(root_mean_square(output, layer.output_axis), output, layer.output_axis)

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        epsilon = self.stabilizer(layer, output)
        if self.bias == "ignore" and layer.bias is not None:
            yield Portion([Part(x)], layer.map(x), epsilon)  # the output less the bias would be too rough
        else:
            yield Portion([Part(x)], output, epsilon, layer.bias)


@dataclass(frozen=True, repr=False)
class Zero(LinearRule):
    """Share relevance by contribution: R_i = Σ_j z_ij / z_j · R_j.

    What travels is R_j / z_j, so a unit with z_j = 0 passes on what ratio comes to it, and on a ReLU network the rule
    equals gradient × input; relevance that is given to such a unit has no ratio, and ends there.

    Args:
      bias: as for `Epsilon`.

    Raises:
      RuleError: for another bias policy.

    Source: Bach et al. 2015, eq. (56).
    """

    bias: str = "absorb"

    def hands(self, node: Any, received: Form) -> Form:
        return Epsilon(0.0, self.bias).hands(node, received)

    def is_derivative(self, node: Any) -> bool:
        return Epsilon(0.0, self.bias).is_derivative(node)

    def push(
        self, layer: Any, inputs: Sequence[Array], outputs: Sequence[Array], tangents: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        return Epsilon(0.0, self.bias).push(layer, inputs, outputs, tangents)

    def portions(self, layer: LinearLayer, x: Array, output: Array) -> Iterable[Portion]:
        return Epsilon(0.0, self.bias).portions(layer, x, output)
