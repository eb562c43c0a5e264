"""A store, or a task without one -> a model."""

from argparse import Namespace

from ssm_seq.commands.device import choose_device
from ssm_seq.config import compose
from ssm_seq.data.store import Store
from ssm_seq.training.loop import train


def run(options: Namespace) -> None:
    """Train the experiment's model, or go on where an earlier run was stopped."""
    config = compose(options.overrides, options.config_dir)
    store = Store.open(options.store) if options.store else None
    if store:
        store.verify()
    train(config, store, options.out, choose_device(config.device))
