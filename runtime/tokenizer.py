"""Texts to ids, exactly as the reference (transformers' sentencepiece `SiglipTokenizer`) makes them.

Two details on which versions of the reference differ are settled here, for the reasons in docs/artifact.md:
letters are lower-cased one code point at a time (a final Σ becomes σ), and `</S>` is not `</s>`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .contract import TokenizerSpec
from .errors import ArtifactError, InputError

_SPACE: Final = "▁"  # how sentencepiece writes the beginning of a word
_WITHOUT_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Cut:
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


class Tokenizer:
    """Turns texts into ids by an artifact's contract. It keeps no state, so threads may share it.

    Args:
        model: The sentencepiece model file.
        spec: The contract's tokenizer section.

    Raises:
        ArtifactError: The file is no sentencepiece model, or of another vocabulary than the contract says.
    """

    def __init__(self, model: Path, spec: TokenizerSpec) -> None:
        import sentencepiece  # 5 MB that whoever has pictures alone does without

        self.spec = spec
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{model} is no sentencepiece model.", "Copy the artifact again.") from error
        if self._pieces.get_piece_size() != spec.vocab_size:
            raise ArtifactError(
                f"{model} holds {self._pieces.get_piece_size()} pieces where the contract says {spec.vocab_size}.",
                "Copy the artifact again.",
            )
        self._special = re.compile("(" + "|".join(map(re.escape, spec.special_pieces)) + ")")
        self._space_id = self._pieces.piece_to_id(_SPACE)
        self._prefix_length = len(self._pieces.encode(spec.unk_piece))

    def __call__(self, texts: Sequence[str], on_cut: Callable[[Cut], None] | None = None) -> NDArray[np.int64]:
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
                on_cut(Cut(place, text, len(pieces), room, " ".join(self._pieces.decode(known[:-1]).split()[-4:])))
        return ids

    def pieces(self, text: str) -> list[int]:
        """Ids of one text, neither closed, cut nor padded.

        Raises:
            InputError: The text is no string, or holds half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise InputError(f"A text must be a string, not {type(text).__name__} ({text!r:.80}).", "Pass a str.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"The text {text!r:.80} is not valid Unicode: half of a surrogate pair at {error.start}.",
                "Decode it with errors='replace' first.",
            ) from error
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
