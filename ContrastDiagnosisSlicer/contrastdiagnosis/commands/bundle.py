"""The command `contrastdiagnosis bundle`: verify or sign one, or remove prototypes from it."""

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
    key: Path | None = None
    """Public key (PEM) of who should have signed it. Without one it is only checked that nothing
    was damaged: whoever changes a file on purpose can change its checksum too."""

    def run(self) -> None:
        """Loads it the way a diagnosis does and says what it holds."""
        from contrastdiagnosis.bundle.bundle import load_bundle

        bundle = load_bundle(self.folder)
        if self.key:
            from contrastdiagnosis.bundle.signing import check_signature

            check_signature(self.folder, self.key)
        malignant = int(bundle.library.malignant.sum())
        size = sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file()) / 1e6
        print(
            f"{self.folder}: {bundle.info.name} {bundle.info.version} is sound: {size:.1f} MB,"
            f" {len(bundle.library)} cases, {malignant} malignant"
            + (f"; signed by the owner of {self.key}" if self.key else "")
        )


@dataclass(frozen=True)
class MakeKeys:
    """Draw a pair of keys to sign bundles with."""

    private: tyro.conf.Positional[Path]
    """New file for the private key (PEM, no password); it stays with who signs."""
    public: tyro.conf.Positional[Path]
    """New file for the public key, to give away."""

    def run(self) -> None:
        """Draws and writes."""
        from contrastdiagnosis.bundle.signing import make_keys

        make_keys(self.private, self.public)
        print(f"wrote {self.private} (keep it to yourself) and {self.public}")


@dataclass(frozen=True)
class SignBundle:
    """Sign a bundle, so that others can check who made it."""

    folder: tyro.conf.Positional[Path]
    """Bundle folder."""
    key: Path
    """Private key, made by `contrastdiagnosis bundle keys`."""

    def run(self) -> None:
        """Checks that it is sound, and signs."""
        from contrastdiagnosis.bundle.signing import sign_bundle

        sign_bundle(self.folder, self.key)
        print(f"{self.folder} is signed; pictures of cases that users add are not covered")


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
        from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, load_bundle, sha256
        from contrastdiagnosis.bundle.pruning import prune_bundle, read_pruning

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
        # What lies there need not have been a bundle.
        if out.exists():
            raise InputError(f"cannot write {self.out}: it exists already")


@dataclass(frozen=True)
class BundleCommand:
    """Check or sign a bundle, or remove prototypes from it."""

    command: Annotated[
        Annotated[VerifyBundle, tyro.conf.subcommand("verify")]
        | Annotated[SignBundle, tyro.conf.subcommand("sign")]
        | Annotated[MakeKeys, tyro.conf.subcommand("keys")]
        | Annotated[PruneBundle, tyro.conf.subcommand("prune")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Runs the chosen command."""
        self.command.run()
