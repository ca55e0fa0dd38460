"""The one place where options are named. Everything is frozen: "auto" is resolved into new objects, never in place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from local_fusion.config.aliases import Pattern
from local_fusion.config.base import Name, Seconds, Strict
from local_fusion.config.openrouter import OpenRouterConfig
from local_fusion.config.presets import expanded
from local_fusion.config.quantities import Bytes
from local_fusion.config.server import ServerConfig
from local_fusion.config.strategies import FusionConfig


def _planned(value: Any) -> Any:
    """`auto`, said aloud: the planner decides, as where nothing is said."""
    return None if value == "auto" else value


def _or_auto(kind: Any) -> BeforeValidator:
    """Takes `auto` beside `kind` for what the planner decides."""
    return BeforeValidator(_planned, json_schema_input_type=kind | Literal["auto"] | None)


class ModelConfig(Strict):
    """One open-weight model and how its engine runs it. What is left out is decided by the planner."""

    source: Annotated[str, Field(min_length=1)] = Field(
        description="Hub id (`Qwen/Qwen3-8B`), local folder, GGUF file, or `package:NAME/FILE.gguf` for a GGUF file "
        "inside an installed Python package."
    )
    max_model_len: Annotated[int | None, _or_auto(Annotated[int, Field(ge=128)])] = Field(
        None,
        ge=128,
        description="Context in tokens. Default, `auto`: the model's own up to 16384, and less where memory is short.",
    )
    gpus: list[int] | None = Field(None, min_length=1, description="Pin the engine to these GPUs.")
    tensor_parallel: Annotated[int | None, _or_auto(Annotated[int, Field(ge=1)])] = Field(
        None, ge=1, description="GPUs one engine is split over. Default, `auto`: planned."
    )
    kv_cache_bytes: Annotated[Bytes | None, _or_auto(Annotated[int, Field(gt=0)] | str)] = Field(
        None, description="KV cache of each GPU. Default, `auto`: planned."
    )
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto", description="Type of the KV cache. `auto`: the model's own; fp8 halves it and costs some quality."
    )
    max_num_seqs: int = Field(64, ge=1, description="Most sequences one engine runs at the same time.")
    max_num_batched_tokens: int | None = Field(None, ge=128, description="Most tokens of one engine step.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = Field(None, description="vLLM's name of the weights' format, where it cannot tell.")
    eager: bool | None = Field(None, description="Leave out CUDA graphs and compilation. Default: on CPU only.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the checkpoint.")
    chat_template: str | None = Field(None, description="Path of a chat template that replaces the model's own.")
    tool_call_parser: str | None = Field(
        None,
        min_length=1,
        description="vLLM's name of the way in which the model writes tool calls (`hermes` for Qwen, `llama3_json`, "
        "`mistral`, …). Without it the model takes no requests with tools.",
    )
    reasoning_parser: str | None = Field(
        None,
        min_length=1,
        description="vLLM's name of the way in which the model thinks aloud before it answers (`qwen3`, `deepseek_r1`, "
        "…). Without it thoughts count as part of the answer.",
    )
    extra_args: list[str] = Field([], description="Further arguments for vLLM's server, untouched.")

    @model_validator(mode="after")
    def _pins_match(self) -> ModelConfig:
        if self.gpus is not None:
            if len(set(self.gpus)) != len(self.gpus):
                raise ValueError("gpus: names a GPU twice")
            if self.tensor_parallel not in (None, len(self.gpus)):
                raise ValueError(f"tensor_parallel is {self.tensor_parallel} but gpus names {len(self.gpus)}")
        return self

    @model_validator(mode="after")
    def _a_step_holds_every_sequence(self) -> ModelConfig:
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens} but must be at least max_num_seqs "
                f"({self.max_num_seqs})"
            )
        return self


class PersonaFile(Strict):
    """A persona in a file of its own, UTF-8 and at most 64 KiB. It is read when the configuration is loaded."""

    file: str = Field(min_length=1, description="Path, relative to the configuration's folder.")


def _text(value: Any) -> Any:
    """Loading has put texts in the place of files."""
    return value


Persona = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | PersonaFile)]


class EngineSettings(Strict):
    """How engines are started and stopped."""

    start_seconds: Seconds = Field(900, description="Give up on an engine that is not ready by then.")
    stop_seconds: Seconds = Field(10, description="Grace between asking an engine to stop and killing it.")
    hang_seconds: Seconds = Field(60, description="Kill and restart an engine that shows no life for so long.")
    restarts: int = Field(5, ge=0, description="Restarts in a row after crashes before an engine counts as broken.")
    memory_share: float = Field(0.85, gt=0, le=1, description="Share of the free RAM that may be used.")
    gpu_reserve: Bytes | None = Field(
        None, description="Memory of each GPU that is left alone. Default: 2 % of it, for what allocators waste."
    )


class SchedulingSettings(Strict):
    """Who is awake when not all models fit together."""

    fairness_seconds: Seconds | None = Field(
        30,
        description="A call that has waited so long for a sleeping engine is served next: engines in its way finish "
        "what they are doing and take no more. null: only when these have run dry. Batch calls always wait for that.",
    )
    idle_sleep_seconds: Seconds | None = Field(
        None, description="Engines that nobody has called for so long give their memory back. Default: never."
    )
    max_queued_calls: int = Field(
        4096, ge=1, description="Most calls waiting for one engine; requests beyond are answered with 429."
    )


class Config(Strict):
    """The whole configuration. Models and fusions share one namespace: both are served under their names."""

    models: dict[Name, ModelConfig] = Field(min_length=1)
    fusions: dict[Name, FusionConfig] = Field({}, description="Panels with a strategy, each served as a model.")
    personas: dict[Name, Persona] = Field(
        {}, description="System notes for members, by name: texts, or files (`{file: path}`)."
    )
    aliases: dict[Pattern, Name] = Field(
        {},
        description="Other names under which clients may ask: `gpt-4o: quality`, or patterns (`anthropic/*: quality`). "
        "An exact name comes first, then the longest pattern.",
    )
    openrouter: OpenRouterConfig = OpenRouterConfig()
    engines: EngineSettings = EngineSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    server: ServerConfig = ServerConfig()

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, data: Any) -> Any:
        return expanded(data)

    def default_fusion(self) -> str:
        """What is asked where no name is given: the first fusion, else the first model."""
        return next(iter(self.fusions or self.models))
