"""Every picture is drawn, headless, and holds what it was given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import metrics

plot = pytest.importorskip("jrlrp.plot")
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(3, 8, 10))
IMAGES = RNG.uniform(size=(3, 8, 10, 3))
WORDS = ["the", "film", "was", "<b>brilliant</b>", "!\n"]
R = np.array([0.1, 0.2, 0.0, 2.0, -1.0])


def drawn(figure):
    """Return the figure's pixels; it has to be neither empty nor of one colour."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    assert min(pixels.shape[:2]) > 30 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 3
    return pixels


def texts(figure):
    drawn(figure)
    found = [text.get_text() for axis in figure.axes for text in (*axis.get_yticklabels(), axis.title, *axis.texts)]
    return [*found, *(text.get_text() for text in figure.texts)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"images": IMAGES, "titles": ["a", "b", "c"]},
        {"images": IMAGES[..., :1], "shared": True},
        {"images": (255 * IMAGES).astype(np.uint8), "overlay": 0.5},
        {"images": RNG.normal(size=(3, 8, 10)), "overlay": 0.5, "power": 0.5},
    ],
)
@pytest.mark.parametrize("maps", [MAPS, {"one": MAPS, "other": np.stack([MAPS, MAPS], -1)}, jnp.asarray(MAPS)])
def test_heatmaps(maps, options):
    figure = plot.heatmaps(maps, **options)
    drawn(figure)
    rows = (len(maps) if isinstance(maps, dict) else 1) + ("images" in options)
    assert len(figure.axes) == 3 * rows + 1


def test_presets_are_rows_or_columns():
    maps = {"one": MAPS, "other": MAPS}
    options = {"images": IMAGES, "titles": ["a", "b", "c"]}
    for across in (False, True):
        figure = plot.heatmaps(maps, across=across, **options)
        drawn(figure)
        panels = np.reshape(figure.axes[:-1], (3, 3))
        panels = panels.T if across else panels
        presets = [axis.get_title() if across else axis.get_ylabel() for axis in panels[:, 0]]
        examples = [axis.get_ylabel() if across else axis.get_title() for axis in panels[0]]
        assert presets == ["input", "one", "other"] and examples == ["a", "b", "c"]
        np.testing.assert_array_equal(panels[0, 2].images[0].get_array(), IMAGES[2])
        shown = [axis.images[0].get_array()[0, 0] for axis in panels[1]]
        assert (np.sign(shown) == np.sign(MAPS[:, 0, 0])).all()


def test_long_names_are_broken_to_fit_their_panels():
    names = {f"a preset with a long name, number {k}": MAPS for k in range(3)}
    figure = plot.heatmaps(names, IMAGES, titles=["an example with a long title", "b", "c"])
    drawn(figure)
    panel = figure.axes[0].get_window_extent()
    for k, axis in enumerate(figure.axes[:-1]):
        assert axis.yaxis.label.get_window_extent().height <= panel.height
        assert axis.title.get_window_extent().width <= panel.width * 1.1, k
    assert "\n" in figure.axes[0].title.get_text() and "\n" in figure.axes[3].get_ylabel()


def test_masks_are_outlined_in_every_row():
    masks = np.zeros(MAPS.shape, bool)
    masks[:2, 2:5, 3:6] = True
    figure = plot.heatmaps({"one": MAPS, "other": MAPS}, IMAGES, masks=masks)
    drawn(figure)
    outlined = [bool(axis.collections) for axis in figure.axes[:-1]]
    assert outlined == [True, True, False] * 3
    (contour,) = figure.axes[3].collections
    box = contour.get_paths()[0].get_extents()
    assert 2 < box.x0 < 3 and 5 < box.x1 < 6 and 1 < box.y0 < 2 and 4 < box.y1 < 5


def test_one_map_has_one_mask():
    (axis, _) = plot.heatmaps(MAPS[0], IMAGES[:1], masks=MAPS[0] > 1).axes[1:]
    assert axis.collections


def test_a_map_of_zeros_has_no_scale():
    figure = plot.heatmaps(np.stack([np.zeros((4, 4)), np.eye(4)]))
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ["0", "± 1"]


def test_a_notebook_shows_figures():
    figures = [plot.heatmaps(MAPS), plot.bars(R, WORDS), plot.series(R, R), plot.tokens(WORDS, R)]
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in figures)


def test_colours_are_centred_at_zero_and_red_is_for():
    r = np.zeros((1, 3, 3))
    r[0, 0, 0], r[0, 2, 2] = 1.0, -1.0
    figure = plot.heatmaps(r)
    (image,) = figure.axes[0].images
    colours = image.to_rgba(image.get_array())[..., :3]
    assert colours[0, 0, 0] > colours[0, 0, 2] and colours[2, 2, 2] > colours[2, 2, 0]
    np.testing.assert_allclose(colours[1, 1], 0.97, atol=0.02)


def test_one_large_entry_does_not_hide_the_others():
    r = np.ones((1, 40, 40))
    r[0, 0, 0] = 1e6
    (image,) = plot.heatmaps(r).axes[0].images
    assert image.get_array()[5, 5] == 1


@pytest.mark.parametrize("odd", [np.zeros((1, 8, 8)), np.full((1, 8, 8), np.nan), np.full((1, 8, 8), 1e-40)])
def test_maps_of_nothing_are_drawn(odd):
    drawn(plot.heatmaps(odd))


def test_bars():
    figure = plot.bars(R, WORDS, [1, "a", 2.34567, None, 0], top=3, title="why")
    found = texts(figure)
    assert "<b>brilliant</b> = None" in found and "film = a" in found and "why" in found
    assert not any(text.startswith("was") for text in found)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(widths, [0.2, -1.0, 2.0])  # the largest is drawn last, above


def test_long_names_and_titles_of_bars_fit():
    figure = plot.bars(
        R, ["a feature with a very long name " * 3] * len(R), title="what speaks for and against it " * 3
    )
    drawn(figure)
    axis = figure.axes[0]
    for text in (*axis.get_yticklabels(), *figure.texts):
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1, text.get_text()
    assert figure.texts and axis.get_window_extent().width > 200


@pytest.mark.parametrize("shape", [(30,), (30, 3)])
def test_series(shape):
    values = RNG.normal(size=shape)
    figure = plot.series(values, values**2, names=["abc"[k] for k in range(values.reshape(30, -1).shape[1])])
    drawn(figure)
    assert len(figure.axes) == values.reshape(30, -1).shape[1] + 1
    drawn(plot.series(values, values, time=np.linspace(0, 1, 30)))
    drawn(plot.series(np.ones(1), np.ones(1)))
    figure = plot.series(values, {"one": values, "other": 1e-3 * values}, title="a title")
    drawn(figure)
    assert figure._suptitle.get_text() == "a title"
    half = len(figure.axes) // 2
    assert figure.axes[0].get_ylabel() == "one" and figure.axes[half].get_ylabel() == "other"
    for one, other in zip(figure.axes[:half], figure.axes[half:-1], strict=True):  # each has its own scale
        np.testing.assert_allclose(one.images[0].get_array(), other.images[0].get_array())


def test_tokens():
    figure = plot.tokens(WORDS * 9, np.tile(R, 9))
    found = texts(figure)
    assert len(found) >= 45 and "!·" in found
    assert figure.get_figheight() > plot.tokens(WORDS, R).get_figheight()


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_with_channels_is_one_map(channels):
    one = np.random.default_rng(0).normal(size=(8, 10, channels))
    figure = plot.heatmaps(one, np.random.default_rng(1).uniform(size=(8, 10, channels)))
    picture, drawn_map = figure.axes[:2]
    assert picture.images[0].get_array().shape[:2] == drawn_map.images[0].get_array().shape == (8, 10)
    assert len(figure.axes) == 3  # the third is the colour bar


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["[CLS]", "un", "##happ", "##y", "end", "[SEP]"], {"[CLS]": 1, "unhappy": 14, "end": 16, "[SEP]": 32}),
        (["<s>", "▁un", "happy", "▁end", "</s>"], {"<s>": 1, "unhappy": 6, "end": 8, "</s>": 16}),
        (["un", "happy", "Ġend"], {"unhappy": 3, "end": 4}),
        (["<|endoftext|>", "un", "happy", "Ġend"], {"<|endoftext|>": 1, "unhappy": 6, "end": 8}),
        (["un", "happy"], {"un": 1, "happy": 2}),
        (["un", "##happy", "##", "2"], {"unhappy": 3, "##": 4, "2": 8}),
        ([], {}),
    ],
)
def test_pieces_are_joined_to_words(pieces, words):
    own, sums = plot.joined(pieces, 2.0 ** np.arange(len(pieces)))
    assert dict(zip(own, sums, strict=True)) == words
    page = plot.tokens_html(pieces, np.ones(len(pieces)))
    assert page.count("<span") == len(words)
    assert plot.tokens_html(pieces, np.ones(len(pieces)), join=False).count("<span") == len(pieces)
    assert len(plot.tokens(pieces, np.ones(len(pieces))).texts) == len(words)


def test_tokens_of_a_page_are_escaped_and_coloured():
    page = plot.tokens_html(WORDS, R)
    assert "<b>" not in page and "&lt;b&gt;brilliant" in page and page.count("<span") == 5
    colours = [tuple(map(int, part.split(")")[0].split(","))) for part in page.split("rgb(")[1:]]
    red, green, blue = colours[3]
    assert red > green and red > blue and colours[4][2] > colours[4][0] and min(colours[2]) > 240
    assert 'title="2"' in page


def test_tokens_of_a_terminal_command_nothing():
    text = plot.tokens_terminal(["a\x1b[2J", "b"], [1.0, -1.0])
    assert text.count("\x1b") == 4 and text.count("\x1b[0m") == 2 and "[2J" in text


def test_curves():
    x = RNG.normal(size=(20, 6))
    make = functools.partial(metrics.perturbation, lambda x: x @ np.ones((6, 2)), x, x)
    figure = plot.curves({"most": make(), "least": make(order="least")}, title="a curve")
    drawn(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["most", "least"]
    drawn(plot.curves(make(), score="p", band=0.0))


def test_waterfall():
    w1, w2, b = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 2)), RNG.normal(size=5)

    def net(x):
        with jax.named_scope("first"):
            h = jax.nn.relu(x @ w1 + b)
        with jax.named_scope("second"):
            return h @ w2 + 1.0

    audit = jrlrp.audit(net, RNG.normal(size=(1, 4)), rules=jrlrp.epsilon())
    figure = plot.waterfall(audit)
    found = texts(figure)
    assert found[:4] == ["output", "second", "first:dense", "inputs"]  # the relu keeps nothing
    assert {f"{float(amount):.3g}" for amount in (audit.output, -audit.absorbed[0], audit.inputs)} <= set(found)
    bars = figure.axes[0].patches
    np.testing.assert_allclose(bars[0].get_width() + sum(b.get_width() for b in bars[1:-1]), bars[-1].get_width())
    assert any("others" in text for text in texts(plot.waterfall(audit, most=1)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: plot.heatmaps(np.ones(5)), "expected (height, width) or (N, height, width)"),
        (lambda: plot.heatmaps(MAPS, IMAGES[:2]), "expected one for each example"),
        (lambda: plot.heatmaps(MAPS, np.ones((3, 8, 10, 5))), "with or without a last axis of 1 or 3 channels"),
        (lambda: plot.heatmaps(MAPS, titles=["a"]), "1 titles for 3 examples"),
        (
            lambda: plot.heatmaps(MAPS, masks=np.ones((3, 4, 4))),
            "masks of shape (3, 4, 4) for maps of shape (3, 8, 10)",
        ),
        (lambda: plot.heatmaps(MAPS, IMAGES[:, :4], overlay=0.5), "images of (4, 10) pixels and maps of (8, 10)"),
        (lambda: plot.heatmaps(MAPS, IMAGES[:, :4], masks=MAPS > 0), "images of (4, 10) pixels and maps of (8, 10)"),
        (lambda: plot.heatmaps({}), "there is nothing to draw"),
        (lambda: plot.curves({}), "there is nothing to draw"),
        (lambda: plot.heatmaps(MAPS, quantile=0), "quantile=0: expected a number above 0"),
        (lambda: plot.bars(R, WORDS[:3]), "for 3 names"),
        (lambda: plot.series(np.ones(3), np.ones(4)), "expected one shape"),
        (lambda: plot.series(np.ones(3), {"a": np.ones(3), "b": np.ones(4)}), "relevance of shape (4,)"),
        (lambda: plot.series(np.ones(3), np.ones(3), names=["a", "b"]), "expected 3 moments and 1 names"),
        (lambda: plot.tokens(WORDS, R[:2]), "for 5 words; expected one for each"),
        (lambda: plot.tokens_html("word", np.ones(4)), "expected one for each"),
        (lambda: plot.curves(metrics.Curve(np.ones(2), np.ones((3, 2, 2)))), "expected (examples, levels)"),
    ],
)
def test_what_does_not_fit_is_an_error(call, said):
    with pytest.raises(jrlrp.ArgumentError) as caught:
        call()
    assert said in str(caught.value)
