"""Inference-time control of any trained denoiser: guidances around it, and selectors among particles.

A guidance takes a denoiser and gives one, so that guidances nest; a selector chooses among several chains of a sample.
Rewards tilt: scale and tau stand for p(x_0) exp(scale r(x_0) / tau) / Z in all of them, each with its bias.
"""

from common.guidance.autoguidance import Autoguidance
from common.guidance.best_of_n import BestOfN
from common.guidance.classifier import Classifier, NoisyLikelihood, NoisyLogWeight
from common.guidance.classifier_free import ClassifierFree, null_of
from common.guidance.guided_sampler import Guidance, GuidedSampler
from common.guidance.methods import GUIDANCES, SELECTORS, Method, build_guided_sampler, with_defaults
from common.guidance.noisy_predictor import NoisyPredictor, load_clean_predictor, load_noisy_predictor
from common.guidance.reconstruction import Reconstruction
from common.guidance.selection import Selected, Selector, select
from common.guidance.smc import Smc
from common.guidance.training_free import TrainingFree
from common.guidance.value_weighted import ValueWeighted

__all__ = [
    "GUIDANCES",
    "SELECTORS",
    "Autoguidance",
    "BestOfN",
    "Classifier",
    "ClassifierFree",
    "Guidance",
    "GuidedSampler",
    "Method",
    "NoisyLikelihood",
    "NoisyLogWeight",
    "NoisyPredictor",
    "Reconstruction",
    "Selected",
    "Selector",
    "Smc",
    "TrainingFree",
    "ValueWeighted",
    "build_guided_sampler",
    "load_clean_predictor",
    "load_noisy_predictor",
    "null_of",
    "select",
    "with_defaults",
]
