"""Loading of an artifact's graphs."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir


class _LinkedTensor(ir.ExternalTensor):
    """A tensor in a data file that may be a link, as `siglip-onnx layout` and the Hugging Face cache make them."""

    def _check_path_containment(self) -> None:
        """Accept links: a plain file name stays in the graph's folder, and the contract has the file's hash."""
        if Path(self.location).name != str(self.location):
            raise ValueError(f"the data file {self.location!r} is not a plain file name")


def load_graph(path: Path) -> ir.Model:
    """Read a graph; its weights stay in their data files until they are used.

    onnx-ir itself refuses data files with links. Reading a weight raises ValueError if the name of its data file is not
    a plain name.
    """
    model = ir.load(path)
    for value in model.graph.initializers.values():
        if isinstance(tensor := value.const_value, ir.ExternalTensor):
            value.const_value = _LinkedTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name,
                base_dir=tensor.base_dir,
            )
    return model
