"""Networks of sequences and tables: recurrent ones, encoders, a state-space model, a causal language model, an MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from image_networks import Attention


class GRU(nn.Module):
    """Series (N, T, channels) to logits: a GRU, its last state (both ways, if it reads both), a dense layer."""

    classes: int
    features: int = 48
    both_ways: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        ends = [
            nn.RNN(nn.GRUCell(self.features), return_carry=True, reverse=reverse, name=name)(x)[0]
            for name, reverse in (("forward", False), ("backward", True))[: 1 + self.both_ways]
        ]
        return nn.Dense(self.classes)(jnp.concatenate(ends, -1))


class Encoder(nn.Module):
    """Series (N, T, channels), or word ids (N, T), to logits: blocks of attention, normed before or after, the mean."""

    classes: int
    words: int = 0
    features: int = 48
    blocks: int = 2
    norm_first: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = nn.Embed(self.words, self.features)(x) if self.words else nn.Dense(self.features)(x)
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(self.blocks):
            if self.norm_first:
                x = Attention(heads=4, inner=2 * self.features)(x)
            else:
                x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(4)(x))
                y = nn.Dense(self.features)(nn.gelu(nn.Dense(2 * self.features)(x)))
                x = nn.LayerNorm()(x + y)
        return nn.Dense(self.classes)(x.mean(1))


class Selective(nn.Module):
    """y_t = h_t·C_t + D u_t with h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t; Δ, B and C are made of u."""

    states: int

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        rate = -jnp.exp(self.param("rate", lambda _: jnp.log(jnp.arange(1.0, self.states + 1))))
        step = nn.softplus(nn.Dense(u.shape[-1])(u))
        into, out = nn.Dense(self.states)(u), nn.Dense(self.states)(u)

        def turn(h: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            u, step, into, out = now
            h = jnp.exp(step[..., None] * rate) * h + (step * u)[..., None] * into[:, None]
            return h, (h * out[:, None]).sum(-1)

        first = jnp.zeros((len(u), u.shape[-1], self.states), u.dtype)
        by_time = tuple(jnp.swapaxes(v, 0, 1) for v in (u, step, into, out))
        skip = self.param("skip", nn.initializers.ones, u.shape[-1:])
        return jnp.swapaxes(jax.lax.scan(turn, first, by_time)[1], 0, 1) + skip * u


class Mamba(nn.Module):
    """Series (N, T, channels) to logits: selective state-space blocks with gates, the mean over time."""

    classes: int
    features: int = 32
    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        x = nn.Dense(self.features)(x)
        for _ in range(self.blocks):
            y = nn.RMSNorm()(x)
            u, gate = nn.silu(nn.Dense(self.features)(y)), nn.silu(nn.Dense(self.features)(y))
            x = x + nn.Dense(self.features)(Selective(states=8)(u) * gate)
        return nn.Dense(self.classes)(nn.RMSNorm()(x).mean(1))


class CausalLM(nn.Module):
    """Word ids (N, T) to logits of the next word at each position (N, T, words): causal attention, norms first."""

    words: int
    longest: int = 24
    features: int = 96
    blocks: int = 3

    @nn.compact
    def __call__(self, ids: jax.Array, training: bool = False) -> jax.Array:
        embed = nn.Embed(self.words, self.features)
        x = embed(ids) + nn.Embed(self.longest, self.features)(jnp.arange(ids.shape[1]))
        mask = nn.make_causal_mask(ids)
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(self.features)(nn.gelu(nn.Dense(4 * self.features)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


class MLP(nn.Module):
    """Rows (N, features) to logits: two dense layers with ReLU, and one more."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        for width in (32, 16):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)
