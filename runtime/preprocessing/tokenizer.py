"""Texts to ids, exactly as the reference makes them.

SigLIP's reference is transformers' sentencepiece `SiglipTokenizer`. Two details on which versions of it differ are
settled here, for the reasons in docs/artifact.md: letters are lower-cased one code point at a time (a final Σ becomes
σ), and `</S>` is not `</s>`. SigLIP 2's is transformers' `Siglip2Tokenizer`, and its vocabulary is read by the library
that it was made for.
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
from numpy.typing import NDArray

from ..artifact.contract import TokenizerSpec
from ..errors import ArtifactError, InputError, ProviderError

_SPACE: Final = "▁"  # how sentencepiece writes the beginning of a word
_WITHOUT_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Truncation:
    """A text that is longer than the model reads.

    Attributes:
        place: Which of the texts.
        text: The text.
        pieces: How many ids it has.
        read: How many of them are read.
        last_words: The end of what is read, in lower case and without punctuation.
    """

    place: int
    text: str
    pieces: int
    read: int
    last_words: str


class Tokenizer(ABC):
    """Turns texts into ids by an artifact's contract. It keeps no state, so threads may share it.

    Args:
        spec: The contract's tokenizer section.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec

    @staticmethod
    def load(file: Path, spec: TokenizerSpec) -> Tokenizer:
        """The tokenizer of the contract's library.

        Raises:
            ArtifactError: The file is damaged, or of another vocabulary than the contract says.
            ProviderError: The library is not installed.
        """
        return (GemmaTokenizer if spec.library == "tokenizers" else SiglipTokenizer)(file, spec)

    def __call__(self, texts: Sequence[str], on_cut: Callable[[Truncation], None] | None = None) -> NDArray[np.int64]:
        """Ids of each text, closed by the end id, cut or padded to the contract's length: int64 [texts, length].

        Args:
            texts: The texts.
            on_cut: Told of each text that is too long.

        Raises:
            InputError: A text is no string, or holds half of a surrogate pair.
        """
        ids = np.full((len(texts), self.spec.length), self.spec.pad_id, dtype=np.int64)
        room = self.spec.length - 1
        for place, (row, text) in enumerate(zip(ids, texts, strict=True)):
            pieces = self.pieces(text)
            known = [*pieces[:room], self.spec.eos_id]
            row[: len(known)] = known
            if on_cut and len(pieces) > room:
                on_cut(Truncation(place, text, len(pieces), room, " ".join(self.decode(known[:-1]).split()[-4:])))
        return ids

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """Ids of one text, neither closed, cut nor padded; raises InputError for what is no text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """About the text that ids stand for."""

    def _check(self, found: int, file: Path) -> None:
        if found != self.spec.vocab_size:
            raise ArtifactError(
                f"{file} holds {found} pieces where the contract says {self.spec.vocab_size}.",
                "Copy the artifact again.",
            )


class GemmaTokenizer(Tokenizer):
    """SigLIP 2's: the tokenizers library, whose file lower-cases by itself."""

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
        except Exception as error:  # what the library raises has no common base but this
            raise ArtifactError(f"{file} cannot be read ({error}).", "Copy the artifact again.") from error
        self._check(self._tokenizer.get_vocab_size(), file)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def pieces(self, text: str) -> list[int]:  # noqa: D102
        return list(self._tokenizer.encode(_checked(text), add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:  # noqa: D102
        return str(self._tokenizer.decode(ids))


class SiglipTokenizer(Tokenizer):
    """SigLIP's: sentencepiece behind canonicalization."""

    def __init__(self, file: Path, spec: TokenizerSpec) -> None:
        import sentencepiece  # 5 MB that whoever has images alone does without

        super().__init__(spec)
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{file} is no sentencepiece model.", "Copy the artifact again.") from error
        self._check(self._pieces.get_piece_size(), file)
        self._special = re.compile("(" + "|".join(map(re.escape, spec.special_pieces)) + ")")
        self._space_id = self._pieces.piece_to_id(_SPACE)
        self._prefix_length = len(self._pieces.encode(spec.unk_piece))

    def decode(self, ids: list[int]) -> str:  # noqa: D102
        return str(self._pieces.decode(ids))

    def pieces(self, text: str) -> list[int]:  # noqa: D102
        _checked(text)
        segments = self._special.split(_SPACE + text.replace(_SPACE, " "))  # texts at even places, specials between
        ids: list[int] = []
        for place, segment in enumerate(segments):
            if place % 2:
                ids.append(self.spec.special_pieces[segment])
            else:
                ids.extend(self._segment(self._strip(segment, place, len(segments))))
            if place == 0 and len(segments) > 1 and ids == [self._space_id]:
                ids.clear()  # no word begins before a special piece
        return ids

    @staticmethod
    def _strip(segment: str, place: int, count: int) -> str:
        """A special piece swallows the white space on both of its sides."""
        segment = segment.lstrip() if place > 0 else segment
        return segment.rstrip() if place < count - 1 else segment

    def _segment(self, segment: str) -> list[int]:
        """Ids of a text without special pieces.

        sentencepiece drops a leading space; reading the segment behind the unknown piece, whose ids are cut off
        again, keeps it.
        """
        ids = self._pieces.encode(self.spec.unk_piece + self.canonical(segment))
        return list(ids[self._prefix_length :])

    def canonical(self, text: str) -> str:
        """A text as the vocabulary knows it: lower case, without ASCII punctuation, with single spaces."""
        if self.spec.lower_case:
            text = "".join(map(str.lower, text))
        return re.sub(r"\s+", " ", text.translate(_WITHOUT_PUNCTUATION)).strip()


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InputError(f"A text must be a string, not {type(text).__name__} ({text!r:.80}).", "Pass a str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text {text!r:.80} is not valid Unicode: half of a surrogate pair at {error.start}.",
            "Decode it with errors='replace' first.",
        ) from error
    return text
