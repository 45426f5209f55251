"""Nested models that programs ask for: every value is an enum or a flag, so that a small model ends them soon."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field


class Unit(StrEnum):
    """A unit of temperature."""

    celsius = "celsius"
    fahrenheit = "fahrenheit"


class Place(BaseModel):
    """Where."""

    city: Literal["Paris", "Rome"]
    country: Literal["France", "Italy"]


class Forecast(BaseModel):
    """A forecast for one place."""

    place: Place
    unit: Unit
    rain: bool = Field(description="whether it rains")
