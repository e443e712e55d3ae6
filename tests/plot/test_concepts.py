"""The picture of concepts shows each channel's map beside its samples, cropped to what the channel sees of them."""

import numpy as np
import pytest

from jrlrp.errors import ArgumentError

plot = pytest.importorskip("jrlrp.plot")
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402

RNG = np.random.default_rng(0)
MAPS = {"edge\n60%": RNG.normal(size=(12, 16, 3)), "corner": RNG.normal(size=(12, 16, 3))}
SAMPLES = RNG.uniform(size=(2, 4, 12, 16, 3))


def seen(row, column, side=3):
    """Return fields that are relevant in one square alone."""
    field = np.zeros((2, 4, 12, 16))
    field[..., row : row + side, column : column + side] = -1.0
    return field


def panels(figure):
    FigureCanvasAgg(figure).draw()
    return [np.asarray(axis.images[-1].get_array()) for axis in figure.axes]


@pytest.mark.parametrize("row, column", [(0, 0), (9, 13), (4, 6)])
def test_samples_are_cropped_to_their_fields(row, column):
    figure = plot.concepts(MAPS, SAMPLES, seen(row, column), share=1.0)
    shown = panels(figure)
    assert len(shown) == 2 * (1 + 4)
    for c in range(2):
        for k in range(4):
            expected = SAMPLES[c, k, row : row + 3, column : column + 3]
            np.testing.assert_array_equal(shown[5 * c + 1 + k], expected)
    assert [figure.axes[5 * c].get_ylabel() for c in range(2)] == list(MAPS)
    largest = np.abs(MAPS["corner"].sum(-1)).max()
    drawn = plot.concepts(MAPS, SAMPLES, quantile=1.0)
    np.testing.assert_allclose(panels(drawn)[5], MAPS["corner"].sum(-1) / largest)


def test_a_share_leaves_the_rims_out_and_a_crop_shows_what_is_around():
    field = np.full((12, 16), 1e-3)
    field[5, 7] = 1.0
    crop = panels(plot.concepts(MAPS, SAMPLES[:, :1], np.stack([field[None]] * 2), share=0.5))[1]
    np.testing.assert_array_equal(crop, SAMPLES[0, 0, 4:7, 6:9])  # no smaller than three pixels
    figure = plot.concepts(MAPS, SAMPLES[:, :1], seen(4, 6)[:, :1], share=1.0, around=3.0)
    np.testing.assert_array_equal(panels(figure)[1], SAMPLES[0, 0, 1:10, 3:12])
    (box,) = figure.axes[1].patches
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((2.5, 2.5), 3, 3)


def test_whole_samples_an_image_and_channels_without_samples():
    image = RNG.uniform(size=(12, 16, 3))
    figure = plot.concepts(np.stack(list(MAPS.values())), [SAMPLES[0], []], image=image, title="a cat", overlay=0.5)
    shown = panels(figure)
    assert len(shown) == 1 + 2 + 4 and figure.axes[0].get_title() == "a cat"
    np.testing.assert_array_equal(shown[0], image)
    np.testing.assert_array_equal(shown[2], SAMPLES[0, 0])
    as_returned = plot.concepts(np.stack(list(MAPS.values()))[:, None], [SAMPLES[0], []], image=image, overlay=0.5)
    np.testing.assert_array_equal(panels(as_returned)[1], shown[1])
    nowhere = plot.concepts(MAPS, SAMPLES, np.zeros((2, 4, 12, 16)))
    np.testing.assert_array_equal(panels(nowhere)[1], SAMPLES[0, 0])  # a field of nothing crops nothing


@pytest.mark.parametrize(
    "args, options, message",
    [
        ((MAPS, SAMPLES[:1]), {}, "samples of 1 channels for 2 maps"),
        ((MAPS, SAMPLES, seen(0, 0)[:1]), {}, "fields of 1 channels for 2 maps"),
        ((MAPS, SAMPLES, seen(0, 0)[:, :2]), {}, "samples of sizes"),
        ((MAPS, SAMPLES, seen(0, 0)[:, :, :6]), {}, "samples of sizes"),
        ((MAPS, SAMPLES), {"image": np.ones((4, 4))}, r"an image of \(4, 4\) pixels and maps of \(12, 16\)"),
        ((MAPS, SAMPLES), {"share": 0.0}, "share=0.0"),
        ((MAPS, SAMPLES), {"around": 0.5}, "around=0.5"),
        ((MAPS, SAMPLES), {"overlay": 2}, "overlay=2"),
        ((MAPS, SAMPLES), {"share": "a"}, "share='a'"),
        ((MAPS, SAMPLES), {"power": -1}, "power=-1"),
        ((MAPS, SAMPLES), {"size": 0}, "size=0"),
        ((np.ones((2, 3, 4, 5, 6)), SAMPLES), {}, "relevance of shape"),
        (({}, []), {}, "nothing to draw"),
    ],
)
def test_what_does_not_go_together_is_said(args, options, message):
    with pytest.raises(ArgumentError, match=message):
        plot.concepts(*args, **options)
