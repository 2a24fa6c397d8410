"""Faults in reports: edited reports, and reports that belong to another artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.arrays import AnyArray
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role, Verdict
from siglip_onnx.runtime.errors import ArtifactError, InconclusiveError, InputError
from siglip_onnx.validate import CheckGroup, Report
from siglip_onnx.validate.report.report import REPORT_VERSION

from ..conftest import rewrite
from .edits import Change, in_contract, in_weights
from .fault import Fault, FaultArea, FaultFixture, validated
from .validation import accepted_report, report_file, store_report, validate_artifact


def _in_report(edit: Callable[[dict[str, Any]], None], precision: Precision = Precision.FP32) -> Change:
    """Edit the JSON of a report by hand."""

    def make(folder: Path) -> None:
        path = report_file(folder, precision)
        content = json.loads(path.read_text("utf-8"))
        edit(content)
        path.write_text(json.dumps(content), "utf-8")

    return make


def _failing_check(content: dict[str, Any]) -> None:
    """The verdict is PASS, but a check fails."""
    content["checks"][-1]["verdict"] = "FAIL"


def _better(content: dict[str, Any]) -> None:
    check = next(check for check in content["checks"] if check["name"] == "difference max")
    check["measured"] /= 2


def _not_a_number(content: dict[str, Any]) -> None:
    content["checks"][-1]["measured"] = float("nan")


def _older(content: dict[str, Any]) -> None:
    content["schema_version"] = REPORT_VERSION - 1


def _group_missing(content: dict[str, Any]) -> None:
    content["checks"] = [check for check in content["checks"] if check["group"] != "embeddings"]


def _additional_metric(content: dict[str, Any]) -> None:
    """The baseline has a metric that is no longer measured."""
    content["checks"].append({**content["checks"][-1], "name": "recall of rare captions"})


def _other_data(content: dict[str, Any]) -> None:
    content["data"]["sha256"] = "0" * 64


def _verdict_in_contract(folder: Path) -> None:
    """The report says INCONCLUSIVE; the contract lists it as PASS, with the matching hash."""
    _in_report(lambda content: content.update(verdict="INCONCLUSIVE"))(folder)
    report = Report.from_json(report_file(folder).read_bytes())
    store_report(folder, report)
    rewrite(folder, _all_pass)


def _all_pass(contract: Contract) -> Contract:
    def passed(parity: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(p, verdict=Verdict.PASS) for p in parity)

    return replace(contract, variants=tuple(replace(v, parity=passed(v.parity)) for v in contract.variants))


def _removed(folder: Path) -> None:
    report_file(folder).unlink()


def _without_verdicts(folder: Path) -> None:
    rewrite(folder, lambda contract: contract.without_verdicts())


def _a_bit_worse(weights: dict[str, AnyArray]) -> None:
    """Within every limit, but worse than the baseline."""
    scale = weights["layers.3.mlp.fc2.weight.scale"]
    scale[: len(scale) // 8] *= 1.3


def _verified(fixture: FaultFixture, fault: Fault) -> Report:
    """Run `inspect --verify` on the artifact."""
    Artifact.open(fixture.artifact).verify()
    return Report.from_json(report_file(fixture.artifact).read_bytes())


def _after_release(fixture: FaultFixture, fault: Fault) -> Report:
    """Validate with the artifact's own report as the baseline."""
    release = accepted_report(report_file(fixture.artifact, fault.precision), fault.precision)
    return validate_artifact(
        fixture.artifact,
        fixture.data,
        precision=fault.precision,
        options=fault.options,
        cache=fixture.cache,
        release=release,
    )


def _against_fp32(fixture: FaultFixture, fault: Fault) -> Report:
    """Validate a variant against the artifact's own fp32 graphs."""
    return validate_artifact(
        fixture.artifact, fixture.data, precision=fault.precision, options=fault.options, checkpoint=None
    )


def _stored_too_late(fixture: FaultFixture, fault: Fault) -> Report:
    """Store a report after another export has replaced the artifact."""
    report, before = validated(fixture, fault), Artifact.open(fixture.artifact)
    in_contract("logits", bias=-1.0)(fixture.artifact)
    store_report(before, report)
    return report


def _on_file(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.REPORT, ArtifactError, make, run=_verified)


def _released(
    name: str, make: Change, caught_by: CheckGroup | type[InputError], verdict: Verdict = Verdict.FAIL
) -> Fault:
    return Fault(name, FaultArea.REPORT, caught_by, make, run=_after_release, verdict=verdict)


FAULTS: Final = (
    _on_file("verdict edited", _in_report(lambda content: content.update(verdict="FAIL"))),
    _on_file("a number edited", _in_report(_better)),
    _on_file("verdict edited in the contract", _verdict_in_contract),
    _on_file("report missing", _removed),
    Fault("report of another artifact", FaultArea.REPORT, ArtifactError, run=_stored_too_late),
    Fault(
        "fp32 never validated",
        FaultArea.REPORT,
        InconclusiveError,
        _without_verdicts,
        precision=Precision.INT8,
        run=_against_fp32,
    ),
    _released("baseline with NaN", _in_report(_not_a_number), InputError),
    _released("baseline of an older schema", _in_report(_older), InputError),
    _released("baseline with a FAIL verdict", _in_report(lambda content: content.update(verdict="FAIL")), InputError),
    _released("baseline with a failing check", _in_report(_failing_check), InputError),
    _released("baseline without a check group", _in_report(_group_missing), InputError),
    _released("baseline on other data", _in_report(_other_data), CheckGroup.BASELINE, Verdict.INCONCLUSIVE),
    _released("metric of the baseline missing", _in_report(_additional_metric), CheckGroup.BASELINE),
    Fault(
        "worse than the baseline",
        FaultArea.REPORT,
        CheckGroup.BASELINE,
        in_weights(Role.VISION, _a_bit_worse, Precision.INT8),
        precision=Precision.INT8,
        run=_after_release,
    ),
)
