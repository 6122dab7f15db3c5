"""One cell's arrays for each system with named arrays, as in a file of that system."""

from dataclasses import dataclass

from fusedlstm.convert.systems import SYSTEMS
from fusedlstm.convert.writing import write

from support.layouts import LAYOUTS


@dataclass(frozen=True)
class Example:
    """A cell in a model.

    Attributes:
        layout: a layout of the system.
        scope: the beginning of the arrays' names.
        prefix: the importer's argument that chooses the cell; None for the default.
    """

    layout: str
    scope: str = ""
    prefix: str | None = None

    def arrays(self, weights, **options):
        """Return the arrays of weights, with the options of `write`."""
        return {self.scope + name: array for name, array in write(LAYOUTS[self.layout], weights, **options).items()}

    @property
    def arguments(self):
        return {} if self.prefix is None else {"prefix": self.prefix}


EXAMPLES = {
    "flax": Example("flax", "params/cell/", "cell"),
    "haiku": Example("haiku", "lstm/linear/"),
    "equinox": Example("equinox", "cell.", "cell"),
    "sonnet1": Example("sonnet1", "a/lstm/", "a/lstm"),
    "sonnet2": Example("sonnet2", "a/lstm/", "a/lstm"),
    "mxnet": Example("mxnet", "lstm0_", "lstm0_"),
    "chainer": Example("chainer", "a/lstm/", "a/lstm"),
    "haste": Example("haste", "encoder.lstm.", "encoder.lstm"),
}
# Systems whose files hold only named arrays, and whose framework the tests don't run.
PLAIN = [system.name for system in SYSTEMS if system.source == "arrays" and not system.framework]
