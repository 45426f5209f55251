"""Settings of the advisors."""

from pathlib import Path

from msgspec import Struct


class NerveWmlSettings(Struct, frozen=True, kw_only=True):
    """The nerve-wml advisor.

    Attributes:
        domains: the niche domains in the order of the advisor's outputs.
        checkpoint: folder that nerve-wml's ``save_advisor_checkpoint`` wrote.
        trust_pickle: whether that folder may be read; its files are pickles, which run code when they are read.
    """

    domains: tuple[str, ...]
    checkpoint: Path | None = None
    trust_pickle: bool = False


class KikiFlowSettings(Struct, frozen=True, kw_only=True):
    """The kiki-flow advisor.

    Attributes:
        weights: the weights of kiki-flow's surrogate, a safetensors file.
        trust_pickle: whether weights of another format may be read; those may run code.
        state_dim: width of its state: 4 species x 32 stacks.
        embed_dim: width of its query embedding (MiniLM).
        hidden: width of its surrogate's hidden layer.
        stub_encoder: whether kiki-flow hashes queries instead of embedding them with MiniLM.
    """

    weights: Path | None = None
    trust_pickle: bool = False
    state_dim: int = 128
    embed_dim: int = 384
    hidden: int = 256
    stub_encoder: bool = True
