"""``dtn tune``: the options, and which function of ``dtn_tvm`` they go to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import arguments
from .groups import RunByDefault
from .kernel_tools import kernel_tools

app = typer.Typer(
    name="tune",
    cls=RunByDefault,
    help="Search the fastest kernel of an operator: dtn tune OP, short for dtn tune run OP.",
    epilog="Example: dtn tune tensor_attention:mask=causal --target cpu --shape b=1,h=8,n=8192,d=64,e=64",
)

Op = Annotated[
    str,
    typer.Argument(metavar="OP", help="A name of `dtn ops` with its knobs, or a file of notation.", show_default=False),
]
Target = Annotated[
    str, typer.Option(metavar="T", help="cpu, nvidia/h100, nvidia/h200, nvidia/a100, …, or a TVM target as JSON.")
]
Direction = Annotated[str, typer.Option(metavar="D", help="forward, or backward: the gradient.")]
Records = Annotated[
    Path,
    typer.Option(metavar="PATH", help="The file of records; what was measured is kept beside it.", dir_okay=False),
]
DEFAULT_RECORDS = Path("records.jsonl")


@app.command(epilog="Example: dtn tune run tensor_attention:mask=causal --shape b=1,h=8,n=8192,d=64,e=64 --trials 32")
def run(
    op: Op,
    shape: Annotated[
        list[str], typer.Option(metavar="AXIS=SIZE,…", help="b and h are batch and heads.", show_default=False)
    ],
    target: Target = "cpu",
    dtype: Annotated[list[str], typer.Option(metavar="DTYPE", help="float32, float16 or bfloat16.")] = ["float32"],  # noqa: B006  # Typer copies it
    direction: Direction = "forward",
    trials: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Candidates measured at most.")] = 64,
    time_budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="As in 90s, 10m, 1h30m; by default until all are measured.")
    ] = None,
    timeout: Annotated[float, arguments.limit("For one candidate.", 1)] = 60,
    engine: Annotated[
        str,
        typer.Option(
            metavar="E",
            help="grid: this library's schedules; metaschedule: TVM's, of contractions, for this shape alone.",
        ),
    ] = "grid",
    records: Records = DEFAULT_RECORDS,
    rpc: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Measure on a machine that this RPC tracker knows.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="K", help="Under which servers told the tracker of them.")] = None,
) -> None:
    """Search the fastest schedule of an operator on a device, and file its record.

    Run again, it goes on where it was interrupted.
    """
    budget = None if time_budget is None else arguments.seconds(time_budget, "--time-budget")
    if (rpc is None) != (key is None):
        raise typer.BadParameter("--rpc and --key go together, as in --rpc 10.0.0.5:9190 --key h100")
    tracker = None if rpc is None else arguments.address(rpc, "--rpc")
    device = _target(target)
    (problem,) = _problems(op, _alone(shape, "--shape"), _alone(dtype, "--dtype"), direction)
    commands = kernel_tools("commands")
    arguments.one_of(engine, list(kernel_tools("engines").ENGINES), "--engine")
    options = commands.Options(trials=trials, time_budget=budget, measure_timeout=timeout, engine=engine)
    raise typer.Exit(commands.run_tune(problem, device, records, options, tracker, key or ""))


@app.command(epilog="Example: dtn tune build tensor_attention:mask=causal --target nvidia/h200 -o bundle.zip --shape …")
def build(
    op: Op,
    shape: Annotated[
        list[str],
        typer.Option(metavar="AXIS=SIZE,…", help="b and h are batch and heads; may be repeated.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ZIP", help="The bundle.")] = Path("bundle.zip"),
    target: Target = "cpu",
    dtype: Annotated[
        list[str], typer.Option(metavar="DTYPE", help="float32, float16 or bfloat16; may be repeated.")
    ] = ["float32"],  # noqa: B006  # Typer copies it
    direction: Direction = "forward",
    trials: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Candidates for each shape.")] = 24,
) -> None:
    """Compile candidates into a bundle, for a machine that has nothing but the device.

    There it needs Python, NumPy and apache-tvm-ffi: python bundle.zip -o results.json --budget 300
    """
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    device = _target(target)
    problems = _problems(op, shape, dtype, direction)
    commands = kernel_tools("commands")
    raise typer.Exit(commands.run_build(problems, device, output, commands.Options(trials=trials)))


@app.command(epilog="Example: dtn tune measure bundle.zip -o results.json --budget 300")
def measure(
    bundle: Annotated[
        Path, typer.Argument(metavar="ZIP", help="Of dtn tune build.", show_default=False, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="JSON", help="The results.", dir_okay=False)] = Path(
        "results.json"
    ),
    budget: Annotated[float, arguments.limit("No candidate is begun later.", 0)] = 300,
) -> None:
    """Measure a bundle on this machine; an interrupted run goes on where it stopped."""
    raise typer.Exit(kernel_tools("commands").run_measure(bundle, output, budget))


@app.command("import", epilog="Example: dtn tune import results.json --records records.jsonl")
def import_(
    results: Annotated[
        Path, typer.Argument(metavar="JSON", help="Of dtn tune measure.", show_default=False, dir_okay=False)
    ],
    records: Records = DEFAULT_RECORDS,
) -> None:
    """File the records of what was measured on another machine."""
    raise typer.Exit(kernel_tools("commands").run_import(results, records))


def _alone(given: list[str], option: str) -> list[str]:
    """What was given for a search, which has one of it: of several, Typer by itself would take the last."""
    if len(set(given)) > 1:
        raise typer.BadParameter(
            f"{' and '.join(given)}: one a search; dtn tune build takes several", param_hint=option
        )
    return given[:1]


def _problems(op: str, shapes: list[str], dtypes: list[str], direction: str) -> list[Any]:
    """The problems of a command line, each once."""
    commands = kernel_tools("commands")
    operator = arguments.operator(op)
    arguments.one_of(direction, ("forward", "backward"), "--direction")
    for dtype in dtypes:
        arguments.one_of(dtype, list(kernel_tools("problem").DTYPES), "--dtype")
    given = [arguments.sizes(shape) or {} for shape in shapes]
    try:
        commands.check_operator(operator)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="OP") from None
    try:
        made = [commands.problem(operator, direction, dtype, sizes) for sizes in given for dtype in dtypes]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shape") from None
    return list(dict.fromkeys(made))


def _target(text: str) -> Any:
    try:
        return kernel_tools("commands").target(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--target") from None
