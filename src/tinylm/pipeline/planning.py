"""`tinylm plan`: shapes for a budget, measured if asked, written and told."""

from typing import Any

from tinylm.architecture.plan import parse_numbers, plan, print_bill, print_plan, write_plan
from tinylm.errors import InputError
from tinylm.pipeline.plan_options import PlanOptions


def plan_files(budget: float, vocab_size: int, options: PlanOptions) -> None:
    """The work of ``tinylm plan``; arguments as there."""
    if not 0 <= options.train_tokens < 1e15:
        raise InputError(
            f"--train-tokens {options.train_tokens} must be a number of tokens, e.g. 5e5"
        )
    depths, out = parse_numbers("depths", options.depths), options.out
    request: dict[str, Any] = {"teacher": options.teacher, "depths": depths, "block": options.block}
    candidates = plan(budget, vocab_size, **request, limit=options.limit)
    request = {"budget": budget, "vocab_size": vocab_size, **request}
    print_plan(candidates)
    if options.bill_tokens:
        print_bill(candidates[0], options.bill_tokens, options.peak_flops, options.mfu)
    if out is not None and not (out / "plan.json").exists():
        # again below: measuring takes long and can be stopped
        write_plan(candidates, out, request)
    measured: list[dict[str, Any]] = []
    if options.measure or options.train_tokens:
        from tinylm.pipeline import measured_plan

        measured = measured_plan.measure(candidates, options)
        measured_plan.print_measurements(candidates, measured)
    if out is not None:
        write_plan(candidates, out, request, measured)
        if options.measure:
            measured_plan.draw(candidates, measured, out / "pareto.svg")
        print(out / "plan.json")
