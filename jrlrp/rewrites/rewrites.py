"""The rewrites: passes over a program, each with the rewrites that are tried with an equation, in order."""

from jrlrp.rewrites import arithmetic, softmax
from jrlrp.rewrites.canonical import Rewrite

PASSES: tuple[tuple[Rewrite, ...], ...] = (
    (
        softmax.exponential,
        softmax.share,
        softmax.exponential_of_logarithm,
        softmax.log_sum_exp,
        softmax.log_add_exp,
        arithmetic.identity,
        arithmetic.mixture,
    ),
    (softmax.shift_under_exponential,),
)
