"""Bodies of the fine-tuning API: OpenAI's fields with OpenAI's bounds, and what of them is offered here."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cluster.errors import InvalidInput
from serving.bodies import KeptBody, Part
from serving.hyperparameters import Auto, Hyperparameters, decide
from serving.metadata import Metadata


class AskedHyperparameters(Part):
    """`auto` is decided from the number of rows, by the rule in `hyperparameters`."""

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto = "auto"

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_auto(cls, value: object) -> object:
        return "auto" if value is None else value


class AskedDpoHyperparameters(AskedHyperparameters):
    beta: Annotated[float, Field(gt=0, le=2)] | Auto = "auto"


class Supervised(Part):
    hyperparameters: AskedHyperparameters | None = None


class Dpo(Part):
    hyperparameters: AskedDpoHyperparameters | None = None


class Method(Part):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    # What is in it does not matter: the method as a whole is refused.
    reinforcement: Any = None

    @model_validator(mode="after")
    def _is_offered(self) -> Self:
        if self.type == "reinforcement":
            raise InvalidInput(
                "method.type reinforcement is not offered; use supervised or dpo",
                "method.type",
                "unsupported_value",
            )
        other = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise InvalidInput(
                f"method.type is {self.type}; leave method.{other} out, or name it as the type",
                f"method.{other}",
            )
        return self

    @property
    def hyperparameters(self) -> AskedHyperparameters | None:
        """Those of the type; None when none are given."""
        chosen = self.dpo if self.type == "dpo" else self.supervised
        return chosen.hyperparameters if chosen else None


class CreateJobRequest(KeptBody):
    """`POST /v1/fine_tuning/jobs`, and the same body for `/plans`."""

    model: str = Field(
        min_length=1, description="What is tuned: a base that the server names.", examples=["smollm2"]
    )
    training_file: str = Field(min_length=1, description="Id of a file of purpose fine-tune.")
    validation_file: str | None = Field(
        None, min_length=1, description="Id of another one, whose loss is told beside."
    )
    method: Method | None = None
    hyperparameters: AskedHyperparameters | None = Field(None, description="The older place of method's.")
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    integrations: list[dict[str, Any]] | None = None

    @field_validator("integrations")
    @classmethod
    def _no_integrations(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if value:
            raise InvalidInput(
                "integrations are not offered; read the metrics from the job's events or its result file",
                "integrations",
                "unsupported_parameter",
            )
        return value

    @property
    def method_type(self) -> Literal["supervised", "dpo"]:
        return "dpo" if self.method and self.method.type == "dpo" else "supervised"

    @property
    def asked(self) -> AskedHyperparameters:
        """Raises InvalidInput when both places say something else."""
        of_method = self.method.hyperparameters if self.method else None
        if self.hyperparameters and (
            self.method_type == "dpo" or of_method not in (None, self.hyperparameters)
        ):
            raise InvalidInput(
                f"hyperparameters and method.{self.method_type}.hyperparameters differ; send the latter alone",
                "hyperparameters",
            )
        if self.method_type == "dpo":
            return of_method or AskedDpoHyperparameters()
        return of_method or self.hyperparameters or AskedHyperparameters()

    def decided(self, num_rows: int) -> Hyperparameters:
        """Raises InvalidInput for a batch that is larger than the data."""
        asked = self.asked
        if asked.batch_size != "auto" and asked.batch_size > num_rows:
            raise InvalidInput(
                f"batch_size {asked.batch_size} is more than the {num_rows} rows of the training file",
                "hyperparameters.batch_size",
            )
        beta = asked.beta if isinstance(asked, AskedDpoHyperparameters) else None
        return decide(num_rows, asked.n_epochs, asked.batch_size, asked.learning_rate_multiplier, beta)

    def seed_or_new(self) -> int:
        return secrets.randbelow(2**31) if self.seed is None else self.seed
