"""What other tools say to the faulty towers of tests/faults, for the table in docs/parity.md.

    python -m tests.interop.faults_elsewhere   # needs the environments `optimum` and `polygraphy`

Each tool compares as it does by default, on inputs that it makes up itself. What they say is kept in
build/interop/elsewhere.json, from where `python -m tests.faults` takes it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import onnx

from siglip_onnx.runtime.artifact.contract import Role
from tests.faults import EVERY
from tests.faults.edits import graph_path
from tests.faults.fault import FaultFixture
from tests.faults.fixture import make_fixture
from tests.faults.table import CONTROL, ELSEWHERE, TOOLS
from tests.faults.validation import CHECKPOINT

from . import consumers, environments
from .consumers import Json

# Names that Optimum's configuration gives to free dimensions; it refuses others before it compares anything.
_AXES: Final = {"text_batch": "text_batch_size", "image_batch": "image_batch_size"}
_CALLS: Final = {
    "optimum": (
        "`validate_model_outputs` of optimum-onnx {version}, joint graph against PyTorch; sequence length 64, all else "
        "by default (random inputs, 1e-5). On a difference its command line warns, and ends as if there were none."
    ),
    "Polygraphy": (
        "`Comparator.run` and `compare_accuracy` of Polygraphy {version}, good tower against faulty tower in ONNX "
        "Runtime; all by default (a batch of 1, inputs from 0 to 1, 1e-5)."
    ),
    "torch.onnx": (
        "`torch.onnx.testing.assert_onnx_program` of torch {version}, tower against the `ExportedProgram` of "
        "transformers' model; a batch of 2 random inputs, tolerances by default (1e-5, and 1.3e-6 of the value)."
    ),
}


def main() -> int:
    """Ask all three about all faults; the exit code."""
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-elsewhere-") as scratch:
        folder = Path(scratch)
        job = _job(make_fixture(folder / CONTROL, derived=()), folder)
        said = {
            "optimum": consumers.python(environments.python("optimum"), "optimum_faults.py", job, folder),
            "Polygraphy": consumers.python(environments.python("polygraphy"), "polygraphy_faults.py", job, folder),
            "torch.onnx": consumers.python(Path(sys.executable), "torch_onnx_faults.py", job, folder),
        }
    ELSEWHERE.parent.mkdir(parents=True, exist_ok=True)
    ELSEWHERE.write_text(json.dumps(_record(said), indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(_summary(said))
    return 0


def _job(good: FaultFixture, folder: Path) -> Json:
    """Where the graphs of the good artifact and of each fault lie."""
    cases = []
    for number, fault in enumerate(fault for fault in EVERY.values() if fault.tower is not None):
        place = folder / str(number)
        shutil.copytree(good.artifact, place)
        fault.make(place)
        cases.append(_case(fault.name, fault.tower, place))
    controls = [_case(f"{CONTROL}, {role}", role, good.artifact) for role in (Role.VISION, Role.TEXT)]
    good_towers = {role.value: str(graph_path(good.artifact, role)) for role in (Role.VISION, Role.TEXT)}
    return {"checkpoint": str(CHECKPOINT), "good": good_towers, "cases": [*controls, *cases]}


def _case(name: str, role: Role | None, artifact: Path) -> Json:
    assert role is not None
    joint = graph_path(artifact, Role.JOINT)
    model = onnx.load(joint, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in _AXES:
                dimension.dim_param = _AXES[dimension.dim_param]
    renamed = joint.with_name("for_optimum.onnx")
    renamed.write_bytes(model.SerializeToString())
    return {"name": name, "role": role.value, "tower": str(graph_path(artifact, role)), "joint": str(renamed)}


def _record(said: dict[str, Json]) -> Json:
    """`passes` where a tool has nothing to say, else `caught`; the control passes where both towers do."""
    found: dict[str, dict[str, str]] = {}
    for tool in TOOLS:
        complaints: dict[str, str] = said[tool]["complaints"]
        for name, complaint in complaints.items():
            row = found.setdefault(CONTROL if name.startswith(f"{CONTROL}, ") else name, {})
            row[tool] = "caught" if complaint or row.get(tool) == "caught" else "passes"
    calls = {tool: call.format(version=said[tool]["version"]) for tool, call in _CALLS.items()}
    return {"calls": calls, "found": found, "complaints": {tool: said[tool]["complaints"] for tool in TOOLS}}


def _summary(said: dict[str, Json]) -> str:
    lines = []
    for tool, answer in said.items():
        caught = [name for name, complaint in answer["complaints"].items() if complaint]
        missed = [name for name, complaint in answer["complaints"].items() if not complaint]
        lines.append(f"{tool} {answer['version']}: {len(caught)} caught; nothing to say to {', '.join(missed)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
