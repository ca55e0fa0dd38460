"""What every part of the configuration is made of: frozen classes, names, references to models, commands."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from local_fusion.core.sampling import Sampling

NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]*"
Name = Annotated[str, Field(pattern=rf"^{NAME}(/{NAME})*$", max_length=128)]
Seconds = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def named(value: Any) -> Any:
    """`qwen` is short for `{model: qwen}`."""
    return {"model": value} if isinstance(value, str) else value


def listed(value: Any) -> Any:
    """One thing is short for a list of it."""
    return value if isinstance(value, list) else [value]


class Reference(Sampling):
    """A model or fusion, by name, with sampling of its own."""

    model: Name = Field(description="Name of a model or of another fusion.")


Model = Annotated[Reference, BeforeValidator(named)]
# In order: the next one is asked only where those before it failed.
Models = Annotated[
    list[Model], BeforeValidator(listed, json_schema_input_type=Model | list[Model]), Field(min_length=1, max_length=16)
]


class Command(Strict):
    """A program of the user's that checks a candidate. It is run as it stands, without a shell, in an empty folder."""

    command: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        description="Program and arguments. The candidate comes on its standard input. Exit code 0 accepts it; 1 "
        "rejects it, and what the program printed is the reason; anything else is an error and never counts as "
        "acceptance.",
    )
    seconds: Seconds = Field(60, description="The program is killed after so long, which is an error.")
    at_once: int = Field(4, ge=1, le=64, description="Most programs that run at the same time for one request.")
