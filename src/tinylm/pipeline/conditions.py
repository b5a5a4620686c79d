"""What later stages will need, asked as soon as it can be known: nobody should learn after a
training that its result cannot be scored."""

from pathlib import Path

from tinylm.corpus.pack import find_separator
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.evaluate.forward import positions, prefix_token
from tinylm.models import teacher as teachers
from tinylm.models.shards import Shards
from tinylm.models.tokenizer import prompt_ids
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stage_costs import MANY_EPOCHS
from tinylm.render.numbers import millions
from tinylm.terminal import console
from tinylm.train.batches import make_plan
from tinylm.train.inputs import require_rows, require_top_k
from tinylm.train.mixture import passes
from tinylm.train.rounds import settle_rounds


def check_model(recipe: Recipe, model: Path) -> None:
    """InputError when the teacher (or its compact form) in ``model`` cannot be read, trained on,
    scored or asked as the recipe says."""
    Shards(model, tied=False)  # a shard that is missing or cut short
    limit, tokenizer = positions(teachers.load_config(model)), teachers.load_tokenizer(model)
    find_separator(tokenizer)
    prefix_token(tokenizer)
    for key, length in (
        ("train.sequence_length", recipe.train.sequence_length),
        ("inherit.calibration_length", recipe.inherit.calibration_length),
    ):
        if limit is not None and length > limit:
            raise InputError(
                f"recipe: {key} = {length}, the teacher has {limit} positions: set it to {limit} or"
                " less"
            )
    for prompt in recipe.evaluate.prompts:
        count = len(prompt_ids(tokenizer, prompt))
        if limit is not None and count >= limit:
            raise InputError(
                f"recipe: evaluate.prompts: {prompt[:40]!r} has {count} tokens, the model's context"
                f" is {limit}: shorten it"
            )
        if not count and tokenizer.bos_token_id is None:
            raise InputError(
                "recipe: evaluate.prompts holds an empty prompt, and the tokenizer has no BOS token"
                " to start from: give it some text"
            )


def check_tasks(recipe: Recipe, model: Path) -> None:
    """InputError when the tasks of the recipe do not fit the context of ``model``."""
    if recipe.evaluate.tasks:
        from tinylm.evaluate.tasks.catalog import choose
        from tinylm.evaluate.tasks.lengths import check_lengths

        config, names = recipe.evaluate, choose(recipe.evaluate.tasks)
        tokenizer = teachers.load_tokenizer(model)
        check_lengths(teachers.load_config(model), tokenizer, names, config.task_data, config.limit)


def _warn_of_repeats(epochs: float, tokens: int) -> None:
    if epochs > MANY_EPOCHS:
        console.print(
            f"[yellow]{epochs:.1f} passes over {millions(tokens)} tokens of text: above"
            f" {MANY_EPOCHS} repeated text is worth less and less, more text is worth more[/]"
        )


def check_data(recipe: Recipe, store: Path, model: Path) -> None:
    """InputError when the packed text in ``store`` is too little for the training or the
    calibration of the recipe, or spells a token that ``model`` has no row for."""
    tokens = open_store(store / "train")
    rows = teachers.load_config(model).get_text_config().vocab_size
    require_rows(tokens, rows)
    config = recipe.training()
    make_plan(settle_rounds(config, tokens.num_tokens), tokens)
    trained = config.steps * config.tokens_per_batch
    if config.mixture:
        shares = [weight / sum(config.mixture) for weight in config.mixture]
        rows = passes(tokens, config.mixture, trained)
        for path, share, (size, count) in zip(recipe.corpus.paths, shares, rows):
            text = f"{millions(size)} tokens of text, read {count:.2g} times"
            console.print(f"    {share:.0%} of training from {path}: {text}", highlight=False)
            _warn_of_repeats(count, size)
    else:
        _warn_of_repeats(trained / tokens.num_tokens, tokens.num_tokens)
    length = recipe.inherit.calibration_length
    if recipe.inherit.init == "inherit" and not tokens.num_sequences(length):
        raise InputError(
            f"the corpus holds {tokens.num_tokens} tokens, less than one calibration chunk of"
            f" {length}"
        )
    require_top_k(recipe.train, tokens.vocab_size)
