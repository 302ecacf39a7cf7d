"""Noise processes, losses and samplers. Plain torch, nothing of the rest of flagst."""

from flagst.diffusion.losses import denoising_loss
from flagst.diffusion.noise import EDM, VESDE, NoiseProcess
from flagst.diffusion.samplers import dpm_solver_pp_2m, heun

__all__ = ["EDM", "VESDE", "NoiseProcess", "denoising_loss", "dpm_solver_pp_2m", "heun"]
