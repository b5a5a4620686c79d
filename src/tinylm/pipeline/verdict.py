"""What a run came to, in words: how good the student is, what more training would bring, and what
to do next."""

import shlex
from typing import Any

from tinylm.corpus.conversation import ASSISTANT, KEY

# nats: a training whose second half gained less has levelled off
LEVEL = 0.005
# bits per byte that the compact tokenizer may cost before a larger vocabulary is worth a try
DEAR_VOCABULARY = 0.05


def headline(results: dict[str, Any]) -> str:
    """How good the student is, in some sentences: against the control first."""
    bpb, size = results["bits_per_byte"], results["parameters"]
    gain = results.get("gain_over_control")
    corpus = results.get("recipe", {}).get("corpus", {})
    talks = corpus.get("text_key") == KEY and corpus.get("loss_on") == ASSISTANT
    what = "text (of conversations, what the assistant says)" if talks else "text"
    sentences = []
    if results.get("train", {}).get("train", {}).get("published_step") == 0:
        sentences.append("TRAINING GAINED NOTHING: these are the weights before it")
    if gain is not None:
        sentences.append(
            f"{abs(gain['percent']):.1f} % {'lower' if gain['percent'] > 0 else 'HIGHER'} in bits"
            f" per byte than the same shape from random weights after {gain['tokens'] / 1e6:.2f}M"
            f" tokens ({gain['student']:.3f} against {gain['control']:.3f})"
        )
    bigram = results.get("floors", {}).get("bigram")
    if bigram is not None:
        percent = 100 * (1 - bpb["student"] / bigram)
        than = f"{abs(percent):.0f} % {'lower' if percent > 0 else 'HIGHER'} than bigrams"
        weak = ", which beat the control" if bpb.get("control", 0) > bigram else ""
        sentences.append(f"{than} counted from the same tokens ({bigram:.3f}){weak}")
    sentences.append(
        f"{size['student'] / 1e6:.1f}M parameters from a {size['teacher'] / 1e6:.1f}M teacher:"
        f" {bpb['student']:.3f} bits per byte on held-out {what}, the teacher {bpb['teacher']:.3f}"
    )
    return ". ".join(sentences) + "."


def doubling(results: dict[str, Any]) -> float | None:
    """Bits per byte that twice the tokens should give: as much again is gained as in the second
    half of this training. On 6 students of 180 steps the gain of a doubling was 0.80 to 1.22 of
    that (docs/training.md). None where nothing was looked at."""
    looks = results.get("looks", {}).get("student", [])
    before = [loss for tokens, loss in looks if tokens <= results["tokens_trained"] / 2]
    if not before or looks[-1][1] <= 0:
        return None
    now = results["bits_per_byte"]["student"]
    return now * (1 - max(0.0, before[-1] - looks[-1][1]) / looks[-1][1])


def outlook(results: dict[str, Any]) -> str:
    """Whether more training would help, in a sentence; "" where it is not known."""
    expected, now = doubling(results), results["bits_per_byte"]["student"]
    if expected is None:
        return ""
    if now - expected < LEVEL:
        return "Training has levelled off: more of the same text would bring next to nothing."
    return f"Training still falls: twice the tokens would give about {expected:.2f}."


def next_steps(results: dict[str, Any], model: str = "model") -> list[tuple[str, str]]:
    """(why, command) of what a person may want now; ``model`` is the student's folder."""
    train, expected = results.get("recipe", {}).get("train", {}), doubling(results)
    bpb = results["bits_per_byte"]
    steps, name = train.get("steps", 0), results["name"]
    again = f"tinylm run {results['recipe_path'] or 'RECIPE'}"
    talks = results.get("recipe", {}).get("corpus", {}).get("text_key") == KEY
    found = [("read it", f'tinylm generate --model {shlex.quote(model)} --prompt "The"')]
    if talks:
        found = [("talk to it", f"tinylm chat --model {shlex.quote(model)}")]
    file = shlex.quote(model.removesuffix("model") + "tiny.gguf")
    ship = f"tinylm export --model {shlex.quote(model)} --quantize Q8_0 --out {file}"
    found.append(("ship it", ship))
    if steps and expected is not None and bpb["student"] - expected >= LEVEL:
        why = f"twice the tokens, about {expected:.2f} bits per byte"
        found.append((why, f"{again} --set train.steps={2 * steps} name={name}-longer"))
    cost, rows = bpb["compact"] - bpb["teacher"], results["tokenizer"]["vocab_size"]
    if cost > DEAR_VOCABULARY and 2 * rows <= results["tokenizer"].get("parent_vocab_size", 0):
        why = f"a larger vocabulary may pay: {rows:,} tokens cost {cost:.2f} before the cut"
        found.append((why, f"{again} --set tokenizer.vocab_size={2 * rows} name={name}-vocabulary"))
    return found
