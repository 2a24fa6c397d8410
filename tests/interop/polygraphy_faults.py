"""Compares faulty towers with good ones in Polygraphy; uses the environment `polygraphy`, without siglip-onnx."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polygraphy
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator

Json = dict[str, Any]


def main(job: Json) -> Json:
    """The tool's complaint about each case; empty if it has none."""
    complaints = {case["name"]: complaint(job["good"][case["role"]], case["tower"]) for case in job["cases"]}
    return {"version": polygraphy.__version__, "complaints": complaints}


def complaint(good: str, tower: str) -> str:
    """Why the faulty tower differs from the good one; empty if it does not."""
    runners = [OnnxrtRunner(SessionFromOnnx(path), name=name) for name, path in (("good", good), ("candidate", tower))]
    try:
        agree = bool(Comparator.compare_accuracy(Comparator.run(runners)))
    except Exception as error:  # any error counts as a complaint
        return f"{type(error).__name__}: {error}"
    return "" if agree else "the outputs differ"


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
