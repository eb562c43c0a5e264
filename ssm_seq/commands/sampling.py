"""A model of sound at another sampling rate than that of its training."""

from typing import TypeVar

from ssm_seq.errors import InputError
from ssm_seq.models import Model

AnyModel = TypeVar("AnyModel", bound=Model)


def at_rate(model: AnyModel, rate: float, name: str) -> AnyModel:
    """The model for a time step `rate` times that of its training; itself if that is 1.

    name: of the value on the command line, for the sentence.

    Raises:
        InputError: rate <= 0, layers that are tied to their sampling rate, or a model of something else than
            sound.
    """
    if rate == 1:
        return model
    if model.sample_rate is None:
        raise InputError(f"{name}={rate:g}: this model reads {model.alphabet}, which has no sampling rate")
    try:
        return model.resampled(rate)
    except ValueError as error:
        raise InputError(f"{name}={rate:g}: {str(error).removeprefix(f'rate={rate:g}: ')}") from None
