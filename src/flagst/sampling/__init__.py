"""From fitted parts to posterior samples of a section. Modules are imported one by one: some need torch."""
