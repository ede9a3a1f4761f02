"""s3:// in TensorFlow itself: scripts that give it to tf.data and tf.io.gfile run as they are."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_void_p
from pathlib import Path

import pytest
from forked import Forked

from tfspawner.data.records import frame
from tfspawner.replica.elf import SHIFTED, STUB_BYTES, native_library
from tfspawner.replica.reading import LEAST_BLOCK_BYTES, MEMORY_BYTES, ReadFile, Reading
from tfspawner.replica.s3 import S3, settings_from

pytest.importorskip("tensorflow")

RECIPE = """
import os
import tensorflow as tf

FEATURES = {"x": tf.io.FixedLenFeature([4], tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)}

def decode(record):
    found = tf.io.parse_single_example(record, FEATURES)
    return found["x"], found["label"]

files = tf.data.Dataset.list_files("s3://bucket/recipe/part-r-*", shuffle=False)
data = files.interleave(tf.data.TFRecordDataset, cycle_length=128, num_parallel_calls=tf.data.experimental.AUTOTUNE)
data = data.map(decode, num_parallel_calls=tf.data.experimental.AUTOTUNE).batch(32).prefetch(8)
model = tf.keras.Sequential([tf.keras.layers.Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(data, epochs=2, verbose=2)
print("saw", sum(int(label.shape[0]) for _, label in data), "records")
tf.saved_model.save(model, "s3://bucket/models/recipe")
print("listed", tf.io.gfile.listdir("s3://bucket/models"), tf.io.gfile.exists("s3://bucket/models/recipe/saved_model.pb"))
"""


HEAD = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
from tfspawner.replica import gfile
assert gfile.register()
g = tf.io.gfile
"""


def run(code: str, server, *, python=(sys.executable,), **variables) -> subprocess.CompletedProcess:
    """The code in a process of its own, where TensorFlow has s3://."""
    env = {**os.environ, **server.variables, **variables}
    return subprocess.run([*python, "-c", HEAD + code], env=env, capture_output=True, text=True, timeout=120)


def forked(code: str, server, **variables) -> subprocess.CompletedProcess:
    """The same in a process that has read TensorFlow before."""
    env = {**os.environ, **server.variables, **variables}
    process = Forked((), env, Path.cwd(), HEAD + code, ("tensorflow", "tfspawner.replica.gfile"))
    with ThreadPoolExecutor(2) as pool:
        out, err = (text.decode() for text in pool.map(lambda stream: stream.read(), (process.stdout, process.stderr)))
    return subprocess.CompletedProcess(code, process.wait(120), out, err)


def printed(code: str, server, **variables) -> str:
    done = forked(code, server, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write_recipe(folder: Path, shards: int = 3, count: int = 100) -> None:
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    features = {
        "x": tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2, 3, 4])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    record = frame(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    for shard in range(shards):
        (folder / f"part-r-{shard:05}").write_bytes(record * count)


def test_a_script_made_for_s3_runs_as_it_is(place, reachable_s3):
    write_recipe(reachable_s3.folder / "bucket/recipe")
    env_file = place.folder / "s3.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in reachable_s3.variables.items()))
    done = place.run(place.script(RECIPE), "-w", "1", "-e", env_file, timeout_s=400)
    assert done.code == 0, done.err
    assert "saw 300 records" in done.out
    assert "listed ['recipe'] True" in done.out
    assert (reachable_s3.folder / "bucket/models/recipe/saved_model.pb").exists()


def test_a_script_that_does_not_speak_of_s3_is_left_alone(place):
    done = place.run(place.script("import os\nprint('path', os.environ.get('PYTHONPATH'))\n"), "-w", "1")
    assert "path None" in done.out


def test_another_sitecustomize_still_runs(place, tmp_path):
    if place.on != "local":
        pytest.skip("of this machine's Python")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sitecustomize.py").write_text("import builtins\nbuiltins.other = 'there'\n")
    script = place.script("# s3://\nimport sys\nprint('other is', other)\nprint('tensorflow' in sys.modules)\n")
    done = place.run(script, "-w", "1", "--env", f"PYTHONPATH={tmp_path / 'other'}")
    assert done.code == 0, done.err
    assert "other is there" in done.out
    assert "False" in done.out


# What tf.io.gfile does in a folder ROOT, and what it gives: the same on s3:// as on this machine.
OPERATIONS = {
    "write and read": "g.GFile(R + '/f', 'w').write('text'); show(g.GFile(R + '/f').read())",
    "exists": "write('/f'); show(g.exists(R + '/f'), g.exists(R + '/none'), g.exists(R))",
    "isdir": "write('/d/f'); show(g.isdir(R + '/d'), g.isdir(R + '/d/f'), g.isdir(R + '/none'))",
    "size": "write('/f', 'x' * 1000); show(g.stat(R + '/f').length, g.stat(R + '/f').is_directory, g.GFile(R + '/f').size())",
    "listdir": "write('/a'); write('/d/b'); write('/d/e/c'); show(sorted(n.strip('/') for n in g.listdir(R)))",
    "glob": "write('/a1'); write('/a2'); write('/b1'); write('/d/a3'); show(names(g.glob(R + '/a*')), names(g.glob(R + '/*/a?')))",
    "glob of folders": "write('/d1/a'); write('/d2/a'); show(names(g.glob(R + '/d*')))",
    "walk": "write('/a'); write('/d/b'); show(sorted((len(t) - len(R), sorted(n.strip('/') for n in d), f) for t, d, f in g.walk(R)))",
    "remove": "write('/f'); g.remove(R + '/f'); show(g.exists(R + '/f'))",
    "rmtree": "write('/d/a'); write('/d/e/b'); write('/keep'); g.rmtree(R + '/d'); show(g.exists(R + '/d'), g.exists(R + '/keep'))",
    "rename": "write('/a', 'one'); g.rename(R + '/a', R + '/b'); show(g.exists(R + '/a'), g.GFile(R + '/b').read())",
    "rename a folder": "write('/d/a', 'one'); write('/d/e/b', 'two'); g.rename(R + '/d', R + '/new');"
    " show(g.exists(R + '/d'), g.GFile(R + '/new/e/b').read())",
    "copy": "write('/a', 'one'); g.copy(R + '/a', R + '/b'); show(g.GFile(R + '/a').read() + g.GFile(R + '/b').read())",
    "append": "write('/a', 'one');\nwith g.GFile(R + '/a', 'a') as f: f.write('two')\nshow(g.GFile(R + '/a').read())",
    "seek": "write('/a', '0123456789')\nwith g.GFile(R + '/a') as f:\n  f.seek(5); a = f.read(2); f.seek(1); show(a, f.read(3), f.tell())",
    "lines": "write('/a', 'one\\ntwo\\n'); show(list(g.GFile(R + '/a')))",
    "an empty file": "write('/a', ''); show(g.GFile(R + '/a').read(), g.stat(R + '/a').length)",
    "records": "\nwith tf.io.TFRecordWriter(R + '/r') as w:\n  for i in range(3000): w.write(bytes([i % 256]) * i)\n"
    "show([len(r.numpy()) for r in tf.data.TFRecordDataset(R + '/r')] == list(range(3000)))",
    "a checkpoint": "v = tf.Variable([1., 2.]); c = tf.train.Checkpoint(v=v); c.save(R + '/ck/model'); v.assign([0., 0.]);"
    " c.restore(tf.train.latest_checkpoint(R + '/ck')); show(v.numpy().tolist())",
    "a saved model": "m = tf.Module(); m.v = tf.Variable(3.); tf.saved_model.save(m, R + '/m'); show(float(tf.saved_model.load(R + '/m').v))",
    "reading what is not there": "fails(lambda: g.GFile(R + '/none').read())",
    "removing what is not there": "fails(lambda: g.remove(R + '/none'))",
    "listing what is not there": "fails(lambda: g.listdir(R + '/none'))",
    "the size of what is not there": "fails(lambda: g.stat(R + '/none'))",
}
AROUND = """
import sys, traceback
shown = []
def show(*values): shown.append(repr(values))
def write(name, text='x'):
    folder = (R + name).rsplit('/', 1)[0]
    g.makedirs(folder)
    with g.GFile(R + name, 'w') as f: f.write(text)
def names(paths): return sorted(path[len(R):] for path in paths)
def fails(work):
    try: show(work())
    except tf.errors.OpError as error: show(type(error).__name__)
for R in sys.argv[1:]:
    g.makedirs(R)
    shown.clear()
    try:
        exec(OPERATION)
        print('; '.join(shown))
    except Exception as error: print(R, repr(error))
"""


def test_gfile_does_on_s3_what_it_does_on_this_machine(s3_server, tmp_path):
    """All in one process, each operation in two folders of its own."""
    code = AROUND.replace(
        "for R in sys.argv[1:]:",
        "for NAME, OPERATION in OPERATIONS.items():\n  for R in (LOCAL + NAME, 's3://bucket/ops/' + NAME):",
    )
    code = code.replace("\n    g.makedirs(R)", "\n    g.makedirs(R)").replace(
        "'; '.join(shown)", "NAME + ' | ' + '; '.join(shown)"
    )
    lines = printed(f"OPERATIONS = {OPERATIONS!r}\nLOCAL = {str(tmp_path) + '/'!r}\n{code}", s3_server).splitlines()
    assert len(lines) == 2 * len(OPERATIONS)
    unlike = [(local, far) for local, far in zip(lines[::2], lines[1::2], strict=True) if local != far]
    assert unlike == []


@pytest.mark.parametrize(
    ("uri", "variables", "kind", "words"),
    [
        ("s3://bucket/none", {}, "NotFoundError", "s3://bucket/none: there is no such object"),
        ("s3://no-such-bucket/x", {}, "NotFoundError", "there is no bucket 'no-such-bucket'"),
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "PermissionDeniedError", "refuses"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "UnavailableError", "http://127.0.0.1:9 does not answer"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "ftp://x"}, "UnknownError", "the S3 endpoint is 'ftp://x'"),
        ("s3://", {}, "InvalidArgumentError", "it names no bucket"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_tensorflows_error_in_our_words(s3_server, uri, variables, kind, words):
    code = f"try: next(iter(tf.data.TFRecordDataset({uri!r})))\nexcept tf.errors.OpError as e: print(type(e).__name__, e.message)"
    found = printed(code, s3_server, **variables)
    assert found.startswith(kind), found
    assert words in found
    assert "the-secret-key" not in found


def test_damage_is_found_by_tensorflow_itself(s3_server):
    data = bytearray(frame(b"a" * 1000) * 10)
    data[5000] ^= 1
    (s3_server.folder / "bucket/harmed").write_bytes(data)
    code = "try: list(tf.data.TFRecordDataset('s3://bucket/harmed'))\nexcept tf.errors.DataLossError: print('found')"
    assert printed(code, s3_server) == "found\n"


ENDS = {
    "at its end": ("", 0),
    "by sys.exit": ("import sys; sys.exit(3)", 3),
    "by an exception": ("raise ValueError('of the script')", 1),
    "with a file still open": ("f = g.GFile('s3://bucket/late', 'w'); f.write('kept')", 0),
}


@pytest.mark.parametrize(("code", "expected"), ENDS.values(), ids=ENDS)
def test_a_script_that_ends_amid_reading_ends_as_it_would_without(s3_server, code, expected):
    folder = s3_server.folder / "bucket/amid"
    if not folder.exists():
        folder.mkdir()
        for shard in range(8):
            (folder / f"part-{shard}").write_bytes(frame(b"x" * 50_000) * 200)
    reading = (
        "files = tf.data.Dataset.list_files('s3://bucket/amid/*')\n"
        "data = iter(files.interleave(tf.data.TFRecordDataset, cycle_length=8, num_parallel_calls=8).repeat().prefetch(1000))\n"
        "for _ in range(5): next(data)\n"
    )
    with ThreadPoolExecutor(2) as pool:  # often, for it is a race
        ended = list(pool.map(lambda by: by(reading + code, s3_server), [run, run, *[forked] * 8]))
    for done in ended:
        assert done.returncode == expected, done.stderr
        assert ("Traceback" in done.stderr) == (expected == 1), done.stderr
    if "late" in code:
        assert (s3_server.folder / "bucket/late").read_text() == "kept"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_have_it_too(place, reachable_s3, method):
    if place.on != "local" and method == "fork":
        pytest.skip("the same there")
    (reachable_s3.folder / "bucket/x").write_bytes(b"content")
    env_file = place.folder / "s3.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in reachable_s3.variables.items()))
    code = f"""
    import multiprocessing
    import tensorflow as tf
    def work(_):
        return tf.io.gfile.GFile("s3://bucket/x").read()
    if __name__ == "__main__":
        print("parent", work(0))
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            print("children", pool.map(work, range(4)))
    """
    done = place.run(place.script(code), "-w", "1", "-e", env_file)
    assert done.code == 0, done.err
    assert f"children {['content'] * 4}" in done.out


def open_files(s3_server, count: int, size: int) -> tuple[Reading, list[ReadFile]]:
    (s3_server.folder / "bucket/large").write_bytes(os.urandom(1 << 20) * (size >> 20))
    client = S3(settings_from(s3_server.variables))
    reading = Reading()
    return reading, [ReadFile(client, "bucket", "large", size, reading) for _ in range(count)]


def test_what_is_read_ahead_is_bounded_however_many_files_are_open(s3_server):
    size = 8 << 20
    reading, files = open_files(s3_server, 200, size)
    content = (s3_server.folder / "bucket/large").read_bytes()
    most = 0
    for offset in range(0, size, 1 << 20):
        for file in files:
            assert file.read(offset, 1 << 20) == content[offset : offset + (1 << 20)]
            most = max(most, reading.held)
    assert most <= MEMORY_BYTES + 200 * LEAST_BLOCK_BYTES
    assert most > MEMORY_BYTES // 4
    for file in files:
        file.close()
    assert (reading.held, reading.files) == (0, 0)


def test_reading_here_and_there_gives_what_is_there(s3_server):
    size = 12 << 20
    _, [file] = open_files(s3_server, 1, size)
    content = (s3_server.folder / "bucket/large").read_bytes()
    for offset in (0, 5_000_000, 100, 11_999_999, size - 10, size, 4 << 20, 3):
        assert file.read(offset, 700_000) == content[offset : offset + 700_000]


@pytest.mark.parametrize("slots", [1, 2, 40])
def test_the_shared_library_calls_what_stands_in_its_slots(tmp_path, slots):
    path = tmp_path / "library.so"
    path.write_bytes(native_library(slots, platform.machine()))
    library = ctypes.CDLL(str(path))
    first = ctypes.cast(library.TF_InitPlugin, c_void_p).value
    table = (c_void_p * slots).in_dll(library, "slots")
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    functions: list[Callable[[int], int]] = [kind(lambda value, _, slot=slot: value + slot) for slot in range(slots)]
    for slot, function in enumerate(functions):
        table[slot] = ctypes.cast(function, c_void_p)
    stubs = [first + STUB_BYTES * slot for slot in range(slots + 1)]
    expected = [100 + slot if slot != SHIFTED else 200 + slot for slot in range(slots)]
    assert [kind(stub)(100, 200) for stub in stubs] == [*expected, 0]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_shared_library_is_one_to_others_too(tmp_path, machine):
    path = tmp_path / "library.so"
    path.write_bytes(native_library(30, machine))
    done = subprocess.run(["readelf", "-a", "-W", "--use-dynamic", path], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Warning" not in done.stderr + done.stdout
    assert "TF_InitPlugin" in done.stdout
