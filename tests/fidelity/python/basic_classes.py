import dataclasses
import enum
import json


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


print(Colour.RED, Point(1), json.dumps(dataclasses.asdict(Point(3))))
print(Point.__module__, Point.__qualname__)
