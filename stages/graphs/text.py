"""Whether every name and note in a graph is text: protobuf also keeps bytes that are not UTF-8 in its strings."""

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from segpipe.errors import InputError


def refuse_other_text(message: Message, source: str) -> None:
    """Name the first string, at any depth, that cannot be read."""
    for name, is_message, is_repeated in _fields(message.DESCRIPTOR):
        if is_message and not is_repeated and not message.HasField(name):
            continue
        value = getattr(message, name)
        for entry in value if is_repeated else (value,):
            if is_message:
                refuse_other_text(entry, source)
            elif isinstance(entry, bytes):  # protobuf's answer where it cannot decode
                raise InputError(
                    f"{source}: {message.DESCRIPTOR.name}.{name} is {entry[:20]!r}, which is not UTF-8",
                    hint="export it again, with names and metadata in UTF-8",
                )


@cache
def _fields(kind: Descriptor) -> list[tuple[str, bool, bool]]:
    """Of strings and messages: name, whether it is a message, whether there are many."""
    wanted = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}
    return [(f.name, f.type == f.TYPE_MESSAGE, f.is_repeated) for f in kind.fields if f.type in wanted]
