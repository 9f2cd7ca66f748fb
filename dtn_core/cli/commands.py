"""The commands and their options. What a command needs is imported when it runs: ``dtn ops`` loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import arguments, records, tuning

app = typer.Typer(
    name="dtn",
    help="Attention operators as index notation, compiled to NumPy, PyTorch, JAX and TensorFlow.",
    epilog="Example: dtn explain tensor_attention:order=3 --shape n=65536,d=64,e=64",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Op = Annotated[
    str,
    typer.Argument(
        metavar="OP",
        help="A name of `dtn ops`, with knobs as in tensor_attention:mask=tril,order=3, or a file of index notation.",
        show_default=False,
    ),
]
Backend = Annotated[
    str,
    typer.Option("--backend", "-b", metavar="B", help="numpy, torch, jax or tensorflow.", show_default=False),
]
Complex = Annotated[bool, typer.Option("--complex", help="The source for complex arguments.")]
Layout = Annotated[str, typer.Option(metavar="LAYOUT", help='"... n d" or "... n h d": where the head axis is.')]


def _print_version(asked: bool) -> None:
    if asked:
        from ..version import DISTRIBUTION, version

        print(f"{DISTRIBUTION} {version()}")
        raise typer.Exit


@app.callback()
def dtn(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that belong to no command; what they do is done where they are read."""


app.add_typer(tuning.app)
app.add_typer(records.app)


@app.command(epilog="Example: dtn ops")
def ops() -> None:
    """List the operators of the catalogue and their knobs."""
    from .catalogue import print_catalogue

    print_catalogue()


@app.command(epilog="Example: dtn show tensor_attention:mask=tril,order=3 --backend torch")
def show(
    op: Op,
    backend: Annotated[
        str | None,
        typer.Option("--backend", "-b", metavar="B", help="Also the source generated for this backend."),
    ] = None,
    complex: Complex = False,
) -> None:
    """Show an operator as index notation, and the source generated from it."""
    operator = arguments.operator(op)
    source = None if backend is None else _source(op, backend, complex, "... n d")
    print(operator.notation)
    if operator.scalars:
        print("with", ", ".join(f"{name}={value:g}" for name, value in operator.scalars.items()))
    if source is not None:
        print(f"\n# {backend}\n{source.rstrip()}")


@app.command(epilog="Example: dtn explain tensor_attention --shape n=4096,d=64,e=64 --dtype bfloat16")
def explain(
    op: Op,
    shape: Annotated[
        str | None,
        typer.Option(metavar="AXIS=SIZE,…", help="Axis sizes; the others are assumed: long sequences, 64 features."),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="Dtype of the arguments.")] = "float32",
    backend: Annotated[str, typer.Option("--backend", "-b", metavar="B", help="Named in the heading.")] = "numpy",
) -> None:
    """Explain how an operator is computed: steps, the rule behind each, flops, bytes, peak memory."""
    from ..explain import explain as explain_operator

    operator, sizes, target = arguments.operator(op), arguments.sizes(shape), arguments.target(backend)
    try:
        text = str(explain_operator(operator, sizes, dtype, target.name, costs=target.costs))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(text)


@app.command(epilog="Example: dtn emit tensor_attention --backend jax > tensor_attention.py")
def emit(op: Op, backend: Backend, complex: Complex = False, layout: Layout = "... n d") -> None:
    """Write an operator as source text that needs nothing but the framework."""
    print(_source(op, backend, complex, layout), end="")


@app.command(epilog="Example: dtn doctor")
def doctor(
    timeout: Annotated[float, arguments.limit("For examining one framework.", 1)] = 120,
) -> None:
    """Show what is installed, in which version, on which devices, and the command that installs what is missing."""
    from .doctor import print_report

    raise typer.Exit(print_report(timeout))


@app.command(epilog="Example: dtn demo --frameworks torch,jax --epochs 10 --out results")
def demo(
    model: Annotated[
        str, typer.Argument(metavar="[digits|lm]", help="A classifier of handwritten digits, or a language model.")
    ] = "digits",
    frameworks: Annotated[
        str | None,
        typer.Option(metavar="F,…", help="torch, jax, tensorflow; by default all that are installed."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, metavar="N", help="Digits: passes over the training images.", show_default="30"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, metavar="N", help="Lm: updates of each model.", show_default="500"),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where demo.png and demo.json, or lm.png and lm.json, are written.",
            file_okay=False,
        ),
    ] = Path("."),
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of the weights, the data's order and what is drawn.")
    ] = 0,
) -> None:
    """Train the same model in every framework, and compare; the language model then streams a long text."""
    if model not in ("digits", "lm"):
        raise typer.BadParameter(f"{model!r} is not one of digits, lm", param_hint="MODEL")
    from ..demo.frameworks import PACKAGES

    names = arguments.names(frameworks, list(PACKAGES), "--frameworks")
    if model == "lm":
        if epochs is not None:
            raise typer.BadParameter("is of dtn demo digits; dtn demo lm has --steps", param_hint="--epochs")
        from ..demo.lm_run import run as run_lm

        raise typer.Exit(run_lm(frameworks=names, steps=500 if steps is None else steps, out=out, seed=seed))
    if steps is not None:
        raise typer.BadParameter("is of dtn demo lm; dtn demo digits has --epochs", param_hint="--steps")
    from ..demo import run

    raise typer.Exit(run(frameworks=names, epochs=30 if epochs is None else epochs, out=out, seed=seed))


@app.command(epilog="Example: dtn conform --ops tensor_attention,ahla --jobs 2 --out conform")
def conform(
    backends: Annotated[
        str | None,
        typer.Option(metavar="B,…", help="numpy, torch, jax, tensorflow, tvm; by default all that are installed."),
    ] = None,
    dtypes: Annotated[str | None, typer.Option(metavar="T,…", help="float64, float32, bfloat16, float16, …")] = None,
    ops: Annotated[
        str | None,
        typer.Option(
            metavar="OP;…",
            help="Names of `dtn ops`, with all their knobs; or tensor_attention:order=3,mask=causal; or a file.",
        ),
    ] = None,
    forms: Annotated[str | None, typer.Option(metavar="F,…", help="dense, linear, chunked, recurrent.")] = None,
    modes: Annotated[str | None, typer.Option(metavar="M,…", help="eager, jit, vmap, export.")] = None,
    checks: Annotated[str | None, typer.Option(metavar="C,…", help="value, gradient, second gradient, …")] = None,
    device: Annotated[str, typer.Option(metavar="D", help="cpu or cuda.")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Processes at a time.")] = 1,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Keeps the matrix; a second run does what is missing.", file_okay=False)
    ] = Path("conform"),
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only N cells of each backend, drawn by the seed.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of what is drawn.")] = 0,
    backend_module: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Somebody else's backend: a module with an ADAPTER; see CONTRIBUTING.md."),
    ] = None,
) -> None:
    """Hold every operator, form, mode and dtype of every backend to one oracle, and write the matrix."""
    from ..conform.run import Request, run

    request = Request(
        backends=arguments.backends(backends, backend_module or ()),
        cases=arguments.cases(ops),
        choice=arguments.choice(dtypes=dtypes, forms=forms, modes=modes, checks=checks),
        device=arguments.one_of(device, ("cpu", "cuda"), "--device"),
        jobs=jobs,
        sample=sample,
        seed=seed,
    )
    raise typer.Exit(run(request, out))


def _source(op: str, backend: str, complex_input: bool, layout: str) -> str:
    from dtn_codegen import emit as emit_operator

    operator, backend = arguments.operator(op), arguments.target(backend).name
    try:
        return emit_operator(operator, backend, complex=complex_input, layout=layout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
