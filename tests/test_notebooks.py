"""The notebooks run, and are committed as they ran: `python tests/test_notebooks.py` runs them in place.

Numbers of trained networks differ a little from machine to machine, so it is the kinds of output that have to be those
that were committed, and the text of cells tagged "exact".
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
MACHINE = re.compile(r"(?<![\w/.])/(home|root|tmp|usr|var|opt|work|Users|private)/|[A-Z]:\\|ipykernel|0x[0-9a-f]{6}")


def read(path):
    return nbformat.read(path, as_version=4)


def executed(path):
    """Return the notebook as it runs in a fresh kernel; raises for a cell that fails."""
    notebook = read(path)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the tests' four devices
    environment["JAX_PLATFORMS"] = "cpu"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as profile:
        client = nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute(env=environment | {"IPYTHONDIR": profile})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    return [(out.output_type, out.get("name"), sorted(out.get("data", ()))) for out in cell.outputs]


def texts(cell):
    for out in cell.outputs:
        yield out.get("text", "")
        yield from (text for kind, text in out.get("data", {}).items() if kind.startswith("text/"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_was_committed(path):
    for committed, cell in zip(code_cells(read(path)), code_cells(executed(path)), strict=True):
        other = f"{cell.id} shows something else than what is committed; run `make notebooks`"
        assert kinds(cell) == kinds(committed), other
        if "exact" in cell.metadata.get("tags", ()):
            assert list(texts(cell)) == list(texts(committed)), other


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    notebook = read(path)
    cells = code_cells(notebook)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5) and notebook.metadata == METADATA
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)  # no times, no state of an editor
    outputs = [(cell.id, out) for cell in cells for out in cell.outputs]
    assert not [name for name, out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    assert not [cell.id for cell in cells if MACHINE.search("\n".join(texts(cell)))]
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    assert path.stat().st_size < 400_000


def test_there_are_notebooks():
    names = {"quickstart", "choosing_rules", "inside_the_transform", "concepts", "text", "tables"}
    assert {path.stem for path in NOTEBOOKS} >= names


if __name__ == "__main__":
    for notebook_path in map(Path, sys.argv[1:] or NOTEBOOKS):
        nbformat.write(executed(notebook_path), notebook_path)
        print(notebook_path.name)
