"""Series that a sample holds beside its plain latencies: each comes from a way of measuring of its own.

All arrays of one series have the same length. Times are integers of the board's monotonic clock, in ns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Float64Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Inferences that were due at a given rate, whether or not the one before had ended.

    In a closed loop a stall delays everything after it and is counted once (coordinated omission). Here every
    inference has an intended start, and its response time counts from there.

    Args:
        rate_hz: how many a second were due.
        intended_ns: shape (n,): when each was due.
        starts_ns: shape (n,): when it really started; never before it was due.
        latencies_ns: shape (n,): from the real start to the end.
        late_ns: shape (n,): how long it could have begun before it did (it was due, and the one before had ended);
            part of the response that is the measuring's own fault. None: not known.
    """

    rate_hz: float
    intended_ns: Int64Array
    starts_ns: Int64Array
    latencies_ns: Int64Array
    late_ns: Int64Array | None = None

    @property
    def responses_ns(self) -> Int64Array:
        """Shape (n,): from the intended start to the end; what someone who asked then would have waited."""
        return self.starts_ns + self.latencies_ns - self.intended_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPair:
    """A block of inferences of the candidate and one of the baseline, right after one another on the same board.

    Args:
        candidate_ns: shape (k,): latencies of the model under test.
        baseline_ns: shape (k,): of the one that it is compared with.
        candidate_first: which of the two blocks came first; drawn at random for every pair.
        candidate_start_ns, baseline_start_ns: when each block began.
    """

    candidate_ns: Int64Array
    baseline_ns: Int64Array
    candidate_first: bool
    candidate_start_ns: int
    baseline_start_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Interleaved blocks of the model under test and of a baseline on the same board.

    Args:
        baseline: the baseline's artifact as the gate's marker names it.
        digest: of its bundle, as the board re-hashed it.
        seed: of the order within the pairs: pair k's candidate comes first if draw k of `random.Random(seed)` is
            below one half.
        pairs: in the order of time.
        label: name, version and quantisation of the baseline, for people.
        baseline_peak_rss_bytes: VmHWM of the baseline's process, which is apart from the candidate's; None if unknown.
    """

    baseline: str
    digest: str
    seed: int
    pairs: tuple[BlockPair, ...]
    label: str = ""
    baseline_peak_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """How two language models' next-token distributions differ, token by token, on the same prompts.

    Args:
        prompt: shape (t,), int64: which prompt a token belongs to; tokens of one prompt are not independent.
        kl: shape (t,): Kullback-Leibler divergence KL(baseline ‖ candidate) in nats.
        nll: shape (t,): negative log-likelihood of the true next token under the candidate, in nats.
        baseline_nll: shape (t,): the same under the baseline.
    """

    prompt: Int64Array
    kl: Float64Array
    nll: Float64Array
    baseline_nll: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A held-out set that was evaluated, and what the outputs were compared with.

    Args:
        name: of the set.
        digest: ``sha256:<hex>`` of its file, or of its arrays if it never was in one.
        items: how many of its items were taken.
        of: how many it has.
        baseline: label of the artifact that the outputs were compared with; empty: with none.
        baseline_digest: of that artifact's bundle; empty: with none.
    """

    name: str
    digest: str
    items: int
    of: int
    baseline: str = ""
    baseline_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """Runs of a model that produced tokens one after the other.

    Args:
        starts_ns: shape (g,): when each began.
        prompt_tokens: shape (g,): how many tokens went in.
        new_tokens: shape (g,): how many came out, at least one.
        first_token_ns: shape (g,): from the start to the first new token.
        total_ns: shape (g,): from the start to the last new token.
    """

    starts_ns: Int64Array
    prompt_tokens: Int64Array
    new_tokens: Int64Array
    first_token_ns: Int64Array
    total_ns: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDrop:
    """A time in which the host had no link to the board while the board went on measuring.

    Args:
        at_s: when it was noticed, on the board's monotonic clock as the host knew it last.
        lasted_s: how long it took until the measurement was picked up again, host's clock.
    """

    at_s: float
    lasted_s: float
