"""Run other tools on the faulty towers of tests/faults, for the table in docs/parity.md.

    python -m tests.interop.faults_elsewhere   # needs the environments `optimum` and `polygraphy`

Each tool runs its default comparison on inputs of its choice. The results go to build/interop/elsewhere.json, which
`python -m tests.faults` reads.
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

# Optimum's names of dynamic dimensions; it refuses other names before it compares anything.
_AXES: Final = {"text_batch": "text_batch_size", "image_batch": "image_batch_size"}
_CALLS: Final = {
    "optimum": (
        "`validate_model_outputs` of optimum-onnx {version}, joint graph against PyTorch; sequence length 64 and "
        "defaults (random inputs, 1e-5). If outputs differ, its command line prints a warning and exits with 0."
    ),
    "Polygraphy": (
        "`Comparator.run` and `compare_accuracy` of Polygraphy {version}, good tower against faulty tower in ONNX "
        "Runtime; defaults (batch of 1, inputs from 0 to 1, 1e-5)."
    ),
    "torch.onnx": (
        "`torch.onnx.testing.assert_onnx_program` of torch {version}, tower against the `ExportedProgram` of "
        "transformers' model; batch of 2 random inputs, default tolerances (1e-5 absolute, 1.3e-6 relative)."
    ),
}


def main() -> int:
    """Run all three tools on all faults; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-elsewhere-") as scratch:
        folder = Path(scratch)
        job = _job(make_fixture(folder / CONTROL, derived=()), folder)
        results = {
            "optimum": consumers.python(environments.python("optimum"), "optimum_faults.py", job, folder),
            "Polygraphy": consumers.python(environments.python("polygraphy"), "polygraphy_faults.py", job, folder),
            "torch.onnx": consumers.python(Path(sys.executable), "torch_onnx_faults.py", job, folder),
        }
    ELSEWHERE.parent.mkdir(parents=True, exist_ok=True)
    ELSEWHERE.write_text(json.dumps(_record(results), indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(_summary(results))
    return 0


def _job(good: FaultFixture, folder: Path) -> Json:
    """Paths of the graphs of the good artifact and of each fault."""
    cases = []
    for number, fault in enumerate(fault for fault in EVERY.values() if fault.tower is not None):
        artifact = folder / str(number)
        shutil.copytree(good.artifact, artifact)
        fault.make(artifact)
        cases.append(_case(fault.name, fault.tower, artifact))
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


def _record(results: dict[str, Json]) -> Json:
    """`passes` if a tool reports nothing, else `caught`; the control passes if both good towers pass."""
    table: dict[str, dict[str, str]] = {}
    for tool in TOOLS:
        complaints: dict[str, str] = results[tool]["complaints"]
        for name, complaint in complaints.items():
            row = table.setdefault(CONTROL if name.startswith(f"{CONTROL}, ") else name, {})
            row[tool] = "caught" if complaint or row.get(tool) == "caught" else "passes"
    calls = {tool: call.format(version=results[tool]["version"]) for tool, call in _CALLS.items()}
    return {"calls": calls, "found": table, "complaints": {tool: results[tool]["complaints"] for tool in TOOLS}}


def _summary(results: dict[str, Json]) -> str:
    lines = []
    for tool, result in results.items():
        caught = [name for name, complaint in result["complaints"].items() if complaint]
        missed = [name for name, complaint in result["complaints"].items() if not complaint]
        lines.append(f"{tool} {result['version']}: {len(caught)} caught; not caught: {', '.join(missed)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
