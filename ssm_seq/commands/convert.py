"""A language model in one layout -> the same model in another."""

from argparse import Namespace

from ssm_seq.compat.checkpoints import load_checkpoint, save_checkpoint


def run(options: Namespace) -> None:
    """Write the model of any layout into a new folder in the layout that was asked for."""
    model = load_checkpoint(options.model, options.alphabet, options.sample_rate)
    save_checkpoint(model, options.out, options.layout)
