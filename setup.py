"""Packaging of darlr_jax: `pip install -e .[dev]`; `make` takes `constraints/`."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def read_version() -> str:
    """The package's version, read as text: importing it would need what it installs."""
    source = (ROOT / "darlr_jax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('darlr_jax/__init__.py: no line __version__ = "..."')
    return match.group(1)


PLOTS = ["matplotlib>=3.9"]
DEV = [
    *PLOTS,
    "hypothesis>=6.100",
    "mypy>=1.15",
    "pandas-stubs>=2.3",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.12",
]

setuptools.setup(
    name="darlr_jax",
    version=read_version(),
    description=(
        "Offline reinforcement learning for recommender systems with dynamic rewards "
        "(DARLR), in JAX"
    ),
    long_description="See README.md.",
    author="darlr_jax maintainers",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(
        include=["darlr_jax", "darlr_jax.*", "experiments", "launch", "benchmarks"]
    ),
    install_requires=[
        "jax>=0.10.1",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "chex>=0.1.92",
        "numpy>=2.2",
        "pandas>=2.3",
        "absl-py>=2.3",
        "orbax-checkpoint>=0.12.8",
    ],
    extras_require={
        "plots": PLOTS,
        "dev": DEV,
        "cuda12": ["jax[cuda12]>=0.10.1"],
        "cuda13": ["jax[cuda13]>=0.10.1"],
        "tpu": ["jax[tpu]>=0.10.1"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
