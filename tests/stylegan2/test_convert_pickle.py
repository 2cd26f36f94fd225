"""Published checkpoints are read without running anything that they carry."""

import collections
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylegan2.convert import PickleError, read_tensors
from stylegan2.convert.checkpoint import BUILDERS, VALUES, Array
from stylegan2.convert.unpickle import Machine

MARKER = "executed"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The modules whose names published pickles carry, made up so that pickle can write those names; and a folder, the
    working directory, where no payload may leave a file.
    """
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the real one would execute meta['module_src']")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util.EasyDict = type("EasyDict", (dict,), {"__module__": util.__name__})
    for name, module in (("torch_utils", types.ModuleType("torch_utils")), (persistence.__name__, persistence),
                         ("dnnlib", types.ModuleType("dnnlib")), (util.__name__, util)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / MARKER).exists(), "something in the file was executed"


class Persistent:
    """Pickles as the published modules do: their source, and their attributes."""

    def __init__(self, children=(), parameters=(), buffers=(), **attributes):
        self.state = {
            "training": False, "_parameters": collections.OrderedDict(parameters),
            "_buffers": collections.OrderedDict(buffers), "_modules": collections.OrderedDict(children),
            "_non_persistent_buffers_set": set(), "_backward_hooks": collections.OrderedDict(), **attributes}

    def __reduce__(self):
        source = f"open({MARKER!r}, 'w').close()\nclass Synthesis: pass\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Synthesis", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Calls:
    """Pickles as a call."""

    def __init__(self, called, *arguments, state=None):
        self.reduced = (called, arguments) if state is None else (called, arguments, state)

    def __reduce__(self):
        return self.reduced


def parameter(*shape):
    return torch.nn.Parameter(torch.randn(*shape))


def written(folder, value, protocol=4):
    path = folder / "network.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


def refused(folder, value, match=None, protocol=4):
    with pytest.raises(PickleError, match=match):
        read_tensors(written(folder, value, protocol))


# --- what is admitted -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_published_checkpoint(world, protocol):
    weight, affine, fir, score = parameter(3, 2, 1, 1), parameter(2, 4), torch.rand(4, 4), parameter(1)
    easy = sys.modules["dnnlib.util"].EasyDict
    conv = Persistent({"affine": Persistent(parameters={"weight": affine, "bias": None}, activation="linear")},
                      {"weight": weight}, {"resample_filter": fir}, _init_kwargs=easy(up=2, gain=1.5, name="conv"))
    generator = Persistent({"synthesis": Persistent({"b4": Persistent({"conv1": conv}, unused=None)})}, z_dim=4)
    other = Persistent({"synthesis": Persistent(parameters={"weight": parameter(9)})})
    path = written(world, {"training_set_kwargs": easy(path="x.zip", shape=torch.Size([3, 4])), "G": other,
                           "D": Persistent(parameters={"out": score}), "G_ema": generator, "augment_pipe": None},
                   protocol)
    tensors = read_tensors(path)
    expected = {"G.synthesis.b4.conv1.weight": weight, "G.synthesis.b4.conv1.affine.weight": affine,
                "G.synthesis.b4.conv1.resample_filter": fir, "D.out": score}
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == torch.float32
        assert torch.equal(tensors[name], tensor)


def test_without_an_average_the_generator_itself(world):
    assert set(read_tensors(written(world, {"G": Persistent(parameters={"a": parameter(1)}), "D": None}))) == {"G.a"}


def read_back(value, protocol):
    """Through the machine, without the shape of a checkpoint."""
    result = Machine(io.BytesIO(pickle.dumps(value, protocol)), BUILDERS, VALUES).run()
    return result.value if isinstance(result, Array) else result


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol):
    shared = ["x", 2]
    value = {"a": [1, -2, 3.5, None, True, False, 10**30, -70000], "b": ("ü", b"\x00\xff", ()), "c": {(1, 2): shared},
             "d": shared, "e": collections.OrderedDict(k={}), "f": (1, 2, 3, 4), "g": torch.Size([2, 3])}
    value |= {} if protocol < 2 else {"h": {1, 2}}  # older ones build a set through copyreg, which is refused
    assert read_back(value, protocol) == value
    assert read_back([], protocol) == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", [
    np.arange(6, dtype="f4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([1, 2], ">i8"),
    np.array([], "f2"), np.array(7, "u1"), np.array([True, False]), np.float32(2.5)], ids=repr)
def test_arrays(array, protocol):
    back = read_back(array, protocol)
    np.testing.assert_array_equal(back, array)
    back = np.asarray(back)
    assert (back.dtype, back.shape) == (array.dtype.newbyteorder("="), array.shape)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64,
                                   torch.uint8, torch.bool])
def test_tensors(dtype, protocol):
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    views = [base, base.transpose(0, 2), base[1:, ::2], base[0, 0, 1], base[:, :0], torch.zeros(0, dtype=dtype)]
    for tensor, back in zip(views, read_back(views, protocol), strict=True):
        assert back.is_contiguous()
        assert torch.equal(back, tensor)


def test_an_npz(world):
    arrays = {"G.mapping.fc0.weight": np.ones((2, 2), "f4"), "D.b4.out.bias": np.zeros(1, "f4")}
    np.savez(world / "a.npz", **arrays)
    tensors = read_tensors(world / "a.npz")
    assert tensors.keys() == arrays.keys()
    assert all(np.array_equal(tensors[name], array) for name, array in arrays.items())


# --- what is refused --------------------------------------------------------------------------------------------------

class New:
    """Pickles by NEWOBJ with a state for BUILD."""

    def __init__(self):
        self.attribute = 1


TOUCH = f"touch {MARKER}"
WRITE = f"open({MARKER!r}, 'w').close()"
PAYLOADS = {
    "system": Calls(os.system, TOUCH),
    "eval": Calls(eval, WRITE),
    "exec": Calls(exec, WRITE),
    "getattr": Calls(getattr, "text", "upper"),
    "open": Calls(open, MARKER, "w"),
    "__import__": Calls(__import__, "antigravity"),
    "Popen": Calls(subprocess.Popen, ["touch", MARKER]),
    "methodcaller": Calls(operator.methodcaller, "system", TOUCH),
    "serialization.load": Calls(torch.load, MARKER),
    "_loads": Calls(pickle._loads, pickle.dumps(Calls(os.system, TOUCH))),
    "dict": dict,
    "New": New(),
}


@pytest.mark.parametrize("protocol", [2, 4])  # what came before has other names for the same instructions: below
@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("place", ["whole", "value", "state", "storage"])
def test_a_hostile_pickle_is_refused_and_the_global_named(world, name, protocol, place):
    payload = PAYLOADS[name]
    if place == "storage":  # the pickles within the bytes of a tensor
        payload = Calls(torch.storage._load_from_bytes, pickle.dumps(payload, 2))
    if place == "state":
        payload = {"G": Persistent(parameters={"a": parameter(1)}, hook=payload)}
    elif place != "whole":
        payload = {"G": Persistent(parameters={"a": parameter(1)}), "D": payload}
    refused(world, payload, rf"asks for [\w.]+\.{name}\. Only", protocol)  # {name} in whichever module pickle put it


def test_the_payloads_are_live(world):
    """What is refused above would have run."""
    for payload in (Calls(os.system, TOUCH), Calls(eval, WRITE), Calls(exec, WRITE)):
        pickle.loads(pickle.dumps(payload))
        assert (world / MARKER).exists()
        (world / MARKER).unlink()


SYSTEM = b"cposix\nsystem\n"
ARGUMENT = b"(S'" + TOUCH.encode() + b"'\ntR"
PROGRAMS = {
    "GLOBAL": (SYSTEM + b"(V" + TOUCH.encode() + b"\ntR.", "posix.system"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R.", "posix.system"),
    "STACK_GLOBAL, dotted": (b"\x80\x04\x8c\x0bcollections\x8c\x07abc.sys\x93.", "collections.abc.sys"),
    "STACK_GLOBAL of no strings": (b"\x80\x04]]\x93.", "network.pkl"),
    "INST": (b"(S'" + TOUCH.encode() + b"'\niposix\nsystem\n.", "MARK|STRING|INST"),
    "INST first": (b"(iposix\nsystem\n.", "INST"),
    "OBJ": (b"(ccollections\nOrderedDict\no.", "OBJ"),
    "NEWOBJ_EX": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x01.", "EXT2"),
    "PERSID": (b"Pstorage\n.", "PERSID"),
    "BINPERSID": (b"\x80\x02K\x01Q.", "BINPERSID"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "calling a value": (b"\x80\x02cnumpy\nndarray\n)R.", "numpy.ndarray"),
    "calling a string": (b"\x80\x02X\x06\x00\x00\x00system)R.", "calls str"),
    "calling a result": (b"\x80\x02ccollections\nOrderedDict\n)R)R.", "calls dict"),
    "no tuple of arguments": (b"\x80\x02ccollections\nOrderedDict\n]R.", "OrderedDict"),
    "BUILD of a name": (b"\x80\x02ccollections\nOrderedDict\n}X\x08\x00\x00\x00__dict__K\x01sb.", "state of a Name"),
    "BUILD of a dict": (b"\x80\x02}}b.", "state of a dict"),
    "append to a dict": (b"\x80\x02}K\x01a.", "fills a dict"),
    "set an item of a list": (b"\x80\x02]K\x01K\x02s.", "fills a list"),
    "BUILD of a network of words": (b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81K\x01b.", "list of variables"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_instructions_that_no_checkpoint_needs(world, name):
    program, match = PROGRAMS[name]
    refused(world, program, match)


def test_a_class_that_unpickles_itself(world):
    """__setstate__, __reduce_ex__ and the like belong to classes, and no class is ever looked up."""
    program = pickle.dumps(Calls(os.system, TOUCH), 2)
    refused(world, b"\x80\x02c__main__\nEvil\n)\x81}b.", "__main__.Evil")
    refused(world, program[:-1] + b"}b.", "posix.system")


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"\x00" * 100, b".", b"\x80\x04", b"\x80\x04(.", b"0.",
                                     b"\x89PNG\r\n\x1a\n", b"\x80\x04]\x94(h\x09e."])
def test_not_a_pickle(world, content):
    refused(world, content, "network.pkl")


def test_another_pickle(world):
    refused(world, {"state_dict": 1}, "holds no G_ema, G or D")
    refused(world, [1], "holds no G_ema, G or D")
    refused(world, {"G": 1}, "no network")
    refused(world, {"G": Persistent(parameters={"a": 1})}, "a is a int")


def test_a_file_that_is_not_there(world):
    with pytest.raises(FileNotFoundError):
        read_tensors(world / "none.pkl")


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_claimed_sizes(world):
    """A few bytes that claim to be many."""
    for opcode, size in ((b"B", "<I"), (b"\x8e", "<Q"), (b"X", "<I"), (b"\x8d", "<Q"), (b"\x96", "<Q")):
        refused(world, b"\x80\x04" + opcode + struct.pack(size, 2**31) + b"x.", "cut short")
    refused(world, b"\x80\x02\x8b\xff\xff\xff\x7f.", "cut short")
    flat = torch.zeros(2)
    for size, stride in (((2**40,), (0,)), ((3,), (1,)), ((2, 2), (1, 1)), ((2,), (2,)), ((-1,), (1,)), ((1,), (-1,))):
        tensor = Calls(torch._utils._rebuild_tensor_v2, flat.storage(), 0, size, stride, False, {})
        refused(world, {"G": tensor}, "a tensor of size")
    content = flat.storage().__reduce__()[1][0]
    for wrong in (content[:-1], content.replace(b"K\x02Ntq", b"K\x09Ntq"), content + b"\0" * 4):
        refused(world, {"G": Calls(torch.storage._load_from_bytes, wrong)}, "should have|cut short")


def test_modules_within_modules(world):
    """2³⁰ paths to a few modules, and one that holds itself, end at the second visit; depth is no danger."""
    module = Persistent(parameters={"a": parameter(1)})
    for _ in range(30):
        module = Persistent({"x": module, "y": module})
    refused(world, {"G": module}, "there twice")
    deep = b"\x80\x02]q\x00" + b"]" * 10_000 + b"a" * 10_000 + b"."
    refused(world, deep, "holds no G_ema")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_ours(world, data):
    """Cut anywhere or with bytes changed, a checkpoint is read or refused; nothing else is raised, nothing is run."""
    protocol = data.draw(st.sampled_from([2, 4, None]))
    if protocol is None:
        np.savez(world / "a.npz", **{"G.a": np.ones(3)})
        content = (world / "a.npz").read_bytes()
    else:
        module = Persistent(parameters={"a": torch.ones(2), "b": None}, buffers={"c": np.ones(2)})
        content = pickle.dumps({"G": Persistent({"m": module}), "D": None}, protocol)
    damaged = bytearray(content[:data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_tensors(written(world, bytes(damaged))).values())
    except PickleError:
        assert damaged != content


def test_arrays_of_objects_in_an_npz(world):
    np.savez(world / "a.npz", a=np.array([Calls(os.system, TOUCH)], dtype=object))
    with pytest.raises(PickleError, match=r"a\.npy is not an array of numbers"):
        read_tensors(world / "a.npz")
    with zipfile.ZipFile(world / "b.npz", "w") as archive:
        archive.writestr("../escape.npy", b"\x93NUMPY\x01\x00")
    with pytest.raises(PickleError, match=r"escape\.npy is not an array"):
        read_tensors(world / "b.npz")
