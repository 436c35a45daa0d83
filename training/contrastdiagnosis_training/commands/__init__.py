"""The command contrastdiagnosis-train, one file a command."""
