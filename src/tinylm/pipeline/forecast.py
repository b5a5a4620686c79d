"""What a recipe will do and what it costs, before anything starts: `tinylm run RECIPE --dry-run`.

Everything is arithmetic on the recipe; a teacher is only looked at (its config) when the shape has
to be planned.
"""

import dataclasses
from typing import Any

from tinylm.architecture.plan import plan
from tinylm.errors import InputError
from tinylm.models import teacher as teachers
from tinylm.models.block import config_for
from tinylm.models.cost import costs, describe_bill, training_bill, training_bytes, training_flops
from tinylm.models.parameters import parameters, parameters_by_part
from tinylm.models.shape import Shape
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stage_costs import MANY_EPOCHS, passes_over_text, stage_costs
from tinylm.pipeline.stage_costs import describe as describe_stages
from tinylm.render.numbers import hours, millions
from tinylm.train.config import TrainConfig
from tinylm.train.learning_rate import MOST_TRIALS, USUAL_TRIALS, trial_steps
from tinylm.train.length import steps_within
from tinylm.train.rounds import first_round_share, foreseen_rounds, needs_pass

LARGE_FLOPS = 1e17  # four minutes of an H100 at 40 %


def describe(
    recipe: Recipe, peak_tflops: float, mfu: float, machine_flops: float, devices: int = 1
) -> list[tuple[str, str]]:
    """(what, value) lines.

    Args:
        peak_tflops, mfu: the device that the bill is for, and the part of it that training is
            assumed to reach.
        devices: how many of them work together.
        machine_flops: FLOP/s that training may expect on this machine.

    Raises:
        InputError: a wrong number, a budget that no shape meets, a teacher that is needed for it
            and not there.
    """
    if not (peak_tflops > 0 and 0 < mfu <= 1):
        raise InputError(
            f"--peak-tflops {peak_tflops} must be positive and --mfu {mfu} above 0 and at most 1"
        )
    shape, config, note = _shape(recipe)
    parts = parameters_by_part(shape, config)
    recipe = with_steps(recipe, sum(parts.values()))
    train = recipe.train
    share = (parts["embedding"] + parts["head"]) / sum(parts.values())
    priced = costs(shape, train.sequence_length, config)
    in_flight = (train.micro_batch_size or train.batch_size) * train.sequence_length
    memory = training_bytes(shape, in_flight, config, checkpointing=train.gradient_checkpointing)
    lines = [
        ("teacher", recipe.teacher),
        ("text", _corpus(recipe)),
        ("student", _in_words(shape) + note),
        ("parameters", f"{millions(sum(parts.values()))}, of which vocabulary {share:.1%}"),
        (
            "weights on disk",
            ", ".join(
                f"{name} {size / 1e6:,.0f} MB" for name, size in priced["weight_bytes"].items()
            ),
        ),
        ("start", _start(recipe)),
        ("memory to train", f"{memory / 1e9:,.1f} GB with AdamW, {in_flight:,} tokens at once"),
    ]
    device = peak_tflops * 1e12 * mfu
    stages = describe_stages(stage_costs(recipe, shape), machine_flops, device, devices)
    if not train.steps:
        unknown = "steps = 0: each round reads its data once; the cost is known after packing"
        return [*lines, *stages, ("training", unknown)]
    tokens = train.steps * train.tokens_per_batch
    bill = training_bill(shape, tokens, train.sequence_length, peak_tflops * 1e12, mfu, config)
    passes, fresh = training_passes(recipe), tokens * first_round_share(train)
    whole = passes * bill["flops"]
    return [
        *lines,
        (
            "rounds",
            (
                f"{train.rounds}; the first reads {millions(fresh)} tokens of {millions(tokens)}"
                " in all"
            ),
        ),
        *_passes(recipe, tokens),
        ("learning rate", _rate(train)),
        *stages,
        ("cost of the student", describe_bill(bill)),
        (
            "with all trials and passes",
            (
                f"{whole:.3g} FLOP, {passes * bill['device_hours']:,.4g} device-hours"
                f"{_together(passes * bill['device_hours'], devices)}; on this machine about"
                f" {hours(whole / machine_flops)} ({ASSUMED_UTILISATION:.0%} of a matrix product"
                " measured now)"
            ),
        ),
    ]


def _together(device_hours: float, devices: int) -> str:
    if devices == 1:
        return ""
    return f", {hours(3600 * device_hours / devices)} with {devices} devices"


def is_large(recipe: Recipe) -> bool:
    """Whether training takes more than some minutes of one GPU, so that its cost is told before it
    starts."""
    return bool(recipe.architecture.shape) and (predict_flops(recipe) or 0) > LARGE_FLOPS


def first_words(recipe: Recipe, machine_flops: float) -> list[str]:
    """What a person should know before a run starts: how long its training takes here, and that
    there is little text for so many parameters."""
    recipe = with_steps(recipe)
    flops, train = predict_flops(recipe), recipe.train
    if flops is None:
        return []
    words = [f"{recipe.name}: training takes about {hours(flops / machine_flops)} on this machine"]
    # 6 FLOPs a parameter and token: near enough for a ratio
    tokens = train.steps * train.tokens_per_batch
    size = flops / training_passes(recipe) / tokens / 6
    if tokens < size:
        words.append(
            f"[yellow]{millions(tokens)} tokens for {millions(size)} parameters,"
            f" {tokens / size:.2g} a parameter: below 1 a student stays near what it inherited, and"
            " one from random weights learns little (train.steps, or"
            " train.tokens_per_parameter=20)[/]"
        )
    return words


def print_dry_run(recipe: Recipe, peak_tflops: float, mfu: float, devices: int = 1) -> None:
    """The lines on the terminal."""
    lines = describe(recipe, peak_tflops, mfu, machine_speed(), devices)
    print(f"{recipe.name}, before anything starts:")
    for what, value in lines:
        print(f"  {what:<28}{value}")


def _shape(recipe: Recipe) -> tuple[Shape, Any, str]:
    """The student's shape, the config whose switches count (None: plain Llama), and how the shape
    was found."""
    choice = recipe.architecture
    vocabulary, assumed = recipe.tokenizer.vocab_size, ""
    if vocabulary == -1:  # the teacher's own
        vocabulary = teachers.load_config(recipe.teacher).get_text_config().vocab_size
    elif vocabulary == 0:
        vocabulary, assumed = (
            ASSUMED_VOCABULARY,
            f" ({ASSUMED_VOCABULARY:,} assumed: the corpus decides)",
        )
    if choice.shape:
        shape = Shape.from_dict(
            {"vocab_size": vocabulary, **choice.shape}, "recipe: architecture.shape"
        )
        from transformers import LlamaConfig

        return shape, config_for(choice.block, shape.to_config(LlamaConfig())), assumed
    config = teachers.load_config(recipe.teacher)
    best = plan(
        choice.budget, vocabulary, teacher=config, depths=choice.depths or None, block=choice.block
    )[0]
    return best.shape, best.config, f"{assumed}, planned: {best.why}"


def _passes(recipe: Recipe, tokens: int) -> list[tuple[str, str]]:
    """How often training reads its text, as far as its size is known."""
    return [
        (
            "passes over the text",
            f"about {passes:.2g}{f' over {path}' if path else ''}"
            + (f": above {MANY_EPOCHS}, more text is worth more" if passes > MANY_EPOCHS else ""),
        )
        for path, passes in passes_over_text(recipe, tokens)
    ]


def _corpus(recipe: Recipe) -> str:
    paths, weights = recipe.corpus.paths, recipe.corpus.weights
    if not weights:
        return ", ".join(paths)
    return ", ".join(f"{path} ({w / sum(weights):.0%})" for path, w in zip(paths, weights))


def _in_words(shape: Shape) -> str:
    return (
        f"{shape.num_layers} layers x {shape.hidden_size}, FFN {shape.intermediate_size},"
        f" heads {shape.num_attention_heads}/{shape.num_key_value_heads} x {shape.head_dim},"
        f" vocabulary {shape.vocab_size:,},"
        f" {'tied' if shape.tie_word_embeddings else 'untied'}"
    )


def _rate(train: TrainConfig) -> str:
    if train.base_lr != "auto":
        return f"{train.base_lr:g} at {train.base_batch_tokens:,} tokens a batch"
    return (
        f"measured: {USUAL_TRIALS} to {MOST_TRIALS} trials of {trial_steps(train.steps)} steps,"
        f" {_trials(train):.0%} of the training"
    )


def _start(recipe: Recipe) -> str:
    config = recipe.inherit
    if config.init == "random":
        return f"random weights, {config.scheme} standard deviation"
    return (
        f"inherited: units by {config.criterion}, layers by {config.layers}, "
        f"{config.calibration_chunks * config.calibration_length:,} tokens of calibration text"
    )


ASSUMED_VOCABULARY = 32_768  # where a recipe leaves the size to the corpus

# of the measured matrix product's speed, while nothing of this study has been measured
ASSUMED_UTILISATION = 0.35


def predict_flops(recipe: Recipe) -> float | None:
    """FLOPs of training the student of ``recipe`` (and its control); None when its length is "all
    of the corpus".

    A budget without a shape counts 6 per parameter and token. The teacher's passes are not in it.
    """
    recipe = with_steps(recipe)
    config = recipe.train
    if config.steps == 0:
        return None
    tokens = config.steps * config.tokens_per_batch
    if shape := _given_shape(recipe):
        per_token = float(training_flops(shape, config.sequence_length))
    else:
        per_token = 6 * recipe.architecture.budget
    return per_token * tokens * training_passes(recipe)


def _given_shape(recipe: Recipe) -> Shape | None:
    """The student's shape where the recipe spells it out."""
    if not recipe.architecture.shape:
        return None
    vocabulary = recipe.tokenizer.vocab_size
    vocabulary = vocabulary if vocabulary > 0 else ASSUMED_VOCABULARY
    return Shape.from_dict({"vocab_size": vocabulary, **recipe.architecture.shape})


def with_steps(recipe: Recipe, size: int = 0) -> Recipe:
    """``train.tokens_per_parameter``, or ``train.hours`` of this machine, as steps; 0 parameters:
    as many as the recipe plans."""
    if not size and (shape := _given_shape(recipe)):
        size = parameters(shape)
    size = size or round(recipe.architecture.budget)
    train = recipe.train.settle_length(size)
    if train.hours:
        # 6 FLOPs a parameter and token, all of the vocabulary's included: a little too slow
        seconds = 6 * size * train.tokens_per_batch / machine_speed()
        train = dataclasses.replace(train, hours=0.0, steps=steps_within(train, seconds))
    return dataclasses.replace(recipe, train=train)


def training_passes(recipe: Recipe) -> float:
    """All training of a recipe (trials of the learning rate, the control, the loss passes between
    rounds) over that of its student alone."""
    config, passes = recipe.train, (1.0 + recipe.has_control()) * (1 + _trials(recipe.train))
    # a forward pass over the first round's data, each round
    if needs_pass(config):
        passes += (foreseen_rounds(config) - 1) * first_round_share(config) / 3
    return passes  # the teacher's own, of excess-loss, comes on top


def _trials(train: TrainConfig) -> float:
    """The usual trials of the learning rate over the training itself."""
    measured = train.base_lr == "auto"
    return USUAL_TRIALS * trial_steps(train.steps) / train.steps if measured else 0.0


def expected_seconds(recipe: Recipe) -> dict[str, float]:
    """{stage: seconds} that this machine should take for the stages of ``recipe`` that take some;
    {} where the teacher has to come first. Learning rates are measured in the stages that train."""
    if teachers.here(recipe.teacher) is None:
        return {}
    try:
        shape, speed = _shape(recipe)[0], machine_speed()
    except InputError:  # the stage that finds it will say so
        return {}
    found = {cost.name: cost.on(speed) for cost in stage_costs(recipe, shape)}
    scores = found.pop("bits per byte")
    scored = [("score teacher", 3), ("score compact", 3), ("score inherited", 1)]
    scored += [("score student", 1), *([("score control", 1)] if recipe.has_control() else [])]
    shares = sum(share for _, share in scored)
    found |= {name: scores * share / shares for name, share in scored}
    flops = predict_flops(recipe)
    if flops is not None:
        trained = ["train", "control"] if recipe.has_control() else ["train"]
        found |= dict.fromkeys(trained, flops / speed / len(trained))
    return found


def machine_speed() -> float:
    """FLOP/s that training may expect here: of matrix products in the format that is fast, times
    0.35."""
    from tinylm.machine import choose_device, fast_dtype, peak_flops

    device = choose_device()
    return peak_flops(device, fast_dtype(device)) * ASSUMED_UTILISATION
