"""The diffusion core: knows neither chemistry nor geometry."""

from common.diffusion.denoiser import PARAMETERISATIONS, X0, Denoiser, DenoiserFunction, Eps, V
from common.diffusion.noise import SampleNoise, sample_normals, sample_seeds, sample_uniforms
from common.diffusion.process import Process
from common.diffusion.sampler import SOLVERS, Sampler, Step, build_sampler
from common.diffusion.schedule import SCHEDULES, Cosine, LinearBeta, LinearLogSNR, LinearPath, Polynomial, Schedule
from common.diffusion.space import SPACES, Centered, Euclidean, Space
from common.diffusion.state import State, size_mask
from common.diffusion.transition import Transition

__all__ = [
    "PARAMETERISATIONS",
    "SCHEDULES",
    "SOLVERS",
    "SPACES",
    "X0",
    "Centered",
    "Cosine",
    "Denoiser",
    "DenoiserFunction",
    "Eps",
    "Euclidean",
    "LinearBeta",
    "LinearLogSNR",
    "LinearPath",
    "Polynomial",
    "Process",
    "SampleNoise",
    "Sampler",
    "Schedule",
    "Space",
    "State",
    "Step",
    "Transition",
    "V",
    "build_sampler",
    "sample_normals",
    "sample_seeds",
    "sample_uniforms",
    "size_mask",
]
