"""Files of a sample sheet -> a byte store."""

from argparse import Namespace

from ssm_seq.config import compose
from ssm_seq.data.prepare import prepare


def run(options: Namespace) -> None:
    """Prepare the store that the experiment's `data.store` describes."""
    config = compose(options.overrides, options.config_dir)
    prepare(config.data.store, options.out, options.samples)
