"""Every Keras layer and regularizer of the zoo, in one module: importing it registers them with Keras."""

from zoo.layers.common import (
    L1,
    L2,
    Add,
    BatchNorm,
    Dense,
    Dropout,
    DropPath,
    Gelu,
    LayerNorm,
    Parameter,
    RMSNorm,
    Token,
    VariationalDropout,
)
from zoo.layers.images import AdaptiveAveragePool, AveragePool, Conv, MaxPool
from zoo.layers.recurrent import GRU, LSTM, AttentionDecoder, BlankPadding, Lengths, ZeroPadding
from zoo.layers.tap import RoundedTap, Tap
from zoo.layers.transformer import (
    Attention,
    CachedStep,
    Embedding,
    Positions,
    RelativePositions,
    Segments,
    Sinusoids,
    TokenModel,
)
