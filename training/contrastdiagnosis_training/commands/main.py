"""The command `contrastdiagnosis-train`: from case folders to a bundle, and what it is worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from contrastdiagnosis.commands.command_line import (
    exit_code_of,
    speak_to_any_terminal,
    tells_version,
)

from contrastdiagnosis_training.commands.agreement import Agreement
from contrastdiagnosis_training.commands.concepts import Concepts
from contrastdiagnosis_training.commands.concepts_ablate import ConceptsAblate
from contrastdiagnosis_training.commands.concepts_eval import ConceptsEval
from contrastdiagnosis_training.commands.crossfit import CrossFit
from contrastdiagnosis_training.commands.degrade import Degrade
from contrastdiagnosis_training.commands.evaluate import Evaluate
from contrastdiagnosis_training.commands.explain_eval import ExplainEval
from contrastdiagnosis_training.commands.export import Export
from contrastdiagnosis_training.commands.fit import Fit
from contrastdiagnosis_training.commands.gate import GateEval, GateFit
from contrastdiagnosis_training.commands.peer import Peer
from contrastdiagnosis_training.commands.pretrain import Pretrain
from contrastdiagnosis_training.commands.pretrain_eval import PretrainEval
from contrastdiagnosis_training.commands.quality_fit import QualityFit
from contrastdiagnosis_training.commands.robust_eval import RobustEval

Command = (
    Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[PretrainEval, tyro.conf.subcommand("pretrain-eval")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[CrossFit, tyro.conf.subcommand("crossfit")]
    | Annotated[Peer, tyro.conf.subcommand("peer")]
    | Annotated[Concepts, tyro.conf.subcommand("concepts")]
    | Annotated[ConceptsAblate, tyro.conf.subcommand("concepts-ablate")]
    | Annotated[ConceptsEval, tyro.conf.subcommand("concepts-eval")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[GateFit, tyro.conf.subcommand("gate-fit")]
    | Annotated[GateEval, tyro.conf.subcommand("gate-eval")]
    | Annotated[QualityFit, tyro.conf.subcommand("quality-fit")]
    | Annotated[ExplainEval, tyro.conf.subcommand("explain-eval")]
    | Annotated[RobustEval, tyro.conf.subcommand("robust-eval")]
    | Annotated[Degrade, tyro.conf.subcommand("degrade")]
    | Annotated[Agreement, tyro.conf.subcommand("agreement")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 on success, 2 where the user must mend something."""
    speak_to_any_terminal()
    if tells_version(arguments, "contrastdiagnosis-train"):
        return 0
    command = tyro.cli(Command, prog="contrastdiagnosis-train", args=arguments)
    return exit_code_of(command, "contrastdiagnosis-train")


if __name__ == "__main__":
    sys.exit(main())
