"""Runs over data sets: what they keep, how they go on, and what they refuse."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worker
from worker import COUNT, SIZE, Source, explained, net

import jrlrp

pytest.importorskip("tensorstore")
from jrlrp import runs
from jrlrp.runs import storage

ITEMS = np.stack([np.random.default_rng(k).normal(size=6) for k in range(COUNT)]).astype(np.float32)
GOOD = np.setdiff1d(np.arange(COUNT), [17, 90])


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without a stop."""
    with jax.enable_x64(False):
        return explained(tmp_path_factory.mktemp("whole"), Source())


def same(run, other):
    """Assert that two runs are the same, bit for bit."""
    np.testing.assert_array_equal(run.relevance[:], other.relevance[:])
    np.testing.assert_array_equal(run.value[:], other.value[:])
    assert run.errors == other.errors and run.is_complete and other.is_complete
    for name, reduction in other.reductions.items():
        for own, expected in zip(jax.tree.leaves(run.reductions[name]), jax.tree.leaves(reduction), strict=True):
            np.testing.assert_array_equal(own, expected)


def start(store, log, part=0, parts=1, pause=0.1, *address):
    arguments = [str(store), str(log), str(part), str(parts), str(pause), *address]
    return subprocess.Popen([sys.executable, worker.__file__, *arguments], cwd=Path(worker.__file__).parents[2])


def wait_for(store, count, process):
    """Wait until so many items are finished."""
    while process.poll() is None:
        try:
            if runs.open(str(store)).finished >= count:
                return
        except jrlrp.ArgumentError:
            pass  # it has not begun
        time.sleep(0.02)


def read(log):
    return [int(line) for line in Path(log).read_text(encoding="utf-8").split()]


def test_a_run_is_what_explain_returns(whole):
    value, r = jrlrp.value_and_relevance(net)(ITEMS)
    np.testing.assert_allclose(whole.relevance[GOOD], r[GOOD], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole.value[GOOD], value[GOOD], rtol=1e-4, atol=1e-6)
    assert np.isnan(whole.relevance[17]).all() and np.isnan(whole.value[90]).all()
    assert whole.errors == {17: "OSError: item 17 is torn", 90: "OSError: item 90 is torn"}
    assert whole.finished == COUNT and whole.is_complete


def test_reductions_are_those_of_all_maps(whole):
    value, r = (np.asarray(part, np.float64)[GOOD] for part in (whole.value, whole.relevance))
    found = whole.reductions
    np.testing.assert_allclose(found["size"].mean, np.abs(r).mean(0), rtol=1e-12)
    classes = value.argmax(-1)
    expected = [r[classes == k].mean(0) if (classes == k).any() else np.full(6, np.nan) for k in range(6)]
    np.testing.assert_allclose(found["by class"].mean, expected, rtol=1e-12)
    np.testing.assert_array_equal(found["by class"].count, np.bincount(classes, minlength=6))
    inner = [np.histogram(r[:, k], np.linspace(-2, 2, 9))[0] for k in range(6)]
    np.testing.assert_array_equal(found["histogram"].counts[1:-1], np.stack(inner, 1))
    np.testing.assert_array_equal(found["histogram"].counts.sum(0), len(GOOD))


def test_a_run_is_opened_later(whole):
    later = runs.open(whole.storage.path)
    same(later, whole)
    np.testing.assert_array_equal(later.reductions["by class"].mean, whole.reductions["by class"].mean)
    with pytest.raises(jrlrp.ArgumentError, match="has no run"):
        runs.open(whole.storage.path + "-other")


@pytest.mark.parametrize("key", [3, -1, slice(2, 9, 3), [5, -2], (slice(3), -1), (..., 2), np.arange(COUNT) % 50 == 1])
def test_what_is_read_is_what_numpy_would_give(whole, key):
    np.testing.assert_array_equal(whole.relevance[key], np.asarray(whole.relevance)[key])


def test_killed_again_and_again_it_goes_on(whole, tmp_path):
    store, log, kills = tmp_path / "run", tmp_path / "log", 0
    for part in range(4):
        process = start(store, log)
        wait_for(store, (part + 1) * COUNT // 5, process)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    finished = runs.open(str(store)).finished
    assert kills == 4 and 0 < finished < COUNT and finished % SIZE == 0
    before = len(read(log))
    same(explained(store, Source(str(log))), whole)
    again = set(read(log)[before:]) - {0, COUNT // 2, COUNT - 1}  # those say whether it is the same run
    assert min(again) >= finished
    before = len(read(log))
    same(explained(store, Source(str(log))), whole)
    assert set(read(log)[before:]) <= {0, COUNT // 2, COUNT - 1}  # nothing is left to do


def test_a_full_disk_loses_nothing(whole, tmp_path, monkeypatch):
    write, left = storage.Storage.write, [5]

    def full(self, name, content):
        left[0] -= name != "run.json"
        if left[0] < 0:
            raise OSError("No space left on device")
        return write(self, name, content)

    monkeypatch.setattr(storage.Storage, "write", full)
    with pytest.raises(OSError, match="No space left"):
        explained(tmp_path, Source())
    assert runs.open(str(tmp_path)).finished == 5 * SIZE
    monkeypatch.undo()
    same(explained(tmp_path, Source()), whole)


@pytest.mark.parametrize("parts", [2, 4])
def test_processes_have_their_parts_and_wait_for_nobody(whole, tmp_path, parts):
    store, logs = tmp_path / "run", [tmp_path / f"log{k}" for k in range(parts)]
    processes = [start(store, log, k, parts) for k, log in enumerate(logs)]
    wait_for(store, SIZE, processes[1])
    processes[1].kill()
    assert [process.wait() for process in processes] == [0 if k != 1 else -signal.SIGKILL for k in range(parts)]
    left = runs.open(str(store))
    assert not left.is_complete
    explained(store, Source(str(logs[1])), process=(1, parts))
    run = runs.open(str(store))
    np.testing.assert_array_equal(run.relevance[:], whole.relevance[:])
    assert run.is_complete and run.errors == whole.errors
    np.testing.assert_allclose(run.reductions["size"].mean, whole.reductions["size"].mean, rtol=1e-12)
    np.testing.assert_array_equal(run.reductions["histogram"].counts, whole.reductions["histogram"].counts)
    own = [set(read(log)) - {0, COUNT // 2, COUNT - 1} for log in logs]
    assert not any(a & b for k, a in enumerate(own) for b in own[:k])


def test_processes_have_jaxs_own_numbers(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(tmp_path / "run", tmp_path / f"log{k}", k, 2, 0.0, address) for k in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    run = runs.open(str(tmp_path / "run"))
    assert run.is_complete
    np.testing.assert_allclose(run.relevance[:], whole.relevance[:], rtol=1e-4, atol=1e-6)


def test_another_run_in_the_same_store_is_an_error_that_says_what_differs(tmp_path):
    x = ITEMS[:20]
    options = {"batch_size": 4, "progress": False}
    runs.attribute(jrlrp.relevance(net), x, str(tmp_path), description={"weights": 1}, **options)
    for changed, said in (
        ({"description": {"weights": 2}}, "description"),
        ({"batch_size": 5, "description": {"weights": 1}}, "batch_size: 4 there, 5 here"),
        ({"dtype": jnp.float16, "description": {"weights": 1}}, "outputs"),
    ):
        with pytest.raises(jrlrp.ArgumentError, match=said):
            runs.attribute(jrlrp.relevance(net), x, str(tmp_path), **options | changed)
    for explain, source, said in (
        (jrlrp.relevance(net, rules=jrlrp.epsilon()), x, "rules"),
        (jax.jit(jrlrp.relevance(net, rules=jrlrp.epsilon())), x, "rules"),
        (jrlrp.relevance(net), x[:19], "length: 20 there, 19 here"),
        (jrlrp.relevance(net), x + np.eye(20, 6, dtype=np.float32), "items"),
        (jrlrp.relevance(net), x.astype(np.float64), "structure"),
    ):
        with pytest.raises(jrlrp.ArgumentError, match=said):
            runs.attribute(explain, source, str(tmp_path), description={"weights": 1}, **options)


def test_dtypes_and_runs_without_maps(tmp_path):
    options = {"batch_size": 8, "progress": False}
    run = runs.attribute(jrlrp.relevance(net), ITEMS, str(tmp_path / "a"), dtype=jnp.bfloat16, **options)
    assert run.relevance.dtype == jnp.bfloat16 and run.value is None
    run = runs.attribute(
        jrlrp.relevance(net), ITEMS, str(tmp_path / "b"), maps=False, reductions={"mean": runs.Mean()}, **options
    )
    assert run.relevance is None
    np.testing.assert_allclose(run.reductions["mean"].mean, jrlrp.relevance(net)(ITEMS).mean(0), rtol=1e-4, atol=1e-6)


def test_pytrees_pairs_and_named_tuples(tmp_path):
    options = {"batch_size": 7, "progress": False}
    both = jrlrp.relevance(lambda x, y: net(x) * y, argnums=(0, 1))
    source = [(x, np.ones(6, np.float32)) for x in ITEMS[:20]]
    run = runs.attribute(both, source, str(tmp_path / "both"), **options)
    assert run.value is None and list(run.relevance) == ["0", "1"] and run.relevance["1"].shape == (20, 6)
    scores = jrlrp.concepts.scores(net, "dense#0", rules=jrlrp.epsilon())
    top = runs.Top(jrlrp.concepts.References.empty(6, 3))
    run = runs.attribute(scores, ITEMS, str(tmp_path / "top"), reductions={"top": top}, **options)
    values = np.asarray(scores(ITEMS).values)
    found = runs.open(str(tmp_path / "top")).reductions["top"].references
    np.testing.assert_array_equal(found.samples, np.argsort(-values, 0, kind="stable")[:3])
    assert list(run.relevance) == ["values", "positions"] and run.relevance["positions"].dtype == np.int32


def test_a_mesh_splits_batches(tmp_path):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("data",))
    run = runs.attribute(jrlrp.relevance(net), ITEMS, str(tmp_path), batch_size=8, mesh=mesh, progress=False)
    np.testing.assert_allclose(run.relevance[:], jrlrp.relevance(net)(ITEMS), rtol=1e-4, atol=1e-6)


def test_an_item_that_cannot_be_read_is_an_error_unless_it_is_recorded(tmp_path):
    with pytest.raises(
        jrlrp.ArgumentError, match=r"item 17 of the source: OSError: item 17 is torn; on_error="
    ) as said:
        explained(tmp_path, Source(), on_error="raise")
    assert isinstance(said.value.__cause__, OSError)  # with the line of the source that raised it
    assert runs.open(str(tmp_path)).finished == 2 * SIZE  # what came before is kept
    mixed = [*ITEMS[:3], np.zeros(5, np.float32), *ITEMS[4:6]]
    run = explained(tmp_path / "mixed", mixed, batch_size=2)
    assert list(run.errors) == [3] and "float32[5]" in run.errors[3] and np.isnan(run.relevance[3]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "8"}, "batch_size='8'"),
        ({"on_error": "skip"}, "on_error='skip'"),
        ({"maps": False, "reductions": {}}, "keeps nothing"),
        ({"reductions": {"m": 3}}, "expected update"),
        ({"process": (2, 2)}, "process="),
        ({"description": {"f": net}}, "JSON"),
    ],
)
def test_what_does_not_fit(tmp_path, options, said):
    with pytest.raises(jrlrp.ArgumentError, match=said):
        explained(tmp_path, Source(), **options)
    with pytest.raises(jrlrp.ArgumentError, match="expected len"):
        explained(tmp_path, iter(ITEMS))


def test_reductions_say_what_they_were_given_wrong():
    with pytest.raises(jrlrp.ArgumentError, match="ascending"):
        runs.Histogram([1.0, 0.0])
    batch = runs.Batch(np.arange(2), None, np.ones((2, 3)))
    with pytest.raises(jrlrp.ArgumentError, match="integers below 2"):
        runs.Mean(by=lambda value, r: np.array([0, 2]), groups=2).update(batch)
