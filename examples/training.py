"""The training loop of the small networks in the examples."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from tqdm import trange


def fit(
    loss: Callable[[Any, jax.Array], jax.Array], parameters: Any, optimiser: optax.GradientTransformation, steps: int
) -> Any:
    """Return parameters after some steps down a loss of parameters and a key, which is another one in each step."""
    state = optimiser.init(parameters)

    @jax.jit
    def step(parameters, state, key):
        value, gradient = jax.value_and_grad(loss)(parameters, key)
        updates, state = optimiser.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    with trange(steps, desc="training", unit="step") as bar:
        for k in bar:
            parameters, state, value = step(parameters, state, jax.random.key(k))
        bar.set_postfix(loss=f"{float(value):.4f}")
    return parameters
