"""What the engine needs in Slicer's own Python, and how it gets there: only when asked."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

TORCH = "torch>=2.4"

OFFLINE = _(
    "Without a network: on a computer that has one and the same system and Python, run"
    " 'pip download -r {requirements} torch -d packages', bring the folder here, and run"
    " 'PythonSlicer -m pip install --no-index --find-links packages -r {requirements} torch'."
    " Or keep Slicer's packages untouched: name the Python of another environment below, in which"
    " these packages are installed."
)


class Installer:
    """Looks for the packages of `requirements.txt` and installs what is missing."""

    def __init__(self, requirementsFile: str) -> None:
        self.requirementsFile = requirementsFile

    def missing(self) -> list[str]:
        """Requirements that Slicer's Python does not meet."""
        import slicer.packaging

        wanted = [TORCH, *map(str, slicer.packaging.load_requirements(self.requirementsFile))]
        return [name for name in wanted if not slicer.packaging.pip_check(name)]

    def install(self) -> None:
        """Installs PyTorch by its extension, which finds the build for the GPU, then the rest.

        Raises:
            RuntimeError: The user declined, or PyTorch could not be installed.
        """
        import slicer.packaging

        if not slicer.packaging.pip_check(TORCH):
            self._installTorch()
        slicer.packaging.pip_ensure(
            slicer.packaging.load_requirements(self.requirementsFile),
            requester="ContrastDiagnosis",
        )

    def _installTorch(self) -> None:
        import slicer.packaging

        if slicer.app.testingEnabled():
            return
        try:
            import PyTorchUtils
        except ImportError:
            # Without the extension pip's own choice of build is better than none.
            slicer.packaging.pip_ensure(TORCH, requester="ContrastDiagnosis")
            return
        logic = PyTorchUtils.PyTorchUtilsLogic()
        if not logic.installTorch(askConfirmation=True, torchVersionRequirement=">=2.4"):
            raise RuntimeError(_("PyTorch was not installed."))

    def offlineInstructions(self) -> str:
        """What to do where there is no network."""
        return OFFLINE.format(requirements=Path(self.requirementsFile).name)
