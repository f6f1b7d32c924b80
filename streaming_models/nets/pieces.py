"""Making the transducer's vocabulary from texts, with SentencePiece.

SentencePiece is needed here alone: what it makes is a list of pieces that `streaming_models.pieces` reads.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from streaming_models.pieces import SPECIAL_PIECES, Pieces

SIZE = 500


def train_pieces(texts: Iterable[str], size: int = SIZE) -> Pieces:
    """A byte pair vocabulary of exactly `size` pieces, special ones included.

    Args:
        texts: as they shall be written; case and punctuation are kept.

    Raises:
        RuntimeError: too little text for so many pieces, or too many characters for so few.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        # The unknown piece is counted among the special ones already.
        vocab_size=size - len(SPECIAL_PIECES) + 1,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    learnt = [processor.id_to_piece(i) for i in range(processor.get_piece_size()) if not processor.is_unknown(i)]
    return Pieces((*SPECIAL_PIECES, *learnt))
