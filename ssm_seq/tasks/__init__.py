"""Tasks that need no byte store: drawn at random as they are needed, or read from a few files.

Each gives batches of ids and answers for any number of sequences and any length; the same generator, the same
batch. They know nothing of models and of training.
"""

from ssm_seq.config import Config
from ssm_seq.errors import InputError
from ssm_seq.tasks.copying import Copying
from ssm_seq.tasks.fashion_mnist import FashionMnist
from ssm_seq.tasks.forecast import Forecast
from ssm_seq.tasks.induction import InductionHeads
from ssm_seq.tasks.signals import Signals
from ssm_seq.tasks.task import Example, Task

SIGNALS = ("delay", "integration", "reconstruction")
TASKS = ("copying", "selective_copying", "induction_heads", "fashion_mnist", *SIGNALS, "forecast")

__all__ = ["TASKS", "Example", "Task", "task_of"]


def task_of(config: Config) -> Task:
    """The task that `config.task.name`, one of `TASKS`, names."""
    task = config.task
    match task.name:
        case "copying":
            return Copying(task.symbols, task.memorise, scattered=False)
        case "selective_copying":
            return Copying(task.symbols, task.memorise, scattered=True)
        case "induction_heads":
            return InductionHeads(task.symbols)
        case "fashion_mnist":
            return FashionMnist(task.images, task.permuted)
        case "delay" | "integration" | "reconstruction":
            return Signals(task.name, task.band, task.lag, task.samples)
        case "forecast":
            return Forecast(task.series, task.column, task.horizon)
    raise InputError(f"task.name={task.name}: expected one of {', '.join(TASKS)}")
