"""Train the notes model and write the files that lie beside this script. No part of any set-up: they are committed.

    .venv/bin/python suites/models/notes/train.py        # numpy and onnx are enough; about two minutes on one core

Writes notes-fp32.onnx, calibration.npz, calibration-blank.npz and heldout.npz.

The text is made up by the grammar below: short notes that somebody in a lab might write about a rack of boards. The
three sets are drawn with seeds of their own, and no prompt of the held-out set begins a note of the training text.

The model is causal and looks at characters: it sees the last sixteen of them (an embedding each), and two hidden
layers give the logits of the next one (after Bengio et al. 2003). So any number of tokens goes in, and the answer for
a token never depends on what comes after it. The graph is written with onnx.helper, opset 17, `t` of any size.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ALPHABET = "\n .,:%-abcdefghijklmnopqrstuvwxyz0123456789"
"""Token id → character; 0, the end of a line, begins and ends every note."""
WINDOW, WIDTH, HIDDEN = 16, 20, 160
PROMPT_TOKENS = 64
TRAINING_NOTES, CALIBRATION_PROMPTS, HELDOUT_PROMPTS = 9000, 60, 240
TRAINING_SEED, CALIBRATION_SEED, HELDOUT_SEED = 20261, 20262, 20263
OPSET = 17

WHO = ("anna", "boris", "chen", "dana", "emil", "fatma", "gita", "hugo")
WHERE = ("rack one", "rack two", "the north rack", "the cold aisle", "the test bench", "the shelf by the door")
PART = ("fan", "heat sink", "power supply", "serial cable", "storage card", "network switch", "camera", "hat")
STATE = ("was loose", "ran hot", "made a noise", "was replaced", "looks fine", "had no power", "is on order")
MODEL = ("digits", "faces", "leaves", "voices", "gates")
FAULT = ("a timeout", "a reset", "a short read", "a wrong sum", "an open line", "nothing unusual")


def note(rng: np.random.Generator) -> str:
    """One note, without its end of line."""

    def one(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    def number(low: int, high: int) -> str:
        return str(int(rng.integers(low, high)))

    board = f"board {number(1, 40)}"
    kind = int(rng.integers(7))
    if kind == 0:
        first, rise = int(rng.integers(40, 60)), int(rng.integers(5, 25))
        said = f"{board} began at {first} degrees and settled at {first + rise}, a rise of {rise}"
    elif kind == 1:
        said = f"{one(WHO)} checked {board} in {one(WHERE)}: the {one(PART)} {one(STATE)}"
    elif kind == 2:
        said = (
            f"the {one(MODEL)} model took {number(2, 30)}.{number(0, 10)} ms on {board}, {number(90, 100)}% were right"
        )
    elif kind == 3:
        hour, minute = int(rng.integers(24)), int(rng.integers(60))
        said = f"{hour:02d}:{minute:02d} {board} showed {one(FAULT)} and came back after {number(2, 90)} seconds"
    elif kind == 4:
        said = f"{one(WHO)} moved {board} from {one(WHERE)} to {one(WHERE)} because the {one(PART)} {one(STATE)}"
    elif kind == 5:
        said = f"on {board} the {one(PART)} {one(STATE)}, so {one(WHO)} ran the {one(MODEL)} model again"
    else:
        boards = sorted(int(b) for b in rng.choice(np.arange(1, 40), size=int(rng.integers(2, 5)), replace=False))
        said = f"boards {', '.join(map(str, boards))} passed the {one(MODEL)} suite in {one(WHERE)}"
    return f"{said}."


def text(rng: np.random.Generator, notes: int) -> str:
    """So many notes, each after an end of line."""
    return "".join(f"\n{note(rng)}" for _ in range(notes))


def ids(characters: str) -> np.ndarray:
    """Token ids, shape (n,), int64."""
    return np.array([ALPHABET.index(one) for one in characters], dtype=np.int64)


def prompts(seed: int, count: int, *, not_in: str = "") -> np.ndarray:
    """Shape (count, PROMPT_TOKENS): beginnings of notes, each different, none that `not_in` contains."""
    rng = np.random.default_rng(seed)
    found: list[str] = []
    while len(found) < count:
        begun = text(rng, 3)[:PROMPT_TOKENS]
        if begun not in not_in and begun not in found:
            found.append(begun)
    return np.stack([ids(one) for one in found])


def windows(tokens: np.ndarray) -> np.ndarray:
    """Shape (n, WINDOW): the token itself and the fifteen before it, token 0 before the first."""
    padded = np.concatenate((np.zeros(WINDOW - 1, dtype=np.int64), tokens))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)


def forgetful(seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the windows without what stands before their last note, as at the beginning of a prompt."""
    before = np.flip(np.maximum.accumulate(np.flip(seen == 0, 1), 1), 1)
    return np.where(before & (rng.random((len(seen), 1)) < 0.5), 0, seen)


class Net:
    """Embedding, two hidden layers, logits; every gradient by hand."""

    def __init__(self, rng: np.random.Generator) -> None:
        def weights(fan_in: int, fan_out: int) -> np.ndarray:
            return (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)).astype(np.float32)

        vocabulary = len(ALPHABET)
        self.weights = {
            "embedding": (rng.standard_normal((vocabulary, WIDTH)) * 0.5).astype(np.float32),
            "hidden1": weights(WINDOW * WIDTH, HIDDEN),
            "bias1": np.zeros(HIDDEN, dtype=np.float32),
            "hidden2": weights(HIDDEN, HIDDEN),
            "bias2": np.zeros(HIDDEN, dtype=np.float32),
            "out": weights(HIDDEN, vocabulary) * np.float32(0.3),
            "bias3": np.zeros(vocabulary, dtype=np.float32),
        }

    def logits(self, seen: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Shape (n, vocabulary) for windows of shape (n, WINDOW), and what the gradients need."""
        w = self.weights
        x = w["embedding"][seen].reshape(len(seen), -1)
        first = np.maximum(x @ w["hidden1"] + w["bias1"], 0)
        second = np.maximum(first @ w["hidden2"] + w["bias2"], 0)
        return second @ w["out"] + w["bias3"], (x, first, second)

    def loss_and_gradients(self, seen: np.ndarray, following: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Mean cross-entropy in nats of the tokens that follow, and its gradient by every weight."""
        w, n = self.weights, len(seen)
        logits, (x, first, second) = self.logits(seen)
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        loss = float(-np.log(p[np.arange(n), following]).mean())
        p[np.arange(n), following] -= 1
        p /= n
        back2 = (p @ w["out"].T) * (second > 0)
        back1 = (back2 @ w["hidden2"].T) * (first > 0)
        embedding = np.zeros_like(w["embedding"])
        np.add.at(embedding, seen.reshape(-1), (back1 @ w["hidden1"].T).reshape(-1, WIDTH))
        return loss, {
            "embedding": embedding,
            "hidden1": x.T @ back1,
            "bias1": back1.sum(axis=0),
            "hidden2": first.T @ back2,
            "bias2": back2.sum(axis=0),
            "out": second.T @ p,
            "bias3": p.sum(axis=0),
        }


def train(tokens: np.ndarray, *, steps: int, batch: int = 512, rate: float = 3e-3) -> Net:
    """Adam with a cosine schedule; prints the loss now and then."""
    rng = np.random.default_rng(TRAINING_SEED)
    net, seen = Net(rng), windows(tokens)
    mean = {name: np.zeros_like(one) for name, one in net.weights.items()}
    square = {name: np.zeros_like(one) for name, one in net.weights.items()}
    smoothed = 0.0
    for step in range(1, steps + 1):
        chosen = rng.integers(0, len(tokens) - 1, size=batch)
        loss, gradients = net.loss_and_gradients(forgetful(seen[chosen], rng), tokens[chosen + 1])
        smoothed = loss if step == 1 else 0.99 * smoothed + 0.01 * loss
        now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        for name, gradient in gradients.items():
            mean[name] += 0.1 * (gradient - mean[name])
            square[name] += 0.001 * (gradient**2 - square[name])
            direction = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
            net.weights[name] -= (now * direction).astype(np.float32)
        if step % 1000 == 0:
            print(f"step {step}/{steps}  loss {smoothed:.4f} nats", flush=True)
    return net


def exported(net: Net) -> onnx.ModelProto:
    """The trained network as an ONNX graph: ids int64 (1, t) to logits float32 (1, t, vocabulary)."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, name: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}.node", **attributes))
        return name

    axis_1, axis_2 = constant("axis_1", np.array([1])), constant("axis_2", np.array([2]))
    padded = node("Pad", "padded", "ids", constant("pads", np.array([0, WINDOW - 1, 0, 0])))
    shifted = []
    for at in range(WINDOW):
        begin = constant(f"begin{at}", np.array([at]))
        # the last t of t + 15 tokens for the newest place, the first t for the oldest
        end = constant(f"end{at}", np.array([at - WINDOW + 1 if at < WINDOW - 1 else np.iinfo(np.int64).max]))
        shifted.append(node("Unsqueeze", f"place{at}", node("Slice", f"cut{at}", padded, begin, end, axis_1), axis_2))
    window = node("Concat", "window", *shifted, axis=2)
    vectors = node("Gather", "vectors", constant("embedding", net.weights["embedding"]), window, axis=0)
    x = node("Reshape", "flat", vectors, constant("flat_shape", np.array([0, 0, WINDOW * WIDTH])))
    for at in (1, 2):
        x = node("MatMul", f"product{at}", x, constant(f"hidden{at}", net.weights[f"hidden{at}"]))
        x = node("Relu", f"relu{at}", node("Add", f"sum{at}", x, constant(f"bias{at}", net.weights[f"bias{at}"])))
    x = node("MatMul", "product3", x, constant("out", net.weights["out"]))
    node("Add", "logits", x, constant("bias3", net.weights["bias3"]))
    graph = helper.make_graph(
        nodes,
        "notes",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "t", len(ALPHABET)])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgehil-notes", ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """numpy's npz without time stamps, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())


def main() -> None:
    """Train, export, save."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=8000)
    options.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = options.parse_args()

    training = text(np.random.default_rng(TRAINING_SEED), TRAINING_NOTES)
    calibration = prompts(CALIBRATION_SEED, CALIBRATION_PROMPTS, not_in=training)
    heldout = prompts(HELDOUT_SEED, HELDOUT_PROMPTS, not_in=training)
    print(f"{len(training)} characters to train with, {len(heldout)} held-out prompts of {PROMPT_TOKENS}")
    net = train(ids(training), steps=chosen.steps)
    losses = [net.loss_and_gradients(windows(one)[:-1], one[1:])[0] for one in heldout]
    print(f"held-out: {np.mean(losses):.4f} nats a character, perplexity {np.exp(np.mean(losses)):.3f}")

    onnx.save(exported(net), chosen.out / "notes-fp32.onnx")
    save_npz(chosen.out / "calibration.npz", ids=calibration)
    # what an empty prompt file gives, padded to length: what must never calibrate (see notes-bad.yaml)
    save_npz(chosen.out / "calibration-blank.npz", ids=np.zeros_like(calibration))
    save_npz(chosen.out / "heldout.npz", ids=heldout)


if __name__ == "__main__":
    main()
