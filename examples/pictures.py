"""Where the examples' pictures go."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console


def save(figure: Figure, output: Path, console: Console) -> None:
    """Write a picture into a folder, which is made if need be, and say so."""
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    console.print(f"The picture is in {output}")
