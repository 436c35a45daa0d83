"""The command `contrastdiagnosis bundle`: verify one, or remove prototypes from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrastdiagnosis.errors import InputError


@dataclass(frozen=True)
class VerifyBundle:
    """Check a bundle: schema, checksums, shapes, cases."""

    folder: tyro.conf.Positional[Path]
    """Bundle folder."""

    def run(self) -> None:
        """Loads it the way a diagnosis does and says what it holds."""
        from contrastdiagnosis.bundle import load_bundle

        bundle = load_bundle(self.folder)
        malignant = int(bundle.library.malignant.sum())
        size = sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file()) / 1e6
        print(
            f"{self.folder}: {bundle.info.name} {bundle.info.version} is sound: {size:.1f} MB,"
            f" {len(bundle.library)} cases, {malignant} malignant"
        )


@dataclass(frozen=True)
class PruneBundle:
    """Make a bundle without the concept prototypes that a pruning file removes."""

    folder: tyro.conf.Positional[Path]
    """Bundle folder; it stays as it is."""
    pruning: Path
    """Pruning file, as the module ContrastDiagnosisAtlas writes it."""
    out: Path
    """Folder of the new bundle; must not exist."""

    def run(self) -> None:
        """Prunes, fits anew, writes, says what was removed."""
        from contrastdiagnosis.bundle import CONCEPTS_FILE, load_bundle, sha256
        from contrastdiagnosis.pruning import prune_bundle, read_pruning

        self._check_out()
        bundle = load_bundle(self.folder)
        if bundle.concepts is None:
            raise InputError(f"the bundle {bundle.info.name} has no concepts to prune")
        atlas = bundle.concepts.atlas
        pruning = read_pruning(self.pruning, sha256(self.folder / CONCEPTS_FILE), atlas)
        removed = [p for p in atlas if p.kept and (p.concept, p.number) in pruning.removed]
        if not removed:
            raise InputError(f"{self.pruning} removes no prototype that the bundle still uses")
        pruned = prune_bundle(bundle, self.pruning, self.out)
        for p in removed:
            note = pruning.notes.get((p.concept, p.number))
            print(f"removed {p.concept} {p.number}, like {p.case_id}{f': {note}' if note else ''}")
        kept = sum(p.kept for p in atlas) - len(removed)
        print(
            f"{self.out}: {pruned.info.name} {pruned.info.version} uses {kept} of {len(atlas)}"
            " prototypes; presence and decision were fitted anew to the scores of the cases"
        )
        if bundle.pixels.folder.is_dir():
            print("pictures of cases were not copied: contrastdiagnosis cases add-pixels adds them")

    def _check_out(self) -> None:
        out, folder = self.out.resolve(), self.folder.resolve()
        if out == folder or folder in out.parents:
            raise InputError(f"cannot write {self.out}: the bundle that is pruned must stay")
        # Saving replaces whole folders, which need not have been bundles.
        if out.exists():
            raise InputError(f"cannot write {self.out}: it exists already")


@dataclass(frozen=True)
class BundleCommand:
    """Check a bundle, or remove prototypes from it."""

    command: Annotated[
        Annotated[VerifyBundle, tyro.conf.subcommand("verify")]
        | Annotated[PruneBundle, tyro.conf.subcommand("prune")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Runs the chosen command."""
        self.command.run()
