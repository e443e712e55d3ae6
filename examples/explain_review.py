"""Explain how a network reads film reviews: which words speak for fresh, and which for rotten.

python examples/explain_review.py --text "This movie was brilliant." --model both --rules default,relative
"""

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import minilm
import numpy as np
import presets
import review_lstm
from coloured_words import Word, coloured, join, legend, owners, save_html
from reviews import CLASSES, Reader, Review, Tokens, in_batches, split_by_film, word_spans
from reviews import load as load_reviews
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

import jrlrp

PRESETS = {
    "default": jrlrp.default,
    "relative": jrlrp.relative,
    "epsilon": jrlrp.epsilon,
    "attn_lrp": jrlrp.attn_lrp,
    "cp_lrp": jrlrp.cp_lrp,
    "gradient_times_input": jrlrp.gradient_times_input,
}
MODELS = {"lstm": review_lstm.load, "minilm": minilm.load}
MODEL_TITLES = {"lstm": "LSTM", "minilm": "MiniLM"}
TEXTS = (
    "This movie was brilliant.",
    "a dull, lifeless film with not one moment of wit",
    "not bad at all: funny, warm and well acted",
)
DELETED, EVALUATED = 3, 200  # words, sentences


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", action="append", help="a review; may be given several times; default: five examples")
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both", help="who reads it")
    parser.add_argument("--rules", default="default", help=f"presets, of {', '.join(PRESETS)}")
    parser.add_argument("--output", type=Path, default=Path("out/review.html"), help="where the web page goes")
    parser.add_argument("--seed", type=int, default=0, help="chooses the examples out of the test films")
    parser.add_argument("--evaluate", action="store_true", help="measure what deleting the most relevant words does")
    parser.add_argument("--retrain", action="store_true", help="train again what is trained here")
    parsed = parser.parse_args()
    if any(not text.strip() for text in parsed.text or ()):
        parser.error("--text is empty; give it some words")
    parsed.rules = presets.chosen(parser, parsed.rules, PRESETS)
    parsed.model = [*MODELS] if parsed.model == "both" else [parsed.model]
    return parsed


def score(reader: Reader) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the function that is explained, the logit of fresh minus that of rotten: positive is for fresh.

    The difference is a linear layer. As a subtraction, it would be a sum to R-LRP, whose parts share by size alone:
    what speaks for rotten would be given the same sign as what speaks for fresh.
    """
    return lambda ids, lengths: reader.logits(ids, lengths) @ jnp.array([-1.0, 1.0])


def explain(reader: Reader, tokens: Sequence[Tokens], preset: str, multiple: int = 8) -> list[np.ndarray]:
    """Return the relevance of each token of some texts."""
    relevance = jrlrp.relevance(score(reader), rules=PRESETS[preset](), target="all")
    found = in_batches(relevance, tokens, multiple=multiple)
    return [values[: len(t.ids)] for values, t in zip(found, tokens, strict=True)]


def choose_texts(reviews: Sequence[Review], seed: int) -> list[str]:
    """Return the texts that are explained if there are no others, the last two out of test reviews."""
    chance = random.Random(seed)
    drawn = [chance.choice([review.text for review in reviews if review.label == k]) for k in (1, 0)]
    return [*TEXTS, *drawn]


def describe(name: str, preset: str, logits: np.ndarray, words: Sequence[Word]) -> Text:
    """Return a line on what was predicted, and the words that the prediction owes most."""
    probability, best = jax.nn.softmax(logits), int(logits.argmax())
    read = [word for word in words if word.relevance is not None and not word.mark]
    most = sorted(read, key=lambda word: -abs(word.relevance))[:DELETED]
    said = f"{MODEL_TITLES[name]}, {presets.TITLES[preset]}: {CLASSES[best]}, {probability[best]:.1%}. Most relevant: "
    return Text(said + ", ".join(f"{word.text} {word.relevance:+.2g}" for word in most), "bright_black")


def explained(readers: dict[str, Reader], texts: Sequence[str], rules: Sequence[str]) -> list[list[Text]]:
    """Return for each text the lines that explain it, by every model and preset."""
    lines: list[list[Text]] = [[Text(text, "bold")] for text in texts]
    for name, reader in readers.items():
        tokens = [reader.tokenize(text) for text in texts]
        logits = in_batches(reader.logits, tokens)
        for preset in rules:
            relevance = explain(reader, tokens, preset)
            for k, text in enumerate(texts):
                words = join(text, tokens[k], relevance[k])
                lines[k] += [describe(name, preset, logits[k], words), coloured(words)]
    return lines


def without_best(text: str, tokens: Tokens, values: np.ndarray) -> Tokens:
    """Return the tokens without those of the words with the highest values."""
    gone = np.argsort(-values, kind="stable")[:DELETED]
    return tokens.without([place for place, word in enumerate(owners(text, tokens)) if word in gone])


def word_values(text: str, tokens: Tokens, relevance: np.ndarray) -> np.ndarray:
    """Return the relevance of each word of a text, 0 for words that were not read."""
    return np.array([word.relevance or 0.0 for word in join(text, tokens, relevance) if not word.mark])


def evaluate(console: Console, readers: dict[str, Reader], reviews: Sequence[Review], seed: int) -> None:
    """Print what becomes of predictions when the words that a preset finds most relevant for them are deleted."""
    long = [review.text for review in reviews if len(review.text.split()) > 2 * DELETED]
    texts, chance = random.Random(seed).sample(long, EVALUATED), np.random.default_rng(seed)
    head = ("model", "rule", "mean drop of the logit", "standard error", "predictions changed")
    title = f"The {DELETED} most relevant words of {EVALUATED} test reviews are deleted"
    table = Table(*head, title=title, box=box.MARKDOWN)
    for name, reader in readers.items():
        tokens = [reader.tokenize(text) for text in texts]
        before = np.stack(in_batches(reader.logits, tokens))
        rows, best = np.arange(EVALUATED), before.argmax(-1)
        for preset in tqdm([*PRESETS, "random"], desc=f"deleting words of {MODEL_TITLES[name]}"):
            if preset == "random":
                values = [chance.random(len(word_spans(text))) for text in texts]
            else:
                found = zip(texts, tokens, explain(reader, tokens, preset, multiple=64), best, strict=True)
                values = [word_values(text, t, r if label == 1 else -r) for text, t, r, label in found]
            left = [without_best(*of) for of in zip(texts, tokens, values, strict=True)]
            after = np.stack(in_batches(reader.logits, left))
            drop, changed = (before - after)[rows, best], after.argmax(-1) != best
            amounts = f"{drop.mean():.2f}", f"{drop.std() / np.sqrt(EVALUATED):.2f}", f"{changed.mean():.0%}"
            table.add_row(MODEL_TITLES[name], presets.TITLES.get(preset, preset), *amounts)
    console.print(table)


def main() -> None:
    options, console = arguments(), Console()
    splits = split_by_film(load_reviews())
    counted = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    console.print(f"Reviews, no film in two parts: {counted}.", highlight=False)
    readers = {name: MODELS[name](splits, options.retrain) for name in options.model}
    for name, reader in readers.items():
        console.print(f"{MODEL_TITLES[name]} is right in {reader.accuracy:.1%} of the test reviews.", highlight=False)
    texts = options.text or choose_texts(splits["test"], options.seed)
    lines = [legend(*CLASSES)]
    for part in explained(readers, texts, options.rules):
        lines += [Text(), *part]
    for line in lines:
        console.print(line)
    save_html(lines, options.output)
    console.print(f"\nThe web page is {options.output}", highlight=False)
    if options.evaluate:
        evaluate(console, readers, splits["test"], options.seed)


if __name__ == "__main__":
    main()
