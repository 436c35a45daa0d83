"""Interpretable lung-nodule diagnosis on chest CT: the engine.

Research use only, not for clinical use.
"""

import getpass
import os

__version__ = "0.1.0"

RESEARCH_USE_NOTICE = (
    "Research use only, not for clinical use. The score imitates the suspicion of radiologists who"
    " read LIDC-IDRI; it is not a diagnosis of cancer."
)


def _name_the_user() -> None:
    """Packages ask for the user's name as they are imported; in a container there may be none."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "unknown"


_name_the_user()
