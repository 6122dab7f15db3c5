"""Mutations of files for the fuzzer: of bytes, or within the structure, so that more than a checksum is tested."""

import io
import json
import pickletools
import struct
import zipfile

from safetensors import deserialize

from fusedlstm.files import _array, checksum

INTERESTING = [
    0,
    1,
    2,
    4,
    7,
    8,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
WORDS = [
    b"",
    b"0",
    b"-1",
    b"1e99",
    b"1e999",
    b"-Infinity",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"NaN",
    b"9" * 30,
    b"\xff",
    b"[" * 2000,
    b"../../etc/passwd",
]


def flip(data, files, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def replace(data, files, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data))] = int(rng.integers(256))
    return bytes(data)


def integer(data, files, rng):
    """Replace an integer: little-endian, of one to eight bytes."""
    value, size = INTERESTING[rng.integers(len(INTERESTING))], int(2 ** rng.integers(4))
    at = int(rng.integers(len(data)))
    return data[:at] + (value & (2 ** (8 * size) - 1)).to_bytes(size, "little") + data[at + size :]


def text(data, files, rng):
    """Replace a run of digits or letters with another word."""
    word, at = WORDS[rng.integers(len(WORDS))], int(rng.integers(len(data)))
    end = at
    while end < len(data) and chr(data[end]).isalnum():
        end += 1
    return data[:at] + word + data[end:]


def truncate(data, files, rng):
    return data[: int(rng.integers(len(data)))]


def remove(data, files, rng):
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 64))
    return data[:start] + data[start + size :]


def repeat(data, files, rng):
    start, size, times = int(rng.integers(len(data))), int(rng.integers(1, 64)), int(rng.integers(2, 40))
    return data[:start] + data[start : start + size] * times + data[start + size :]


def splice(data, files, rng):
    """Join the beginning of one file to the end of another."""
    other = files[rng.integers(len(files))]
    return data[: int(rng.integers(len(data)))] + other[int(rng.integers(len(other))) :]


def move(data, files, rng):
    start, size, to = int(rng.integers(len(data))), int(rng.integers(1, 64)), int(rng.integers(len(data)))
    piece, rest = data[start : start + size], data[:start] + data[start + size :]
    return rest[:to] + piece + rest[to:]


OF_BYTES = [flip, replace, integer, text, truncate, remove, repeat, splice, move]


def of_bytes(data, files, rng):
    for _ in range(rng.integers(1, 4)):
        if data:
            data = OF_BYTES[rng.integers(len(OF_BYTES))](data, files, rng)
    return data


def zip_members(data, files, rng):
    """Change, rename or remove members of an archive, with correct checksums."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return of_bytes(data, files, rng)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        members = old.namelist()
        chosen = members[rng.integers(len(members))]
        for member in members:
            content, name = old.read(member), member
            if member == chosen:
                change = rng.integers(8)
                if change == 0:
                    continue
                if change == 1:
                    name = of_bytes(name.encode(), [b"a/b"], rng).decode(errors="replace").replace("\0", "") or "a"
                elif content:
                    content = of_bytes(content, [content], rng)
            new.writestr(name, content, compress_type=int(rng.choice(METHODS)))
    return _in_a_member(file.getvalue(), rng) if rng.random() < 0.2 else file.getvalue()


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def _in_a_member(data, rng):
    """Change a few bytes of a member's compressed data, or of the fields before it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    info, content = members[rng.integers(len(members))], bytearray(data)
    for _ in range(rng.integers(1, 9)):
        content[info.header_offset + int(rng.integers(40 + len(info.filename)))] = int(rng.integers(256))
    return bytes(content)


def pickle_instructions(data, files, rng):
    """Drop, repeat, move or change instructions in the pickle of a torch.save file."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        first = data.find(b"\x80\x02", 2)  # the second pickle; the first is a magic number
        return data[:first] + _change_instructions(data[first:], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, _change_instructions(content, rng) if member.endswith("data.pkl") else content)
    return file.getvalue()


def _change_instructions(pickle, rng):
    """Change a few instructions in the pickles at the start of some bytes."""
    pieces, at = [], 0
    while pickle[at : at + 2] == b"\x80\x02":
        places = [place for _, _, place in pickletools.genops(pickle[at:])]
        ends = [*places[1:], places[-1] + 1]
        pieces += [pickle[at + start : at + end] for start, end in zip(places, ends, strict=True)]
        at += ends[-1]
    for _ in range(rng.integers(1, 5)):
        one, other = rng.integers(len(pieces), size=2)
        change = rng.integers(6)
        if change == 0:
            del pieces[one]
        elif change == 1:
            pieces.insert(other, pieces[one])
        elif change == 2:
            pieces[one], pieces[other] = pieces[other], pieces[one]
        elif change == 3:
            pieces[one] = pieces[one] * int(rng.integers(2, 200))
        elif change == 4:
            pieces[one] = INSTRUCTIONS[rng.integers(len(INSTRUCTIONS))]
        else:
            value = int(INTERESTING[rng.integers(len(INTERESTING))])
            pieces[one] = b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
        pieces = pieces or [b"N"]
    return b"".join(pieces) + pickle[at:]


INSTRUCTIONS = [
    *(b"(", b"t", b"]", b"}", b")", b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b"\x81", b"\x85", b"\x86", b"\x87", b"N"),
    *(b"h\x00", b"h\x01", b"h\x05", b"q\x01", b"K\x00", b"K\x03", b"\x88", b"G" + bytes(8), b"X\x01\x00\x00\x00a"),
    *(b"c__builtin__\nbytearray\n", b"c__builtin__\nset\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy._core.multiarray\n_reconstruct\n", b"X\x02\x00\x00\x00f8"),
    *(b"cnumpy._core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"c__torch__\nM\n", b"X\x06\x00\x00\x00latin1"),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
    *(b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nTensor\n", b"cos\nsystem\n", b"ctorch\ndevice\n"),
]


def checkpoint_block(data, files, rng):
    """Change a block of a checkpoint's index in place, with a correct checksum.

    The file is a table of blocks. Each is followed by a byte for its kind, and four of a masked CRC-32C. The last 48
    bytes say where two of them are.
    """
    content = bytearray(data)
    blocks = _block_places(data)
    start, size = blocks[rng.integers(len(blocks))]
    in_place = [flip, replace, integer]
    block = in_place[rng.integers(len(in_place))](bytes(content[start : start + size]), files, rng)[:size]
    content[start : start + len(block)] = block
    crc = _crc32c(bytes(content[start : start + size + 1]))
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    content[start + size + 1 : start + size + 5] = masked.to_bytes(4, "little")
    return bytes(content)


def _block_places(data):
    """Return the places of the blocks that the footer names, and of the data before the first of them."""
    numbers, at = [], len(data) - 48
    for _ in range(4):
        number = shift = 0
        while True:
            byte, at = data[at], at + 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        numbers.append(number)
    named = [(numbers[0], numbers[1]), (numbers[2], numbers[3])]
    return [(0, min(start for start, _ in named) - 5), *named]  # small indexes have a single block of data


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc32c_of(byte):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of(byte) for byte in range(256)]


def any_value(rng, depth=0):
    """Return a random JSON value."""
    kind = rng.integers(10 if depth < 3 else 8)
    if kind < 8:
        return [None, True, -1, 2**70, 0.5, "F32", float("nan"), float("inf")][kind]
    values = [any_value(rng, depth + 1) for _ in range(rng.integers(4))]
    return values if kind == 8 else {f"k{i}": value for i, value in enumerate(values)}


def change_json(value, rng, depth=0):
    """Return the value with one part changed, removed or renamed."""
    if isinstance(value, str) and rng.random() < 0.7:
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return any_value(rng)
        return json.dumps(change_json(inner, rng, depth + 1))
    if not isinstance(value, (dict, list)) or not value or (depth and rng.random() < 0.1):
        return any_value(rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[int(rng.integers(len(keys)))]
    changed = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.15:
        del changed[key]
    elif isinstance(changed, dict) and rng.random() < 0.1:
        changed[f"{key}{rng.integers(3)}"] = changed.pop(key)
    else:
        changed[key] = change_json(value[key], rng, depth + 1)
    return changed


def safetensors_header(data, files, rng):
    """Change a value somewhere in the header, and its length to match."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(change_json(json.loads(data[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def our_options(data, files, rng):
    """Change an option in a file of ours, with a correct checksum."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["fusedlstm"])
    about["options"] = change_json(about["options"], rng)
    arrays = {name: _array(entry, "weights") for name, entry in deserialize(data)}
    about["crc32"] = checksum(about["options"], arrays)
    header["__metadata__"]["fusedlstm"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def keras_config(data, files, rng):
    """Change the configuration in a .keras file."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "config.json":
                content = json.dumps(change_json(json.loads(content), rng)).encode()
            new.writestr(member, content)
    return file.getvalue()


def onnx_fields(data, files, rng):
    """Change some fields of a model, at any depth."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.integers(1, 4)):
        _change_message(model, rng)
    return model.SerializeToString()


def _change_message(message, rng):
    fields = [field for field, _ in message.ListFields()] if rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = fields[rng.integers(len(fields))]
    value, many = getattr(message, field.name), field.is_repeated
    if field.type == field.TYPE_MESSAGE:
        inner = value[rng.integers(len(value))] if many and len(value) else value.add() if many else value
        if rng.random() < 0.1:
            message.ClearField(field.name)
        elif many and rng.random() < 0.1 and len(value):
            value.append(value[rng.integers(len(value))])
        else:
            _change_message(inner, rng)
        return
    if rng.random() < 0.1:
        message.ClearField(field.name)
        return
    values = list(value) if many else [value]
    new = _new_value(field, values[0] if values else None, rng)
    if not many:
        setattr(message, field.name, new)
    elif len(value) and rng.random() < 0.7:
        value[int(rng.integers(len(value)))] = new
    else:
        value.append(new)


def _new_value(field, old, rng):
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return float(rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")]))
    if field.type == field.TYPE_STRING:
        words = [
            "",
            "X",
            "W",
            "R",
            "LSTM",
            "Concat",
            "Identity",
            "If",
            "../../etc/passwd",
            "/etc/passwd",
            "location",
            "HardSigmoid",
            "reverse",
        ]
        return str(rng.choice(words)) if rng.random() < 0.7 or not old else old[: rng.integers(len(old))]
    if field.type == field.TYPE_BYTES:
        return of_bytes(old or b"abcd", [b"abcd"], rng)
    if field.type == field.TYPE_ENUM:
        return int(rng.choice([value.number for value in field.enum_type.values]))
    is_signed = field.type not in (field.TYPE_UINT32, field.TYPE_UINT64)
    return int(rng.choice([0, 1, 2, 3, 5, 10, 16, 22, 2**31 - 1, -1 if is_signed else 4]))


def mutate(data, files, rng, structures):
    """Return the file mutated: half of the time within its structure, if it has one."""
    if structures and rng.random() < 0.5:
        return structures[rng.integers(len(structures))](data, files, rng)
    return of_bytes(data, files, rng)
