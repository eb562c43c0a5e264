"""Sequence layers, one a file, all with the contract of `ssm_seq.layers.contract`."""

from ssm_seq.layers.bidirectional import Bidirectional, NotCausal
from ssm_seq.layers.cnn import CNN, CNNState
from ssm_seq.layers.contract import SequenceLayer, map_state
from ssm_seq.layers.dss import DSS, DSSState
from ssm_seq.layers.ema import EMA, EMAState
from ssm_seq.layers.gated import Gated
from ssm_seq.layers.h3 import H3, H3State
from ssm_seq.layers.lssl import LSSL, LSSLState
from ssm_seq.layers.mamba import Mamba, MambaState
from ssm_seq.layers.recurrent import GRU, LSTM, GRUState, LSTMState
from ssm_seq.layers.s4 import S4, S4State
from ssm_seq.layers.s4d import S4D, S4DState
from ssm_seq.layers.s5 import S5, S5State
from ssm_seq.layers.transformer import Transformer, TransformerState

__all__ = [
    "CNN",
    "DSS",
    "EMA",
    "GRU",
    "H3",
    "LSSL",
    "LSTM",
    "S4",
    "S4D",
    "S5",
    "Bidirectional",
    "CNNState",
    "DSSState",
    "EMAState",
    "GRUState",
    "Gated",
    "H3State",
    "LSSLState",
    "LSTMState",
    "Mamba",
    "MambaState",
    "NotCausal",
    "S4DState",
    "S4State",
    "S5State",
    "SequenceLayer",
    "Transformer",
    "TransformerState",
    "map_state",
]
