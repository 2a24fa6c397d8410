"""The loaded graphs of a model, for several threads and for forked processes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .artifact.artifact import Artifact
from .artifact.contract import Precision, Role
from .device_arrays import DeviceTower
from .engines import host
from .engines.options import SessionOptions
from .errors import ArtifactError
from .preprocessing.tokenizer import Tokenizer
from .session import GraphSession


class TowerPool:
    """The graphs and the tokenizer of one variant, each loaded when it is first used.

    Threads may share a pool. A forked process loads graphs of its own.

    Args:
        artifact: The artifact.
        precision: The variant.
        options: Session options of all graphs.

    Attributes:
        executor: Threads for image decoding and for loading towers in parallel, one for each usable core.
    """

    executor: ThreadPoolExecutor

    def __init__(self, artifact: Artifact, precision: Precision, options: SessionOptions) -> None:
        self.artifact, self.precision, self.options = artifact, precision, options
        self._start()

    def _start(self) -> None:
        self._tokenizer: Tokenizer | None = None
        self._sessions: dict[Role, GraphSession] = {}
        self._device_towers: dict[Role, DeviceTower] = {}
        self._locks = {role: threading.Lock() for role in Role}
        self._text_lock = threading.Lock()
        self.executor = ThreadPoolExecutor(host.cores(), "siglip-onnx")
        self._process = os.getpid()

    @property
    def loaded(self) -> frozenset[Role]:
        """Roles of the graphs that are loaded now."""
        return frozenset(self._sessions)

    def check_fork(self) -> bool:
        """Start with an empty pool in a forked process; whether this is the first call there.

        A forked process has none of its parent's threads, and locks that those threads held stay locked.
        """
        if self._process == os.getpid():
            return False
        _inherited.append((self._sessions, self.executor))
        self._start()
        return True

    def session(self, role: Role) -> GraphSession:
        """The loaded graph of a role.

        Raises:
            ArtifactError: The graph is missing or damaged, or lacks the output that the contract calls the embedding.
            ProviderError: The provider does not run the graph.
        """
        with self._locks[role]:
            if role not in self._sessions:
                self._sessions[role] = self._load(role)
            return self._sessions[role]

    def _load(self, role: Role) -> GraphSession:
        session = GraphSession(self.artifact, role, self.precision, self.options)
        outputs = {spec.name for spec in session.graph.outputs}
        if role is not Role.JOINT and session.embedding.output not in outputs:
            raise ArtifactError(
                f"The {role} graph of {self.artifact.folder} has no output {session.embedding.output!r}.",
                "Export the checkpoint again.",
            )
        return session

    def device_tower(self, role: Role) -> DeviceTower:
        """The tower that takes and returns arrays in the device's memory.

        Raises:
            ProviderError: The provider is neither CUDA nor the CPU, or the graph's batch is fixed.
        """
        session = self.session(role)
        with self._locks[role]:
            if role not in self._device_towers:
                self._device_towers[role] = DeviceTower(session, self.options, session.embedding)
            return self._device_towers[role]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the artifact.

        Raises:
            ArtifactError: Its file is damaged; or the artifact has frozen labels and thus no tokenizer.
        """
        with self._text_lock:
            if self._tokenizer is None:
                self._tokenizer = self._load_tokenizer()
            return self._tokenizer

    def _load_tokenizer(self) -> Tokenizer:
        spec = self.artifact.contract.tokenizer
        if spec is None:
            raise ArtifactError(
                f"{self.artifact.folder} is a classifier with frozen labels and cannot encode texts.",
                "Use the artifact that the classifier was made from.",
            )
        if self.options.verify:
            self.artifact.verify((spec.file,))
        return Tokenizer.load(self.artifact.path(spec.file), spec)

    def load_towers(self) -> None:
        """Load both towers in parallel."""
        list(self.executor.map(self.session, self.artifact.contract.towers))

    def release(self, role: Role) -> None:
        """Free one graph; the next use loads it again."""
        with self._locks[role]:
            self._sessions.pop(role, None)
            self._device_towers.pop(role, None)

    def close(self) -> None:
        """Free everything; the next use loads it again."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self._start()


# Sessions and executors that a forked process inherited. Destroying them would wait for threads that it does not have.
_inherited: Final[list[object]] = []
