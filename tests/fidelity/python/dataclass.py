import dataclasses
@dataclasses.dataclass(order=True, frozen=True)
class P:
    x: int
    y: list = dataclasses.field(default_factory=list, compare=False)
print(P(1), P(1) < P(2), dataclasses.asdict(P(3, [4])), P.__module__, P.__qualname__)
P(1).x = 2
