"""Interpretable lung-nodule diagnosis on chest CT: the engine.

Research use only, not for clinical use.
"""

import getpass
import os

__version__ = "0.1.0"


def research_use_notice(data: str) -> str:
    """What nothing that comes of some data must be used for.

    Args:
        data: What the readers read whose suspicion is imitated.
    """
    return (
        "Research use only, not for clinical use. The score imitates the suspicion of radiologists"
        f" who read {data}; it is not a diagnosis of cancer."
    )


RESEARCH_USE_NOTICE = research_use_notice("LIDC-IDRI")
"""Of the program with the bundle that comes with it."""


def _name_the_user() -> None:
    """Packages ask for the user's name as they are imported; in a container there may be none."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "unknown"


_name_the_user()
