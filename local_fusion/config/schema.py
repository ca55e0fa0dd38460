"""The one place where options are named. Everything is frozen: "auto" is resolved into new objects, never in place."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from local_fusion.config.quantities import Bytes
from local_fusion.core.sampling import Sampling

NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]*"
Name = Annotated[str, Field(pattern=rf"^{NAME}(/{NAME})*$", max_length=128)]
Seconds = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


def _named(value: Any) -> Any:
    """`qwen` is short for `{model: qwen}`."""
    return {"model": value} if isinstance(value, str) else value


class Reference(Sampling):
    """A model or fusion, by name, with sampling of its own."""

    model: Name = Field(description="Name of a model or of another fusion.")


class MemberConfig(Reference):
    """A member of a panel: it gives `samples` candidates."""

    samples: int = Field(1, ge=1, le=256, description="Answers wanted from this member.")
    persona: str | None = Field(None, description="Name of a persona (built in, or from `personas`).")


Member = Annotated[MemberConfig, BeforeValidator(_named)]
Judge = Annotated[Reference, BeforeValidator(_named)]


class Deadlines(Strict):
    """Seconds after which a stage is cut short; waiting for an engine to start or wake counts. None for batch."""

    panel: Seconds = 600
    judge: Seconds = 300
    synthesis: Seconds = 600


class FusionBase(Strict):
    """What all strategies share: a panel, how many candidates are needed, and deadlines."""

    description: str | None = Field(None, description="Shown by clients that list models.")
    panel: list[Member] = Field(min_length=1, max_length=512, description="The members, asked at the same time.")
    quorum: int = Field(1, ge=1, description="Fewest candidates with which the fusion goes on.")
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="after")
    def _quorum_is_reachable(self) -> FusionBase:
        candidates = sum(member.samples for member in self.panel)
        if self.quorum > candidates:
            raise ValueError(f"quorum: {self.quorum} candidates are needed but the panel gives {candidates}")
        return self


class SingleConfig(FusionBase):
    """The first member answers, streamed; the next one only where it fails. No judge."""

    strategy: Literal["single"]


class BestOfConfig(FusionBase):
    """One candidate is returned verbatim: the one a judge prefers pairwise, by next-token probabilities."""

    strategy: Literal["best_of"]
    judge: Judge


class VoteConfig(FusionBase):
    """The answer most candidates give, compared exactly after extraction; one such candidate is returned verbatim."""

    strategy: Literal["vote"]
    extract: str = Field(
        "auto",
        description="What counts as a candidate's answer: `number` (the last one), `choice` (a letter A to Z), "
        "`text` (all of it), `regex:PATTERN` (the last match; its first group if it has one), or `auto` "
        "(\\boxed{…}, else after 'answer:', else the last number, else all of it).",
    )

    @field_validator("extract")
    @classmethod
    def _known_extraction(cls, value: str) -> str:
        kind, _, pattern = value.partition(":")
        if kind == "regex" and pattern:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        elif value not in ("auto", "number", "choice", "text"):
            raise ValueError("expected auto, number, choice, text or regex:PATTERN")
        return value


class SynthesizeConfig(FusionBase):
    """A judge analyses the candidates, then a synthesizer writes the final answer from them, streamed."""

    strategy: Literal["synthesize"]
    judge: Judge
    synthesizer: Judge | None = Field(None, description="Writes the final answer. Default: the judge's model.")
    analysis: bool = Field(True, description="Analyse the candidates first; false goes straight to writing.")


FusionConfig = Annotated[
    SingleConfig | BestOfConfig | VoteConfig | SynthesizeConfig,
    Field(discriminator="strategy"),
]


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


class ServerConfig(Strict):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port.")
    allow_remote: bool = Field(False, description="Allow a host other than loopback although there are no API keys.")
    api_keys_file: None = Field(None, description="Reserved for API keys; null is the only value so far.")
    keep_alive_seconds: Seconds = Field(5, description="Between comments sent while a streaming client waits.")
    max_body_bytes: Bytes = 16 * 1024**2
    stall_seconds: Seconds = Field(
        120, description="A client that takes nothing of its answer for so long is given up: it would hold its engine."
    )
    drain_seconds: Seconds = Field(20, description="Time that running requests get when the server stops.")

    @model_validator(mode="after")
    def _loopback_unless_told(self) -> ServerConfig:
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        if not local and not self.allow_remote:
            raise ValueError(
                f"host {self.host} is reachable by others and there are no API keys: use 127.0.0.1, "
                "or set allow_remote: true if something in front of it keeps strangers out"
            )
        return self


class Config(Strict):
    """The whole configuration. Models and fusions share one namespace: both are served under their names."""

    models: dict[Name, ModelConfig] = Field(min_length=1)
    fusions: dict[Name, FusionConfig] = Field({}, description="Panels with a strategy, each served as a model.")
    personas: dict[Name, str] = Field({}, description="System notes for members, by name.")
    engines: EngineSettings = EngineSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    server: ServerConfig = ServerConfig()

    def default_fusion(self) -> str:
        """What is asked where no name is given: the first fusion, else the first model."""
        return next(iter(self.fusions or self.models))
