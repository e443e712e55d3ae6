"""A figure that notebooks show, and names that fit into it."""

import io
import textwrap

from matplotlib.figure import Figure


class Picture(Figure):
    """A matplotlib figure that a notebook shows as a picture, whether or not pyplot has been imported there."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def broken(name: str, inches: float) -> str:
    """Return a name in lines that are as long as a panel."""
    return "\n".join(textwrap.fill(line, max(int(10 * inches), 8)) for line in name.splitlines())
