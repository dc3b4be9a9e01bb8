"""The contenders: each trains a Problem in its own usual way.

A contender is a function of the problem that returns a Peer. What is not installed raises
ImportError when it is called. Plain SGD, cross entropy, a new random order every epoch.
Other packages are imported inside and typed Any: the linters run with and without them.

Axes: R runs, B examples in a batch, N examples, T steps of an epoch, I inputs, O outputs.
"""

from __future__ import annotations

import itertools
import logging
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.problem import Problem
from nnlab import seeds
from nnlab.config import SGD
from nnlab.datasets import Split
from nnlab.device import Device
from nnlab.engines import Engine, Run
from nnlab.schedule import Training, Turns
from nnlab.training import train_runs


class Peer(NamedTuple):
    """train(epochs) trains every run on and returns when that is done; accuracies() tests."""

    train: Callable[[int], None]
    accuracies: Callable[[], list[float]]


def one_after_another(
    problem: Problem, start: Callable[[nn.Sequential, float, int], Callable[[int], None]]
) -> Peer:
    """Train run after run; start(model, lr, seed) returns what trains one in place."""
    models = [model.to(problem.spec.device) for model in problem.networks()]
    trainers = [start(*run) for run in zip(models, problem.spec.rates, problem.spec.seeds)]

    def train(epochs: int) -> None:
        for trainer in trainers:
            trainer(epochs)
        if problem.spec.device == "cuda":
            torch.cuda.synchronize()

    return Peer(train, lambda: [problem.accuracy(model) for model in models])


# ---- loops in PyTorch ----


class Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


def plain(problem: Problem) -> Peer:
    """The loop that users write: Dataset, DataLoader, torch.optim, the loss of every epoch."""
    images = Images(problem.inputs, problem.labels)

    def start(model: nn.Sequential, lr: float, seed: int) -> Callable[[int], None]:
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(images, batch_size=problem.spec.batch, shuffle=True, generator=order)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        loss_function = nn.CrossEntropyLoss()
        losses = []

        def train(epochs: int) -> None:
            for _ in range(epochs):
                total = 0.0
                for inputs, labels in loader:
                    optimizer.zero_grad()
                    loss = loss_function(model(inputs), labels)
                    loss.backward()
                    optimizer.step()
                    total += loss.item()
                losses.append(total / len(loader))

        return train

    return one_after_another(problem, start)


def eager(problem: Problem) -> Peer:
    """The leanest loop in eager PyTorch: tensors in memory, nothing measured."""
    device = problem.spec.device
    inputs, labels = problem.inputs.to(device), problem.labels.to(device)

    def start(model: nn.Sequential, lr: float, seed: int) -> Callable[[int], None]:
        order = torch.Generator(device).manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)

        def train(epochs: int) -> None:
            for _ in range(epochs):
                permutation = torch.randperm(len(labels), generator=order, device=device)
                for batch in permutation.split(problem.spec.batch):
                    optimizer.zero_grad()
                    cross_entropy(model(inputs[batch]), labels[batch]).backward()
                    optimizer.step()

        return train

    return one_after_another(problem, start)


def compiled(problem: Problem) -> Peer:
    """torch.compile of a whole step: batch, loss, gradients and update in one graph.

    Written with torch.func, since compile breaks the graph at ``loss.backward()``: half the
    time of compiling model and optimizer.step.
    """
    inputs, labels = problem.inputs, problem.labels

    def loss(parameters: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        *hidden, weight, bias = parameters
        for w, b in zip(hidden[::2], hidden[1::2]):
            x = torch.relu(linear(x, w, b))
        return cross_entropy(linear(x, weight, bias), y)

    def step(parameters: Sequence[Tensor], lr: Tensor, batch: Tensor) -> None:
        gradients = torch.func.grad(loss)(parameters, inputs[batch], labels[batch])
        for parameter, gradient in zip(parameters, gradients):
            parameter.sub_(lr * gradient)

    fast_step = torch.compile(step)

    def start(model: nn.Sequential, lr: float, seed: int) -> Callable[[int], None]:
        order = torch.Generator().manual_seed(seed)
        parameters = [parameter.detach() for parameter in model.parameters()]
        rate = torch.tensor(lr)

        def train(epochs: int) -> None:
            for _ in range(epochs):
                for batch in torch.randperm(len(labels), generator=order).split(problem.spec.batch):
                    fast_step(parameters, rate, batch)

        return train

    return one_after_another(problem, start)


# ---- libraries that train a model for you ----


def scikit_learn(problem: Problem) -> Peer:
    neural_network: Any = import_module("sklearn.neural_network")
    warnings.simplefilter("ignore")  # it warns that training has not converged
    inputs, labels = problem.inputs.numpy(), problem.labels.numpy()

    def start(model: nn.Sequential, lr: float, seed: int) -> Any:
        classifier: Any = neural_network.MLPClassifier(
            problem.spec.hidden,
            solver="sgd",
            learning_rate_init=lr,
            batch_size=problem.spec.batch,
            momentum=0.0,
            nesterovs_momentum=False,
            alpha=0.0,
            tol=0.0,
            n_iter_no_change=sys.maxsize,
            warm_start=True,
            max_iter=1,
            random_state=seed,
        )
        classifier.fit(inputs, labels)  # the only way to make its arrays
        for number, layer in enumerate(linears(model)):
            classifier.coefs_[number] = layer.weight.detach().numpy().T.copy()
            classifier.intercepts_[number] = layer.bias.detach().numpy().copy()
        if problem.spec.classes == 2:  # it has one output: how much likelier the second class is
            classifier.coefs_[-1] = np.diff(classifier.coefs_[-1], axis=1)
            classifier.intercepts_[-1] = np.diff(classifier.intercepts_[-1])
        return classifier

    runs = zip(problem.networks(), problem.spec.rates, problem.spec.seeds)
    classifiers = [start(*run) for run in runs]

    def train(epochs: int) -> None:
        for classifier in classifiers:
            classifier.set_params(max_iter=epochs).fit(inputs, labels)

    test_inputs, test_labels = problem.test_inputs.numpy(), problem.test_labels.numpy()
    return Peer(train, lambda: [float(c.score(test_inputs, test_labels)) for c in classifiers])


def skorch(problem: Problem) -> Peer:
    library: Any = import_module("skorch")
    inputs, labels = problem.inputs.numpy(), problem.labels.numpy()

    def start(model: nn.Sequential, lr: float, seed: int) -> Callable[[int], None]:
        classifier: Any = library.NeuralNetClassifier(
            model,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.SGD,
            lr=lr,
            batch_size=problem.spec.batch,
            iterator_train__shuffle=True,
            train_split=None,
            callbacks__print_log=None,
            verbose=0,
        ).initialize()
        return lambda epochs: classifier.fit_loop(inputs, labels, epochs=epochs)

    return one_after_another(problem, start)


def lightning(problem: Problem) -> Peer:
    library: Any = import_module("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # it recommends more workers for the DataLoader

    class Classifier(library.LightningModule):  # type: ignore[misc]
        def __init__(self, model: nn.Sequential, lr: float) -> None:
            super().__init__()
            self.model, self.lr = model, lr

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            inputs, labels = batch
            return cross_entropy(self.model(inputs), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.model.parameters(), lr=self.lr)

    images = TensorDataset(problem.inputs, problem.labels)

    def start(model: nn.Sequential, lr: float, seed: int) -> Callable[[int], None]:
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(images, batch_size=problem.spec.batch, shuffle=True, generator=order)
        module = Classifier(model, lr)
        trainer: Any = library.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

        def train(epochs: int) -> None:
            trainer.fit_loop.max_epochs += epochs
            trainer.fit(module, loader)

        return train

    return one_after_another(problem, start)


def keras(problem: Problem) -> Peer:
    """Keras on JAX, a whole epoch in one compiled call (its fastest setting here)."""
    library: Any = import_module("keras")
    inputs, labels = problem.inputs.numpy(), problem.labels.numpy()
    batch = problem.spec.batch

    def start(network: nn.Sequential, lr: float) -> Any:
        layers = library.layers
        model = library.Sequential(
            [library.Input(inputs.shape[1:])]
            + [layers.Dense(layer.out_features, "relu") for layer in linears(network)[:-1]]
            + [layers.Dense(linears(network)[-1].out_features)]
        )
        for dense, layer in zip(model.layers, linears(network)):
            dense.set_weights([layer.weight.detach().numpy().T, layer.bias.detach().numpy()])
        model.compile(
            optimizer=library.optimizers.SGD(lr),
            loss=library.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=len(labels) // batch,
        )
        return model

    models = [start(*run) for run in zip(problem.networks(), problem.spec.rates)]

    def train(epochs: int) -> None:
        for model in models:
            model.fit(inputs, labels, batch_size=batch, epochs=epochs, shuffle=True, verbose=0)

    def accuracy(model: Any) -> float:
        predicted = model.predict(problem.test_inputs.numpy(), verbose=0).argmax(1)
        return float((predicted == problem.test_labels.numpy()).mean())

    return Peer(train, lambda: [accuracy(model) for model in models])


# ---- JAX: a whole epoch in one compiled call ----


def jax_epoch(problem: Problem) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """Return the R runs' parameters, an epoch of one run, and its accuracy.

    parameters: a list over runs of [(weight [I, O], bias [O])] per layer.
    epoch(parameters, lr, order [T, B]) returns new parameters and the mean loss; written in
    the fastest of the ways tried: batches gathered inside the scan, weights [I, O], no unroll.
    """
    jax: Any = import_module("jax")
    jnp: Any = import_module("jax.numpy")
    inputs, labels = jnp.asarray(problem.inputs.numpy()), jnp.asarray(problem.labels.numpy())
    test_inputs = jnp.asarray(problem.test_inputs.numpy())
    test_labels = jnp.asarray(problem.test_labels.numpy())

    def logits(parameters: Any, x: Any) -> Any:
        for weight, bias in parameters[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = parameters[-1]
        return x @ weight + bias

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        log_p = jax.nn.log_softmax(logits(parameters, x))
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

    def epoch(parameters: Any, lr: Any, order: Any) -> Any:
        def step(parameters: Any, batch: Any) -> Any:
            value, slope = jax.value_and_grad(loss)(parameters, inputs[batch], labels[batch])
            return jax.tree.map(lambda p, g: p - lr * g, parameters, slope), value

        parameters, losses = jax.lax.scan(step, parameters, order)
        return parameters, losses.mean()

    def accuracy(parameters: Any) -> float:
        return float((logits(parameters, test_inputs).argmax(1) == test_labels).mean())

    runs = [
        [
            (jnp.asarray(layer.weight.detach().numpy().T), jnp.asarray(layer.bias.detach().numpy()))
            for layer in linears(model)
        ]
        for model in problem.networks()
    ]
    return runs, epoch, accuracy


def jax_scan(problem: Problem) -> Peer:
    jax: Any = import_module("jax")
    runs, epoch, accuracy = jax_epoch(problem)
    fast_epoch = jax.jit(epoch, donate_argnums=0)
    rates, orders = problem.spec.rates, numpy_orders(problem)

    def train(epochs: int) -> None:
        for number, order in enumerate(orders):
            for _ in range(epochs):
                runs[number], _loss = fast_epoch(runs[number], rates[number], order())
        jax.block_until_ready(runs)

    return Peer(train, lambda: [accuracy(parameters) for parameters in runs])


def jax_vmap(problem: Problem) -> Peer:
    jax: Any = import_module("jax")
    jnp: Any = import_module("jax.numpy")
    runs, epoch, accuracy = jax_epoch(problem)
    fast_epoch = jax.jit(jax.vmap(epoch), donate_argnums=0)
    rates, orders = jnp.asarray(problem.spec.rates), numpy_orders(problem)
    stack = jax.tree.map(lambda *layers: jnp.stack(layers), *runs)

    def train(epochs: int) -> None:
        nonlocal stack
        for _ in range(epochs):
            stack, _losses = fast_epoch(stack, rates, jnp.stack([order() for order in orders]))
        jax.block_until_ready(stack)

    def accuracies() -> list[float]:
        return [
            accuracy(jax.tree.map(lambda layer, row=row: layer[row], stack))
            for row in range(len(orders))
        ]

    return Peer(train, accuracies)


def numpy_orders(problem: Problem) -> list[Callable[[], Any]]:
    """Return per run what draws the order of an epoch, [T, B]; N must be a multiple of B."""

    def draw(seed: int) -> Callable[[], Any]:
        generator = np.random.default_rng(seed)
        return lambda: generator.permutation(len(problem.labels)).reshape(-1, problem.spec.batch)

    return [draw(seed) for seed in problem.spec.seeds]


# ---- nnlab ----


def nnlab_runs(problem: Problem) -> list[Run]:
    train = Split.whole(problem.inputs, problem.labels)
    test = Split.whole(problem.test_inputs, problem.test_labels)
    return [
        Run(
            model=model,
            optimizer=SGD("sgd", lr, 0.0, momentum=0.0, dampening=0.0, nesterov=False),
            train=train,
            test=test,
            batch_size=problem.spec.batch,
            max_epochs=problem.spec.max_epochs,
            order=seeds.generator(seed, "order"),
        )
        for model, lr, seed in zip(problem.networks(), problem.spec.rates, problem.spec.seeds)
    ]


def device_of(problem: Problem) -> Device:
    where = torch.device(problem.spec.device)
    return Device(where.type, where.index)


class Job:
    """What the schedule of a sweep knows of a run: see ``schedule.Training``."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self.run = run
        self.most = engine.most_threads(run, engine.form(run))
        self.progress = train_runs([run], engine)
        self.left = 0  # epochs
        self.threads = self.concurrent = 1

    def most_threads(self) -> int:
        return self.most

    def cost(self) -> float:
        return self.left

    def train(self, epochs: int) -> Iterator[bool]:
        self.left = epochs
        while self.left > 0:
            next(self.progress)
            self.left -= 1
            yield True


def nnlab_concurrent(problem: Problem, build: Callable[..., Engine]) -> Peer:
    """Train as a sweep does: an engine per run, on the cores that its schedule hands out."""
    device = device_of(problem)
    runs = nnlab_runs(problem)
    engines = [build([run], device) for run in runs]
    jobs: list[Any] = [Job(run, engine) for run, engine in zip(runs, engines)]
    threads = problem.spec.threads
    workers = min(threads, len(runs))
    pool = ThreadPoolExecutor(workers)

    def train(epochs: int) -> None:
        def begin(group: Sequence[Any]) -> Iterator[bool]:
            begun: Iterator[bool] = group[0].train(epochs)
            return begun

        trainings = [Training(at, [job]) for at, job in enumerate(jobs)]
        turns = Turns(trainings, workers, threads, begin)
        for future in [pool.submit(turns.work) for _ in range(workers)]:
            future.result()

    def accuracies() -> list[float]:
        return [engine.evaluate([run], "test")[0][1] for run, engine in zip(runs, engines)]

    return Peer(train, accuracies)


def nnlab_torch(problem: Problem) -> Peer:
    from nnlab.engines.torch import TorchEngine

    return nnlab_concurrent(problem, TorchEngine)


def nnlab_native(problem: Problem) -> Peer:
    from nnlab.engines.native import NativeEngine

    return nnlab_concurrent(problem, NativeEngine)


def nnlab_native_usual_form(problem: Problem) -> Peer:
    """Train as where the dual form does not pay."""
    from nnlab.engines.dual import DualNetwork

    with mock.patch.object(DualNetwork, "pays", return_value=False):
        return nnlab_native(problem)


def nnlab_stacked(problem: Problem, **options: Any) -> Peer:
    from nnlab.engines.stacked import StackedEngine

    runs = nnlab_runs(problem)
    engine = StackedEngine(runs, device_of(problem), **options)
    training = train_runs(runs, engine)

    def train(epochs: int) -> None:
        deque(itertools.islice(training, epochs * len(runs)), maxlen=0)

    return Peer(train, lambda: [accuracy for _, accuracy in engine.evaluate(runs, "test")])


def nnlab_stacked_without_graph(problem: Problem) -> Peer:
    return nnlab_stacked(problem, graph=False)


def linears(model: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in model if isinstance(layer, nn.Linear)]


PEERS: dict[str, Callable[[Problem], Peer]] = {
    peer.__name__: peer
    for peer in (
        plain,
        eager,
        compiled,
        scikit_learn,
        skorch,
        lightning,
        keras,
        jax_scan,
        jax_vmap,
        nnlab_torch,
        nnlab_native,
        nnlab_native_usual_form,
        nnlab_stacked,
        nnlab_stacked_without_graph,
    )
}
