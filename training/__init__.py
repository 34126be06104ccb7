"""How they learn: annotators, backbones, IB-Tune, surrogates and planners."""

__mfenv__ = True
