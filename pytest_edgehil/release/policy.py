"""What evidence an artifact needs before it is signed.

A policy is a file that people review; its digest is pinned in every statement of a run that was started under it, so
that evidence made under a looser one does not count. Format::

    policy: hardware-release            # a name for people
    environments: [hardware]            # what a board must really be (from the trust, not from the statement)
    board_classes: [pi5-8gb-hat2]       # shell patterns; the gates must have passed on every one of them
    max_age: 7 d                        # evidence that is older does not count
    allow_replay: false                 # true only without hardware: recorded samples prove nothing about a board
    timings: [wall]                     # icount too: a ratio of counted instructions is enough for a gate about latency
    gates:                              # each must have passed, by a gate that is at least this strict
      p95_latency: {at_most: 12 ms, alpha: 0.05, min_n: 100}
      accuracy: {at_least: 0.98, arguments: {baseline: digits-fp32}}
    soak: {min_duration: 1 h}           # optional: the soak gate passed over at least this time
    companions: {firmware: required}    # per track: any (default) | required | none | [sha256:…, …]

`judging` says whether evidence fulfils it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import FileKind, first_only, read_document
from pytest_edgehil.errors import ConfigError, QuantityError
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.model import quantity
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment, Timing

_KIND = FileKind(
    noun="policy", expected="'policy:', 'environments:' and 'gates:'", refusal=first_only(ConfigError), anchors=True
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The loosest limit that a gate may have had.

    Args:
        unit: ``ns``, ``bytes``, ``°C``, ``bytes/h``, or empty for a bare number.
        better: ``lower`` (written ``at_most``) or ``higher`` (``at_least``). The gate must look the same way, or a
            loss of accuracy of 50 % would be "within" 0.98.
        text: as it was written.
    """

    value: float
    unit: str
    better: Literal["lower", "higher"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredGate:
    """A gate that must have passed.

    Args:
        limit: the gate's limit may not be looser.
        alpha: the gate's error rate may not be larger.
        min_n: it must have judged at least so many samples.
        arguments: arguments of the gate that must be exactly these.
    """

    name: str
    limit: Limit | None = None
    alpha: float | None = None
    min_n: int = 0
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionRule:
    """What may lie beside the artifact on one track; `digests` counts with ``rule="these"``."""

    rule: Literal["any", "required", "none", "these"]
    digests: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy, read. `digest` is that of the file's bytes."""

    name: str
    digest: str
    environments: frozenset[Environment]
    board_classes: tuple[str, ...]
    max_age_s: float
    allow_replay: bool
    timings: frozenset[Timing]
    gates: tuple[RequiredGate, ...]
    min_soak_s: float | None
    companions: Mapping[Track, CompanionRule]


class _Gate(Section):
    at_most: str | float | int | None = None
    at_least: str | float | int | None = None
    alpha: float | None = Field(default=None, gt=0, lt=1)
    min_n: int = Field(default=0, ge=0)
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("at_most", "at_least")
    @classmethod
    def _understood(cls, value: str | float | None) -> str | float | None:
        if value is not None:
            parse_limit(value, better="lower")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> _Gate:
        if self.at_most is not None and self.at_least is not None:
            raise ValueError("a gate has either at_most or at_least")
        return self

    def limit(self) -> Limit | None:
        if self.at_most is not None:
            return parse_limit(self.at_most, better="lower")
        return None if self.at_least is None else parse_limit(self.at_least, better="higher")


class _Soak(Section):
    min_duration: str

    @field_validator("min_duration")
    @classmethod
    def _understood(cls, value: str) -> str:
        quantity.duration_ns(value)
        return value


class _PolicyFile(Section):
    policy: str = Field(min_length=1)
    environments: list[Literal["hardware", "emulated", "virtual"]] = Field(min_length=1)
    board_classes: list[str] = Field(min_length=1)
    max_age: str = "7 d"
    allow_replay: bool = False
    timings: list[Literal["wall", "icount"]] = Field(default=["wall"], min_length=1)
    gates: dict[str, _Gate] = Field(min_length=1)
    soak: _Soak | None = None
    companions: dict[Literal["firmware", "model", "prompt"], Literal["any", "required", "none"] | list[str]] = Field(
        default_factory=dict
    )

    @field_validator("max_age")
    @classmethod
    def _understood(cls, value: str) -> str:
        if quantity.duration_ns(value) == 0:
            raise ValueError("it must be longer than nothing")
        return value

    @field_validator("companions")
    @classmethod
    def _digests(cls, value: dict[str, Any]) -> dict[str, Any]:
        for one in (one for rule in value.values() if isinstance(rule, list) for one in rule):
            if not _DIGEST.fullmatch(one):
                raise ValueError(f"{one!r} is no digest: expected sha256: and 64 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _no_replay_for_hardware(self) -> _PolicyFile:
        if "icount" in self.timings and "hardware" in self.environments:
            raise ValueError(
                "timings cannot have icount where hardware is asked for: only an emulator counts instructions"
            )
        if self.allow_replay and "hardware" in self.environments:
            raise ValueError("allow_replay cannot be true where hardware is asked for: a recording proves no board")
        return self


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ConfigError: missing or malformed; names file, line and path.
    """
    document = read_document(path, _KIND)
    found = checked(document, _PolicyFile)
    gates = tuple(
        RequiredGate(
            name=name,
            limit=one.limit(),
            alpha=one.alpha,
            min_n=one.min_n,
            arguments=one.arguments,
        )
        for name, one in found.gates.items()
    )
    return Policy(
        name=found.policy,
        digest=digest_of(document.raw),
        environments=frozenset(Environment(one) for one in found.environments),
        board_classes=tuple(found.board_classes),
        max_age_s=quantity.duration_ns(found.max_age) / 1e9,
        allow_replay=found.allow_replay,
        timings=frozenset(Timing(one) for one in found.timings),
        gates=gates,
        min_soak_s=None if found.soak is None else quantity.duration_ns(found.soak.min_duration) / 1e9,
        companions={
            Track(track): CompanionRule(rule="these", digests=frozenset(rule))
            if isinstance(rule, list)
            else CompanionRule(rule=rule)
            for track, rule in found.companions.items()
        },
    )


def parse_limit(value: str | float, *, better: Literal["lower", "higher"]) -> Limit:
    """A limit as people write it.

    Raises:
        ValueError: no quantity that is known here.

    >>> parse_limit("12 ms", better="lower")
    Limit(value=12000000.0, unit='ns', better='lower', text='12 ms')
    >>> parse_limit(0.98, better="higher").unit
    ''
    """
    if not isinstance(value, str):
        return Limit(value=float(value), unit="", better=better, text=f"{value:g}")
    parsers = (
        ("ns", quantity.duration_ns),
        ("bytes", quantity.size_bytes),
        ("°C", quantity.temperature_c),
        ("bytes/h", quantity.byte_rate_per_hour),
    )
    for unit, parse in parsers:
        try:
            return Limit(value=float(parse(value)), unit=unit, better=better, text=value)
        except QuantityError:
            continue
    raise ValueError(f"{value!r} is no limit: expected a number, or one with a unit such as '12 ms', '180 MiB', '80 C'")
