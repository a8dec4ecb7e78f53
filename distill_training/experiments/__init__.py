"""Many trainings with one command: of several students (ablation), or scenes (benchmark)."""
