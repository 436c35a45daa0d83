"""Interpretable lung-nodule diagnosis on chest CT: the engine.

Research use only, not for clinical use.
"""

__version__ = "0.1.0"

RESEARCH_USE_NOTICE = (
    "Research use only, not for clinical use. The score imitates the suspicion of radiologists who"
    " read LIDC-IDRI; it is not a diagnosis of cancer."
)
