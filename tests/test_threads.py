"""Calls on one model take turns, calls on different models run side by side."""

import copy
import gc
import pickle
import threading
import time
import weakref
from concurrent.futures import Future
from functools import partial, wraps

import pytest
import torch
from captum.attr import LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor, nn

from captum_unioncam import LayerGradCAMPlusPlus, LayerUnionCAM, compare, suggest_layer
from captum_unioncam.engine import locks
from captum_unioncam.engine.locks import exclusive_use
from captum_unioncam.methods.registry import METHODS
from captum_unioncam.metrics import adcc, coherency, deletion, parameter_randomisation
from tests.methods import QUICK
from tests.networks import images, seeded

NAMES = (
    *("scorecam", "ablationcam", "reciprocam", "fdcam", "sscam", "iscam", "unioncam"),
    *("gradcam++", "fusioncam", "groupcam"),
)
CALLS, CASES = 40, 6
# Nothing here takes so long; a test that hangs must end.
PATIENCE = 60


class Stopping(nn.Module):
    """Notes which thread runs it, lets the other one run, and does what a test asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.ran_in: list[int] = []
        self.then = None

    def forward(self, x: Tensor) -> Tensor:
        self.ran_in.append(threading.get_ident())
        # Gives the interpreter to the other thread.
        time.sleep(0)
        if self.then is not None:
            self.then()
        return x


def network(seed: int = 0) -> nn.Sequential:
    return seeded(
        nn.Sequential(
            *(nn.Conv2d(2, 3, 3, padding=1), Stopping(), nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(108, 4), Stopping()),
        ),
        seed,
    )


LAYER = 3
IMAGES = images(2 * CASES, 2, 6, 6)


@pytest.fixture
def net():
    return network()


def together(*works):
    """Run functions in threads of their own, begun together, and return what they return."""
    start = threading.Barrier(len(works))
    ends = [Future() for _ in works]

    def run(work, end):
        try:
            start.wait(PATIENCE)
            end.set_result(work())
        except BaseException as error:
            end.set_exception(error)

    for work, end in zip(works, ends, strict=True):
        threading.Thread(target=run, args=(work, end), daemon=True).start()
    return [end.result(PATIENCE) for end in ends]


def in_another_thread(work):
    return together(work)[0]


def waits(held, wanted) -> bool:
    """Return whether a thread that wants some users waits for one that holds others."""

    def want():
        with exclusive_use(*wanted):
            pass

    with exclusive_use(*held):
        thread = threading.Thread(target=want, daemon=True)
        thread.start()
        found = is_waiting(thread)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return found


def is_waiting(thread) -> bool:
    """Return whether a thread comes to wait; it may also end."""
    deadline = time.monotonic() + PATIENCE
    while thread.is_alive() and time.monotonic() < deadline:
        with locks._changed:
            if any(c.thread == thread.ident and not c.holds for c in locks._claims):
                return True
        time.sleep(1e-3)
    return False


class TestOneModel:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_map_equals_the_serial_one(self, name, net):
        method = METHODS[name]

        def explained(case):
            attribution = method.cls(*(net, net[LAYER])[: 1 + method.needs_layer])
            x = IMAGES[case : case + 1]
            return attribution.attribute(x, target=case % 3, **QUICK.get(name, {}))

        serial = [explained(case) for case in range(CASES)]
        assert len({tuple(cam.flatten().tolist()) for cam in serial}) > CASES // 2

        def calls(first):
            cases = [(first + i) % CASES for i in range(CALLS)]
            return sum(not torch.equal(explained(case), serial[case]) for case in cases)

        assert together(partial(calls, 0), partial(calls, CASES // 2)) == [0, 0]

    def test_compare_equals_the_serial_one(self, net):
        def compared(case):
            methods = ["scorecam", "unioncam", LayerGradCam(net, net[LAYER]), Saliency(net)]
            x = IMAGES[case : case + 1]
            return compare(
                methods, x, "top2", forward_func=net, layer=net[LAYER],
                metrics=["average_drop", "adcc"],
            )  # fmt: skip

        def told(result):
            spent = {"seconds", "peak_bytes"}
            rows = [{n: v for n, v in row.items() if n not in spent} for row in result.rows]
            return rows, {label: cam.tolist() for label, cam in result.maps.items()}

        serial = [told(compared(case)) for case in range(2)]

        def calls(first):
            return [told(compared(case % 2)) == serial[case % 2] for case in (first, first + 1)]

        assert together(partial(calls, 0), partial(calls, 1)) == [[True, True]] * 2

    @pytest.mark.parametrize(
        "work",
        [
            lambda net, x: suggest_layer(net, x),
            lambda net, x: deletion(net, x, x[:, :1], target=1),
            lambda net, x: METHODS["rise"].cls(net).attribute(x, target=1, n_masks=9),
            lambda net, x: compare(["scorecam"], x, 1, forward_func=net, layer=net[LAYER]),
            lambda net, x: parameter_randomisation(LayerGradCam(net, net[LAYER]), x, 1),
            lambda net, x: coherency(
                net, x, x[:, :1], target=1, explanation_func=Saliency(net).attribute
            ),
        ],
        ids=[
            "suggest_layer",
            "deletion",
            "rise",
            "compare",
            "parameter_randomisation",
            "coherency",
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*is blank for example")
    def test_no_forward_comes_in_between(self, work, net):
        ran_in, x = net[-1].ran_in, IMAGES[:1]
        work(net, x)
        forwards = len(ran_in)
        assert forwards > 1
        ran_in.clear()
        together(*[lambda: [work(net, x) for _ in range(4)]] * 2)
        runs = [set(ran_in[i : i + forwards]) for i in range(0, 8 * forwards, forwards)]
        assert len(ran_in) == 8 * forwards
        assert all(len(threads) == 1 for threads in runs)

    def test_modes_are_put_back(self, net):
        net.train()
        cam = LayerUnionCAM(net, net[LAYER])

        def calls():
            for _ in range(10):
                cam.attribute(IMAGES[:1], target=1)
            return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        with pytest.warns(UserWarning, match="training mode") as warned:
            assert together(calls, calls) == [(True, False)] * 2
        assert sum("training mode" in str(one.message) for one in warned) >= 20
        assert all(module.training for module in net.modules())

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_is_given_back_after_an_error(self, error, net):
        cam = LayerUnionCAM(net, net[LAYER])
        serial = cam.attribute(IMAGES[:1], target=1)
        forwards = len(net[1].ran_in)

        def fail():
            # In the midst of the masked inputs.
            if len(net[1].ran_in) == 2 * forwards - 1:
                raise error("stop")

        net[1].then = fail
        with pytest.raises(error, match="stop"):
            cam.attribute(IMAGES[:1], target=1)
        net[1].then = None
        assert torch.equal(in_another_thread(lambda: cam.attribute(IMAGES[:1], target=1)), serial)
        with pytest.raises(error, match="stop"), exclusive_use(net):
            raise error("stop")
        assert not waits([], [net])

    def test_the_model_is_a_model_like_any_other(self, net):
        before = {name: dict(vars(module)) for name, module in net.named_modules()}
        LayerUnionCAM(net, net[LAYER]).attribute(IMAGES[:1], target=1)
        assert all(vars(module).keys() == before[n].keys() for n, module in net.named_modules())
        copied, pickled = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        for other in (copied, pickled):
            assert torch.equal(other(IMAGES), net(IMAGES))
            assert not waits([net], [other])
        # The fixture and the frame hold the network itself.
        own = network()
        LayerUnionCAM(own, own[LAYER]).attribute(IMAGES[:1], target=1)
        reference, last = weakref.ref(own), weakref.ref(own[-1])
        del own
        gc.collect()
        assert reference() is None
        assert last() is None


class TestDifferentModels:
    @pytest.mark.parametrize("name", ["unioncam", "fdcam", "rise"])
    def test_run_side_by_side(self, name):
        inside, method = threading.Barrier(2), METHODS[name]

        def explained(net):
            # Every forward waits until the other model is in its own.
            net[1].then = partial(inside.wait, PATIENCE / 2)
            attribution = method.cls(*(net, net[LAYER])[: 1 + method.needs_layer])
            return attribution.attribute(IMAGES[:1], target=1, **QUICK.get(name, {}))

        first, second = together(*(partial(explained, network()) for _ in range(2)))
        assert torch.equal(first, second)

    def test_each_may_be_the_other_ones_scorer(self):
        first, second = network(1), network(2)

        def explained(net, other):
            cam = LayerUnionCAM(net, net[LAYER])
            return cam.attribute(IMAGES[:1], target=1, scorer=other)

        pairs = [(first, second), (second, first)]
        serial = [explained(*pair) for pair in pairs]

        def calls(number):
            return all(torch.equal(explained(*pairs[number]), serial[number]) for _ in range(20))

        assert together(partial(calls, 0), partial(calls, 1)) == [True, True]

    def test_each_may_be_the_other_ones_in_compare_and_in_metrics(self):
        nets = [network(1), network(2)]

        def calls(number):
            net, other = nets[number], nets[1 - number]
            cam, x = LayerGradCAMPlusPlus(other, other[LAYER]), IMAGES[:1]
            for _ in range(4):
                compare(
                    [("scorecam", {"scorer": other}), NoiseTunnel(Saliency(other)), cam], x, 1,
                    forward_func=net, layer=net[LAYER], metrics=[],
                )  # fmt: skip
                coherency(net, x, x[:, :1], target=1, explanation_func=cam.attribute)
            return True

        assert together(partial(calls, 0), partial(calls, 1)) == [True, True]

    @pytest.mark.parametrize(
        "work",
        [
            lambda cam, net, other, x: cam.attribute(x, target=1, scorer=other),
            lambda cam, net, other, x: compare([(cam, {"scorer": other})], x, 1, metrics=[]),
            lambda cam, net, other, x: compare([cam, Saliency(other)], x, 1, metrics=[]),
            lambda cam, net, other, x: coherency(
                net, x, x[:, :1], target=1, explanation_func=Saliency(other).attribute
            ),
            lambda cam, net, other, x: adcc(
                net, x, x[:, :1], target=1, explanation_func=Saliency(other).attribute
            ),
        ],
        ids=["scorer", "compared scorer", "compared model", "coherency", "adcc"],
    )
    def test_are_taken_at_once(self, work):
        net, other = network(1), network(2)
        call = partial(work, LayerUnionCAM(net, net[LAYER]), net, other, IMAGES[:1])
        thread = threading.Thread(target=call, daemon=True)
        with exclusive_use(other):
            thread.start()
            assert is_waiting(thread)
            assert not any(claim.thread == thread.ident and claim.holds for claim in locks._claims)
        thread.join(PATIENCE)
        assert not thread.is_alive()

    def test_randomisations_share_the_random_state(self):
        nets = [network(1), network(2)]

        def randomised(net):
            # Noise of the attribution's own comes from the global random state.
            noisy = NoiseTunnel(Saliency(net))
            return parameter_randomisation(noisy, IMAGES[:2], 1, nt_samples=2).similarities

        serial = [randomised(net) for net in nets]
        state = torch.get_rng_state()

        def calls(number):
            return all(torch.equal(randomised(nets[number]), serial[number]) for _ in range(8))

        assert together(partial(calls, 0), partial(calls, 1)) == [True, True]
        assert torch.equal(torch.get_rng_state(), state)


GLOBAL_NET = network()


def names_a_global(x: Tensor) -> Tensor:
    return GLOBAL_NET(x)


class Wrapper:
    def __init__(self, *nets):
        self.nets = nets

    def __call__(self, x):
        return self.nets[0](x)

    def predict(self, x):
        return self.nets[0](x)


def logged(function):
    @wraps(function)
    def inner(*args):
        return function(*args)

    return inner


class TestWhoWaitsForWhom:
    @pytest.mark.parametrize(
        "user",
        [
            lambda net: net,
            lambda net: net[LAYER],
            lambda net: net[0].weight,
            lambda net: nn.Sequential(net, nn.Softmax(1)),
            lambda net: nn.DataParallel(net),
            lambda net: net.forward,
            lambda net: partial(partial(net.forward)),
            lambda net: lambda x: net(x),
            lambda net: lambda x, net=net: net(x),
            lambda net: logged(lambda x: net(x)),
            lambda net: partial(lambda model, x: model(x), net),
            lambda net: Wrapper(net),
            lambda net: Wrapper(net).predict,
            lambda net: partial(lambda wrapped, x: wrapped(x), Wrapper(net)),
            lambda net: LayerUnionCAM(net, net[LAYER]),
            lambda net: NoiseTunnel(Saliency(lambda x: net(x))),
            # It takes seconds to import the compiler.
            pytest.param(lambda net: torch.compile(net), marks=pytest.mark.exhaustive),
        ],
    )
    def test_what_leads_to_a_model_waits_for_it(self, user, net):
        other, wanted = network(), user(net)
        assert waits([net], [wanted])
        assert waits([wanted], [other, net])
        assert not waits([other], [wanted])

    def test_a_function_that_names_a_global(self):
        assert waits([GLOBAL_NET], [names_a_global])

    def test_models_that_share_a_part_wait(self, net):
        head = nn.Sequential(net[0], nn.Flatten())
        assert waits([nn.Sequential(nn.ReLU(), net[0])], [head])
        tied = nn.Conv2d(2, 4, 3)
        tied.weight = net[0].weight
        assert waits([net], [tied])

    def test_a_hidden_model_is_known_by_its_layer_or_function(self, net):
        hidden = exec_function()
        assert waits([hidden], [hidden])
        assert waits([hidden, net[LAYER]], [net])
        assert not waits([hidden, net[LAYER]], [exec_function(), network()])

    def test_nothing_and_names_wait_for_nothing(self):
        assert not waits([None, "compiled"], [None, "compiled"])

    def test_who_asks_first_is_first(self, net):
        order = []

        def ask(number):
            with exclusive_use(net):
                order.append(number)

        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(4)]
        with exclusive_use(net):
            for thread in threads:
                thread.start()
                assert is_waiting(thread)
        for thread in threads:
            thread.join(PATIENCE)
        assert order == [0, 1, 2, 3]

    def test_who_holds_a_model_may_take_more(self, net):
        other, done = network(), threading.Event()

        def ask():
            with exclusive_use(net, other):
                done.set()

        thread = threading.Thread(target=ask, daemon=True)
        with exclusive_use(net):
            thread.start()
            assert is_waiting(thread)
            with exclusive_use(other), exclusive_use(net, other):
                assert not done.is_set()
        thread.join(PATIENCE)
        assert done.is_set()

    def test_a_circle_is_an_error_and_no_hang(self):
        nets, begun = [network(), network()], threading.Barrier(2)

        def both(number):
            with exclusive_use(nets[number]):
                begun.wait(PATIENCE)
                try:
                    with exclusive_use(nets[1 - number]):
                        return "held both"
                except RuntimeError as error:
                    return str(error)[:37]

        found = sorted(together(partial(both, 0), partial(both, 1)))
        assert found == ["held both", "two threads wait for each other's mod"]
        assert not waits([], nets)


def exec_function():
    """Return a function that leads to no model."""
    return lambda x: x.flatten(1)
