"""Everything that the checks of one candidate measure; each number is computed once, at first use.

Images are read one at a time, and each tower is loaded, run over all rows, and released before the next one is loaded.
So a verdict takes the memory of one graph and of the embeddings.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ...exporter.options import Dialect
from ...runtime.artifact.contract import ReferenceKind, Role
from ...runtime.model import Siglip
from ...runtime.progress import Progress
from ..data.samples import Samples
from ..limits.defaults import Limits
from ..reference.cache import ReferenceCache
from ..report.report import CheckGroup
from .logits import LogitTables
from .reference_inputs import ReferenceInputs
from .task_scores import TaskScores
from .texts import CaptionTable, LabelTable, TextIndex
from .tower_run import TowerRun, Towers

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint


class CheckContext:
    """A candidate, its reference, the data, and what the checks measure of them.

    Attributes:
        model: The candidate.
        checkpoint: The checkpoint that it was made from; None if the fp32 variant is the reference.
        reference: The reference: the checkpoint in PyTorch, or the fp32 variant.
        samples: The data.
        limits: The limits of the candidate's precision and provider.
        progress: Receives a short description of each longer step.
        exclude_groups: Check groups for which the candidate's files have nothing to check.
        inputs: The rows of both towers.
        towers: Embeddings of both towers.
        logits: Logits of both.
        task_scores: Right answers that ACCURACY and RETRIEVAL have counted; NON_INFERIORITY uses them again.
    """

    def __init__(
        self,
        model: Siglip,
        checkpoint: Checkpoint | None,
        reference: ReferenceCache,
        samples: Samples,
        limits: Limits,
        progress: Progress,
        exclude_groups: frozenset[CheckGroup] = frozenset(),
    ) -> None:
        self.model, self.checkpoint, self.reference, self.samples = model, checkpoint, reference, samples
        self.limits, self.progress, self.exclude_groups = limits, progress, exclude_groups
        self.inputs = ReferenceInputs(model, reference, samples)
        self.towers = Towers(model, reference, self.inputs, samples, progress)
        self.task_scores: dict[CheckGroup, list[TaskScores]] = {}

    @property
    def roles(self) -> tuple[Role, ...]:
        """The towers that the candidate has."""
        return self.model.contract.towers

    @property
    def has_frozen_labels(self) -> bool:
        """Whether the candidate is a classifier with labels inside its vision graph."""
        return self.model.contract.labels is not None

    @property
    def against(self) -> ReferenceKind:
        """What the candidate is compared with."""
        return ReferenceKind.FP32 if self.checkpoint is None else ReferenceKind.CHECKPOINT

    @property
    def foreign_dialect(self) -> Dialect | None:
        """The checkpoint's dialect if transformers cannot read it itself."""
        dialect = self.checkpoint.weights.dialect if self.checkpoint else None
        return None if dialect is None or dialect is Dialect.TRANSFORMERS else dialect

    @property
    def graph_roles(self) -> frozenset[Role]:
        """The graphs of the candidate's variant."""
        variant = self.model.contract.variant(self.model.precision, self.model.options.provider)
        return frozenset(variant.graphs) if variant else frozenset()

    def require_checkpoint(self) -> Checkpoint:
        """The checkpoint, for check groups that exist only with a checkpoint."""
        assert self.checkpoint is not None  # noqa: S101  see `expected_groups`
        return self.checkpoint

    def tower(self, role: Role) -> TowerRun:
        """The measurements of a tower; raises the tower's error at each call."""
        return self.towers.run(role)

    @cached_property
    def _text_index(self) -> TextIndex:
        return TextIndex(self.samples.texts, self.inputs.ids)

    @cached_property
    def labels(self) -> LabelTable:
        """The labels of the samples, for candidates that read texts."""
        return LabelTable(self.samples, self._text_index)

    @cached_property
    def captions(self) -> CaptionTable:
        """The captions of the samples."""
        return CaptionTable.of(self.samples, self._text_index)

    @cached_property
    def logits(self) -> LogitTables:
        """Logits of the candidate and the reference."""
        labels = None if self.has_frozen_labels else self.labels
        return LogitTables(self.model, self.reference, self.towers, labels)

    @property
    def label_names(self) -> list[str]:
        """Names of the columns of `logits.by_label`."""
        frozen = self.model.contract.labels
        return list(frozen.labels) if frozen else self.labels.names
