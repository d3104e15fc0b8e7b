"""Experiment files, YAML to a checked `Experiment`: WHAT was asked. The only parser."""

from optishear.config.experiment import Experiment as Experiment
from optishear.config.files import EXPERIMENTS as EXPERIMENTS
from optishear.config.files import SEARCH_SPACES as SEARCH_SPACES
from optishear.config.files import load_experiment as load_experiment
from optishear.config.files import load_experiments as load_experiments
