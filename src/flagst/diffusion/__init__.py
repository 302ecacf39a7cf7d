"""Noise schedules, losses and solvers. Plain torch, nothing of the rest of flagst."""

from flagst.diffusion.losses import denoising_loss
from flagst.diffusion.schedules import EDM, PROCESSES, VESDE, NoiseProcess
from flagst.diffusion.solvers import SOLVERS, Solver, dpm_solver_pp_2m, heun

__all__ = [
    "EDM",
    "PROCESSES",
    "SOLVERS",
    "VESDE",
    "NoiseProcess",
    "Solver",
    "denoising_loss",
    "dpm_solver_pp_2m",
    "heun",
]
