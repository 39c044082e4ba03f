"""What every section of ``params.yaml`` has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ofq.errors import unknown


class Strict(BaseModel):
    """A section of ``params.yaml``: no unknown key, no value of another type, nothing that is not finite."""

    # true is not 1, "3" is not 3, and 3.0 is not a whole number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        """Refuse an unknown key before anything else: a mistyped one also leaves a required one missing."""
        for key in content if isinstance(content, dict) else ():
            if isinstance(key, str) and key not in cls.model_fields:
                raise ValueError(unknown("key", key, cls.model_fields))
        return content


def later(default: Any, description: str) -> Any:
    """Return a field that was added later: where it is at its default, a run's settings are those of before."""
    return Field(default, exclude_if=lambda value: value == default, description=description)
