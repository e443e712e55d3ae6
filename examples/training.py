"""The training loops of the small networks in the examples."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm, trange

BATCH = 128


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


def train(
    network: Any, x: np.ndarray, labels: np.ndarray, *, seed: int, epochs: int, rate: float, title: str = ""
) -> Any:
    """Return the variables of a classifier in Flax, called as (x, training), after some epochs of cross-entropy.

    Logits (N, ..., classes) go with labels (N, ...).
    """
    variables = jax.jit(network.init)(jax.random.key(seed), x[:1])
    size = min(BATCH, len(x))
    count = len(x) // size
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(epochs * count, rate), weight_decay=1e-4)
    state = optimiser.init(variables["params"])

    @jax.jit
    def step(variables, state, x, labels):
        def loss(params):
            logits, updated = network.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimiser.update(gradient, state, variables["params"])
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, state, value

    random = np.random.default_rng(seed)
    with tqdm(total=epochs * count, desc=f"{title}, seed {seed}", unit="step", mininterval=1) as bar:
        for _ in range(epochs):
            order = random.permutation(len(x))
            for k in range(count):
                rows = order[k * size : (k + 1) * size]
                variables, state, value = step(variables, state, x[rows], labels[rows])
                bar.update()
        bar.set_postfix(loss=f"{float(value):.3f}")
    return jax.device_get(variables)
