"""Reports that say more than was measured, and artifacts that carry somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role, Verdict
from siglip_onnx.runtime.errors import ArtifactError, InconclusiveError, InputError
from siglip_onnx.validate import CheckGroup, Report

from ..conftest import rewrite
from .edits import Array, Change, in_contract, in_weights
from .fault import Bench, Fault, FaultArea, climbed
from .judge import earlier, judge, keep, report_file


def _in_report(edit: Callable[[dict[str, Any]], None], precision: Precision = Precision.FP32) -> Change:
    """The JSON of a report by other hands than ours."""

    def make(folder: Path) -> None:
        path = report_file(folder, precision)
        content = json.loads(path.read_text("utf-8"))
        edit(content)
        path.write_text(json.dumps(content), "utf-8")

    return make


def _passing(content: dict[str, Any]) -> None:
    """A verdict that the checks below it do not bear out."""
    content["checks"][-1]["verdict"] = "FAIL"


def _better(content: dict[str, Any]) -> None:
    check = next(check for check in content["checks"] if check["name"] == "difference max")
    check["measured"] /= 2


def _not_a_number(content: dict[str, Any]) -> None:
    content["checks"][-1]["measured"] = float("nan")


def _older(content: dict[str, Any]) -> None:
    content["schema_version"] = 1


def _rung_missing(content: dict[str, Any]) -> None:
    content["checks"] = [check for check in content["checks"] if check["group"] != "embeddings"]


def _one_metric_more(content: dict[str, Any]) -> None:
    """The accepted release was measured by something that is not measured now."""
    content["checks"].append({**content["checks"][-1], "name": "recall of rare captions"})


def _other_data(content: dict[str, Any]) -> None:
    content["data"]["sha256"] = "0" * 64


def _verdict_in_contract(folder: Path) -> None:
    """The report says INCONCLUSIVE, and the contract calls it a PASS, with the hash that goes with it."""
    _in_report(lambda content: content.update(verdict="INCONCLUSIVE"))(folder)
    report = Report.from_json(report_file(folder).read_bytes())
    keep(folder, report)
    rewrite(folder, _all_pass)


def _all_pass(contract: Contract) -> Contract:
    def passed(parity: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(p, verdict=Verdict.PASS) for p in parity)

    return replace(contract, variants=tuple(replace(v, parity=passed(v.parity)) for v in contract.variants))


def _removed(folder: Path) -> None:
    report_file(folder).unlink()


def _unjudged(folder: Path) -> None:
    rewrite(folder, lambda contract: contract.without_verdicts())


def _a_bit_worse(weights: dict[str, Array]) -> None:
    """Within every limit, and worse than the release before it."""
    scale = weights["layers.3.mlp.fc2.weight.scale"]
    scale[: len(scale) // 8] *= 1.3


def _verified(bench: Bench, fault: Fault) -> Report:
    """What `inspect --verify` says of the artifact."""
    Artifact.open(bench.artifact).verify()
    return Report.from_json(report_file(bench.artifact).read_bytes())


def _after_release(bench: Bench, fault: Fault) -> Report:
    """The verdict with the artifact's own report as that of the last release."""
    release = earlier(report_file(bench.artifact, fault.precision), fault.precision)
    return judge(
        bench.artifact,
        bench.data,
        precision=fault.precision,
        options=fault.options,
        answers=bench.answers,
        release=release,
    )


def _against_fp32(bench: Bench, fault: Fault) -> Report:
    """The verdict of a variant against the artifact's own fp32 graphs."""
    return judge(bench.artifact, bench.data, precision=fault.precision, options=fault.options, checkpoint=None)


def _kept_too_late(bench: Bench, fault: Fault) -> Report:
    """A verdict that is stored once another export lies in the same place."""
    report, before = climbed(bench, fault), Artifact.open(bench.artifact)
    in_contract("logits", bias=-1.0)(bench.artifact)
    keep(before, report)
    return report


def _on_file(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.REPORT, ArtifactError, make, ask=_verified)


def _released(name: str, make: Change, caught: CheckGroup | type[InputError], verdict: Verdict = Verdict.FAIL) -> Fault:
    return Fault(name, FaultArea.REPORT, caught, make, ask=_after_release, verdict=verdict)


FAULTS: Final = (
    _on_file("verdict edited", _in_report(lambda content: content.update(verdict="FAIL"))),
    _on_file("a number edited", _in_report(_better)),
    _on_file("verdict edited in the contract", _verdict_in_contract),
    _on_file("report missing", _removed),
    Fault("report of another artifact", FaultArea.REPORT, ArtifactError, ask=_kept_too_late),
    Fault(
        "fp32 never judged",
        FaultArea.REPORT,
        InconclusiveError,
        _unjudged,
        precision=Precision.INT8,
        ask=_against_fp32,
    ),
    _released("baseline with NaN", _in_report(_not_a_number), InputError),
    _released("baseline of an older schema", _in_report(_older), InputError),
    _released("baseline that says FAIL", _in_report(lambda content: content.update(verdict="FAIL")), InputError),
    _released("baseline whose checks fail", _in_report(_passing), InputError),
    _released("baseline without a group", _in_report(_rung_missing), InputError),
    _released("baseline on other data", _in_report(_other_data), CheckGroup.BASELINE, Verdict.INCONCLUSIVE),
    _released("a metric missing", _in_report(_one_metric_more), CheckGroup.BASELINE),
    Fault(
        "worse than the release before",
        FaultArea.REPORT,
        CheckGroup.BASELINE,
        in_weights(Role.VISION, _a_bit_worse, Precision.INT8),
        precision=Precision.INT8,
        ask=_after_release,
    ),
)
