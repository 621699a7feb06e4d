"""The application: `serve deploy examples/serve.yaml` and `serve run serving.app:build_app`."""

# No `from __future__ import annotations` here: Serve reads the type of `args` from the signature, and
# validates the YAML against it only where that is the class itself.

from typing import Any

from ray import serve
from ray.serve import Application

from serving.config import DeploymentConfig, ServingConfig, deployment_options
from serving.deployments import (
    ClassifierDeployment,
    EmbedderDeployment,
    GeneratorDeployment,
    IngesterDeployment,
    RetrieverDeployment,
    RouterDeployment,
)


def build_app(args: ServingConfig) -> Application:
    """Generators, classifier, embedder, retriever and ingester behind the router, each its own deployment."""
    generators = {
        name: _deployment(name, GeneratorDeployment, config).bind(config)
        for name, config in args.generators.items()
    }
    embedder = _deployment("embedder", EmbedderDeployment, args.embedder).bind(args.embedder)
    router: Application = _deployment("router", serve.ingress()(RouterDeployment), args.router).bind(
        args,
        generators,
        _deployment("classifier", ClassifierDeployment, args.classifier).bind(args.classifier),
        embedder,
        _deployment("retriever", RetrieverDeployment, args.retriever).bind(),
        _deployment("ingester", IngesterDeployment, args.ingester).bind(args.ingester, embedder),
    )
    return router


def _deployment(name: str, part: type, config: DeploymentConfig) -> Any:
    return serve.deployment(part).options(name=name, **deployment_options(config))
