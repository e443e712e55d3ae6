"""Which concepts, and where: the channels of a layer that matter most for one prediction, and what they stand for.

python examples/concepts.py --network EfficientNet --image cat.jpg
python examples/concepts.py --network CNN --example 3 --channels 6

Each channel of the layer has its part in the prediction: its relevance. The picture shows the channels with most of it.
"Where" is the channel's own map; "what" are the images of a data set in which it has most relevance, cropped to what
the channel sees of them. The networks of Fashion-MNIST are those of examples/evidence, trained at first use.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import efficientnet_lite0
import image_data
import jax
import numpy as np
from explain_photo import open_photo
from image_networks import NETWORKS, TRAINED_ON, trained
from matplotlib.figure import Figure
from pictures import save
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import jrlrp
from jrlrp import plot
from jrlrp.concepts import References, maps, receptive_field, scores

DEFAULTS = {  # network → its layer, and rules
    "CNN": ("CNN/Conv_1", "epsilon_plus"),
    "VGG16-like": ("VGG/Conv_6", "epsilon_plus"),
    "VGG19-like": ("VGG/Conv_7", "epsilon_plus"),
    "ResNet50-like": ("ResNet50/Bottleneck_11/Conv_1", "epsilon_plus"),
    "EfficientNet": ("EfficientNetLite0/conv_head", "epsilon"),  # through z⁺ all its channels' maps look alike
}
PRESETS = {  # the first two are linear in relevance, so that channels' maps add up
    "epsilon_plus": jrlrp.epsilon_plus,
    "epsilon": jrlrp.epsilon,
    "default": jrlrp.default,
}
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is looked at: a network, the names of its classes, an example, and images to find references in.

    Attributes:
      model: a function of images (N, height, width, channels) to scores.
      layer: the node whose channels are the concepts.
      classes: the classes' names.
      x: the example, (1, height, width, channels).
      images: the images to find references in, as the network takes them.
      shown: the same, as they are drawn.
      picture: the example, as it is drawn.
      rules: how relevance is found.
      batch_size: how many images are explained at a time.
      drawing: options of `plot.concepts`.
    """

    model: Callable
    layer: str
    classes: list[str]
    x: np.ndarray
    images: np.ndarray
    shown: np.ndarray
    picture: np.ndarray
    rules: jrlrp.Composite
    batch_size: int
    drawing: dict[str, float]


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels that are shown: their numbers, their relevance, which part that is of all channels', their maps."""

    numbers: np.ndarray
    relevance: np.ndarray
    shares: np.ndarray
    maps: np.ndarray


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="EfficientNet", choices=DEFAULTS)
    parser.add_argument("--layer", help="a node's name as jrlrp.plan prints it; default: a late convolution")
    parser.add_argument("--rules", choices=PRESETS, help="default: epsilon_plus, and epsilon for EfficientNet")
    parser.add_argument("--image", type=Path, help="a photograph for EfficientNet; without it, a cat")
    parser.add_argument("--example", type=int, default=0, help="which test image of Fashion-MNIST")
    parser.add_argument("--channels", type=int, default=5, help="how many channels are shown")
    parser.add_argument("--references", type=int, default=8, help="how many reference samples of each")
    parser.add_argument("--output", type=Path, default=Path("out/concepts.png"), help="where the picture goes")
    parsed = parser.parse_args()
    layer, rules = DEFAULTS[parsed.network]
    parsed.layer, parsed.rules = parsed.layer or layer, PRESETS[parsed.rules or rules]()
    if parsed.image and parsed.network != "EfficientNet":
        parser.error("--image is for EfficientNet; --example chooses an image of Fashion-MNIST")
    if not 0 <= parsed.example < 10_000 or parsed.channels < 1 or parsed.references < 1:
        parser.error("expected an example below 10000, and at least one channel and one reference")
    return parsed


def clothes(options: argparse.Namespace) -> Subject:
    """Return a network of Fashion-MNIST; references are found among the images that it was trained on."""
    data = image_data.fashion_mnist(TRAINED_ON, options.example + 1)
    variables = trained(options.network, "fashion", data, seed=0)
    model = jax.tree_util.Partial(NETWORKS[options.network].network.apply, variables)
    return Subject(
        model,
        options.layer,
        list(CLOTHES),
        x=data.test[-1:],
        images=data.train,
        shown=data.train,
        picture=data.test[-1],
        rules=options.rules,
        batch_size=500,
        drawing={"around": 3.0},  # a channel sees few pixels
    )


def photographs(options: argparse.Namespace) -> Subject:
    """Return EfficientNet; references are found among the photographs that packages bring."""
    network = efficientnet_lite0
    crops = [network.crop(photo) for photo in packaged_photographs()]
    shown = network.crop(open_photo(options.image))
    return Subject(
        jax.tree_util.Partial(network.EfficientNetLite0().apply, network.load()),
        options.layer,
        network.class_names(),
        x=np.asarray(network.preprocess(shown)),
        images=np.concatenate([network.preprocess(crop) for crop in crops]),
        shown=np.stack([np.asarray(crop) for crop in crops]),
        picture=np.asarray(shown),
        rules=options.rules,
        batch_size=10,
        drawing={"overlay": 0.3},
    )


def packaged_photographs() -> list[Image.Image]:
    """Return twenty samples of ImageNet (foolbox) and three photographs of scikit-image."""
    found, _ = image_data.imagenet()
    folder = Path(str(files("skimage"))) / "data"
    return found + [Image.open(folder / name) for name in ("astronaut.png", "coffee.png", "rocket.jpg")]


def references(subject: Subject, count: int) -> References:
    """Return the images in which each channel of the layer has most relevance for what the network sees in them."""
    found = jax.jit(scores(subject.model, subject.layer, rules=subject.rules))
    table, number = None, np.arange(len(subject.images))
    for start in tqdm(range(0, len(number), subject.batch_size), desc="references", unit="batch"):
        part = number[start : start + subject.batch_size]
        values, positions = found(subject.images[part])
        table = References.empty(values.shape[1], count) if table is None else table
        table = table.update(values, part, positions)
    return table


def choose(subject: Subject, count: int) -> Channels:
    """Return the channels of most relevance for what the network sees in the example."""
    values = np.asarray(jax.jit(scores(subject.model, subject.layer, rules=subject.rules))(subject.x).values[0])
    numbers = np.argsort(-values)[:count]
    own = jax.jit(maps(subject.model, subject.layer, channels=numbers, rules=subject.rules))(subject.x)
    return Channels(numbers, values[numbers], values[numbers] / np.abs(values).sum(), np.asarray(own[:, 0].sum(-1)))


def draw(subject: Subject, channels: Channels, found: References, title: str) -> Figure:
    """Return the picture: a row for each channel, with its map and the references that have relevance for it."""

    @jax.jit
    def field(x: jax.Array, channel: jax.Array, position: jax.Array) -> jax.Array:
        return receptive_field(subject.model, subject.layer, channel, position, rules=subject.rules)(x).sum(-1)

    rows, samples, fields = {}, [], []
    for c, share, own in zip(channels.numbers, channels.shares, channels.maps, strict=True):
        rows[f"channel {c}\n{share:.0%}"] = own
        numbers = np.asarray(found.samples[:, c])
        seen = np.asarray(field(subject.images[numbers], c, found.positions[:, c]))
        useful = np.asarray(found.values[:, c]) > 0
        samples.append(subject.shown[numbers[useful]])
        fields.append(seen[useful])
    options = {"image": subject.picture, "title": title, "power": 0.5} | subject.drawing
    return plot.concepts(rows, samples, fields, **options)


def show(console: Console, subject: Subject, channels: Channels, found: References) -> None:
    """Print the channels, what the network sees in their references, and how much their maps are alike."""
    table = Table("channel", "relevance", "of all", "its references", title=subject.layer)
    for c, relevance, share in zip(channels.numbers, channels.relevance, channels.shares, strict=True):
        logits = jax.jit(subject.model)(subject.images[np.asarray(found.samples[:, c])])
        names = [subject.classes[k].split(",")[0] for k in np.asarray(logits).argmax(-1)]
        counts = [f"{count} × {name}" if count > 1 else name for name, count in Counter(names).most_common()]
        seen = ", ".join(counts[:4]) + ", …" * (len(counts) > 4)
        table.add_row(str(c), f"{relevance:.3g}", f"{share:.1%}", seen)
    console.print(table)
    if len(channels.maps) > 1:
        flat = channels.maps.reshape(len(channels.maps), -1)
        alike = np.corrcoef(flat)[np.triu_indices(len(flat), 1)].mean()
        console.print(f"The mean correlation of their maps is {alike:.2f}")


def main() -> None:
    options, console = arguments(), Console(highlight=False)
    subject = photographs(options) if options.network == "EfficientNet" else clothes(options)
    logits = jax.jit(subject.model)(subject.x)[0]
    name = subject.classes[int(logits.argmax())].split(",")[0]
    console.print(f"{options.network} sees: {name} ({float(jax.nn.softmax(logits).max()):.0%})")
    channels = choose(subject, options.channels)
    found = references(subject, min(options.references, len(subject.images)))
    show(console, subject, channels, found)
    save(draw(subject, channels, found, f"“{name}”"), options.output, console)


if __name__ == "__main__":
    main()
