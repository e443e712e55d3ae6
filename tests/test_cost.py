"""What relevance costs beside one gradient, by XLA's own analysis of the compiled programs."""

import functools

import jax
import layouts
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import LAYERS, SHAPES, STEPS, WIDTH, collectives, normal, pair

import jrlrp


def weights(layers):
    return {name: normal(layers, *shape) for name, shape in SHAPES.items()}


def norm(h):
    return (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)


def block(x, p):
    h = norm(x)
    q, k, v = (h @ p[name] for name in "qkv")
    x = x + jax.nn.softmax(q @ k.swapaxes(1, 2) / WIDTH**0.5) @ v @ p["out"]
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]


def unrolled(x, p):
    for n in range(LAYERS):
        x = block(x, jax.tree.map(lambda w, n=n: w[n], p))
    return norm(x).mean(1)


def scanned(x, p):
    turn = jax.checkpoint(lambda x, p: (block(x, p), None))
    return jax.lax.scan(turn, x, p)[0].mean(1)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("rules", "flops", "bytes_", "memory", "operations"),
    [
        (jrlrp.attn_lrp(), 1.05, 1.05, 1.05, 1.2),
        (jrlrp.cp_lrp(), 0.9, 0.85, 0.8, 1.1),
        (jrlrp.Zero(), 0.9, 0.85, 0.8, 1.1),
        (jrlrp.epsilon(), 0.95, 1.0, 1.25, 1.4),
    ],
    ids=["attn_lrp", "cp_lrp", "Zero", "epsilon"],
)
def test_a_transformer_costs_no_more_than_its_gradient(rules, flops, bytes_, memory, operations):
    gradient, relevance = pair(unrolled, normal(4, STEPS, WIDTH), weights(LAYERS), rules)
    costs = [c.cost_analysis() for c in (relevance, gradient)]
    assert costs[0]["flops"] <= flops * costs[1]["flops"]
    assert costs[0]["bytes accessed"] <= bytes_ * costs[1]["bytes accessed"]
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (relevance, gradient)]
    assert sizes[0] <= memory * sizes[1]
    lengths = [c.as_text().count(" = ") for c in (relevance, gradient)]
    assert lengths[0] <= operations * lengths[1]


@pytest.mark.parametrize("rules", [jrlrp.attn_lrp(), jrlrp.cp_lrp(), jrlrp.epsilon()])
def test_a_rematerialised_loop_of_64_layers_keeps_the_memory_of_its_gradient(rules):
    gradient, relevance = pair(scanned, normal(2, STEPS, WIDTH), weights(64), rules)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (relevance, gradient)]
    assert sizes[0] <= 1.05 * sizes[1]


needs_eight_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
by_rules = pytest.mark.parametrize(
    "rules", [jrlrp.attn_lrp(), jrlrp.default(), jrlrp.epsilon()], ids=["attn", "default", "eps"]
)


def keeps_its_collectives(gradient, relevance):
    """Whether relevance has no collectives but those of the gradient, and no more memory on a device."""
    found, expected = (collectives(c.as_text()) for c in (relevance, gradient))
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (relevance, gradient)]
    return found <= expected and sizes[0] <= 1.05 * sizes[1]


@needs_eight_devices
@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@by_rules
def test_a_llama_keeps_its_layout(rules, layout):
    gradient, relevance = pair(layouts.llama, *layouts.laid_out(layout), rules)
    assert layout == "data" or collectives(gradient.as_text())
    assert keeps_its_collectives(gradient, relevance)


@needs_eight_devices
@by_rules
def test_a_llama_inside_shard_map_keeps_its_collectives(rules):
    over, x, p = layouts.in_shard_map(), normal(8, STEPS, WIDTH), layouts.llama_weights()
    gradient, relevance = pair(over, x, p, rules)
    assert collectives(gradient.as_text())
    assert keeps_its_collectives(gradient, relevance)
    explain = functools.partial(jrlrp.relevance, rules=rules, target=0)
    r, plain = (explain(lambda x, f=f: f(x, p))(x) for f in (over, layouts.llama))
    assert np.linalg.norm(r - plain) < 1e-3 * np.linalg.norm(plain)  # ε divides by sums that nearly cancel


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("layout", ["data", "model"])
@pytest.mark.parametrize("rules", [jrlrp.attn_lrp(), jrlrp.cp_lrp(), jrlrp.Zero(), jrlrp.epsilon()])
def test_a_sharded_model_has_no_collectives_but_those_of_its_gradient(rules, layout):
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("d",))
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    columns = {"q", "k", "v", "up"}
    x, p = normal(4, STEPS, WIDTH), weights(LAYERS)
    if layout == "data":
        x, p = put(x, "d"), {name: put(w) for name, w in p.items()}
    else:
        x = put(x)
        p = {name: put(w, None, None, "d") if name in columns else put(w, None, "d") for name, w in p.items()}
    gradient, relevance = pair(unrolled, x, p, rules)
    found, expected = (collectives(c.as_text()) for c in (relevance, gradient))
    assert (layout == "data" or expected) and found <= expected
    assert found == expected or rules != jrlrp.attn_lrp()  # the others send nothing through queries and keys
