"""Scoring a language model against a baseline, token by token, on the same prompts.

A prompt of t tokens gives t − 1 scores: at every place but the last, how far apart the two distributions of the next
token are, and how likely each model thought the token that really follows. All of it is computed here on the host, in
double precision, from logits; the board sends nothing else.

What that costs: the logits of a prompt are t · vocabulary numbers. They come back prompt by prompt, each must fit into
one frame (64 MiB: 512 tokens of a vocabulary of 32 768 in float32), and only a few prompts' are held at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.board.evaluation import Baseline, is_recorded
from pytest_edgehil.board.wire import MAX_BLOB_BYTES
from pytest_edgehil.errors import DatasetError, ModelError
from pytest_edgehil.model.series import TokenScores

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

RunItems = Callable[[Mapping[str, "Array"], int, int], tuple[Mapping[str, "Array"], "Array"]]

AT_ONCE_BYTES = 32 * 2**20
"""Logits of several prompts that are held together; those of one prompt may be larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Prompts of one length.

    Args:
        prompts: shape (k,): their numbers.
        feeds: input name → shape (k, t).
    """

    prompts: IntArray
    feeds: Mapping[str, Array]

    @property
    def ids(self) -> IntArray:
        """Shape (k, t)."""
        (found,) = self.feeds.values()
        return found


def identity(prompts: Dataset | Sequence[Array]) -> tuple[str, str]:
    """Name and digest of prompts; those that are no set are told by their tokens."""
    if isinstance(prompts, Dataset):
        return prompts.name, prompts.digest
    hashed = hashlib.sha256()
    for one in prompts:
        row = np.asarray(one)
        hashed.update(f"{row.dtype.str} {row.shape}\n".encode())
        hashed.update(np.ascontiguousarray(row).tobytes())
    return "prompts", f"sha256:{hashed.hexdigest()}"


def batches(prompts: Dataset | Sequence[Array], *, input_name: str) -> tuple[Batch, ...]:
    """Prompts sorted by their lengths, since only those of one length can be stacked.

    Args:
        prompts: a set with one input of shape (m, t), or one array of t token ids per prompt.
        input_name: of the model's input, for prompts that are no set.

    Raises:
        DatasetError: they are no prompts: not whole numbers, or fewer than two tokens.
    """
    if isinstance(prompts, Dataset):
        if len(prompts.inputs) != 1:
            raise DatasetError(
                f"{prompts.name}: holds the inputs {', '.join(sorted(prompts.inputs))}; "
                "prompts are one array of token ids of shape (prompts, tokens)"
            )
        ((input_name, array),) = prompts.inputs.items()
        if array.ndim != 2:
            raise DatasetError(f"{prompts.name}: {input_name} has the shape {array.shape}; expected (prompts, tokens)")
        rows = list(array)
        where = prompts.name
    else:
        rows, where = [np.asarray(one) for one in prompts], "prompts"
    if not rows:
        raise DatasetError(f"{where}: there are none; pass at least one prompt")
    lengths: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row.ndim != 1 or row.dtype.kind not in "iu":
            raise DatasetError(
                f"{where}: prompt {number} is {row.dtype} {row.shape}; expected whole numbers of shape (tokens,)"
            )
        if row.shape[0] < 2:
            raise DatasetError(f"{where}: prompt {number} has {row.shape[0]} tokens; a score needs one and the next")
        lengths.setdefault(row.shape[0], []).append(number)
    return tuple(
        Batch(
            prompts=np.array(numbers, dtype=np.int64),
            feeds={input_name: np.stack([rows[number] for number in numbers])},
        )
        for _, numbers in sorted(lengths.items())
    )


def pieces(batch: Batch, vocabulary: int, *, where: str) -> Iterator[tuple[int, int]]:
    """(first, count) of prompts whose logits can be held together.

    Raises:
        DatasetError: a token is beyond the vocabulary, or the logits of one prompt do not fit into a frame.
    """
    ids = batch.ids
    beyond = np.argwhere((ids < 0) | (ids >= vocabulary))
    if beyond.size:
        row, place = beyond[0]
        raise DatasetError(
            f"{where}: prompt {batch.prompts[row]} has the token {ids[row, place]}; the vocabulary has {vocabulary}"
        )
    each = ids.shape[1] * vocabulary * 4
    if each > MAX_BLOB_BYTES:
        most = MAX_BLOB_BYTES // (4 * vocabulary)
        raise DatasetError(
            f"{where}: the logits of a prompt of {ids.shape[1]} tokens and a vocabulary of {vocabulary} take {each} "
            f"bytes, more than the {MAX_BLOB_BYTES} of one frame; cut the prompts to {most} tokens"
        )
    step = max(1, AT_ONCE_BYTES // each)
    for first in range(0, ids.shape[0], step):
        yield first, min(step, ids.shape[0] - first)


def vocabulary_of(logits: Array, tokens: int, *, whose: str) -> int:
    """The size of the vocabulary that logits of shape (k, tokens, vocabulary) are for.

    Raises:
        ModelError: they have another shape.
    """
    if logits.ndim != 3 or logits.shape[1] != tokens or logits.shape[2] < 2:
        said = ", ".join(map(str, logits.shape[1:]))
        raise ModelError(
            f"{whose}: the first output has the shape (1, {said}) for a prompt of {tokens} tokens; "
            f"expected logits of shape (1, {tokens}, vocabulary)"
        )
    return int(logits.shape[2])


def compared(batch: Batch, baseline: Baseline, *, output: str, run: RunItems, board_id: str) -> TokenScores:
    """Scores of prompts of one length, run on the host and on the board.

    Args:
        batch: the prompts.
        baseline: what to compare with.
        output: name of the logits; a baseline that has no such output is taken at its first.
        run: runs so many items of these feeds from the first on, on the board; outputs and latencies.
        board_id: for messages.

    Raises:
        DatasetError, ModelError: see `pieces` and `vocabulary_of`; or the two have different vocabularies.
    """
    length = batch.ids.shape[1]

    def logits(feeds: Mapping[str, Array]) -> Array:
        outputs = baseline.evaluate(feeds)
        return outputs.get(output, next(iter(outputs.values())))

    # a recording answers by the place of an item in the whole request
    whole = logits(batch.feeds) if is_recorded(baseline) else None
    # token 0 is in every vocabulary; whether the prompts' tokens are, can be told only when its size is known
    probe = logits({name: np.zeros_like(array[:1]) for name, array in batch.feeds.items()}) if whole is None else whole
    vocabulary = vocabulary_of(probe, length, whose="the baseline")
    found = []
    for first, count in pieces(batch, vocabulary, where="prompts"):
        cut = slice(first, first + count)
        # before and not while the board measures: a virtual board shares this host's CPU
        theirs = logits({name: array[cut] for name, array in batch.feeds.items()}) if whole is None else whole[cut]
        outputs, _ = run(batch.feeds, first, count)
        ours = outputs[output]
        if vocabulary_of(ours, length, whose=board_id) != vocabulary:
            raise ModelError(
                f"{board_id}: the model's vocabulary has {ours.shape[2]} tokens, the baseline's {vocabulary}; "
                "token scores compare models of one vocabulary"
            )
        found.append(token_scores(batch.ids[cut], ours, theirs, prompts=batch.prompts[cut]))
    return joined(found)


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """One series of several; there must be one at least."""
    return TokenScores(
        prompt=np.concatenate([one.prompt for one in parts]),
        kl=np.concatenate([one.kl for one in parts]),
        nll=np.concatenate([one.nll for one in parts]),
        baseline_nll=np.concatenate([one.baseline_nll for one in parts]),
    )


def token_scores(ids: IntArray, logits: Array, baseline_logits: Array, *, prompts: IntArray) -> TokenScores:
    """Scores of prompts of one length.

    Args:
        ids: shape (k, t).
        logits: shape (k, t, vocabulary), of the candidate.
        baseline_logits: likewise, of the baseline.
        prompts: shape (k,): numbers of the prompts.

    Returns:
        k · (t − 1) scores, prompt by prompt; not finite where a model gave no finite logits.

    >>> same = np.log(np.array([[[0.5, 0.5], [0.9, 0.1]]]))
    >>> found = token_scores(np.array([[0, 1]]), same, same, prompts=np.array([7]))
    >>> found.kl.tolist(), found.prompt.tolist(), round(float(found.nll[0]), 4)
    ([0.0], [7], 0.6931)
    """
    ours, theirs = _log_softmax(logits[:, :-1]), _log_softmax(baseline_logits[:, :-1])
    following = ids[:, 1:, None]
    with np.errstate(invalid="ignore"):
        share = np.exp(theirs)
        # what the baseline holds for impossible adds nothing, whatever the candidate thinks of it
        terms = np.where(share > 0.0, share * (theirs - ours), np.where(np.isnan(share + ours), np.nan, 0.0))
        kl = np.maximum(terms.sum(axis=-1), 0.0)  # rounding may leave a little less than nothing
    return TokenScores(
        prompt=np.repeat(prompts, ids.shape[1] - 1).astype(np.int64),
        kl=kl.reshape(-1),
        nll=-np.take_along_axis(ours, following, axis=-1).reshape(-1),
        baseline_nll=-np.take_along_axis(theirs, following, axis=-1).reshape(-1),
    )


def _log_softmax(logits: Array) -> FloatArray:
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        values = values - values.max(axis=-1, keepdims=True)
        found: FloatArray = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return found
