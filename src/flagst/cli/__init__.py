"""The commands of ``flagst``: the demo, and train, predict and evaluate with files."""
