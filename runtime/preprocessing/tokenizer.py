"""Texts to ids, exactly as the reference tokenizers compute them.

The reference for SigLIP is transformers' sentencepiece `SiglipTokenizer`. Its versions differ in two details;
docs/artifact.md gives the reasons for the choices here: letters are lower-cased one code point at a time (a final Σ
becomes σ), and `</S>` is not `</s>`. The reference for SigLIP 2 is transformers' `Siglip2Tokenizer`; the tokenizers
library reads its vocabulary.
"""

from __future__ import annotations

import re
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ..arrays import IntArray
from ..artifact.input_specs import TokenizerSpec
from ..errors import ArtifactError, InputError, ProviderError

_WORD_START: Final = "▁"  # sentencepiece's mark for the beginning of a word
_WITHOUT_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Truncation:
    """A text that is longer than the model reads.

    Attributes:
        index: Position of the text in the batch.
        text: The text.
        tokens: Number of ids of the whole text, without the end id.
        max_tokens: Number of ids that the model reads, without the end id.
        last_words: The last words that the model reads, in lower case and without punctuation.
    """

    index: int
    text: str
    tokens: int
    max_tokens: int
    last_words: str


class Tokenizer(ABC):
    """Turns texts into ids as the contract says. It has no state, so threads may share it.

    Args:
        spec: The contract's tokenizer section.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec

    @staticmethod
    def load(file: Path, spec: TokenizerSpec) -> Tokenizer:
        """The tokenizer for the library that the contract names.

        Raises:
            ArtifactError: The file is damaged, or its vocabulary has another size than the contract says.
            ProviderError: The library is not installed.
        """
        return (GemmaTokenizer if spec.library == "tokenizers" else SiglipTokenizer)(file, spec)

    def __call__(self, texts: Sequence[str], on_truncated: Callable[[Truncation], None] | None = None) -> IntArray:
        """Ids of each text followed by the end id, truncated or padded to the contract's length: int64 [texts, length].

        Args:
            texts: The texts.
            on_truncated: Called for each text that is too long.

        Raises:
            InputError: A text is not a string, or contains an unpaired surrogate.
        """
        ids = np.full((len(texts), self.spec.length), self.spec.pad_id, dtype=np.int64)
        limit = self.spec.length - 1
        for index, (row, text) in enumerate(zip(ids, texts, strict=True)):
            pieces = self.pieces(text)
            kept = pieces[:limit]
            row[: len(kept) + 1] = [*kept, self.spec.eos_id]
            if on_truncated and len(pieces) > limit:
                last_words = " ".join(self.decode(kept).split()[-4:])
                on_truncated(Truncation(index, text, len(pieces), limit, last_words))
        return ids

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """Ids of one text, without end id, truncation and padding; raises InputError for an invalid text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The approximate text of ids."""

    def _check_size(self, actual: int, file: Path) -> None:
        if actual != self.spec.vocab_size:
            raise ArtifactError(
                f"{file} has {actual} pieces, the contract expects {self.spec.vocab_size}.",
                "Copy the artifact again.",
            )


class GemmaTokenizer(Tokenizer):
    """Tokenizer of SigLIP 2, by the tokenizers library, whose file includes the lower-casing."""

    def __init__(self, file: Path, spec: TokenizerSpec) -> None:
        super().__init__(spec)
        try:
            import tokenizers
        except ImportError as error:
            raise ProviderError(
                f"The texts of a SigLIP 2 model need the tokenizers library ({error}).",
                "Run: pip install 'siglip-onnx[siglip2]'.",
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library's exceptions have no common base class
            raise ArtifactError(f"{file} cannot be read ({error}).", "Copy the artifact again.") from error
        self._check_size(self._tokenizer.get_vocab_size(), file)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def pieces(self, text: str) -> list[int]:  # noqa: D102
        return list(self._tokenizer.encode(_checked(text), add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:  # noqa: D102
        return str(self._tokenizer.decode(ids))


class SiglipTokenizer(Tokenizer):
    """Tokenizer of SigLIP: canonicalization, then sentencepiece."""

    def __init__(self, file: Path, spec: TokenizerSpec) -> None:
        import sentencepiece  # 5 MB that users who only encode images do without

        super().__init__(spec)
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{file} is not a sentencepiece model.", "Copy the artifact again.") from error
        self._check_size(self._pieces.get_piece_size(), file)
        self._special = re.compile("(" + "|".join(map(re.escape, spec.special_pieces)) + ")")
        self._word_start_id = self._pieces.piece_to_id(_WORD_START)
        self._prefix_length = len(self._pieces.encode(spec.unk_piece))

    def decode(self, ids: list[int]) -> str:  # noqa: D102
        return str(self._pieces.decode(ids))

    def pieces(self, text: str) -> list[int]:  # noqa: D102
        _checked(text)
        # Even segments are texts, odd segments are the special pieces between them.
        segments = self._special.split(_WORD_START + text.replace(_WORD_START, " "))
        ids: list[int] = []
        for index, segment in enumerate(segments):
            if index % 2:
                ids.append(self.spec.special_pieces[segment])
            else:
                ids.extend(self._segment(self._strip(segment, index, len(segments))))
            if index == 0 and len(segments) > 1 and ids == [self._word_start_id]:
                ids.clear()  # no word begins before a special piece
        return ids

    @staticmethod
    def _strip(segment: str, index: int, count: int) -> str:
        """Remove white space next to special pieces, as the reference does."""
        segment = segment.lstrip() if index > 0 else segment
        return segment.rstrip() if index < count - 1 else segment

    def _segment(self, segment: str) -> list[int]:
        """Ids of a text without special pieces.

        sentencepiece drops a leading space. Encoding the unknown piece before the segment, and removing its ids
        afterwards, keeps the space.
        """
        ids = self._pieces.encode(self.spec.unk_piece + self.canonical(segment))
        return list(ids[self._prefix_length :])

    def canonical(self, text: str) -> str:
        """A text in lower case, without ASCII punctuation, with single spaces."""
        if self.spec.lower_case:
            text = "".join(map(str.lower, text))
        return re.sub(r"\s+", " ", text.translate(_WITHOUT_PUNCTUATION)).strip()


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InputError(f"A text must be a string, got {type(text).__name__} ({text!r:.80}).", "Pass a str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text {text!r:.80} is not valid Unicode: unpaired surrogate at {error.start}.",
            "Decode it with errors='replace'.",
        ) from error
    return text
