"""The base class of methods that explain the inputs themselves, whatever the layers."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_unioncam.engine.cam import ONE_FORWARD, Forwards, Source, as_captums, by_name, prepared
from captum_unioncam.engine.captum_compat import BaselineType
from captum_unioncam.engine.target_scores import Score


class InputMap(PerturbationAttribution):
    """A map of the inputs, found by masking them; a method is a subclass that defines `map`.

    Its metadata are those of :class:`captum_unioncam.engine.ClassActivationMap`. `map` takes the
    checked request and the method's own options, and returns the map, (N, 1, *spatial).
    """

    name: ClassVar[str] = "map of the inputs"
    source: ClassVar[Source] = Source("", 0, "", "by definition")
    forwards: ClassVar[Forwards] = ONE_FORWARD
    needs_gradients: ClassVar[bool] = False
    default_score: ClassVar[Score] = "probability"
    brings_baselines: ClassVar[bool] = False
    map: Callable[..., Tensor]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        r"""Name the model.

        Args:
            forward_func (Callable or torch.nn.Module): the model, or any function of it that
                returns one row of scores per example. A module, its bound method or a partial
                of it is explained in evaluation mode; behind any other function the model must
                be in evaluation mode already.
        """
        super().__init__(forward_func)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        as_captums(cls)

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name as progress bars and tables show it."""
        return cls.name

    def attribute_future(self) -> None:
        """Not available: forwards run one after the other."""
        raise NotImplementedError(f"attribute_future is not implemented for {self.name}")

    def default_baselines(self, inputs: Any) -> BaselineType:
        """Return what masked-out parts show where the user says nothing; inputs are unchecked."""
        raise NotImplementedError(f"{self.name} brings no baselines")

    def explain(self, arguments: Mapping[str, Any]) -> Tensor:
        """Return what `attribute` does, given its arguments by name, as its ``locals()`` hold them.

        Args:
            arguments (Mapping): ``options`` in it are those shared with other methods.
        """
        request, options, _ = prepared(self, None, by_name(arguments))
        return self.map(request, **options)
