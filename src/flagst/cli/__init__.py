"""What ``flagst`` does on the command line: the demo, and train, predict and evaluate on files."""
