"""Training of the ContrastDiagnosis engine: data, losses, stages, evaluation."""
