"""The commands, and how errors leave the program: on stderr, with what to do, and exit code 0, 1 or 2."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from local_fusion import __version__
from local_fusion.cli.key_commands import keys_app
from local_fusion.cli.options import ConfigOption, GpusOption, JsonOption, PlotOption
from local_fusion.errors import LocalFusionError

# Each command imports what it needs when it runs: `--help` and errors come at once.
app = typer.Typer(
    name="local-fusion",
    help="Several open-weight models as one: a panel answers, a judge compares, a synthesizer writes; all on this rig.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(no_args_is_help=True, help="Checkpoints on this machine.")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

INTERRUPTED = 130


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"local-fusion {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def ask(
    prompt: Annotated[str, typer.Argument(help="The question; `-` reads it from standard input.")],
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option("-u", "--url", help="Ask a running server instead of starting engines.")
    ] = None,
    fusion: Annotated[
        str | None, typer.Option("-f", "--fusion", help="Fusion or model to ask. Default: the first fusion.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message before the question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of the final answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Of the final answer (members with their own keep it).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling and shuffling repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put one question to a fusion: who says what, then the verdict, then the answer."""
    from local_fusion.cli.ask import AskOptions, run_ask

    if url is not None and config is not None:
        raise typer.BadParameter("-c and --url exclude each other: a running server has its own configuration")
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
    except UnicodeDecodeError:
        raise typer.BadParameter("the question on standard input is not UTF-8") from None
    if not text.strip():
        raise typer.BadParameter("the question is empty")
    run_ask(AskOptions(text, config, url, fusion, system, max_tokens, temperature, seed, as_json))


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: the configuration's).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = None,
) -> None:
    """Start the engines and serve every fusion and model behind an OpenAI-style endpoint."""
    from local_fusion.cli.serve import run_serve

    run_serve(config, host, port)


# Options after the command's name are the command's.
@app.command(context_settings={"allow_interspersed_args": False})
def launch(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Command with its arguments.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option("-u", "--url", help="Use a running server instead of starting one for the command.")
    ] = None,
    fusion: Annotated[
        str | None, typer.Option("-f", "--fusion", help="Fusion or model to be asked. Default: the first fusion.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Tell what was used as one line of JSON, on stderr as well.")
    ] = False,
    print_env: Annotated[
        bool, typer.Option("--print-env", help="Run nothing: print the variables, each with its reason, for a shell.")
    ] = False,
) -> None:
    """Run a tool made for OpenAI's or Anthropic's interface on this machine's models, and tell at its end what it used.

    A server is started for it on a free port of this machine, and stopped after it. The exit code is the command's. A
    server's API key is taken from LOCAL_FUSION_API_KEY.
    """
    from local_fusion.cli.launch import LaunchOptions, print_environment, run_launch

    if url is not None and config is not None:
        raise typer.BadParameter("-c and --url exclude each other: a running server has its own configuration")
    options = LaunchOptions(tuple(command or ()), config, url, fusion, as_json)
    if print_env:
        print_environment(options)
        return
    if not options.command:
        raise typer.BadParameter("name a command to run, such as: local-fusion launch claude")
    raise typer.Exit(run_launch(options))


@app.command()
def mcp(
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option("-u", "--url", help="Hand on the tools of a running server instead of starting one.")
    ] = None,
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(help="`http`: serve as `serve` does, with the tools at /mcp, until told to stop."),
    ] = "stdio",
    host: Annotated[str | None, typer.Option(help="With http: address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="With http: port to listen on.")] = None,
) -> None:
    """Panels as tools of an agent (MCP): ask_panel, review_document, compare_answers, list_fusions.

    Over standard input and output, until the agent closes them. A server's API key is taken from LOCAL_FUSION_API_KEY.
    """
    if url is not None and config is not None:
        raise typer.BadParameter("-c and --url exclude each other: a running server has its own configuration")
    if transport == "http":
        if url is not None:
            raise typer.BadParameter("--url is for stdio: the server there answers /mcp itself")
        from local_fusion.cli.serve import run_serve

        run_serve(config, host, port)
        return
    if host is not None or port is not None:
        raise typer.BadParameter("--host and --port are for --transport http")
    from local_fusion.cli.mcp import McpOptions, run_mcp

    run_mcp(McpOptions(config, url))


@app.command()
def plan(
    config: ConfigOption = None,
    gpus: GpusOption = None,
    as_json: JsonOption = False,
    plot: PlotOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say for each model why it is not elsewhere.")] = False,
) -> None:
    """What fits where, with how much context and concurrency, and what would make the rest fit; nothing is started.

    Exit code 1 if a model fits nowhere; 0 also where some models fit only in turns.
    """
    _must_be_drawable(plot)
    from local_fusion.cli.plan import PlanOptions, run_plan

    raise typer.Exit(run_plan(PlanOptions(config, gpus, as_json, plot, explain)))


@app.command()
def simulate(
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            "-w",
            metavar="W",
            help="poisson:0.5/s or batch:200, with ,NAME=VALUE for requests, fusion, prompt and answer (tokens), seed "
            "and priority (interactive or batch). Or a file with one request a line: "
            '{"at": 1.5, "model": "quality", "prompt_tokens": 300, "answer_tokens": 200}.',
        ),
    ],
    config: ConfigOption = None,
    gpus: GpusOption = None,
    disk_rate: Annotated[
        str | None, typer.Option("--disk-rate", metavar="BYTES", help="What the disk reads a second, such as 500MB.")
    ] = None,
    as_json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """How requests would go on a rig: waits, swaps and what is busy, in virtual time; nothing is started.

    The scheduler and the fusions are the real ones, the engines' speeds are modelled. Exit code 1 if a request failed.
    """
    _must_be_drawable(plot)
    from local_fusion.cli.simulate import SimulateOptions, run_simulate
    from local_fusion.config.quantities import parse_bytes

    try:
        rate = None if disk_rate is None else parse_bytes(disk_rate)
    except ValueError as error:
        raise typer.BadParameter(f"--disk-rate: {error}") from None
    if rate == 0:
        raise typer.BadParameter("--disk-rate: a disk that reads nothing loads nothing")
    raise typer.Exit(run_simulate(SimulateOptions(config, gpus, workload, as_json, plot, rate)))


def _must_be_drawable(plot: Path | None) -> None:
    """Raises `BadParameter` for a picture of a kind that we do not draw, or in a folder that is not there."""
    from local_fusion.cli.plan_plot import SUFFIXES

    if plot is None:
        return
    if plot.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"--plot draws a {' or a '.join(SUFFIXES)}, not '{plot.name}'")
    if not plot.absolute().parent.is_dir():
        raise typer.BadParameter(f"--plot: there is no folder {plot.absolute().parent}")


@app.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at this machine, the installation and the configuration: what is there, what is missing, what to do."""
    from local_fusion.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(config, as_json=as_json))


@models_app.command("list")
def models_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """The configured models, and whether their checkpoints are on this machine."""
    from local_fusion.cli.models import run_list

    run_list(config, as_json=as_json)


@models_app.command("inspect")
def models_inspect(
    model: Annotated[str, typer.Argument(help="A configured model, a hub id, a folder, a config.json or a GGUF file.")],
    config: ConfigOption = None,
    gpus: GpusOption = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel", min=1, help="Split over so many GPUs. Default: each number possible up to 8."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """One model's bytes line by line: weights, KV cache, overhead, and what it leaves behind asleep."""
    from local_fusion.cli.inspect import run_inspect

    run_inspect(model, config, gpus=gpus, tensor_parallel=tensor_parallel, as_json=as_json)


@models_app.command("import")
def models_import(source: Annotated[str, typer.Argument(help="A GGUF file, or package:NAME/FILE.gguf.")]) -> None:
    """Turn a GGUF file into a checkpoint that vLLM loads; prints its folder."""
    from local_fusion.cli.models import run_import

    run_import(source)


@models_app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Configured models or hub ids. Default: all.")] = None,
    config: ConfigOption = None,
    config_only: Annotated[
        bool, typer.Option("--config-only", help="No weights: only what `plan` needs to know of a model on the hub.")
    ] = False,
) -> None:
    """Download or import checkpoints ahead of time; prints their folders."""
    from local_fusion.cli.models import run_pull

    run_pull(names or [], config, config_only=config_only)


def main() -> None:
    """The entry point of the `local-fusion` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may hold what this terminal's encoding does not
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except LocalFusionError as error:
        from local_fusion.config.problems import printable

        lines = [printable(line) for line in str(error).split("\n")]
        typer.secho("local-fusion: " + "\n".join(lines), err=True, fg="red")
        sys.exit(error.exit_code)
    except SystemExit as end:  # typer ends every command in this way, also where it caught a KeyboardInterrupt
        if end.code == INTERRUPTED:
            typer.echo("local-fusion: interrupted; everything that was started has been stopped", err=True)
        raise
    finally:
        _flush()


def _flush() -> None:
    """Write out what is left; exit 1 without a word where whoever read our output has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
