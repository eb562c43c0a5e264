"""Sequence layers, one a file, all with the contract of `ssm_seq.layers.contract`."""

from ssm_seq.layers.contract import SequenceLayer, map_state
from ssm_seq.layers.mamba import Mamba, MambaState
from ssm_seq.layers.s4 import S4, S4State
from ssm_seq.layers.s4d import S4D, S4DState

__all__ = ["S4", "S4D", "Mamba", "MambaState", "S4DState", "S4State", "SequenceLayer", "map_state"]
