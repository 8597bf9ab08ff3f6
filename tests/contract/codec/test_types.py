"""Which types travel, and that what is accepted arrives equal."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
import pathlib
import subprocess
import sys
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import annotated_types
import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore.contract import Contract, compile_contract
from taskcore.contract.codec import Codec, UnsupportedType, short_repr
from taskcore.contract.codec.explain import explain
from taskcore.errors import InvalidArguments, UnencodableResult

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


class Color(enum.Enum):
    """An enum of texts."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum whose members equal numbers."""

    LOW = 1
    HIGH = 2


class Mood(enum.StrEnum):
    """An enum whose members equal texts."""

    GOOD = "good"


class Rights(enum.Flag):
    """An enum whose members can be combined."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Item:
    """A dataclass."""

    price: Decimal
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Point:
    """A dataclass that can be hashed; its fields take whole numbers, too."""

    x: float
    y: float


@dataclasses.dataclass(eq=False)
class Unequal:
    """A dataclass that equals nothing but itself."""

    number: int


@dataclasses.dataclass
class Box(Generic[T]):
    """A generic dataclass."""

    value: T
    others: list[T]


@dataclasses.dataclass
class Positive:
    """A dataclass with a rule of its own."""

    number: int

    def __post_init__(self):
        if self.number <= 0:
            raise ValueError("only positive numbers")


@attrs.define
class Address:
    """An attrs class."""

    street: str
    since: dt.date | None = None


@attrs.define
class Private:
    """An attrs class with an attribute that does not travel."""

    shown: int
    _hidden: int = 0


class Tree(msgspec.Struct):
    """A Struct that contains itself."""

    name: str
    children: list[Tree] = []


class Card(msgspec.Struct, tag="card", rename="camel"):
    """One of two Structs that tell themselves apart; it has other names in JSON."""

    last_digits: str


class Cash(msgspec.Struct, tag="cash"):
    """The other one."""

    amount: Decimal


class Pair(NamedTuple):
    """A NamedTuple."""

    left: int
    right: str = ""


class Options(TypedDict):
    """A TypedDict."""

    depth: int
    label: NotRequired[str]


class Profile(pydantic.BaseModel):
    """A pydantic model with aliases and a private attribute."""

    age: int
    born: dt.datetime | None = None
    tags: set[str] = set()
    ratio: float = 1.0
    nick: str = pydantic.Field("", alias="nickName")
    shown: str = pydantic.Field("", serialization_alias="shownAs")
    _secret: int = 0


class Team(pydantic.BaseModel):
    """A pydantic model of models."""

    members: list[Profile]
    when: dt.date


@dataclasses.dataclass
class Order:
    """Everything in one."""

    id: uuid.UUID
    items: list[Item]
    paid_with: Card | Cash
    when: dt.datetime
    where: Address | None = None
    by: Profile | None = None
    marks: dict[str, tuple[int, Color]] = dataclasses.field(default_factory=dict)


UserId = NewType("UserId", int)
SHORT = Annotated[str, annotated_types.Len(1, 3)]
BEGINS = Annotated[str, pydantic.StringConstraints(pattern="^a")]
Numbers: typing.TypeAlias = "list[int]"

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
ZONES = st.none() | st.just(dt.UTC) | st.timezones().filter(lambda zone: zone.key == "UTC" or "/" in zone.key)
TIMES = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2037, 1, 1), timezones=ZONES)  # noqa: DTZ001 - naive bounds
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.builds(Item, DECIMALS, st.integers())
CARDS = st.builds(Card, TEXT)
CASH = st.builds(Cash, DECIMALS)
ADDRESSES = st.builds(Address, TEXT, st.none() | st.dates())
PROFILES = st.builds(
    Profile, age=st.integers(), born=st.none() | TIMES, tags=st.sets(TEXT), ratio=FLOATS, nickName=TEXT
)
ORDERS = st.builds(
    Order,
    st.uuids(),
    st.lists(ITEMS, max_size=3),
    CARDS | CASH,
    TIMES,
    st.none() | ADDRESSES,
    st.none() | PROFILES,
    st.dictionaries(TEXT, st.tuples(st.integers(), st.sampled_from(Color)), max_size=2),
)
TREES = st.recursive(
    st.builds(Tree, TEXT), lambda inner: st.builds(Tree, TEXT, st.lists(inner, max_size=2)), max_leaves=4
)

FITTING: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "Any": (Any, JSON),
    "None": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, st.integers() | st.integers(-(2**70), 2**70)),
    "float": (float, FLOATS | st.integers(-(2**53), 2**53)),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary()),
    "Decimal": (Decimal, DECIMALS),
    "UUID": (uuid.UUID, st.uuids()),
    "datetime": (dt.datetime, TIMES),
    "date": (dt.date, st.dates()),
    "time": (dt.time, st.times(timezones=st.none() | st.just(dt.UTC))),
    "timedelta": (dt.timedelta, st.timedeltas()),
    "Enum": (Color, st.sampled_from(Color)),
    "IntEnum": (Level, st.sampled_from(Level)),
    "StrEnum": (Mood, st.sampled_from(Mood)),
    "Flag": (Rights, st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE])),
    "Literal": (Literal["a", "b"] | None, st.sampled_from(["a", "b", None])),
    "list": (list[int], st.lists(st.integers())),
    "bare list": (list, st.lists(JSON, max_size=3)),
    "set": (set[str], st.sets(TEXT)),
    "set of enums": (set[Color], st.sets(st.sampled_from(Color))),
    "frozenset": (frozenset[Point], st.frozensets(st.builds(Point, FLOATS, FLOATS), max_size=3)),
    "tuple": (tuple[int, str], st.tuples(st.integers(), TEXT)),
    "tuple of many": (tuple[Decimal, ...], st.lists(DECIMALS).map(tuple)),
    "empty tuple": (tuple[()], st.just(())),
    "dict": (dict[str, float], st.dictionaries(TEXT, FLOATS)),
    "dict by int": (dict[int, set[int]], st.dictionaries(st.integers(), st.sets(st.integers()), max_size=3)),
    "dict by UUID": (dict[uuid.UUID, dt.date], st.dictionaries(st.uuids(), st.dates(), max_size=3)),
    "Sequence": (Sequence[int], st.lists(st.integers())),
    "Mapping": (Mapping[str, int], st.dictionaries(TEXT, st.integers())),
    "Optional": (Optional[Decimal], st.none() | DECIMALS),  # noqa: UP045 - the old form, too
    "union": (int | str | list[float], st.integers() | TEXT | st.lists(FLOATS)),
    "dataclass": (Item, ITEMS),
    "dataclass without eq": (Unequal, st.builds(Unequal, st.integers())),
    "generic dataclass": (Box[int], st.builds(Box, st.integers(), st.lists(st.integers()))),
    "attrs": (Address, ADDRESSES),
    "Struct": (Tree, TREES),
    "tagged Structs": (Card | Cash, CARDS | CASH),
    "NamedTuple": (Pair, st.builds(Pair, st.integers(), TEXT)),
    "TypedDict": (Options, st.fixed_dictionaries({"depth": st.integers()}, optional={"label": TEXT})),
    "pydantic": (Profile, PROFILES),
    "pydantic, nested": (
        dict[str, Team | None],
        st.dictionaries(
            TEXT, st.none() | st.builds(Team, members=st.lists(PROFILES, max_size=2), when=st.dates()), max_size=2
        ),
    ),
    "everything": (list[Order], st.lists(ORDERS, max_size=2)),
    "constraint": (Annotated[int, msgspec.Meta(gt=0)], st.integers(1)),
    "strict": (pydantic.StrictInt, st.integers()),
    "NewType": (UserId, st.integers()),
    "alias": (Numbers, st.lists(st.integers())),
}
NAMES = sorted(FITTING)


def contract_of(annotation: Any) -> Contract:
    """Compile a contract of one parameter and a result, both of this type."""

    def task(value): ...

    task.__annotations__ = {"value": annotation, "return": annotation}
    return compile_contract(task, name="task")


def or_refused(call: Any, *args: Any) -> Any:
    """Return the result of a call, or its refusal."""
    try:
        return call(*args)
    except InvalidArguments as error:
        return error


CONTRACTS = {name: contract_of(annotation) for name, (annotation, _) in FITTING.items()}
ODD = st.sampled_from([object(), math.nan, math.inf, "\ud800", b"", (), {1: 2}, {True: 1}])
ANYTHING = st.one_of(*(strategy for _, strategy in FITTING.values()), ODD)


def equal(sent: Any, arrived: Any) -> bool:
    """Compare as a user would, apart from the library's code: repr tells kinds apart where == does not."""
    if isinstance(sent, Unequal):
        return isinstance(arrived, Unequal) and equal(sent.number, arrived.number)
    if isinstance(sent, dt.datetime) and sent.tzinfo is not None:
        return arrived.isoformat() == sent.isoformat()
    return sent == arrived or repr(sent) == repr(arrived)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_values_arrive_equal(name):
    """An argument that fits its type arrives equal, and of the declared type, and so does a result."""
    contract = CONTRACTS[name]

    @settings(max_examples=25, deadline=None)
    @given(FITTING[name][1])
    def check(value):
        payload = contract.pack((value,), {})
        arrived = contract.unpack(payload, 1)
        assert equal(value, arrived.value) or is_folded(value)
        assert contract.encode(arrived) == payload
        assert equal(value, contract.unpack_result(contract.pack_result(value))) or is_folded(value)

    check()


def is_folded(value: Any) -> bool:
    """Tell whether the value may have a clock time that occurs twice: Python calls no other time equal to it."""
    return "fold=1" in repr(value) or "tzinfo=zoneinfo" in repr(value)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), ANYTHING)
def test_accepted_values_arrive_equal(name, value):
    """Whatever the type and whatever the value: it is refused, or it arrives equal. Nothing is bent to fit."""
    contract = CONTRACTS[name]
    payload = or_refused(contract.pack, (value,), {})
    if isinstance(payload, InvalidArguments):
        assert payload.what == "task() refuses these arguments; nothing was sent"
        assert payload.facts[0].startswith("value")
        with pytest.raises(UnencodableResult):
            contract.pack_result(value)
    else:
        assert equal(value, contract.unpack(payload, 1).value) or is_folded(value)
        assert contract.pack_result(value) == payload.removeprefix(b'{"value":').removesuffix(b"}")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), JSON.map(lambda value: msgspec.json.encode({"value": value})) | st.binary(max_size=40))
def test_any_bytes_are_arguments_or_invalid(name, payload):
    """Any bytes at all are arguments of the declared type, or InvalidArguments."""
    contract = CONTRACTS[name]
    arguments = or_refused(contract.unpack, payload, 1)
    if isinstance(arguments, InvalidArguments):
        assert arguments.what == "the payload does not fit task() version 1"
        assert len(arguments.facts) > 1
    else:
        assert contract.pack((arguments.value,), {}) == contract.encode(arguments)


PLAIN_NAMES = [
    "bool",
    "int",
    "str",
    "float",
    "bytes",
    "Decimal",
    "UUID",
    "date",
    "Enum",
    "IntEnum",
    "StrEnum",
    "list",
    "tuple",
    "dict",
    "union",
    "Literal",
    "dataclass",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLAIN_NAMES), ANYTHING)
def test_agrees_with_pydantic(name, value):
    """An independent judge, pydantic in strict mode, accepts all that reaches the function."""
    contract = CONTRACTS[name]
    arguments = or_refused(contract.bind, (value,), {})
    if not isinstance(arguments, InvalidArguments):
        pydantic.TypeAdapter(FITTING[name][0]).validate_python(arguments.value, strict=True)


class Slug(str):
    """A str."""

    __slots__ = ()


class Celsius(float):
    """A float."""

    __slots__ = ()


class Stamp(dt.datetime):
    """A datetime."""


@pytest.mark.parametrize(
    ("annotation", "value", "arrived"),
    [
        (float, 1, 1.0),
        (str, Slug("a"), "a"),
        (float, Celsius(1.5), 1.5),
        (dt.datetime, Stamp(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (int, Level.LOW, 1),
        (str, Mood.GOOD, "good"),
        (bytes, bytearray(b"x"), b"x"),
        (set[int], frozenset({1}), {1}),
        (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
        (dict[str, int], {Slug("a"): 1}, {"a": 1}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Point, Point(1, 2), Point(1.0, 2.0)),
    ],
    ids=short_repr,
)
def test_values_arrive_as_the_declared_type(annotation, value, arrived):
    """An int for a float and an instance of a subclass arrive as what they equal, of exactly the declared type."""
    contract = contract_of(annotation)
    found = contract.unpack(contract.pack((value,), {}), 1).value
    assert found == arrived
    assert repr(found) == repr(arrived)
    assert contract.pack((value,), {}) == contract.pack((arrived,), {}), "equal arguments have equal bytes"


def wrong_item() -> Item:
    """Make an item and spoil its price afterwards."""
    item = Item(Decimal(1))
    item.price = 1.5
    return item


def wrong_positive() -> Positive:
    """Make an instance that breaks its own rule afterwards."""
    value = Positive(1)
    value.number = -1
    return value


def with_secret() -> Profile:
    """Make a model with a value that JSON does not hold."""
    profile = Profile(age=1)
    profile._secret = 3
    return profile


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (str, b"a", "value: expected str, got bytes b'a'"),
        (str, 1, "value: expected str, got int 1"),
        (str, None, "value: expected str, got None"),
        (str, Color.RED, "value: expected str, got <Color.RED: 'red'>"),
        (str, dt.date(2026, 1, 2), "value: expected str, got datetime.date(2026, 1, 2)"),
        (str, "a\ud800", "value: str 'a\\ud800' is not text, it holds half of a surrogate pair"),
        (int, "1", "value: expected int, got str '1'"),
        (int, True, "value: expected int, got bool True"),
        (int, 1.0, "value: expected int, got float 1.0"),
        (int, 10**5000, None),
        (bool, 1, "value: expected bool, got int 1"),
        (float, True, "value: expected float, got bool True"),
        (float, "1.0", "value: expected float, got str '1.0'"),
        (float, Decimal(1), "value: expected float, got Decimal('1')"),
        (float, 2**60 + 1, "value: expected float, got int 1152921504606846977"),
        (float, math.nan, "value: nan cannot travel, JSON has neither nan nor infinity"),
        (float | None, -math.inf, "value: -inf cannot travel, JSON has neither nan nor infinity"),
        (Any, [{"a": math.inf}], "value[0]['a']: inf cannot travel, JSON has neither nan nor infinity"),
        (Decimal, Decimal("NaN"), "value: NaN cannot travel, it equals nothing"),
        (Decimal, Decimal("sNaN"), "value: sNaN cannot travel, it equals nothing"),
        (Decimal, 0.5, "value: expected Decimal, got float 0.5"),
        (Decimal, 1, "value: expected Decimal, got int 1"),
        (bytes, "YQ==", "value: expected bytes, got str 'YQ=='"),
        (uuid.UUID, str(uuid.UUID(int=1)), "value: expected UUID, got str '00000000-0000-0000-0000-000000000001'"),
        (dt.datetime, "2026-01-02T00:00:00Z", "value: expected datetime, got str '2026-01-02T00:00:00Z'"),
        (dt.date, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), None),
        (dt.time, dt.time(1, 2, tzinfo=BERLIN), None),
        (dt.datetime, dt.datetime(1850, 1, 1, tzinfo=BERLIN), None),
        (Color, "red", "value: expected Color, got str 'red'"),
        (Level, 1, "value: expected Level, got int 1"),
        (Mood, "good", "value: expected Mood, got str 'good'"),
        (dict[Level, int], {1: 1}, "value[1] (the key): expected Level, got int 1"),
        (set[Mood], {"good"}, "value[0]: expected Mood, got str 'good'"),
        (tuple[Level, ...], (Level.LOW, 2), "value[1]: expected Level, got int 2"),
        (Literal["a"], "b", "value: expected Literal['a'], got str 'b'"),
        (Literal[1], True, "value: expected Literal[1], got bool True"),
        (list[int], (1,), "value: expected list[int], got tuple (1,)"),
        (Sequence[int], (1,), "value: tuple (1,) would arrive as list [1]"),
        (list[int], [1, True], "value[1]: expected int, got bool True"),
        (tuple[int, str], [1, "a"], "value: expected tuple[int, str], got list [1, 'a']"),
        (tuple[int, str], (1,), "value: expected array of length 2, got tuple (1,)"),
        (tuple[int, ...], (1, "a"), "value[1]: expected int, got str 'a'"),
        (set[int], [1], "value: expected set[int], got list [1]"),
        (dict[str, int], {1: 1}, "value[1] (the key): expected str, got int 1"),
        (dict[int, int], {True: 1}, "value[True] (the key): expected int, got bool True"),
        (dict, {"a": {1: 2}}, "value['a'][1] (the key): expected str, got int 1"),
        (int | str, 1.5, "value: expected int | str, got float 1.5"),
        (list[float] | int | None, ["a"], "value[0]: expected float, got str 'a'"),
        (Any, (1,), "value: expected plain JSON data, got tuple (1,)"),
        (Any, [Decimal(1)], "value[0]: expected plain JSON data, got Decimal('1')"),
        (Item, {"price": "1"}, "value: expected Item, got dict {'price': '1'}"),
        (Item, wrong_item(), "value.price: expected Decimal, got float 1.5"),
        (Box[int], Box("a", ["b"]), "value.value: expected int, got str 'a'"),
        (Box[int], Box(1, ["b"]), "value.others[0]: expected int, got str 'b'"),
        (Positive, wrong_positive(), "value: only positive numbers, got Positive(number=-1)"),
        (Private, Private(1, 2), "value: Private(shown=1, _hidden=2) would arrive as Private(shown=1, _hidden=0)"),
        (Tree, Tree("a", [Tree(1)]), "value.children[0].name: expected str, got int 1"),
        (Pair, (1, "a"), "value: expected Pair, got tuple (1, 'a')"),
        (Pair, Pair("a"), "value.left: expected int, got str 'a'"),
        (Options, {"depth": "1"}, "value.depth: expected int, got str '1'"),
        (Options, {"depth": 1, "more": 2}, "value: dict {'depth': 1, 'more': 2} would arrive as dict {'depth': 1}"),
        (Options, {}, "value: object missing required field depth, got dict {}"),
        (Profile, {"age": 1}, "value: expected Profile, got dict {'age': 1}"),
        (Profile, with_secret(), None),
        (Profile, Profile.model_construct(age="x"), "value.age: input should be a valid integer, got str 'x'"),
        (Profile, Profile(age=1, ratio=math.nan), None),
        (Annotated[int, msgspec.Meta(gt=0)], 0, "value: expected int >= 1, got int 0"),
        (Annotated[int, annotated_types.Gt(0)], 0, "value: expected int >= 1, got int 0"),
        (Annotated[int, pydantic.Field(gt=0, le=5, description="stars")], 6, "value: expected int <= 5, got int 6"),
        (pydantic.PositiveInt | None, 0, "value: expected int >= 1, got int 0"),
        (list[SHORT], ["abcd"], "value[0]: expected str of length <= 3, got str 'abcd'"),
        (BEGINS, "b", "value: expected str matching regex '^a', got str 'b'"),
        (Annotated[float, annotated_types.Interval(ge=0, lt=1)], 1, "value: expected float < 1.0, got int 1"),
        (NewType("Stars", Annotated[int, annotated_types.Le(5)]), 6, "value: expected int <= 5, got int 6"),
    ],
    ids=short_repr,
)
def test_misfits_are_refused_with_a_reason(annotation, value, problem):
    """What does not fit is refused by the caller and as a result, and the text says what was expected and what came."""
    contract = contract_of(annotation)
    with pytest.raises(InvalidArguments) as refused:
        contract.pack((value,), {})
    with pytest.raises(UnencodableResult) as unencodable:
        contract.pack_result(value)
    if problem is not None:
        assert refused.value.facts[0] == problem
        assert unencodable.value.facts[0] == problem.replace("value", "result", 1)


def test_the_repeated_hour_in_autumn():
    """A zoned time that occurs twice arrives as the right one of the two, although Python calls it equal to nothing."""
    contract = contract_of(list[dt.datetime])
    for fold in (0, 1):
        twice = dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold)
        assert twice != twice.astimezone(dt.UTC)
        (arrived,) = contract.unpack(contract.pack(([twice],), {}), 1).value
        assert arrived.isoformat() == twice.isoformat()


def test_values_that_never_end():
    """Data that refers to itself, or is nested too deeply, is refused with a clear text."""
    endless: list[Any] = []
    endless.append(endless)
    looped = Tree("a")
    looped.children.append(looped)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for annotation, value in [(Any, endless), (list, deep), (Tree, looped), (Any, {"a": endless})]:
        with pytest.raises(InvalidArguments, match="refers to itself, or is nested too deeply"):
            contract_of(annotation).pack((value,), {})
    with pytest.raises(InvalidArguments):
        contract_of(Any).unpack(b'{"value":' + b"[" * 100_000, 1)


class Hostile:
    """Raises whenever it is touched."""

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no eq")


@pytest.mark.parametrize("annotation", [int, Any, list[int], Item, Profile, Hostile | None], ids=str)
def test_hostile_values(annotation):
    """A value whose own code raises is refused like any other."""
    if annotation == Hostile | None:
        annotation = dict[str, Any]
    for value in (Hostile(), [Hostile()], {"a": Hostile()}):
        with pytest.raises(InvalidArguments) as refused:
            contract_of(annotation).pack((value,), {})
        assert "whose repr() fails" in str(refused.value) or "Hostile" in str(refused.value)


class Wordless(Exception):
    """An error without a text."""

    def __str__(self):
        raise RuntimeError("no words")


@dataclasses.dataclass
class Mute:
    """A class that raises such an error when it is read."""

    number: int

    def __post_init__(self):
        if self.number:
            raise Wordless


def test_an_error_whose_text_raises_is_a_refusal():
    """An error of the user's code whose own text raises is no more than a refusal, either."""
    mute = Mute(0)
    mute.number = 1
    with pytest.raises(InvalidArguments, match="wordless"):
        contract_of(Mute).pack((mute,), {})
    with pytest.raises(InvalidArguments, match="wordless"):
        contract_of(Mute).unpack(b'{"value":{"number":1}}', 1)
    with pytest.raises(UnencodableResult, match="wordless"):
        contract_of(Mute).pack_result(mute)


def test_classes_that_raise_when_they_are_read():
    """A class of the user's that raises anything while a payload is read makes that payload unfit, nothing else."""

    @dataclasses.dataclass
    class Fragile:
        number: int

        def __post_init__(self):
            if self.number > 1:
                raise KeyError("too big")

    contract = contract_of(list[Fragile])
    with pytest.raises(InvalidArguments, match="too big"):
        contract.unpack(b'{"value":[{"number":2}]}', 1)


def test_sets_have_stable_bytes():
    """Equal sets have equal bytes, in every process and whatever the order in which they were filled."""
    program = (
        "import enum, msgspec, pydantic\n"
        "from taskcore.contract import compile_contract\n"
        "class Word(enum.Enum): A = 'a'; B = 'b'; C = 'c'; D = 'd'\n"
        "class Model(pydantic.BaseModel): words: set[str]; deep: list[frozenset[frozenset[str]]]\n"
        "class Some(msgspec.Struct, rename='camel', tag=True): the_words: set[str]\n"
        "def task(words: set[Word], more: dict[int, tuple[frozenset[str], int]], model: Model, some: Some): ...\n"
        "words = {'a', 'b', 'c', 'd', 'e'}\n"
        "model = Model(words=words, deep=[{frozenset(words), frozenset('xyz'), frozenset()}])\n"
        "contract = compile_contract(task, name='task')\n"
        "more = {2: (frozenset(words), 1), 1: (frozenset(), 2)}\n"
        "payload = contract.pack((set(Word), more, model, Some(words)), {})\n"
        "assert contract.encode(contract.unpack(payload, 1)) == payload\n"
        "print(payload)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_dicts_keep_their_order():
    """A dict arrives with its items in the order in which they were sent."""
    contract = contract_of(dict[str, int])
    assert list(contract.unpack(contract.pack(({"b": 1, "a": 2},), {}), 1).value) == ["b", "a"]


def test_pydantic_is_not_imported_without_need():
    """Contracts without pydantic models never import pydantic, not even to explain a refusal."""
    program = (
        "import sys, dataclasses\n"
        "from taskcore.contract import compile_contract\n"
        "@dataclasses.dataclass\n"
        "class Item: price: int\n"
        "def task(item: Item, words: list[str]): ...\n"
        "contract = compile_contract(task, name='task')\n"
        "try: contract.pack((Item('x'), [1]), {})\n"
        "except TypeError: pass\n"
        "assert not {'pydantic', 'anyio', 'asyncio'} & set(sys.modules), sys.modules"
    )
    # taskcore/__init__.py imports the rest of the package: here the contract has to stand alone
    alone = (
        "import sys, types\n"
        "sys.modules['taskcore'] = types.ModuleType('taskcore')\n"
        "sys.modules['taskcore'].__path__ = [sys.argv[1]]\n"
    )
    home = str(pathlib.Path(compile_contract.__code__.co_filename).parents[1])
    subprocess.run([sys.executable, "-c", alone + program, home], check=True)


def test_models_are_read_by_name_and_by_alias():
    """A foreign sender may use the fields' names or their aliases; what we send are names."""
    contract = contract_of(Profile)
    for field in ("nick", "nickName"):
        payload = b'{"value":{"age":1,"%s":"ada"}}' % field.encode()
        assert contract.unpack(payload, 1).value == Profile(age=1, nickName="ada")
    assert b'"nick":"ada"' in contract.pack((Profile(age=1, nickName="ada"),), {})
    with pytest.raises(InvalidArguments, match=r"value\.age: input should be a valid integer, got str '1'"):
        contract.unpack(b'{"value":{"age":"1"}}', 1)


def test_annotations_that_cannot_be_hashed():
    """Annotations may hold anything, also what cannot be hashed."""
    annotation = Annotated[int, msgspec.Meta(gt=0), {"not": "hashable"}]
    with pytest.raises(InvalidArguments, match=r"value\[0\]: expected int >= 1, got int 0"):
        contract_of(list[annotation]).pack(([0],), {})


def test_explanations_have_an_end():
    """A thousand wrong items are not a thousand lines."""
    assert len(explain(list[int], ["x"] * 1000, "value")) == 20
    assert explain(int, 1, "value") == []
    assert short_repr("x" * 1000) == "str '" + "x" * 59 + "…"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is from Python 3.12")
def test_type_statement():
    """A ``type`` alias stands for what it names, constraints included."""
    names: dict[str, Any] = {"Annotated": Annotated, "Gt": annotated_types.Gt}
    exec("type Stars = Annotated[int, Gt(0)]\ntype Endless = list[Endless]", names)  # Python 3.11 cannot parse it
    stars = types.GenericAlias(list, (names["Stars"],))
    assert Codec(stars).encode_checked([1]) == ([1], b"[1]")
    assert explain(stars, [0], "value") == ["value[0]: expected int >= 1, got int 0"]
    with pytest.raises(UnsupportedType) as refused:
        Codec(names["Endless"])
    assert "cannot contain itself" in refused.value.flaws[0].fix
